/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What an image lies on.
 *
 * A driver offers synchronous calls, made on any thread: request threads make
 * them for data and missing table pages, the loop's pool threads for all that
 * the loop does.  They may be made in parallel; the driver owns whatever
 * locking it needs.  Offsets and counts are bytes.  Errors: negative errno.
 * A storage that is a socket is different: see fetch.h; no call but submit may
 * be made on the loop.
 *
 * Only the loop syncs (O8).  It calls nothing of this directly, but through
 * storage_submit, on one of its worker threads.
 */

#ifndef QED_STORAGE_H
#define QED_STORAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "loop.h"
#include "qed.h"

struct storage;
struct fetch;

struct storage_ops {
  /* Read or write everything; what lies beyond the end reads as zeros.  Short
   * transfers are continued, EINTR is retried: 0 means all of it.
   */
  int (*pread) (struct storage *s, void *buf, size_t count, uint64_t offset);
  int (*pwrite) (struct storage *s, const void *buf, size_t count,
                 uint64_t offset);
  int (*pwritev) (struct storage *s, const struct iovec *iov, int n,
                  uint64_t offset);

  /* Make a range inside the file read as zeros, by a hole where that is
   * possible, else by writing.
   */
  int (*zero) (struct storage *s, uint64_t offset, uint64_t count);

  /* Give a range inside the file back to the file system; it may be left as
   * it is (-EOPNOTSUPP).
   */
  int (*punch) (struct storage *s, uint64_t offset, uint64_t count);

  /* Have space for a range inside the file, so that what is written there
   * can't find the disk full; what it holds stays.  -EOPNOTSUPP: nobody can
   * promise that.  NULL: likewise.
   */
  int (*reserve) (struct storage *s, uint64_t offset, uint64_t count);

  /* Say that a range will be read soon. */
  void (*prefetch) (struct storage *s, uint64_t offset, uint64_t count);

  /* Set the length.  Growth reads as zeros. */
  int (*resize) (struct storage *s, uint64_t length);
  int (*length) (struct storage *s, uint64_t *length);

  /* Make everything durable that was written before the call.  With -ENOTCONN
   * nothing was lost: it could not be tried, and the next one does it all.
   */
  int (*sync) (struct storage *s);

  /* The first range at or after 'offset' that may hold data: *start..*end,
   * never empty; *start = UINT64_MAX where there is none.
   */
  int (*next_data) (struct storage *s, uint64_t offset, uint64_t *start,
                    uint64_t *end);

  /* Go on as a reader only: the writer's lock becomes a reader's. */
  int (*downgrade) (struct storage *s);

  /* Drop the lock, close, free. */
  void (*close) (struct storage *s);

  /* A socket (NULL elsewhere), driven by a loop from 'start', after any fork,
   * to 'stop', on the loop.  'stop' returns false if it isn't possible at
   * once; then 'stopped' is called on the loop when it is time to try again.
   */
  int (*start) (struct storage *s, struct loop *loop,
                void (*stopped) (void *opaque), void *opaque);
  bool (*stop) (struct storage *s);

  /* Begin a fetch; ends with fetch_end, on the loop.  Any thread.  Before
   * start: a plain call, from one thread at a time.
   */
  void (*submit) (struct storage *s, struct fetch *fetch);
};

/* No cluster is smaller, so that no block belongs to two of them. */
#define STORAGE_BLOCK_MAX 4096u

/* The common part; drivers embed it. */
struct storage {
  const struct storage_ops *ops;
  uint64_t device, inode;       /* which file it is, as in stat; 0: no file */
  bool read_only;
  bool fixed;           /* a device: its length says nothing about use */
  bool can_grow;        /* resize works, and growth reads as zeros: clusters
                         * beyond the end are fresh */
  bool holes_known;     /* of what can't grow: a punch makes holes, which
                         * next_data tells */
  uint32_t block;       /* a socket: what is written there are whole ones, a
                         * power of 2, at most STORAGE_BLOCK_MAX bytes */
  bool guest_disk;      /* an export of a server of ours: what it holds is a
                         * guest's, who may have written any header there */
  struct storage *below;        /* NULL, or the one that this one wraps and
                                 * owns */
  _Atomic bool given_up;        /* by whoever wanted it: a socket that has no
                                 * connection stops waiting for one */
};

