/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: the picture.
 *
 *   title, file names            what is mapped
 *   numbers                      the summary
 *   strip                        what each part of the guest's disk holds
 *   legend
 *   one plot for each file       where in the file the guest's data lies: data
 *                                in order is a rising line, fragments are dots
 *
 * All share the horizontal axis, the guest's offset.  The size of the picture
 * and the memory it takes are bounded.
 */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ctl-map-page.h"

#define WIDTH 960u
#define HEAD 170u               /* above the strip: title and numbers */
#define FOOT 24u
#define TITLE_COLUMNS 48u
#define BIN_WIDTH 2u            /* a divisor of PAGE_PLOT */
#define STRIP_BINS (PAGE_PLOT / BIN_WIDTH)
#define STRIP_HEAD 36u
#define STRIP_HEIGHT 56u
#define STRIP_FOOT 36u
#define LEGEND_LINE 24u
#define LEGEND_FOOT 6u
#define LEGEND_ENTRIES 3u       /* in a line */
#define LEGEND_COLUMNS 24u      /* of a file's name */
#define FAINTEST 0.35           /* what the smallest share looks like */

struct ctl_map_svg {
  struct ctl_file file;
  const struct ctl_map_image *image;
  struct ctl_map_bins bins;
  struct plot plots[CTL_MAP_LAYERS];
};

/* ---- Collecting -------------------------------------------------------- */

static void
free_svg (struct ctl_map_svg *svg)
{
  unsigned i;

  ctl_map_bins_destroy (&svg->bins);
  for (i = 0; i < CTL_MAP_LAYERS; i++)
    plot_destroy (&svg->plots[i]);
  free (svg);
}

static bool
init_plots (struct ctl_map_svg *svg)
{
  unsigned i, layer;

  for (i = 0; i < svg->image->count; i++) {
    layer = i < CTL_MAP_LAYERS ? i : CTL_MAP_LAYERS - 1;
    if (!plot_add_file (&svg->plots[layer], i == 0,
                        svg->image->files[i].length))
      return false;
  }
  return true;
}

struct ctl_map_svg *
ctl_map_svg_new (const char *path, const struct ctl_map_image *image)
{
  struct ctl_map_svg *svg = calloc (1, sizeof *svg);

  if (svg == NULL) {
    ctl_error ("out of memory");
    return NULL;
  }
  svg->image = image;
  if (!ctl_map_bins_init (&svg->bins, STRIP_BINS, image->start,
                          image->length) || !init_plots (svg)) {
    ctl_error ("out of memory");
    free_svg (svg);
    return NULL;
  }
  if (!ctl_file_begin (&svg->file, path)) {
    free_svg (svg);
    return NULL;
  }
  return svg;
}

void
ctl_map_svg_add (struct ctl_map_svg *svg, const struct qed_map_extent *extent,
                 bool fragment)
{
  ctl_map_bins_add (&svg->bins, extent, fragment);
  if (extent->kind == QED_MAP_DATA)
    plot_add (&svg->plots[ctl_map_class (extent) - CTL_MAP_DATA], svg->image,
              extent);
}

/* ---- The head ---------------------------------------------------------- */

/* Colours: first for light viewers, and where style sheets know of it, for
 * dark ones.  The files' colours differ for the colour-blind too.
 */
static const char style[] =
  "text { font-family: sans-serif; font-size: 13px; fill: #24292f }\n"
  ".title { font-size: 22px; font-weight: bold }\n"
  ".head { font-size: 15px; font-weight: bold }\n"
  ".quiet, .tick { fill: #57606a }\n"
  ".tick { font-size: 12px }\n"
  ".number { font-size: 20px; font-weight: bold }\n"
  ".page { fill: #ffffff }\n"
  ".frame { fill: #eef1f4 }\n"
  ".grid { stroke: #d0d7de; stroke-width: 1; fill: none }\n"
  ".f0 { fill: #0969c9 } .f1 { fill: #d96b00 }\n"
  ".f2 { fill: #00845e } .f3 { fill: #a84a92 }\n"
  ".zero { fill: #6e7781 } .damaged { fill: #d1001f }\n"
  ".s0 { stroke: #0969c9 } .s1 { stroke: #d96b00 }\n"
  ".s2 { stroke: #00845e } .s3 { stroke: #a84a92 }\n"
  ".s0, .s1, .s2, .s3 { stroke-width: 3; stroke-linecap: round; "
  "fill: none }\n"
  "@media (prefers-color-scheme: dark) {\n"
  "text { fill: #e6edf3 } .quiet, .tick { fill: #9da7b3 }\n"
  ".page { fill: #0d1117 } .frame { fill: #21262d }\n"
  ".grid { stroke: #3d444d }\n"
  ".f0 { fill: #58a6ff } .f1 { fill: #f0a04b }\n"
  ".f2 { fill: #3fc99a } .f3 { fill: #e08fd0 }\n"
  ".s0 { stroke: #58a6ff } .s1 { stroke: #f0a04b }\n"
  ".s2 { stroke: #3fc99a } .s3 { stroke: #e08fd0 }\n"
  ".zero { fill: #8c959f } .damaged { fill: #ff6166 }\n"
  "}\n";

