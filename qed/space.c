/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qed.h"
#include "space.h"
#include "yield.h"

/* So many freed clusters at most wait for a write-back. */
#define FREED_MAX ((size_t) 1 << 20)

#define PAGE_ROOM 512u          /* to start with */

/* The file grows in steps of this many bytes, so that few requests pay. */
#define GROW_BYTES (UINT64_C (16) << 20)

/* With the lock held, or before anyone else knows the space: nothing is
 * entered but L1.
 */
static int
start_over (struct space *space, const struct format_geometry *geometry,
            const struct storage *storage, uint64_t length)
{
  uint64_t cluster_size = geometry->cluster_size;
  bool shared;

  atomic_store (&space->length_bytes, length);
  space->covered = length / cluster_size;
  space->fresh = storage->can_grow
    ? (length + cluster_size - 1) / cluster_size : UINT64_MAX;
  space->base = space->cursor = space->end =
    geometry->header_bytes / cluster_size;
  space->reuse = false;
  return space_enter (space, geometry->l1_offset / cluster_size,
                      geometry->table_bytes / cluster_size, false, &shared);
}

int
space_init (struct space *space, const struct format_geometry *geometry,
            const struct storage *storage, uint64_t length)
{
  int r;

  memset (space, 0, sizeof *space);
  space->cluster_size = geometry->cluster_size;
  space->can_grow = storage->can_grow;
  pthread_mutex_init (&space->lock, NULL);
  atomic_init (&space->frozen_bytes, UINT64_MAX);
  bitmap_init (&space->used);
  bitmap_init (&space->tables);
  bitmap_init (&space->recent);
  wait_queue_init (&space->grown, "grow");
  wait_queue_init (&space->reclaimed, "reclaim");
  r = start_over (space, geometry, storage, length);
  if (r < 0)
    space_destroy (space);
  return r;
}

int
space_reset (struct space *space, const struct format_geometry *geometry,
             const struct storage *storage, uint64_t length)
{
  int r;

  pthread_mutex_lock (&space->lock);
  assert (space->freed_n == 0);
  bitmap_destroy (&space->used);
  bitmap_destroy (&space->tables);
  r = start_over (space, geometry, storage, length);
  pthread_mutex_unlock (&space->lock);
  return r;
}

void
space_destroy (struct space *space)
{
  bitmap_destroy (&space->used);
  bitmap_destroy (&space->tables);
  bitmap_destroy (&space->recent);
  wait_queue_destroy (&space->grown);
  wait_queue_destroy (&space->reclaimed);
  free (space->freed);
  pthread_mutex_destroy (&space->lock);
}

/* A bitmap may take this much, and a byte for each cluster in it: only a
 * hostile image, whose entries are scattered over a sparse file, needs more.
 */
#define BITMAP_BYTES_MAX (UINT64_C (64) << 20)

static bool
too_sparse (const struct bitmap *bitmap)
{
  return bitmap_bytes (bitmap) > BITMAP_BYTES_MAX + bitmap->count;
}

int
space_enter (struct space *space, uint64_t first, uint64_t n, bool table,
             bool *shared)
{
  uint64_t i;
  bool was;
  int r;

  *shared = false;
  for (i = first; i < first + n; i++) {
    r = bitmap_set (&space->used, i, &was);
    if (r < 0)
      return r;
    *shared |= was;
    if (table) {
      r = bitmap_set (&space->tables, i, &was);
      if (r < 0)
        return r;
    }
  }
  if (space->end < first + n)
    space->end = first + n;
  return too_sparse (&space->used) ? -EFBIG : 0;
}

int
space_enter_run (struct space *space, uint64_t first, uint64_t n,
                 uint64_t *added)
{
  int r = bitmap_add_run (&space->used, first, n, added);

  if (r < 0)
    return r;
  if (*added > 0 && space->end < first + *added)
    space->end = first + *added;
  return 0;
}

int
space_check_sparse (const struct space *space)
{
  return too_sparse (&space->used) ? -EFBIG : 0;
}

void
space_complete (struct space *space)
{
  pthread_mutex_lock (&space->lock);
  space->reuse = true;
  pthread_mutex_unlock (&space->lock);
}

void
space_keep_all (struct space *space)
{
  const uint64_t length = atomic_load (&space->length_bytes);
  const uint64_t end = length / space->cluster_size +
    (length % space->cluster_size > 0);

  pthread_mutex_lock (&space->lock);
  if (space->can_grow && space->end < end)
    space->end = end;
  pthread_mutex_unlock (&space->lock);
}

