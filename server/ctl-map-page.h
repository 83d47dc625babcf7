/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: what the parts of the picture share: the page, its axis, and
 * the plots on it.
 */

#ifndef QED_CTL_MAP_PAGE_H
#define QED_CTL_MAP_PAGE_H

#include <stdio.h>

#include "ctl-map.h"

/* Sizes in the picture's units, pixels at first. */
#define PAGE_MARGIN 30u
#define PAGE_LEFT 110u          /* of strip and plots */
#define PAGE_PLOT 800u          /* their width: the range that is mapped */

/* While it is drawn, from top to bottom. */
struct page {
  FILE *f;
  const struct ctl_map_image *image;
  unsigned y;                   /* the next free line */
};

/* A part of a whole, as a part of n. */
double page_scale (uint64_t part, uint64_t whole, double n);

/* Text in XML, a name that must be short, a size, a size at an axis. */
void page_put_text (struct page *page, const char *s);
void page_put_name (struct page *page, const char *path, size_t columns);
void page_put_size (struct page *page, uint64_t bytes);
void page_put_tick (struct page *page, uint64_t bytes);

/* The step between the marks of an axis, so that there are not too many. */
uint64_t page_tick_step (uint64_t range, unsigned most);

/* The marks of the guest's offsets, from line y on. */
void page_put_axis (struct page *page, unsigned y, bool named);

/* ---- Plots (ctl-map-plot.c) ---- */

/* An extent that is drawn as a line; 'start' within the range. */
struct plot_run {
  uint64_t start, length, offset;
};

#define PLOT_CELL 2u            /* of the grid; a divisor of PAGE_PLOT */
#define PLOT_COLUMNS (PAGE_PLOT / PLOT_CELL)

/* Where the data of a file lies, or of several in one plot. */
struct plot {
  unsigned rows;
  uint64_t height;              /* bytes: the longest of the files */
  uint32_t *cells;              /* rows x PLOT_COLUMNS, from the bottom:
                                 * extents that start there */
  struct plot_run runs[PLOT_COLUMNS + 1];
  unsigned run_count;
  bool any;
};

/* A file of that length has its data here too.  False without memory. */
bool plot_add_file (struct plot *plot, bool first, uint64_t length);
void plot_destroy (struct plot *plot);

void plot_add (struct plot *plot, const struct ctl_map_image *image,
               const struct qed_map_extent *extent);

/* What plot_put takes of the page. */
unsigned plot_height (const struct plot *plot);

/* Draw it as that of the files of class 'layer'. */
void plot_put (struct page *page, const struct plot *plot, unsigned layer);

/* Whether this class stands for more files than one. */
bool plot_shared (const struct page *page, unsigned layer);

/* How many classes of files there are. */
unsigned plot_count (const struct ctl_map_image *image);

#endif /* QED_CTL_MAP_PAGE_H */