static const char *const class_names[CTL_MAP_CLASSES] = {
  "f0", "f1", "f2", "f3", "zero", "frame", "damaged"
};

static unsigned
legend_lines (const struct ctl_map_image *image)
{
  /* The files, zero, hole, damaged, intensity. */
  return (plot_count (image) + 4 + LEGEND_ENTRIES - 1) / LEGEND_ENTRIES;
}

static unsigned
picture_height (const struct ctl_map_svg *svg)
{
  unsigned height = HEAD + STRIP_HEAD + STRIP_HEIGHT + STRIP_FOOT +
    legend_lines (svg->image) * LEGEND_LINE + LEGEND_FOOT;
  unsigned i;

  for (i = 0; i < plot_count (svg->image); i++)
    height += plot_height (&svg->plots[i]);
  return height + FOOT;
}

static void
put_head (struct page *page, unsigned height)
{
  const struct ctl_map_image *image = page->image;
  FILE *f = page->f;
  unsigned i;

  fprintf (f, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
           "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" "
           "height=\"%u\" viewBox=\"0 0 %u %u\" role=\"img\">\n<title>Map of ",
           WIDTH, height, WIDTH, height);
  page_put_text (page, image->names[0]);
  fputs ("</title>\n<desc>Where the disk is allocated: ", f);
  for (i = 0; i < image->count; i++) {
    fputs (i > 0 ? ", over " : "", f);
    page_put_text (page, image->names[i]);
  }
  fprintf (f, "</desc>\n<style>\n%s</style>\n"
           "<rect class=\"page\" width=\"%u\" height=\"%u\"/>\n"
           "<text class=\"title\" x=\"%u\" y=\"42\">", style, WIDTH, height,
           PAGE_MARGIN);
  page_put_name (page, image->names[0], TITLE_COLUMNS);
  fprintf (f, "</text>\n<text class=\"quiet\" x=\"%u\" y=\"66\">"
           "QED image of ", PAGE_MARGIN);
  page_put_size (page, image->size);
  if (image->length < image->size) {
    fputs (", of which ", f);
    page_put_size (page, image->length);
    fputs (" from ", f);
    page_put_size (page, image->start);
    fputs (" on are shown", f);
  }
  fputs (", clusters of ", f);
  page_put_size (page, image->cluster_size);
  if (image->count > 1)
    fprintf (f, ", over %u backing file%s", image->count - 1,
             image->count > 2 ? "s" : "");
  fputs ("</text>\n", f);
}

/* ---- The numbers ------------------------------------------------------- */

/* In six columns: the number, what it is, and more about it. */
static void
put_number (struct page *page, unsigned column, const char *number,
            const char *what, const char *more)
{
  static const unsigned at[] = { PAGE_MARGIN, 180, 320, 470, 610, 790 };
  unsigned x = at[column];

  fprintf (page->f, "<text class=\"number\" x=\"%u\" y=\"112\">%s</text>\n"
           "<text class=\"quiet\" x=\"%u\" y=\"132\">%s</text>\n"
           "<text class=\"quiet\" x=\"%u\" y=\"150\">", x, number, x, what,
           x);
  page_put_text (page, more);
  fputs ("</text>\n", page->f);
}

static void
put_sum (struct page *page, unsigned column, const char *what,
         uint64_t bytes)
{
  char size[CTL_SIZE_TEXT], share[CTL_MAP_SHARE_TEXT];

  ctl_size_to_text (bytes, size);
  ctl_map_share_to_text (bytes, page->image->length, share);
  put_number (page, column, size, what, share);
}

