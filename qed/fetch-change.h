/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Changes of a storage that is a socket, for those who want no more of it than
 * of a file: the loop's own (storage_submit), and plain calls.  Its length is
 * fixed: a write beyond it fails with -ENOSPC, zeros there are nothing to be
 * made.
 *
 * A server may take whole blocks alone.  What covers only a part of one is
 * read, filled in and written; while that happens no other plain call changes
 * anything.  The loop doesn't wait for them: what it writes so lies in clusters
 * in which nobody else does.  Blocks are no larger than clusters.
 *
 * Offsets and counts are bytes.  Errors: negative errno, as in fetch-io.h.
 */

#ifndef QED_FETCH_CHANGE_H
#define QED_FETCH_CHANGE_H

#include <pthread.h>

#include "fetch.h"
#include "storage.h"

/* The loop's: STORAGE_WRITE, STORAGE_ZERO, STORAGE_PUNCH, STORAGE_SYNC.  Start
 * it; any number may be under way, in no order.  Loop only.
 */
void fetch_change_start (struct storage *s, struct storage_io *io);

/* ---- Plain calls: from any thread but the loop ---- */

/* Taken to write a part of a block; by others, shared. */
struct fetch_blocks {
  pthread_rwlock_t lock;
};

void fetch_blocks_init (struct fetch_blocks *blocks);
void fetch_blocks_destroy (struct fetch_blocks *blocks);

/* As the operations of struct storage_ops. */
int fetch_pwritev (struct storage *s, struct fetch_blocks *blocks,
                   const struct iovec *iov, int n, uint64_t offset);
int fetch_zero (struct storage *s, struct fetch_blocks *blocks,
                uint64_t offset, uint64_t count);
int fetch_punch (struct storage *s, struct fetch_blocks *blocks,
                 uint64_t offset, uint64_t count);
int fetch_sync (struct storage *s);

#endif /* QED_FETCH_CHANGE_H */
