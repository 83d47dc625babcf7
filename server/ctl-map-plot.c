/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: the plots of the picture, a file's offsets against the guest's.
 *
 * An extent that is at least as wide as a column of the grid is a line of its
 * own, and there can't be more of them than columns; the rest is counted in
 * the grid's cells.  So memory and picture are bounded.
 */

#include <config.h>

#include <stdlib.h>

#include "ctl-map-page.h"

#define ROWS_FIRST 130u         /* of the image's own plot */
#define ROWS_OTHER 80u
#define HEAD 42u
#define FOOT 26u
#define NAME_COLUMNS 28u

unsigned
plot_count (const struct ctl_map_image *image)
{
  return image->count < CTL_MAP_LAYERS ? image->count : CTL_MAP_LAYERS;
}

bool
plot_shared (const struct page *page, unsigned layer)
{
  return layer + 1 == CTL_MAP_LAYERS && page->image->count > CTL_MAP_LAYERS;
}

/* ---- Collecting -------------------------------------------------------- */

bool
plot_add_file (struct plot *plot, bool first, uint64_t length)
{
  plot->rows = first ? ROWS_FIRST : ROWS_OTHER;
  if (plot->height < length)
    plot->height = length;
  if (plot->cells == NULL)
    plot->cells = calloc (plot->rows * PLOT_COLUMNS, sizeof *plot->cells);
  return plot->cells != NULL;
}

void
plot_destroy (struct plot *plot)
{
  free (plot->cells);
  plot->cells = NULL;
}

static unsigned
scale_cell (uint64_t part, uint64_t whole, unsigned n)
{
  unsigned i = (unsigned) page_scale (part, whole, n);

  return i < n ? i : n - 1;
}

void
plot_add (struct plot *plot, const struct ctl_map_image *image,
          const struct qed_map_extent *e)
{
  uint64_t at = e->start - image->start;
  unsigned row, column;

  plot->any = true;
  if (e->length > image->length / PLOT_COLUMNS &&
      plot->run_count <= PLOT_COLUMNS) {
    plot->runs[plot->run_count++] = (struct plot_run) {
      .start = at, .length = e->length, .offset = e->offset
    };
    return;
  }
  row = scale_cell (e->offset, plot->height, plot->rows);
  column = scale_cell (at, image->length, PLOT_COLUMNS);
  if (plot->cells[row * PLOT_COLUMNS + column] < UINT32_MAX)
    plot->cells[row * PLOT_COLUMNS + column]++;
}

/* ---- Drawing ----------------------------------------------------------- */

unsigned
plot_height (const struct plot *plot)
{
  return HEAD + plot->rows * PLOT_CELL + FOOT;
}

static void
put_file_axis (struct page *page, const struct plot *plot)
{
  unsigned height = plot->rows * PLOT_CELL;
  uint64_t step = page_tick_step (plot->height, height / 50), at;
  double y;

  for (at = 0; at <= plot->height; at += step) {
    y = page->y + height - page_scale (at, plot->height, height);
    fprintf (page->f, "<path class=\"grid\" d=\"M%u %.1fh%u\"/>"
             "<text class=\"tick\" text-anchor=\"end\" x=\"%u\" y=\"%.1f\">",
             PAGE_LEFT - 5, y, PAGE_PLOT + 5, PAGE_LEFT - 9, y + 4);
    page_put_tick (page, at);
    fputs ("</text>\n", page->f);
  }
  fprintf (page->f, "<text class=\"quiet\" text-anchor=\"middle\" "
           "transform=\"translate(24 %u) rotate(-90)\">offset in the file"
           "</text>\n", page->y + height / 2);
}

/* Few extents in a cell are pale, so that a crowd shows. */
#define CROWDS 3u

static unsigned
crowd (uint32_t extents)
{
  return extents < 2 ? extents : extents < 8 ? 2 : CROWDS;
}

/* All cells of one intensity as one path, neighbours joined. */
static void
put_cells (struct page *page, const struct plot *plot, unsigned layer,
           unsigned intensity)
{
  unsigned row, column, end;
  const uint32_t *cells;
  bool any = false;

  for (row = 0; row < plot->rows; row++) {
    cells = plot->cells + row * PLOT_COLUMNS;
    for (column = 0; column < PLOT_COLUMNS; column = end) {
      end = column + 1;
      if (crowd (cells[column]) != intensity)
        continue;
      while (end < PLOT_COLUMNS && crowd (cells[end]) == intensity)
        end++;
      if (!any)
        fprintf (page->f, "<path class=\"s%u\" opacity=\"%.1f\" d=\"", layer,
                 0.4 + 0.2 * intensity);
      any = true;
      fprintf (page->f, "M%u %uh%u", PAGE_LEFT + column * PLOT_CELL,
               page->y + (plot->rows - row) * PLOT_CELL - PLOT_CELL / 2,
               (end - column) * PLOT_CELL);
    }
  }
  if (any)
    fputs ("\"/>\n", page->f);
}

static void
put_runs (struct page *page, const struct plot *plot, unsigned layer)
{
  unsigned height = plot->rows * PLOT_CELL, bottom = page->y + height, i;
  uint64_t length = page->image->length;
  const struct plot_run *run;

  if (plot->run_count == 0)
    return;
  fprintf (page->f, "<path class=\"s%u\" d=\"", layer);
  for (i = 0; i < plot->run_count; i++) {
    run = &plot->runs[i];
    fprintf (page->f, "M%.1f %.1fL%.1f %.1f",
             PAGE_LEFT + page_scale (run->start, length, PAGE_PLOT),
             bottom - page_scale (run->offset, plot->height, height),
             PAGE_LEFT + page_scale (run->start + run->length, length,
                                     PAGE_PLOT),
             bottom - page_scale (run->offset + run->length, plot->height,
                                  height));
  }
  fputs ("\"/>\n", page->f);
}

static void
put_head (struct page *page, const struct plot *plot, unsigned layer)
{
  unsigned y = page->y + 24;

  fprintf (page->f, "<text class=\"head\" x=\"%u\" y=\"%u\">Where the data "
           "lies in ", PAGE_MARGIN, y);
  if (plot_shared (page, layer))
    fprintf (page->f, "the files at depth %u and deeper", layer);
  else
    page_put_name (page, page->image->names[layer], NAME_COLUMNS);
  fprintf (page->f, "</text>\n<text class=\"quiet\" text-anchor=\"end\" "
           "x=\"%u\" y=\"%u\">%s</text>\n", PAGE_LEFT + PAGE_PLOT, y,
           plot->any ? "a rising line: in order; dots: fragments"
           : "none of what is shown");
}

void
plot_put (struct page *page, const struct plot *plot, unsigned layer)
{
  unsigned intensity;

  put_head (page, plot, layer);
  page->y += HEAD;
  fprintf (page->f, "<rect class=\"frame\" x=\"%u\" y=\"%u\" width=\"%u\" "
           "height=\"%u\"/>\n", PAGE_LEFT, page->y, PAGE_PLOT,
           plot->rows * PLOT_CELL);
  put_file_axis (page, plot);
  for (intensity = 1; intensity <= CROWDS; intensity++)
    put_cells (page, plot, layer, intensity);
  put_runs (page, plot, layer);
  page->y += plot->rows * PLOT_CELL;
  page_put_axis (page, page->y, layer + 1 == plot_count (page->image));
  page->y += FOOT;
}
