/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which clusters of the file are in use, and where new ones come from.
 *
 * In cluster numbers unless a name says bytes.  The opening scan enters what
 * is referenced; from then on this is the truth for allocation: a cluster
 * whose bit is set is never handed out.
 *
 *   0 ........ end ............ fresh .......... covered
 *   used, free  | tail,          | never written   | the file must grow
 *   in between  | used before    | since it grew   |
 *
 * Free clusters below 'end' and the tail up to 'fresh' were used before:
 * whoever takes one makes it read as zeros first (O3).  Fresh ones read as
 * zeros by themselves.  Any thread; no I/O under the lock.
 */

#ifndef QED_SPACE_H
#define QED_SPACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitmap.h"
#include "format.h"
#include "storage.h"
#include "wait.h"

struct space {
  uint32_t cluster_size;
  bool can_grow;
  _Atomic uint64_t length_bytes; /* of the file: entries below are inside */

  /* While a repair that clients look on at copies tables, the length before:
   * an entry that was beyond the end is so still, though the file has grown.
   * Else UINT64_MAX.
   */
  _Atomic uint64_t frozen_bytes;

  pthread_mutex_t lock;         /* protects all that follows */
  struct bitmap used;           /* referenced, or handed out */
  struct bitmap tables;         /* those of them that are L2 tables */
  uint64_t base;                /* behind the header, whose clusters are in
                                 * no bitmap */
  uint64_t end;                 /* behind the last cluster in use */
  uint64_t fresh;               /* from here on growth reads as zeros */
  uint64_t covered;             /* whole clusters within the file */
  uint64_t cursor;              /* where to look for a free one */
  bool reuse;                   /* the scan saw everything: what isn't in use
                                 * is free */
  /* Clusters that no entry in memory names any more, oldest first (O5).
   * Their bits stay set until they are free.
   *
   *   0 ....... gone ....... flushing ....... freed_n
   *   durably    | a write-back  | the next one
   *   gone       | covers them   | will
   */
  uint64_t *freed;
  size_t freed_n, gone, flushing, freed_capacity;
  size_t promised;              /* more that 'freed' has room for */
  bool stalled;                 /* a reader keeps what is gone from being
                                 * free: the file grows rather than wait */
  bool held;                    /* for a check: what is freed is not reused */
  bool broken;                  /* but is, since nothing else was left */
  struct bitmap recent;         /* while held: handed out since */
  struct wait_queue reclaimed;  /* who waits for some of them to be free */

  bool growing;                 /* someone is changing the length */
  struct wait_queue grown;      /* others who need that */
};

/* 'length' is the file's, in bytes; it counts as durable. */
int space_init (struct space *space, const struct format_geometry *geometry,
                const struct storage *storage, uint64_t length);
void space_destroy (struct space *space);

/* Forget what was entered; while no request uses it and nothing is freed. */
int space_reset (struct space *space, const struct format_geometry *geometry,
                 const struct storage *storage, uint64_t length);

/* ---- For the opening scan ---- */

/* Enter a reference to n clusters behind the header; *shared is set if one
 * was entered before.  -ENOMEM; -EFBIG if the clusters are scattered so widely
 * that they take too much memory.  With the lock held, which the scan takes
 * once for many.
 */
int space_enter (struct space *space, uint64_t first, uint64_t n, bool table,
                 bool *shared);

/* The same for data clusters, as far as they were not entered before: *added
 * says how many that were.
 */
int space_enter_run (struct space *space, uint64_t first, uint64_t n,
                     uint64_t *added);

/* -EFBIG as above, for space_enter_run: to be asked now and then. */
int space_check_sparse (const struct space *space);

/* Everything was entered: free clusters may be reused and the tail cut. */
void space_complete (struct space *space);

/* Or instead: what a file that can grow holds now is kept, in use or not. */
void space_keep_all (struct space *space);

/* ---- Allocation ---- */

struct space_run {
  uint64_t first, n;
  bool used_before;             /* must be made to read as zeros */
};

/* Hand out up to 'want' neighbouring clusters.  -EBUSY: there are none, but
 * some were freed and will be after a write-back (space_wait).  -EAGAIN: the
 * file must grow first (space_grow); -ENOSPC: it can't.
 */
int space_reserve (struct space *space, uint64_t want, struct space_run *run);

/* Hand out exactly n neighbouring clusters for an L2 table.  -EBUSY: there may
 * be some after the next write-back.
 */
int space_reserve_table (struct space *space, uint64_t n,
                         struct space_run *run);

