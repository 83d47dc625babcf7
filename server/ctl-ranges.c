/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A list of ranges that stays small: see ctl-check.h. */

#include <config.h>

#include <stdlib.h>

#include "ctl-check.h"

static int
compare (const void *a, const void *b)
{
  const struct ctl_range *s = a, *t = b;

  return s->start < t->start ? -1 : s->start > t->start;
}

void
ctl_ranges_join (struct ctl_ranges *ranges)
{
  struct ctl_range *last = ranges->list, *range;
  size_t i, n = 1;

  if (ranges->count == 0)
    return;
  qsort (ranges->list, ranges->count, sizeof *ranges->list, compare);
  for (i = 1; i < ranges->count; i++) {
    range = &ranges->list[i];
    if (range->start > last->start + last->bytes) {
      ranges->list[n] = *range;
      last = &ranges->list[n++];
    }
    else if (range->start + range->bytes > last->start + last->bytes)
      last->bytes = range->start + range->bytes - last->start;
  }
  ranges->count = n;
}

static bool
make_room (struct ctl_ranges *ranges)
{
  size_t capacity = ranges->capacity ? ranges->capacity * 2 : 64;
  struct ctl_range *list;

  if (ranges->count < ranges->capacity)
    return true;
  if (ranges->capacity == CTL_RANGES_MAX) {
    ctl_ranges_join (ranges);
    return ranges->count <= CTL_RANGES_MAX / 2;   /* else it would be soon
                                                   * again, at that cost */
  }
  list = realloc (ranges->list, capacity * sizeof *list);
  if (list == NULL)
    return false;
  ranges->list = list;
  ranges->capacity = capacity;
  return true;
}

/* Most come in order, side by side. */
void
ctl_ranges_add (struct ctl_ranges *ranges, uint64_t start, uint64_t bytes)
{
  struct ctl_range *last;

  if (bytes == 0 || ranges->incomplete)
    return;
  last = ranges->count > 0 ? &ranges->list[ranges->count - 1] : NULL;
  if (last && last->start + last->bytes == start)
    last->bytes += bytes;
  else if (make_room (ranges))
    ranges->list[ranges->count++] = (struct ctl_range) { start, bytes };
  else
    ranges->incomplete = true;
}

uint64_t
ctl_ranges_sum (const struct ctl_ranges *ranges)
{
  uint64_t sum = 0;
  size_t i;

  for (i = 0; i < ranges->count; i++)
    sum += ranges->list[i].bytes;
  return sum;
}

void
ctl_ranges_free (struct ctl_ranges *ranges)
{
  free (ranges->list);
  *ranges = (struct ctl_ranges) { 0 };
}
