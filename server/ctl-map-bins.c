/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: what pictures are made of, a fixed number of bins. */

#include <stdlib.h>

#include "ctl-map.h"

unsigned
ctl_map_class (const struct qed_map_extent *extent)
{
  switch (extent->kind) {
  case QED_MAP_DATA:
    return CTL_MAP_DATA + (extent->depth < CTL_MAP_LAYERS ? extent->depth
                           : CTL_MAP_LAYERS - 1);
  case QED_MAP_ZERO:
    return CTL_MAP_ZERO;
  case QED_MAP_DAMAGED:
    return CTL_MAP_DAMAGED;
  default:
    return CTL_MAP_HOLE;
  }
}

bool
ctl_map_bins_init (struct ctl_map_bins *bins, unsigned count, uint64_t start,
                   uint64_t length)
{
  bins->start = start;
  bins->length = length;
  bins->count = count;
  bins->bins = calloc (count, sizeof *bins->bins);
  return bins->bins != NULL;
}

void
ctl_map_bins_destroy (struct ctl_map_bins *bins)
{
  free (bins->bins);
  bins->bins = NULL;
}

uint64_t
ctl_map_bins_start (const struct ctl_map_bins *bins, unsigned i)
{
  uint64_t n = bins->count;

  return bins->start + bins->length / n * i + bins->length % n * i / n;
}

uint64_t
ctl_map_bin_data (const struct ctl_map_bin *bin)
{
  uint64_t sum = 0;
  unsigned i;

  for (i = 0; i < CTL_MAP_LAYERS; i++)
    sum += bin->bytes[CTL_MAP_DATA + i];
  return sum;
}

/* The bin that holds 'at': a guess, and then exactly. */
static unsigned
find_bin (const struct ctl_map_bins *bins, uint64_t at)
{
  unsigned i = (unsigned) ((double) (at - bins->start) /
                           (double) bins->length * bins->count);

  if (i >= bins->count)
    i = bins->count - 1;
  while (ctl_map_bins_start (bins, i) > at)
    i--;
  while (ctl_map_bins_start (bins, i + 1) <= at)
    i++;
  return i;
}

void
ctl_map_bins_add (struct ctl_map_bins *bins,
                  const struct qed_map_extent *extent, bool fragment)
{
  uint64_t at = extent->start, end = at + extent->length, bin_end;
  unsigned class = ctl_map_class (extent), i = find_bin (bins, at);

  bins->bins[i].fragments += fragment;
  for (; at < end; i++, at = bin_end) {
    bin_end = ctl_map_bins_start (bins, i + 1);
    if (bin_end > end)
      bin_end = end;
    bins->bins[i].bytes[class] += bin_end - at;
  }
}
