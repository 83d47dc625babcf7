/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl's reports: one object, said once, printed as text or JSON. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "ctl.h"

struct line {
  const char *label;
  char *text;
};

struct ctl_report {
  json_t *object;
  struct line *lines;
  size_t count;
  bool out_of_memory;
};

struct ctl_report *
ctl_report_new (void)
{
  struct ctl_report *report = calloc (1, sizeof *report);

  if (report == NULL)
    return NULL;
  report->object = json_object ();
  report->out_of_memory = report->object == NULL;
  return report;
}

/* Take over both forms of one value. */
static void
add (struct ctl_report *report, const char *key, json_t *value,
     const char *label, char *text)
{
  struct line *lines;

  if (report == NULL) {         /* ctl_report_print says so */
    json_decref (value);
    free (text);
    return;
  }
  if (value == NULL || text == NULL)
    report->out_of_memory = true;
  if (key == NULL)
    json_decref (value);
  else if (json_object_set_new (report->object, key, value) == -1)
    report->out_of_memory = true;

  lines = label == NULL || text == NULL ? NULL :
    realloc (report->lines, (report->count + 1) * sizeof *lines);
  if (lines == NULL) {
    report->out_of_memory = report->out_of_memory || label != NULL;
    free (text);
    return;
  }
  lines[report->count++] = (struct line) { .label = label, .text = text };
  report->lines = lines;
}

/* asprintf that returns the string or NULL. */
static char * __attribute__ ((format (printf, 1, 2)))
print_text (const char *fmt, ...)
{
  va_list ap;
  char *s;
  int r;

  va_start (ap, fmt);
  r = vasprintf (&s, fmt, ap);
  va_end (ap);
  return r < 0 ? NULL : s;
}

/* ---- Values ------------------------------------------------------------ */

void
ctl_report_string (struct ctl_report *report, const char *key,
                   const char *label, const char *value)
{
  char *text = ctl_escape (value);
  json_t *json = json_string (value);

  /* JSON is UTF-8; jansson refuses the rest. */
  if (json == NULL && text != NULL)
    json = json_string (text);
  add (report, key, json, label, text);
}

void
ctl_report_bool (struct ctl_report *report, const char *key,
                 const char *label, bool value)
{
  add (report, key, json_boolean (value), label,
       strdup (value ? "yes" : "no"));
}

void
ctl_size_to_text (uint64_t bytes, char text[CTL_SIZE_TEXT])
{
  static const char *const units[] = {
    "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB",
  };
  unsigned unit = 0;
  uint64_t scale = 1;

  while (unit + 1 < sizeof units / sizeof units[0] && bytes / scale >= 1024) {
    scale *= 1024;
    unit++;
  }
  if (bytes % scale == 0)
    snprintf (text, CTL_SIZE_TEXT, "%" PRIu64 " %s", bytes / scale,
              bytes == 1 ? "byte" : units[unit]);
  else
    snprintf (text, CTL_SIZE_TEXT, "%.2f %s",
              (double) bytes / (double) scale, units[unit]);
}

void
ctl_report_size (struct ctl_report *report, const char *key,
                 const char *label, uint64_t bytes)
{
  char text[CTL_SIZE_TEXT];

  ctl_size_to_text (bytes, text);
  add (report, key, json_integer (bytes), label, bytes < 1024 ? strdup (text)
       : print_text ("%s (%" PRIu64 " bytes)", text, bytes));
}

void
ctl_report_number (struct ctl_report *report, const char *key,
                   const char *label, uint64_t value, const char *unit)
{
  add (report, key, json_integer (value), label,
       print_text ("%" PRIu64 "%s%s%s", value, *unit ? " " : "", unit,
                   *unit && value != 1 ? "s" : ""));
}

void
ctl_report_bits (struct ctl_report *report, const char *key,
                 const char *label, uint64_t bits)
{
  char *text = print_text ("0x%" PRIx64, bits);

  add (report, key, text ? json_string (text) : NULL, label, text);
}

void
ctl_report_words (struct ctl_report *report, const char *key,
                  const char *label, const char *const *words)
{
  json_t *array = json_array ();
  char *text = strdup (words[0] == NULL ? "none" : words[0]), *longer;
  size_t i;

  for (i = 0; words[i] != NULL; ++i) {
    if (json_array_append_new (array, json_string (words[i])) == -1) {
      json_decref (array);
      array = NULL;
    }
    if (i == 0 || text == NULL)
      continue;
    longer = print_text ("%s, %s", text, words[i]);
    free (text);
    text = longer;
  }
  add (report, key, array, label, text);
}

void
ctl_report_json (struct ctl_report *report, const char *key, json_t *value)
{
  add (report, key, value, NULL, strdup (""));
}

/* ---- Printing ---------------------------------------------------------- */

static bool
print_json (const struct ctl_report *report)
{
  return ctl_json_print (report->object, stdout, JSON_INDENT (4)) == 0 &&
    putchar ('\n') != EOF;
}

/* The members alone, and the end of the object. */
static bool
print_rest (const struct ctl_report *report)
{
  return ctl_json_print (report->object, stdout,
                         JSON_INDENT (4) | JSON_EMBED) == 0 &&
    fputs ("}\n", stdout) != EOF;
}

static bool
print_lines (const struct ctl_report *report)
{
  int width = 0;
  size_t i;

  for (i = 0; i < report->count; ++i)
    if ((int) strlen (report->lines[i].label) > width)
      width = strlen (report->lines[i].label);
  for (i = 0; i < report->count; ++i)
    if (printf ("%s:%*s %s\n", report->lines[i].label,
                width - (int) strlen (report->lines[i].label), "",
                report->lines[i].text) < 0)
      return false;
  return true;
}

static void
free_report (struct ctl_report *report)
{
  size_t i;

  if (report == NULL)
    return;
  for (i = 0; i < report->count; ++i)
    free (report->lines[i].text);
  free (report->lines);
  json_decref (report->object);
  free (report);
}

static bool
print_report (struct ctl_report *report,
              bool (*print) (const struct ctl_report *report))
{
  bool ok = report != NULL && !report->out_of_memory && print (report);

  free_report (report);
  if (ctl_end_output () != CTL_OK)
    return false;
  if (!ok)
    ctl_error ("out of memory: the report is not complete");
  return ok;
}

bool
ctl_report_print (struct ctl_report *report, bool json)
{
  return print_report (report, json ? print_json : print_lines);
}

bool
ctl_report_print_rest (struct ctl_report *report)
{
  return print_report (report, print_rest);
}