static void
put_numbers (struct page *page, const struct ctl_map_totals *totals)
{
  char text[CTL_SIZE_TEXT], runs[32];

  put_sum (page, 0, "data", totals->all_data);
  put_sum (page, 1, "zero clusters", totals->zero);
  put_sum (page, 2, "in no file", totals->hole + totals->beyond);
  put_sum (page, 3, "damaged", totals->damaged);
  snprintf (text, sizeof text, "%" PRIu64, totals->fragments);
  put_number (page, 4, text, "fragments", "data goes on elsewhere");
  ctl_size_to_text (totals->runs > 0 ? totals->all_data / totals->runs : 0,
                    text);
  snprintf (runs, sizeof runs, "of %" PRIu64, totals->runs);
  put_number (page, 5, text, "mean run of data", runs);
}

/* ---- The strip --------------------------------------------------------- */

static uint64_t
bin_length (const struct ctl_map_bins *bins, unsigned i)
{
  return ctl_map_bins_start (bins, i + 1) - ctl_map_bins_start (bins, i);
}

/* The class that fills all of a bin, or -1. */
static int
pure_class (const struct ctl_map_bins *bins, unsigned i)
{
  uint64_t length = bin_length (bins, i);
  int class;

  for (class = 0; class < CTL_MAP_CLASSES && length > 0; class++)
    if (bins->bins[i].bytes[class] == length)
      return class;
  return -1;
}

/* Appears when the pointer rests on it. */
static void
put_bin_title (struct page *page, const struct ctl_map_bins *bins,
               unsigned first, unsigned end)
{
  static const char *const names[CTL_MAP_CLASSES] = {
    "data in the image", "data in the backing file", "data at depth 2",
    "data at depth 3 and deeper", "zero clusters", "in no file", "damaged"
  };
  FILE *f = page->f;
  char share[CTL_MAP_SHARE_TEXT];
  int class;

  fputs ("<title>", f);
  page_put_size (page, ctl_map_bins_start (bins, first));
  fputs (" to ", f);
  page_put_size (page, ctl_map_bins_start (bins, end));
  for (class = 0; class < CTL_MAP_CLASSES; class++)
    if (bins->bins[first].bytes[class] > 0) {
      ctl_map_share_to_text (bins->bins[first].bytes[class],
                             bin_length (bins, first), share);
      fprintf (f, "\n%s: ", names[class]);
      page_put_text (page, share);
    }
  fputs ("</title>", f);
}

/* Bins first..end-1, which hold the same: what is there, one above the other
 * in proportion; the more there is, the stronger.
 */
static void
put_bins (struct page *page, const struct ctl_map_bins *bins, unsigned first,
          unsigned end)
{
  const struct ctl_map_bin *bin = &bins->bins[first];
  uint64_t filled = bin_length (bins, first) - bin->bytes[CTL_MAP_HOLE];
  double share = page_scale (filled, bin_length (bins, first), 1);
  double y = page->y + STRIP_HEIGHT, height;
  unsigned x = PAGE_LEFT + first * BIN_WIDTH;
  unsigned width = (end - first) * BIN_WIDTH;
  int class;

  fprintf (page->f, "<g opacity=\"%.2f\">",
           FAINTEST + (1 - FAINTEST) * share);
  put_bin_title (page, bins, first, end);
  if (filled == 0)
    fprintf (page->f, "<rect class=\"frame\" x=\"%u\" y=\"%u\" "
             "width=\"%u\" height=\"%u\"/>", x, page->y, width,
             STRIP_HEIGHT);
  for (class = 0; class < CTL_MAP_CLASSES; class++) {
    if (class == CTL_MAP_HOLE || bin->bytes[class] == 0)
      continue;
    height = page_scale (bin->bytes[class], filled, STRIP_HEIGHT);
    y -= height;
    fprintf (page->f, "<rect class=\"%s\" x=\"%u\" y=\"%.1f\" "
             "width=\"%u\" height=\"%.1f\"/>", class_names[class], x, y,
             width, height);
  }
  fputs ("</g>\n", page->f);
}

