/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a request wants from a storage that is a socket.
 *
 * The image's loop drives such a storage, and no thread waits inside a call
 * for it.  The request starts a fetch and returns QED_WAIT; when the fetch has
 * ended the request is woken, looks up anew, and takes the result if it still
 * needs it.  It has one fetch at a time, request->fetch: that covers as much
 * as it can be known to need, and other requests have their own.  (While the
 * image is not started, a tool that looks at it has one thread and no loop:
 * then a fetch is a plain call, and has ended when it was submitted.)
 *
 * A change (write, zero, punch) is a fetch as well; who starts one stays until
 * it has ended.
 *
 * The storage uses the fetch's own memory, never the request's: a request may
 * be withdrawn at any time, and what was written may have to be written again
 * (nbd-kept.h).  Two hold a fetch, the request and,
 * from submit to fetch_end, the storage; the last to let go frees it.
 *
 * The image's loop has fetches of its own, by which it reads as from a file
 * (fetch-io.h): those have 'done' in the place of a request.
 */

#ifndef QED_FETCH_H
#define QED_FETCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qed.h"
#include "wait.h"

struct iovec;
struct nbd_flight;
struct storage;

/* A read has so many bytes at most. */
#define FETCH_READ_MAX (UINT64_C (32) << 20)

enum fetch_op {
  FETCH_READ,
  FETCH_EXTENTS,                /* what of the range is data, what is not */
  FETCH_CACHE,                  /* the range will be read soon; nobody waits */
  FETCH_WRITE,
  FETCH_ZERO,                   /* make it read as zeros, at best by a hole */
  FETCH_PUNCH,                  /* the same, only if that costs little: or
                                 * -EOPNOTSUPP */
  FETCH_FLUSH,                  /* all changes that have ended become durable;
                                 * no range */
};

static inline bool
fetch_changes (enum fetch_op op)
{
  return op == FETCH_WRITE || op == FETCH_ZERO || op == FETCH_PUNCH;
}

struct fetch_extent {
  uint64_t bytes;               /* not 0 */
  enum qed_extent kind;
};

struct fetch {
  enum fetch_op op;
  uint64_t offset, count;       /* inside the storage */

  /* The result: the storage's until fetch_end. */
  int error;                    /* 0 or a negative errno */
  unsigned char *buf;           /* READ, and WRITE: what to write; freed with
                                 * the fetch */
  unsigned char *data;          /* READ: where in buf the byte at offset is */
  struct fetch_extent *extents; /* EXTENTS: freed with the fetch; at least
                                 * one, the first begins at offset, and what
                                 * lies behind the last is not known */
  size_t extent_count;

  /* The request's: the extent that it looked at last, and where that begins
   * behind offset.
   */
  size_t extent_at;
  uint64_t extent_start;

  /* The loop's, instead of a request's: called there from fetch_end, for the
   * last time that it may look at the fetch.
   */
  void (*done) (struct fetch *fetch);
  void *opaque;

  /* Its life. */
  _Atomic unsigned holders;
  _Atomic bool wanted;          /* no request has let go of it */
  _Atomic bool ended;
  struct wait_queue waiting;

  /* The storage's own, from submit to fetch_end. */
  struct fetch *next;
  struct nbd_flight *flight;    /* that it was sent with */
  unsigned commands;            /* that the server has to answer */
  unsigned answered;            /* of them, some that were */
  double lost_at;               /* loop_now () when it began to wait for a
                                 * connection; 0: it did not */
  uint64_t number;              /* of a change that is kept; of a flush: the
                                 * last one that it covers */
  struct fetch *kept_next;
  bool kept;                    /* the storage's own copy of a change */
};

/* ---- For requests ---- */

/* Read a part of a range inside the storage; *done says how much.  0, QED_WAIT
 * or an error.
 */
int fetch_read (struct storage *s, struct qed_request *request, uint64_t at,
                uint64_t bytes, void *buf, uint64_t *done);

/* What the first *done bytes of the range are, likewise.  'ahead' bytes, if
 * more than the range, will probably be asked for next.
 */
int fetch_extent (struct storage *s, struct qed_request *request, uint64_t at,
                  uint64_t bytes, uint64_t ahead, enum qed_extent *kind,
                  uint64_t *done);

/* Say that a range will be read soon. */
void fetch_prefetch (struct storage *s, uint64_t at, uint64_t bytes);

/* Change a range inside the storage, or flush; 'data' (n pieces, for a write)
 * is copied.  The request has no fetch before, and does nothing else until
 * this has ended.  0, QED_WAIT or an error.
 */
int fetch_change (struct storage *s, struct qed_request *request,
                  enum fetch_op op, uint64_t at, uint64_t bytes,
                  const struct iovec *data, int n);

/* Let go of the request's fetch, ended or not, if there is one.  The request
 * must not be queued for it any more.
 */
void fetch_drop (struct qed_request *request);

/* ---- For the loop ---- */

/* Start a fetch of a range inside the storage, which is started.  -ENOMEM, or
 * 'done' will be called, not before this returns.
 */
int fetch_start (struct storage *s, enum fetch_op op, uint64_t at,
                 uint64_t bytes, void (*done) (struct fetch *fetch),
                 void *opaque);

/* The same for a change, or a flush. */
int fetch_start_change (struct storage *s, enum fetch_op op, uint64_t at,
                        uint64_t bytes, const void *data,
                        void (*done) (struct fetch *fetch), void *opaque);

/* ---- For the storage ---- */

/* One of its own, to be freed by fetch_end; or NULL. */
struct fetch *fetch_new (enum fetch_op op, uint64_t offset, uint64_t count);

/* The result is there: tell who waits.  The fetch may be gone afterwards. */
void fetch_end (struct fetch *fetch, int error);

/* First in, first out. */
struct fetch_list {
  struct fetch *first, **end;
};

void fetch_list_init (struct fetch_list *list);
void fetch_list_append (struct fetch_list *list, struct fetch *fetch);

void fetch_list_prepend (struct fetch_list *list, struct fetch *fetch);

/* NULL if there is none. */
struct fetch *fetch_list_take_first (struct fetch_list *list);

/* All of 'list' comes before what is in 'to'; 'list' is empty then. */
void fetch_list_prepend_all (struct fetch_list *to, struct fetch_list *list);

#endif /* QED_FETCH_H */
