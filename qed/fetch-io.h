/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A storage that is a socket, for those who want no more of it than of a file:
 * the loop's own reads (storage_submit), and plain calls.
 *
 * Offsets and counts are bytes.  Errors: negative errno; -ENOTCONN says that
 * the storage gave its server up, so that it is of no use to ask for more.
 */

#ifndef QED_FETCH_IO_H
#define QED_FETCH_IO_H

#include <pthread.h>

#include "fetch.h"
#include "storage.h"

/* ---- The loop's reads (STORAGE_READ, STORAGE_READ_DATA) ---- */

/* Start it: any number may be under way.  What the server says to be holes is
 * not read, but for small ones in between.  Loop only.
 */
void fetch_io_start (struct storage *s, struct storage_io *io);

/* ---- Plain calls: from any thread but the loop ---- */

/* As the operation of struct storage_ops. */
int fetch_pread (struct storage *s, void *buf, size_t count, uint64_t offset);

/* What the server said last of a range: it is asked for much at once. */
struct fetch_window {
  _Atomic unsigned changes;     /* of the storage that have ended: what was
                                 * said before counts no more */
  pthread_mutex_t lock;         /* protects the rest */
  unsigned seen;                /* 'changes', before the server was asked */
  uint64_t start, end;
  struct fetch_extent *extents; /* to be freed */
  size_t first, count;          /* those of them that lie there */
};

void fetch_window_init (struct fetch_window *window);
void fetch_window_destroy (struct fetch_window *window);

/* As next_data of struct storage_ops.  A server that can't tell has data
 * everywhere.
 */
int fetch_next_data (struct storage *s, struct fetch_window *window,
                     uint64_t offset, uint64_t *start, uint64_t *end);

#endif /* QED_FETCH_IO_H */