/* ---- Allocation ---- */

/* Whether what is freed must wait for the end of a check. */
static bool
is_held (const struct space *space)
{
  return space->held && !space->broken;
}

/* Whether freed clusters will be free soon, after a write-back at most. */
static bool
are_coming (const struct space *space)
{
  return space->freed_n > 0 && !is_held (space) &&
    !(space->stalled && space->can_grow);
}

/* Find a free run below 'end'.  With the lock held. */
static bool
find_free (struct space *space, uint64_t want, struct space_run *run)
{
  uint64_t first;

  if (!space->reuse || space->base + space->used.count == space->end)
    return false;
  first = bitmap_next_clear (&space->used, space->cursor, space->end);
  if (first == space->end)
    first = bitmap_next_clear (&space->used, space->base, space->end);
  assert (first < space->end);
  run->first = first;
  run->n = 1;
  while (run->n < want && first + run->n < space->end &&
         !bitmap_test (&space->used, first + run->n))
    run->n++;
  run->used_before = true;
  space->cursor = first + run->n;
  return true;
}

/* Take n clusters from the end.  With the lock held. */
static int
take_end (struct space *space, uint64_t n, bool exactly,
          struct space_run *run)
{
  uint64_t left = space->covered > space->end
    ? space->covered - space->end : 0;

  if (left < n && (exactly || left == 0))
    return space->can_grow ? -EAGAIN : -ENOSPC;
  run->first = space->end;
  run->n = left < n ? left : n;
  run->used_before = run->first < space->fresh;
  if (run->used_before && !exactly && run->n > space->fresh - run->first)
    run->n = space->fresh - run->first;
  return 0;
}

/* With the lock held: all of it or nothing. */
static int
hand_out (struct space *space, bool table, const struct space_run *run)
{
  uint64_t end = space->end, i;
  bool shared = false;
  int r = space_enter (space, run->first, run->n, table, &shared);

  assert (!shared);
  for (i = run->first; space->held && i < run->first + run->n && r == 0; i++)
    r = bitmap_set (&space->recent, i, &shared);
  if (r == 0)
    return 0;
  for (i = run->first; i < run->first + run->n; i++) {
    bitmap_clear (&space->used, i);
    bitmap_clear (&space->tables, i);
    bitmap_clear (&space->recent, i);
  }
  space->end = end;
  return r;
}

int
space_reserve (struct space *space, uint64_t want, struct space_run *run)
{
  int r = 0;

  pthread_mutex_lock (&space->lock);
  if (!find_free (space, want, run))
    r = space->reuse && are_coming (space) ? -EBUSY
      : take_end (space, want, false, run);
  if (r == 0)
    r = hand_out (space, false, run);
  pthread_mutex_unlock (&space->lock);
  return r;
}

/* A gap of n free clusters.  With the lock held. */
static int
find_gap (struct space *space, uint64_t n, struct space_run *run)
{
  uint64_t first = space->base, i;

  while (first < space->end) {
    first = bitmap_next_clear (&space->used, first, space->end);
    for (i = 0; i < n && first + i < space->end &&
           !bitmap_test (&space->used, first + i); i++)
      ;
    if (i == n) {
      *run = (struct space_run) { .first = first, .n = n,
                                  .used_before = true };
      return 0;
    }
    first += i + 1;
  }
  return -ENOSPC;
}

int
space_reserve_table (struct space *space, uint64_t n, struct space_run *run)
{
  int r;

  pthread_mutex_lock (&space->lock);
  r = take_end (space, n, true, run);
  if (r == -ENOSPC && space->reuse)
    r = find_gap (space, n, run);
  if (r == -ENOSPC && space->reuse && space->freed_n > 0 && !is_held (space))
    r = -EBUSY;                 /* clusters are on their way (O5) */
  if (r == 0)
    r = hand_out (space, true, run);
  pthread_mutex_unlock (&space->lock);
  return r;
}

int
space_reserve_gap (struct space *space, uint64_t n, bool table,
                   struct space_run *run)
{
  int r;

  pthread_mutex_lock (&space->lock);
  r = find_gap (space, n, run);
  if (r == 0)
    r = hand_out (space, table, run);
  pthread_mutex_unlock (&space->lock);
  return r;
}

