/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: what the listing and the pictures share.  All offsets and sizes
 * are bytes.
 */

#ifndef QED_CTL_MAP_H
#define QED_CTL_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "ctl.h"
#include "qed.h"

/* What is mapped. */
struct ctl_map_image {
  uint64_t size;                /* of the guest's disk */
  uint64_t start, length;       /* the range of it that is mapped */
  uint32_t cluster_size;
  unsigned count;               /* of the files of the chain */
  struct qed_chain_file files[QED_CHAIN_MAX];
  char *names[QED_CHAIN_MAX];   /* their paths, harmless to show */
};

/* Sums over the range. */
struct ctl_map_totals {
  uint64_t data[QED_CHAIN_MAX]; /* by depth */
  uint64_t all_data;            /* of them */
  uint64_t zero, hole, beyond, damaged;
  uint64_t first_damage;        /* its offset, if there is some */
  uint64_t runs;                /* of data, each in one piece of one file */
  uint64_t fragments;           /* how often data goes on elsewhere */
};

/* A share for people: "12.5 %". */
#define CTL_MAP_SHARE_TEXT 16
void ctl_map_share_to_text (uint64_t part, uint64_t whole,
                            char text[CTL_MAP_SHARE_TEXT]);

/* ---- Bins (ctl-map-bins.c) ---- */

/* What is told apart in a bin.  Files deeper in the chain count as the last
 * that has a class of its own.
 */
#define CTL_MAP_LAYERS 4u
enum {
  CTL_MAP_DATA,                 /* in the image; + 1: in its backing file... */
  CTL_MAP_ZERO = CTL_MAP_DATA + CTL_MAP_LAYERS,
  CTL_MAP_HOLE,                 /* in no file */
  CTL_MAP_DAMAGED,
  CTL_MAP_CLASSES
};

struct ctl_map_bin {
  uint64_t bytes[CTL_MAP_CLASSES];
  uint64_t fragments;
};

/* The range in so many parts of equal size, but for rounding. */
struct ctl_map_bins {
  uint64_t start, length;
  unsigned count;
  struct ctl_map_bin *bins;
};

unsigned ctl_map_class (const struct qed_map_extent *extent);

/* False without memory. */
bool ctl_map_bins_init (struct ctl_map_bins *bins, unsigned count,
                        uint64_t start, uint64_t length);
void ctl_map_bins_destroy (struct ctl_map_bins *bins);

/* 'fragment': data that goes on elsewhere than the data before it. */
void ctl_map_bins_add (struct ctl_map_bins *bins,
                       const struct qed_map_extent *extent, bool fragment);

/* Where bin i starts; that of i = count is the end of the range. */
uint64_t ctl_map_bins_start (const struct ctl_map_bins *bins, unsigned i);

/* How much of a bin is data. */
uint64_t ctl_map_bin_data (const struct ctl_map_bin *bin);

/* ---- The strip for terminals (ctl-map-strip.c) ---- */

/* The columns of the terminal on stdout, or 80. */
unsigned ctl_map_strip_width (void);

/* Print the bins, one a column. */
void ctl_map_strip_print (const struct ctl_map_bins *bins,
                          const struct ctl_map_image *image);

/* ---- The picture (ctl-map-svg.c) ---- */

struct ctl_map_svg;

/* Start a picture that will be written to 'path'; NULL, with a message, on
 * failure.  'image' must stay.
 */
struct ctl_map_svg *ctl_map_svg_new (const char *path,
                                     const struct ctl_map_image *image);
void ctl_map_svg_add (struct ctl_map_svg *svg,
                      const struct qed_map_extent *extent, bool fragment);

/* Write it, or (not 'ok') drop it; frees it.  False, with a message, if it
 * could not be written.
 */
bool ctl_map_svg_end (struct ctl_map_svg *svg,
                      const struct ctl_map_totals *totals, bool ok);

#endif /* QED_CTL_MAP_H */