/* The same between what is in use, for a caller who knows that nothing else is,
 * where the file can't become longer.  -ENOSPC.
 */
int space_reserve_gap (struct space *space, uint64_t n, bool table,
                       struct space_run *run);

/* Take back what was handed out and never published: no entry, in memory or
 * on disk, has ever named it, so it is free at once (O5 is about the others).
 */
void space_release (struct space *space, const struct space_run *run);

/* Make the file longer by at least n clusters (O4: before anything names
 * them), in this thread; one at a time.  Returns 0 (try again), QED_WAIT if
 * another does it, or the error, -ENOSPC included.
 */
int space_grow (struct space *space, struct storage *storage, uint64_t n,
                struct qed_request *request);

/* ---- Freeing (O5) ---- */

/* Make room for n clusters that are about to be freed, so that space_freed
 * can't fail.  -ENOMEM; -EBUSY if so many are freed already that a write-back
 * should come first.
 */
int space_promise (struct space *space, size_t n);

/* Take back what was promised and not used. */
void space_unpromise (struct space *space, size_t n);

/* A cluster is freed: its entry was changed in memory and its page is dirty,
 * still locked.
 */
void space_freed (struct space *space, uint64_t cluster);

/* A write-back starts, before it copies anything: it covers what is freed by
 * now.  It ends: those are durably gone, or (not 'ok') freed as before.
 */
void space_flush_begins (struct space *space);
void space_flush_ends (struct space *space, bool ok);

/* Copy out the first of those that are durably gone, at most 'max'. */
size_t space_first_gone (struct space *space, uint64_t *clusters, size_t max);

bool space_any_gone (struct space *space);

/* The same of all that is freed and not held back. */
bool space_any_freed (struct space *space);

/* The first n of them may be used again: no reader is left, and what they
 * held was punched.
 */
void space_reclaim (struct space *space, size_t n);

/* Wait until some are free.  Returns 0 (try again: none are on their way, or
 * they are stalled), QED_WAIT (queued), or -EAGAIN if a write-back has to come
 * first.
 */
int space_wait (struct space *space, struct qed_request *request);

/* The same for who needs just these: until fewer are freed, free ones or not,
 * stalled or not.
 */
int space_wait_reclaim (struct space *space, struct qed_request *request);

/* There is no space to grow: whether there are some to wait for, instead. */
bool space_any_coming (struct space *space);

/* What is gone has waited for a reader for long; or does no longer. */
void space_stall (struct space *space, bool stalled);

/* Whether a cluster belongs to an L2 table. */
bool space_is_table (struct space *space, uint64_t cluster);

/* Whether the file should be cut, and to how many bytes.  While no change is
 * under way.
 */
bool space_cut_wanted (struct space *space, uint64_t *length);

/* The file was cut, and then synced: what grows from here on is fresh. */
void space_was_cut (struct space *space, uint64_t length);
void space_cut_is_durable (struct space *space);

/* ---- space-check.c ---- */

/* While a check runs, what is freed stays out of use, and what is handed out
 * is noted.  -EBUSY if it is held already.  After the release the loop has to
 * be kicked.
 */
int space_hold (struct space *space);
void space_release_hold (struct space *space);

/* An allocation finds nothing: it may have what is held back, if there is any.
 * True once; then a write-back and the reclaim have to come.  The check sees
 * that what it looked at may have been used again.
 */
bool space_break_hold (struct space *space);
bool space_hold_broken (struct space *space);

/* Enter into 'into' what no entry need name though it is in use: what was
 * handed out while held, and what is freed.  -ENOMEM.
 */
int space_add_unnamed (struct space *space, struct bitmap *into);

/* While held: take a cluster that no entry names, free or lost, for a moment;
 * give it back with space_release.  False if it was handed out meanwhile.
 */
bool space_borrow (struct space *space, uint64_t cluster);

/* Where use ends, in clusters; and end it where it does after something behind
 * its end was borrowed, but not below 'floor'.
 */
uint64_t space_end (struct space *space);
void space_lower_end (struct space *space, uint64_t floor);

/* A repair has seen all tables while nothing changed: what it entered into
 * 'seen' is in use, and those are the tables.  If it does not 'know' all,
 * nothing counts as free from here on.  -ENOMEM.  By whom alone clusters are
 * handed out meanwhile.
 */
int space_adopt (struct space *space, struct space *seen, bool know);

/* What counts as the file's length for L2 entries, and for a table that begins
 * at 'offset'.
 */
uint64_t space_reach (const struct space *space);
uint64_t space_table_reach (const struct space *space, uint64_t offset);

#endif /* QED_SPACE_H */