void
space_release (struct space *space, const struct space_run *run)
{
  uint64_t i;

  pthread_mutex_lock (&space->lock);
  for (i = run->first; i < run->first + run->n; i++) {
    bitmap_clear (&space->used, i);
    bitmap_clear (&space->tables, i);
  }
  if (space->cursor > run->first)
    space->cursor = run->first;
  pthread_mutex_unlock (&space->lock);
}

/* ---- Freeing (O5) ---- */

int
space_promise (struct space *space, size_t n)
{
  size_t need, capacity;
  uint64_t *freed;
  int r = 0;

  pthread_mutex_lock (&space->lock);
  need = space->freed_n + space->promised + n;
  capacity = space->freed_capacity ? space->freed_capacity : PAGE_ROOM;
  while (capacity < need)
    capacity *= 2;
  if (need > FREED_MAX && space->freed_n > 0 && !is_held (space))
    r = -EBUSY;
  else if (capacity > space->freed_capacity) {
    freed = realloc (space->freed, capacity * sizeof *freed);
    if (freed) {
      space->freed = freed;
      space->freed_capacity = capacity;
    }
    else
      r = -ENOMEM;
  }
  if (r == 0)
    space->promised += n;
  pthread_mutex_unlock (&space->lock);
  return r;
}

void
space_unpromise (struct space *space, size_t n)
{
  pthread_mutex_lock (&space->lock);
  assert (space->promised >= n);
  space->promised -= n;
  pthread_mutex_unlock (&space->lock);
}

void
space_freed (struct space *space, uint64_t cluster)
{
  pthread_mutex_lock (&space->lock);
  assert (space->promised > 0 && space->freed_n < space->freed_capacity);
  space->promised--;
  space->freed[space->freed_n++] = cluster;
  pthread_mutex_unlock (&space->lock);
}

void
space_flush_begins (struct space *space)
{
  pthread_mutex_lock (&space->lock);
  space->flushing = space->freed_n;
  pthread_mutex_unlock (&space->lock);
}

void
space_flush_ends (struct space *space, bool ok)
{
  pthread_mutex_lock (&space->lock);
  if (ok && sim_skips ("flush", "leave-younger"))
    space->flushing = space->freed_n;
  if (ok)
    space->gone = space->flushing;
  else
    space->flushing = space->gone;
  pthread_mutex_unlock (&space->lock);
}

size_t
space_first_gone (struct space *space, uint64_t *clusters, size_t max)
{
  size_t n;

  pthread_mutex_lock (&space->lock);
  n = space->gone < max ? space->gone : max;
  if (n > 0)
    memcpy (clusters, space->freed, n * sizeof *clusters);
  pthread_mutex_unlock (&space->lock);
  return n;
}

bool
space_any_gone (struct space *space)
{
  bool any;

  pthread_mutex_lock (&space->lock);
  any = space->gone > 0 && !is_held (space);
  pthread_mutex_unlock (&space->lock);
  return any;
}

bool
space_any_freed (struct space *space)
{
  bool any;

  pthread_mutex_lock (&space->lock);
  any = space->freed_n > 0 && !is_held (space);
  pthread_mutex_unlock (&space->lock);
  return any;
}

void
space_reclaim (struct space *space, size_t n)
{
  size_t i;

  pthread_mutex_lock (&space->lock);
  assert (n <= space->gone);
  for (i = 0; i < n; i++) {
    bitmap_clear (&space->used, space->freed[i]);
    if (space->cursor > space->freed[i])
      space->cursor = space->freed[i];
  }
  space->freed_n -= n;
  space->flushing -= n;
  space->gone -= n;
  memmove (space->freed, space->freed + n,
           space->freed_n * sizeof *space->freed);
  pthread_mutex_unlock (&space->lock);
  wait_wake_all (&space->reclaimed);
}

/* With the lock held. */
static int
wait_gone (struct space *space, struct qed_request *request)
{
  if (space->gone == 0)
    return -EAGAIN;
  wait_add (&space->reclaimed, request);
  return QED_WAIT;
}

int
space_wait (struct space *space, struct qed_request *request)
{
  int r = 0;

  pthread_mutex_lock (&space->lock);
  if (are_coming (space) && space->base + space->used.count == space->end)
    r = wait_gone (space, request);
  pthread_mutex_unlock (&space->lock);
  return r;
}

int
space_wait_reclaim (struct space *space, struct qed_request *request)
{
  int r = 0;

  pthread_mutex_lock (&space->lock);
  if (space->freed_n > 0 && !is_held (space))
    r = wait_gone (space, request);
  pthread_mutex_unlock (&space->lock);
  return r;
}