static void
put_strip (struct page *page, const struct ctl_map_bins *bins)
{
  unsigned first, end;
  int class;

  fprintf (page->f, "<text class=\"head\" x=\"%u\" y=\"%u\">What the "
           "guest's disk holds</text>\n", PAGE_MARGIN, page->y + 20);
  page->y += STRIP_HEAD;
  fprintf (page->f, "<rect class=\"frame\" x=\"%u\" y=\"%u\" width=\"%u\" "
           "height=\"%u\"/>\n", PAGE_LEFT, page->y, PAGE_PLOT,
           STRIP_HEIGHT);
  for (first = 0; first < bins->count; first = end) {
    class = pure_class (bins, first);
    end = first + 1;
    while (class >= 0 && end < bins->count && pure_class (bins, end) == class)
      end++;
    if (bin_length (bins, first) > 0)
      put_bins (page, bins, first, end);
  }
  page_put_axis (page, page->y + STRIP_HEIGHT, false);
  page->y += STRIP_HEIGHT + STRIP_FOOT;
}

/* ---- The legend -------------------------------------------------------- */

static void
start_entry (const struct page *page, unsigned n, const char *class)
{
  unsigned x = PAGE_LEFT + n % LEGEND_ENTRIES * 268;
  unsigned y = page->y + n / LEGEND_ENTRIES * LEGEND_LINE;
  FILE *f = page->f;

  fprintf (f, "<rect class=\"%s\" x=\"%u\" y=\"%u\" width=\"14\" "
           "height=\"14\"/><text x=\"%u\" y=\"%u\">", class, x, y, x + 22,
           y + 12);
}

static void
put_file_entry (struct page *page, unsigned i)
{
  FILE *f = page->f;

  start_entry (page, i, class_names[CTL_MAP_DATA + i]);
  if (plot_shared (page, i))
    fprintf (f, "data in files at depth %u and deeper</text>\n", i);
  else {
    fputs ("data in ", f);
    page_put_name (page, page->image->names[i],
                   LEGEND_COLUMNS);
    fputs ("</text>\n", f);
  }
}

static void
put_legend (struct page *page)
{
  FILE *f = page->f;
  unsigned n, i, x, y;

  for (n = 0; n < plot_count (page->image); n++)
    put_file_entry (page, n);
  start_entry (page, n++, class_names[CTL_MAP_ZERO]);
  fputs ("zero clusters</text>\n", f);
  start_entry (page, n++, class_names[CTL_MAP_HOLE]);
  fputs ("in no file (reads as zeros)</text>\n", f);
  start_entry (page, n++, class_names[CTL_MAP_DAMAGED]);
  fputs ("damaged (reads fail)</text>\n", f);

  x = PAGE_LEFT + n % LEGEND_ENTRIES * 268;
  y = page->y + n / LEGEND_ENTRIES * LEGEND_LINE;
  fprintf (f, "<rect class=\"frame\" x=\"%u\" y=\"%u\" width=\"56\" "
           "height=\"14\"/>", x, y);
  for (i = 0; i < 4; i++)
    fprintf (f, "<rect class=\"f0\" opacity=\"%.2f\" x=\"%u\" y=\"%u\" "
             "width=\"14\" height=\"14\"/>", FAINTEST +
             (1 - FAINTEST) * i / 3, x + 14 * i, y);
  fprintf (f, "<text x=\"%u\" y=\"%u\">a little to all of it</text>\n",
           x + 64, y + 12);
  page->y += legend_lines (page->image) * LEGEND_LINE + LEGEND_FOOT;
}

/* ---- The whole --------------------------------------------------------- */

static void
draw (struct ctl_map_svg *svg, const struct ctl_map_totals *totals)
{
  struct page page = { .f = svg->file.stream, .image = svg->image };
  unsigned i;

  put_head (&page, picture_height (svg));
  put_numbers (&page, totals);
  page.y = HEAD;
  put_strip (&page, &svg->bins);
  put_legend (&page);
  for (i = 0; i < plot_count (svg->image); i++)
    plot_put (&page, &svg->plots[i], i);
  fputs ("</svg>\n", page.f);
}

bool
ctl_map_svg_end (struct ctl_map_svg *svg, const struct ctl_map_totals *totals,
                 bool ok)
{
  if (ok)
    draw (svg, totals);
  ok = ctl_file_end (&svg->file, ok);
  free_svg (svg);
  return ok;
}
