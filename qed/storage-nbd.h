/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Within the storage driver for an export of an NBD server.
 *
 *   submit --> arrived --> queue --> (libnbd) --> ended --> fetch_end
 *                            ^                      |
 *                            +--- connection lost --+
 *
 * Requests hand fetches over (fetch.h); all else happens on the loop, except
 * in an image that is looked at without being started.  They are sent as they
 * came, many at a time; the link (nbd-link.h) says when.  What was under way
 * when the connection is lost is asked again on the next one, for 30 seconds
 * at most.  A fetch that nobody wants any more is left out, or if it was sent
 * its answer thrown away.
 *
 * Changes are under way in parallel, too, and in no order: who needs one waits
 * for answers.  Those that were answered and not flushed are made again on the
 * next connection, before anything else (nbd-kept.h).  If they take much memory
 * the server is asked to flush.
 *
 * The export must be as long as it was at open, whenever it comes back, and
 * take changes if it did.  What else the server can do may change: nothing
 * that was done depends on it.
 */

#ifndef QED_STORAGE_NBD_H
#define QED_STORAGE_NBD_H

#include <pthread.h>
#include <stdatomic.h>

#include "fetch-change.h"
#include "fetch-io.h"
#include "log.h"
#include "nbd-flight.h"
#include "nbd-kept.h"
#include "nbd-link.h"
#include "storage.h"

struct storage_nbd {
  struct storage storage;
  char *uri;
  char *name;                   /* whose and what it is, for messages */
  bool is_image;                /* not a backing file */
  bool once;                    /* if the server stays away, that is the
                                 * end */
  struct qed_log log;
  uint64_t size;
  struct loop *loop;            /* NULL before start */
  struct loop_task submitted;
  void (*stopped) (void *opaque);
  void *opaque;

  _Atomic unsigned caches;      /* FETCH_CACHE that have not ended */
  struct fetch_window window;   /* for next_data */
  struct fetch_blocks blocks;   /* for changes of parts of them */
  pthread_mutex_t lock;         /* protects the next */
  struct fetch_list arrived;

  /* Loop only. */
  struct nbd_link link;
  struct fetch_list queue;      /* to be sent */
  struct nbd_flight flight;     /* those that were */
  struct nbd_kept kept;         /* changes that are not flushed */
  bool flushing;                /* on our own account: it is queued, */
  bool flush_sent;              /* or was sent */
  bool unflushed;               /* before there is a loop: changes were made,
                                 * which are not kept */
  struct loop_timer tick;       /* while any wait for a connection */
  double lost_since;            /* 0: it isn't */
  bool gave_up;                 /* since then, on a request */
  bool changed;                 /* the export has another size */
  bool told_changed;
};

/* ---- nbd-queue.c ---- */

/* Before the link is started. */
void nbd_queue_init (struct storage_nbd *s);

/* The loop is there. */
int nbd_queue_start (struct storage_nbd *s);

/* Take in what has arrived. */
void nbd_queue_take (struct storage_nbd *s);

/* The link is stopped: end everything. */
void nbd_queue_stop (struct storage_nbd *s);

/* A fetch has its result. */
void nbd_queue_end (struct storage_nbd *s, struct fetch *fetch, int error);

/* What its error means to a request. */
int nbd_queue_error (const struct fetch *fetch);

/* Whether the link has found the export that there was at open; else
 * link.error says what is different.
 */
bool nbd_queue_same_export (struct storage_nbd *s);

#endif /* QED_STORAGE_NBD_H */
