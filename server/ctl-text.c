/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Text that strangers made, a server or who made an image: a terminal must not
 * take any of it for a command.
 */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "ctl.h"

/* The length of the UTF-8 sequence at p, 0 if there is none. */
static size_t
utf8_length (const unsigned char *p)
{
  static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
  uint32_t code;
  size_t n, i;

  if (p[0] < 0x80)
    return 1;
  n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
  if (p[0] < 0xc2 || p[0] > 0xf4)
    return 0;
  code = p[0] & (0x7f >> n);
  for (i = 1; i < n; ++i) {
    if ((p[i] & 0xc0) != 0x80)  /* the end of the string, too */
      return 0;
    code = code << 6 | (p[i] & 0x3f);
  }
  if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
    return 0;
  return n;
}

/* Control characters of a terminal: C0, DEL, and C1 in UTF-8. */
static bool
is_control (const unsigned char *p)
{
  return p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0);
}

size_t
ctl_printable_length (const char *s)
{
  const unsigned char *p = (const unsigned char *) s;
  const size_t n = utf8_length (p);

  return n > 0 && !is_control (p) ? n : 0;
}

char *
ctl_escape (const char *s)
{
  static const char hex[] = "0123456789abcdef";
  char *text, *out;
  size_t n;

  out = text = malloc (4 * strlen (s) + 1);
  if (text == NULL)
    return NULL;
  while (*s) {
    n = *s != '\\' ? ctl_printable_length (s) : 0;
    if (n > 0) {
      memcpy (out, s, n);
      out += n;
      s += n;
      continue;
    }
    *out++ = '\\';
    *out++ = 'x';
    *out++ = hex[(unsigned char) *s >> 4];
    *out++ = hex[*s++ & 15];
  }
  *out = '\0';
  return text;
}

void
ctl_make_harmless (char *s)
{
  size_t n;

  for (; *s; s += n) {
    n = ctl_printable_length (s);
    if (n == 0) {
      *s = '?';
      n = 1;
    }
  }
}

/* jansson escapes C0 and leaves DEL and C1 as they are.  They only occur
 * within strings, of which each piece comes here with its characters whole.
 */
static int
write_json (const char *text, size_t size, void *opaque)
{
  const unsigned char *p = (const unsigned char *) text;
  FILE *f = opaque;
  size_t i;

  for (i = 0; i < size; i++)
    if (p[i] == 0x7f)
      fputs ("\\u007f", f);
    else if (p[i] == 0xc2 && i + 1 < size && p[i + 1] < 0xa0)
      fprintf (f, "\\u%04x", p[++i]);
    else
      putc (p[i], f);
  return ferror (f) ? -1 : 0;
}

int
ctl_json_print (const json_t *json, FILE *f, size_t flags)
{
  return json_dump_callback (json, write_json, f, flags);
}
