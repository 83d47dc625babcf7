/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: text and axis of the picture. */

#include <config.h>

#include <string.h>

#include "ctl-map-page.h"

double
page_scale (uint64_t part, uint64_t whole, double n)
{
  return whole == 0 ? 0 : (double) part / (double) whole * n;
}

/* ---- Text ---- */

/* XML knows neither control characters nor U+FFFE and U+FFFF; the names come
 * without the former.
 */
void
page_put_text (struct page *page, const char *s)
{
  FILE *f = page->f;

  for (; *s; s++) {
    switch (*s) {
    case '&':  fputs ("&amp;", f); break;
    case '<':  fputs ("&lt;", f); break;
    case '>':  fputs ("&gt;", f); break;
    case '"':  fputs ("&quot;", f); break;
    case '\'': fputs ("&#39;", f); break;
    default:
      if (strncmp (s, "\xef\xbf\xbe", 3) == 0 ||
          strncmp (s, "\xef\xbf\xbf", 3) == 0) {
        fprintf (f, "\\xef\\xbf\\x%02x", (unsigned char) s[2]);
        s += 2;
      }
      else
        putc (*s, f);
    }
  }
}

/* The columns that a character takes, which starts at 'c'; those of most
 * scripts with three bytes and more are wide.
 */
static size_t
columns_of (unsigned char c)
{
  return c < 0x80 || (c >= 0xc0 && c < 0xe1) ? 1 : c < 0xc0 ? 0 : 2;
}

/* The last part of a path, cut in front if it is still long; what is left
 * begins with a whole character.
 */
void
page_put_name (struct page *page, const char *path, size_t columns)
{
  const char *slash = strrchr (path, '/'), *p = slash ? slash + 1 : path, *q;
  size_t width = 0;

  for (q = p; *q; q++)
    width += columns_of ((unsigned char) *q);
  if (width > columns)
    fputs ("\u2026", page->f);
  while (width > columns || columns_of ((unsigned char) *p) == 0)
    width -= columns_of ((unsigned char) *p++);
  page_put_text (page, p);
}

void
page_put_size (struct page *page, uint64_t bytes)
{
  char text[CTL_SIZE_TEXT];

  ctl_size_to_text (bytes, text);
  fputs (text, page->f);
}

void
page_put_tick (struct page *page, uint64_t bytes)
{
  if (bytes == 0)
    putc ('0', page->f);
  else
    page_put_size (page, bytes);
}

/* ---- The axis ---- */

/* A power of 2, as sizes are. */
uint64_t
page_tick_step (uint64_t range, unsigned most)
{
  uint64_t step = 512;

  while (range / step > most)
    step *= 2;
  return step;
}

void
page_put_axis (struct page *page, unsigned y, bool named)
{
  const struct ctl_map_image *image = page->image;
  uint64_t step = page_tick_step (image->length, 8);
  uint64_t at = (image->start + step - 1) / step * step;
  double x;

  for (; at - image->start <= image->length; at += step) {
    x = PAGE_LEFT + page_scale (at - image->start, image->length, PAGE_PLOT);
    fprintf (page->f, "<path class=\"grid\" d=\"M%.1f %uv5\"/>"
             "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" "
             "y=\"%u\">", x, y, x, y + 18);
    page_put_tick (page, at);
    fputs ("</text>\n", page->f);
  }
  if (named)
    fprintf (page->f, "<text class=\"quiet\" text-anchor=\"middle\" x=\"%u\" "
             "y=\"%u\">offset in the guest's disk</text>\n",
             PAGE_LEFT + PAGE_PLOT / 2, y + 36);
}
