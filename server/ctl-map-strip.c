/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: the disk in two lines of a terminal.  A cell of the first is
 * as full as its part of the disk is of data; a cell of the second, as the
 * data there is fragmented.
 */

#include <config.h>

#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ctl-map.h"

#define WIDTH_DEFAULT 80u
#define WIDTH_MIN 20u
#define WIDTH_MAX 1000u

/* From empty to full. */
static const char *const blocks[] = {
  " ", "\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587",
  "\u2588", NULL
};
static const char *const ascii[] = {
  " ", ".", ":", "-", "=", "+", "*", "#", "%", "@", NULL
};

struct style {
  const char *const *levels;
  unsigned full;                /* the number of the last level */
  bool colour;
};

unsigned
ctl_map_strip_width (void)
{
  struct winsize size;

  if (isatty (STDOUT_FILENO) != 1 ||
      ioctl (STDOUT_FILENO, TIOCGWINSZ, &size) == -1 || size.ws_col == 0)
    return WIDTH_DEFAULT;
  if (size.ws_col < WIDTH_MIN)
    return WIDTH_MIN;
  return size.ws_col < WIDTH_MAX ? size.ws_col : WIDTH_MAX;
}

/* Whether what the user set says that the terminal shows UTF-8. */
static bool
is_utf8 (void)
{
  locale_t locale = newlocale (LC_CTYPE_MASK, "", (locale_t) 0);
  bool utf8;

  if (locale == (locale_t) 0)
    return false;
  utf8 = strcmp (nl_langinfo_l (CODESET, locale), "UTF-8") == 0;
  freelocale (locale);
  return utf8;
}

static struct style
choose_style (void)
{
  const char *no_colour = getenv ("NO_COLOR");
  struct style style = {
    .levels = is_utf8 () ? blocks : ascii,
    .colour = isatty (STDOUT_FILENO) == 1 &&
      (no_colour == NULL || *no_colour == '\0'),
  };

  while (style.levels[style.full + 1] != NULL)
    style.full++;
  return style;
}

/* Only nothing looks empty, and only all looks full. */
static unsigned
level (const struct style *style, double share)
{
  if (share <= 0)
    return 0;
  if (share >= 1)
    return style->full;
  return 1 + (unsigned) (share * (style->full - 1));
}

/* ---- Colours ---- */

enum colour { NONE = 0, RED = 31, GREEN = 32, YELLOW = 33, BLUE = 34,
              MAGENTA = 35, CYAN = 36 };

static void
set_colour (const struct style *style, enum colour *now, enum colour colour)
{
  if (style->colour && *now != colour)
    printf ("\033[%dm", (int) colour);
  *now = colour;
}

static enum colour
holder_colour (const struct ctl_map_bin *bin)
{
  static const enum colour colours[CTL_MAP_LAYERS] = {
    CYAN, MAGENTA, YELLOW, BLUE
  };
  unsigned i, most = 0;

  for (i = 1; i < CTL_MAP_LAYERS; i++)
    if (bin->bytes[CTL_MAP_DATA + i] > bin->bytes[CTL_MAP_DATA + most])
      most = i;
  return colours[most];
}

/* ---- The two lines ---- */

static void
print_allocation (const struct ctl_map_bins *bins, const struct style *style)
{
  const struct ctl_map_bin *bin;
  enum colour colour = NONE;
  uint64_t bytes;
  unsigned i;

  for (i = 0; i < bins->count; i++) {
    bin = &bins->bins[i];
    if (bin->bytes[CTL_MAP_DAMAGED] > 0) {
      set_colour (style, &colour, RED);
      putchar ('!');
      continue;
    }
    bytes = ctl_map_bins_start (bins, i + 1) - ctl_map_bins_start (bins, i);
    set_colour (style, &colour, holder_colour (bin));
    fputs (style->levels[bytes == 0 ? 0 : level (style, (double)
           ctl_map_bin_data (bin) / (double) bytes)], stdout);
  }
  set_colour (style, &colour, NONE);
  putchar ('\n');
}

/* The number of binary digits. */
static unsigned
digits (uint64_t n)
{
  unsigned d = 0;

  for (; n > 0; n >>= 1)
    d++;
  return d;
}

/* How fragmented the data of a bin is, from 0, one run, to 1, no two clusters
 * in order.  A logarithm, since ten fragments in thousands of clusters are
 * worth seeing.
 */
static double
fragmentation (const struct ctl_map_bin *bin, uint32_t cluster_size)
{
  uint64_t clusters = ctl_map_bin_data (bin) / cluster_size;

  if (bin->fragments == 0)
    return 0;
  if (bin->fragments + 1 >= clusters)
    return 1;
  return (double) digits (bin->fragments) / digits (clusters);
}

static void
print_fragments (const struct ctl_map_bins *bins, const struct style *style,
                 uint32_t cluster_size)
{
  enum colour colour = NONE;
  unsigned i, n;

  for (i = 0; i < bins->count; i++) {
    n = level (style, fragmentation (&bins->bins[i], cluster_size));
    set_colour (style, &colour, n <= style->full / 3 ? GREEN
                : n <= 2 * style->full / 3 ? YELLOW : RED);
    fputs (style->levels[n], stdout);
  }
  set_colour (style, &colour, NONE);
  putchar ('\n');
}

void
ctl_map_strip_print (const struct ctl_map_bins *bins,
                     const struct ctl_map_image *image)
{
  struct style style = choose_style ();
  char cell[CTL_SIZE_TEXT];

  ctl_size_to_text (bins->length / bins->count, cell);
  printf ("Data, %s a cell%s:\n", cell, style.colour && image->count > 1
          ? " (cyan: in the image; else: in backing files)" : "");
  print_allocation (bins, &style);
  puts ("Fragments, from few to every cluster (logarithmic):");
  print_fragments (bins, &style, image->cluster_size);
}
