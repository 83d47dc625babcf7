/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "model-options.h"
#include "model-work.h"
#include "pattern.h"

#define RECENT 16               /* changes that later requests aim at */

static uint64_t random_state;
static uint64_t minimum;
static struct { uint64_t offset, count; } recent[RECENT];
static unsigned last;

void
work_begin (uint64_t seed, uint64_t block_size)
{
  random_state = pattern_mix (seed);
  minimum = block_size;
}

uint64_t
work_random (uint64_t limit)
{
  random_state += UINT64_C (0x9e3779b97f4a7c15);
  return pattern_mix (random_state) % limit;
}

void
work_done (uint64_t offset, uint64_t count)
{
  last = (last + 1) % RECENT;
  recent[last].offset = offset;
  recent[last].count = count;
}

uint64_t
work_count (void)
{
  uint64_t kind = work_random (100), count;

  if (kind < 10)
    count = 1 + work_random (8);
  else if (kind < 25)
    count = 1 + work_random (4096);
  else if (kind < 50)
    count = 512 * (1 + work_random (16));
  else if (kind < 75)
    count = 4096 * (1 + work_random (4));
  else if (kind < 83)
    count = options.cluster_size;
  else if (kind < 97)
    count = 1 + work_random (4 * options.cluster_size);
  else
    count = 1 + work_random (options.max_count);
  /* Large clusters: all of the kinds above would be megabytes. */
  if (kind < 97 && count > 262144)
    count = 262144 - work_random (4096);
  if (count > options.max_count)
    count = options.max_count;
  count -= count % minimum;
  if (count == 0)
    count = minimum;
  return count < options.size ? count : options.size;
}

/* A multiple of 'unit' that lies within what is about to be touched. */
static uint64_t
near_boundary (uint64_t unit, uint64_t count)
{
  uint64_t boundary = unit * work_random (options.size / unit + 1);
  uint64_t back = work_random (count + 2);

  return boundary > back ? boundary - back : 0;
}

uint64_t
work_offset (uint64_t count)
{
  uint64_t kind = work_random (100), limit = options.size - count, offset;
  uint64_t table = options.table_size * options.cluster_size / 8
    * options.cluster_size;
  unsigned i = work_random (RECENT);

  if (kind < 20)
    offset = work_random (limit + 1);
  else if (kind < 40)
    offset = 4096 * work_random (limit / 4096 + 1);
  else if (kind < 60)
    offset = near_boundary (options.cluster_size, count);
  else if (kind < 70)
    offset = near_boundary (table, count);
  else if (kind < 75)
    offset = limit;
  else {
    /* Begin anywhere from before to the end of what was lately written. */
    offset = recent[i].offset + work_random (recent[i].count + count + 1);
    offset = offset > count ? offset - count : 0;
    if (kind < 85)
      offset -= offset % 4096;
  }
  if (offset > limit)
    offset = limit;
  return offset - offset % minimum;
}