/* ---- The loop's own I/O ---- */

enum storage_op {
  STORAGE_READ,         /* buf, count, offset */
  STORAGE_READ_DATA,    /* buf, count, offset, limit: read from the first data
                         * at or after offset and before limit; then offset
                         * says where it was and count how much, 0 if there
                         * are only holes */
  STORAGE_WRITE,        /* buf, count, offset */
  STORAGE_PUNCH,        /* offset, limit: how many bytes */
  STORAGE_ZERO,         /* likewise */
  STORAGE_SYNC,
  STORAGE_RESIZE,       /* offset: the new length */
};

/* One call, embedded in whatever waits for it. */
struct storage_io {
  enum storage_op op;
  void *buf;
  size_t count;
  uint64_t offset, limit;
  uint64_t data_end;    /* READ_DATA: a hint, 0 to begin with, that is kept
                         * for the next read behind this one */
  void (*done) (struct storage_io *io); /* on the loop; io->error says how */
  void *opaque;                         /* for done and more */

  /* If not NULL: called after each success, on any thread, until it returns
   * false; it fills in the next of a series of calls, which done ends.
   */
  bool (*more) (struct storage_io *io);

  int error;
  struct storage *storage;
  struct loop_work work;
};

/* Start it.  Loop only. */
void storage_submit (struct loop *loop, struct storage *s,
                     struct storage_io *io);

/* Nobody wants anything of it any more.  Any thread. */
void storage_give_up (struct storage *s);

/* ---- Drivers ---- */

/* What options->path names, a file or an export, as the options say; an export
 * is opened to be examined or repaired and for nothing else.
 */
int storage_open (const struct qed_options *options,
                  struct storage **storage);

/* A local file or block device.  Opens without blocking (a FIFO is refused),
 * takes QEMU's locks if asked to; what is locked is what the path leads to
 * then.  A file that may not be written falls back to read-only, with a
 * message, unless it was asked for.  Of the options, those that concern the
 * file count.  Messages name the path.
 */
int storage_file_open (const struct qed_options *options,
                       struct storage **storage);

/* The same for a file that was opened for reading; 'fd' becomes the
 * storage's, also on failure.  It must be a regular file or block device.  Of
 * the options lock, take_over and log count.
 */
int storage_file_open_fd (int fd, const char *path,
                          const struct qed_options *options,
                          struct storage **storage);

/* Whether storage_file_open would get the lock for writing just now: 0;
 * -EAGAIN, without a message; another negative errno.  Opens for reading, and
 * reads nothing.
 */
int storage_file_test_lock (const struct qed_options *options);

/* An export of an NBD server, which has a fixed length and no locks.  Connects
 * once to see whether it is there and how long it is, which takes 10 seconds
 * at most and the time that a name takes to be resolved.  'about' is the image
 * that has it as its backing file, for messages; or NULL: the export is the
 * image's file itself.
 *
 * WRITE: -EROFS or -EOPNOTSUPP if the server doesn't take changes, or can't
 * flush them.  MAY_READ: with a warning, it is only read if the server doesn't
 * take changes.  ONCE: everything fails with -ENOTCONN once the server was away
 * for too long, for good; without, what has waited for too long fails.
 */
#define STORAGE_NBD_WRITE 1u
#define STORAGE_NBD_MAY_READ 2u
#define STORAGE_NBD_ONCE 4u

int storage_nbd_open (const char *uri, const char *about, unsigned flags,
                      const struct qed_log *log, struct storage **storage);

/* What to do about -errno of storage_nbd_open: ": see that ...", or "". */
const char *storage_nbd_advice (const char *uri, int error,
                                const char *message);

#endif /* QED_STORAGE_H */
