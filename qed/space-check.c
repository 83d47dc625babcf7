/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a check of an image in use needs of its space, and what a repair makes
 * of it.
 */

#include <config.h>

#include <errno.h>

#include "space.h"

/* ---- Checks ---- */

int
space_hold (struct space *space)
{
  int r = 0;

  pthread_mutex_lock (&space->lock);
  if (space->held)
    r = -EBUSY;
  else
    space->broken = false;
  space->held = true;
  pthread_mutex_unlock (&space->lock);
  if (r == 0)
    wait_wake_all (&space->reclaimed);
  return r;
}

void
space_release_hold (struct space *space)
{
  pthread_mutex_lock (&space->lock);
  space->held = false;
  bitmap_destroy (&space->recent);
  pthread_mutex_unlock (&space->lock);
}

bool
space_break_hold (struct space *space)
{
  bool breaks;

  pthread_mutex_lock (&space->lock);
  breaks = space->held && !space->broken && space->reuse &&
    space->freed_n > 0;
  space->broken |= breaks;
  pthread_mutex_unlock (&space->lock);
  return breaks;
}

bool
space_hold_broken (struct space *space)
{
  bool broken;

  pthread_mutex_lock (&space->lock);
  broken = space->broken;
  pthread_mutex_unlock (&space->lock);
  return broken;
}

int
space_add_unnamed (struct space *space, struct bitmap *into)
{
  uint64_t cluster = space->base;
  size_t i;
  bool was;
  int r = 0;

  pthread_mutex_lock (&space->lock);
  for (i = 0; i < space->freed_n && r == 0; i++)
    r = bitmap_set (into, space->freed[i], &was);
  while (r == 0 && space->recent.count > 0 &&
         (cluster = bitmap_next_set (&space->recent, cluster, space->end)) <
         space->end)
    r = bitmap_set (into, cluster++, &was);
  pthread_mutex_unlock (&space->lock);
  return r;
}

bool
space_borrow (struct space *space, uint64_t cluster)
{
  bool ours, was;

  pthread_mutex_lock (&space->lock);
  ours = !bitmap_test (&space->recent, cluster) &&
    bitmap_set (&space->used, cluster, &was) == 0;
  if (ours && cluster >= space->end)
    space->end = cluster + 1;   /* else it would be handed out from there */
  pthread_mutex_unlock (&space->lock);
  return ours;
}

uint64_t
space_end (struct space *space)
{
  uint64_t end;

  pthread_mutex_lock (&space->lock);
  end = space->end;
  pthread_mutex_unlock (&space->lock);
  return end;
}

void
space_lower_end (struct space *space, uint64_t floor)
{
  uint64_t was, at = floor, last = floor;

  pthread_mutex_lock (&space->lock);
  was = space->end;
  while (at < was && (at = bitmap_next_set (&space->used, at, was)) < was)
    last = ++at;
  if (last < was)
    space->end = last;
  if (space->end < was && space->fresh < was)
    space->fresh = was;         /* it was used before */
  pthread_mutex_unlock (&space->lock);
}

/* ---- After a look of a repair ---- */

/* Clusters entered under one hold of the lock, so that a reader who needs it
 * waits for no more.
 */
#define SLICE UINT64_C (65536)

/* From 'from' on, in cluster numbers. */
static int
enter_slice (struct bitmap *into, struct bitmap *from, uint64_t *at,
             uint64_t limit)
{
  uint64_t n = 0;
  bool was;
  int r = 0;

  while (r == 0 && n++ < SLICE &&
         (*at = bitmap_next_set (from, *at, limit)) < limit)
    r = bitmap_set (into, (*at)++, &was);
  return r;
}

static int
enter_used (struct space *space, struct space *seen)
{
  uint64_t at = 0;
  int r = 0;

  while (at < seen->end && r == 0) {
    pthread_mutex_lock (&space->lock);
    r = enter_slice (&space->used, &seen->used, &at, seen->end);
    if (space->end < seen->end)
      space->end = seen->end;
    pthread_mutex_unlock (&space->lock);
  }
  return r;
}

int
space_adopt (struct space *space, struct space *seen, bool know)
{
  struct bitmap tables, old;
  uint64_t at = 0;
  int r = enter_used (space, seen);

  bitmap_init (&tables);
  while (at < seen->end && r == 0)
    r = enter_slice (&tables, &seen->tables, &at, seen->end);
  if (r < 0) {
    bitmap_destroy (&tables);
    return r;
  }
  pthread_mutex_lock (&space->lock);
  old = space->tables;
  space->tables = tables;
  space->reuse &= know;
  pthread_mutex_unlock (&space->lock);
  bitmap_destroy (&old);
  return 0;
}

uint64_t
space_reach (const struct space *space)
{
  uint64_t length = atomic_load (&space->length_bytes);
  uint64_t frozen = atomic_load (&space->frozen_bytes);

  return length < frozen ? length : frozen;
}

/* The repair's new tables lie behind the old end. */
uint64_t
space_table_reach (const struct space *space, uint64_t offset)
{
  return offset < atomic_load (&space->frozen_bytes) ? space_reach (space)
    : atomic_load (&space->length_bytes);
}