bool
space_any_coming (struct space *space)
{
  bool any;

  pthread_mutex_lock (&space->lock);
  any = space->reuse && space->gone > 0 && !is_held (space);
  pthread_mutex_unlock (&space->lock);
  return any;
}

void
space_stall (struct space *space, bool stalled)
{
  pthread_mutex_lock (&space->lock);
  space->stalled = stalled;
  pthread_mutex_unlock (&space->lock);
  if (stalled)
    wait_wake_all (&space->reclaimed);
}

/* ---- The length of the file ---- */

/* Become the one who grows the file, or wait for him, unless it is long
 * enough meanwhile.
 */
enum grow_role { GROW_NOT_NEEDED, GROW_MINE, GROW_WAIT };

/* Queued under the lock that protects what is waited for: no one is woken
 * that does not wait.
 */
static enum grow_role
grow_role (struct space *space, uint64_t n, struct qed_request *request,
           uint64_t *target)
{
  enum grow_role role = GROW_WAIT;

  pthread_mutex_lock (&space->lock);
  if (space->covered >= space->end + n)
    role = GROW_NOT_NEEDED;
  else if (space->growing)
    wait_add (&space->grown, request);
  else {
    role = GROW_MINE;
    space->growing = true;
    *target = space->end + n;
  }
  pthread_mutex_unlock (&space->lock);
  return role;
}

/* Try a whole step, then just what is needed. */
static int
resize_to (struct space *space, struct storage *storage, uint64_t *clusters)
{
  uint64_t most = INT64_MAX / space->cluster_size;
  uint64_t step = GROW_BYTES / space->cluster_size;
  uint64_t wanted = *clusters + step;
  int r;

  if (*clusters > most)
    return -ENOSPC;
  if (wanted > most)
    wanted = most;
  r = storage->ops->resize (storage, wanted * space->cluster_size);
  if (r == -EFBIG || r == -ENOSPC || r == -EDQUOT) {
    wanted = *clusters;
    r = storage->ops->resize (storage, wanted * space->cluster_size);
  }
  *clusters = wanted;
  return r == -EFBIG ? -ENOSPC : r;
}

int
space_grow (struct space *space, struct storage *storage, uint64_t n,
            struct qed_request *request)
{
  uint64_t clusters;
  int r;

  switch (grow_role (space, n, request, &clusters)) {
  case GROW_NOT_NEEDED:
    return 0;
  case GROW_WAIT:
    return QED_WAIT;
  case GROW_MINE:
    break;
  }

  request_step (request, "grow");
  r = resize_to (space, storage, &clusters);
  pthread_mutex_lock (&space->lock);
  space->growing = false;
  if (r == 0) {
    space->covered = clusters;
    atomic_store (&space->length_bytes, clusters * space->cluster_size);
  }
  pthread_mutex_unlock (&space->lock);
  wait_wake_all (&space->grown);
  return r;
}

bool
space_is_table (struct space *space, uint64_t cluster)
{
  bool is;

  pthread_mutex_lock (&space->lock);
  is = bitmap_test (&space->tables, cluster);
  pthread_mutex_unlock (&space->lock);
  return is;
}

bool
space_cut_wanted (struct space *space, uint64_t *length)
{
  uint64_t was_end;
  bool wanted;

  pthread_mutex_lock (&space->lock);
  was_end = space->end;
  if (space->reuse)
    space->end = bitmap_end (&space->used, space->base, space->end);
  /* Should the cut fail, the tail was used before. */
  if (space->end < was_end && space->fresh < was_end)
    space->fresh = was_end;
  *length = space->end * space->cluster_size;
  wanted = space->reuse && space->can_grow &&
    atomic_load (&space->length_bytes) > *length;
  pthread_mutex_unlock (&space->lock);
  return wanted;
}

void
space_was_cut (struct space *space, uint64_t length)
{
  pthread_mutex_lock (&space->lock);
  space->covered = length / space->cluster_size;
  atomic_store (&space->length_bytes, length);
  if (space->fresh != UINT64_MAX)
    space->fresh = UINT64_MAX - 1;      /* nothing, until it is durable */
  pthread_mutex_unlock (&space->lock);
}

void
space_cut_is_durable (struct space *space)
{
  pthread_mutex_lock (&space->lock);
  if (space->fresh == UINT64_MAX - 1)
    space->fresh = space->covered;
  pthread_mutex_unlock (&space->lock);
}
