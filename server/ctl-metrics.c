/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl metrics: a server's numbers in Prometheus's text format (0.0.4). */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl-remote.h"

/* Names are fixed by the server, but it is another program. */
static bool
is_name (const char *name)
{
  return name[0] != '\0' &&
    strspn (name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen (name);
}

/* What stands in a line, in quotes or not. */
static void
put_escaped (FILE *out, const char *text, bool quoted)
{
  size_t n;

  for (; *text != '\0'; text += n) {
    n = ctl_printable_length (text);
    if (*text == '\\' || (quoted && *text == '"'))
      fprintf (out, "\\%c", *text);
    else if (*text == '\n')
      fputs ("\\n", out);
    else if (n == 0)            /* a value of these four characters */
      fprintf (out, "\\\\x%02x", (unsigned char) *text);
    else
      fwrite (text, 1, n, out);
    n += n == 0;
  }
}

static void
put_labels (FILE *out, json_t *labels)
{
  const char *separator = "{", *key;
  json_t *value;

  json_object_foreach (labels, key, value) {
    if (!is_name (key) || !json_is_string (value))
      continue;
    fprintf (out, "%s%s=\"", separator, key);
    put_escaped (out, json_string_value (value), true);
    putc ('"', out);
    separator = ",";
  }
  if (*separator == ',')
    putc ('}', out);
}

/* A sample's own labels, and 'le' of a bucket. */
static json_t *
with_bound (json_t *labels, const char *bound)
{
  json_t *copy = json_copy (labels);

  json_object_set_new (copy, "le", json_string (bound));
  return copy;
}

/* Counters of what lies within each bound, and not within the one before,
 * become counters of all that does.
 */
static void
put_histogram (FILE *out, const char *name, const json_t *bounds,
               const json_t *sample)
{
  const json_t *buckets = json_object_get (sample, "buckets");
  json_t *labels = json_object_get (sample, "labels"), *own;
  size_t i, n = json_array_size (buckets);
  char bound[32];
  uint64_t sum = 0;

  for (i = 0; i < n; i++) {
    snprintf (bound, sizeof bound, "%g",
              json_number_value (json_array_get (bounds, i)));
    sum += (uint64_t) json_integer_value (json_array_get (buckets, i));
    own = with_bound (labels, i + 1 < n ? bound : "+Inf");
    fprintf (out, "%s_bucket", name);
    put_labels (out, own);
    fprintf (out, " %" PRIu64 "\n", sum);
    json_decref (own);
  }
  fprintf (out, "%s_sum", name);
  put_labels (out, labels);
  fprintf (out, " %.9f\n",
           json_number_value (json_object_get (sample, "sum")));
  fprintf (out, "%s_count", name);
  put_labels (out, labels);
  fprintf (out, " %" PRIu64 "\n", sum);
}

static void
put_value (FILE *out, const char *name, const json_t *sample)
{
  const json_t *value = json_object_get (sample, "value");

  fputs (name, out);
  put_labels (out, json_object_get (sample, "labels"));
  if (json_is_real (value))
    fprintf (out, " %.9f\n", json_real_value (value));
  else
    fprintf (out, " %" JSON_INTEGER_FORMAT "\n", json_integer_value (value));
}

static void
put_family (FILE *out, const json_t *family)
{
  const char *name = ctl_json_string (family, "name");
  const char *type = ctl_json_string (family, "type");
  const json_t *samples = json_object_get (family, "samples"), *sample;
  size_t i, n = json_array_size (samples);

  if (n == 0 || !is_name (name) || !is_name (type))
    return;
  fprintf (out, "# HELP %s ", name);
  put_escaped (out, ctl_json_string (family, "help"), false);
  fprintf (out, "\n# TYPE %s %s\n", name, type);
  for (i = 0; i < n; i++) {
    sample = json_array_get (samples, i);
    if (strcmp (type, "histogram") == 0)
      put_histogram (out, name, json_object_get (family, "bounds"), sample);
    else
      put_value (out, name, sample);
  }
}

static void
put_metrics (FILE *out, const json_t *reply, bool json)
{
  const json_t *metrics = json_object_get (reply, "metrics");
  size_t i;

  if (json) {
    if (ctl_json_print (reply, out, JSON_INDENT (4)) == 0)
      putc ('\n', out);
    return;
  }
  for (i = 0; i < json_array_size (metrics); i++)
    put_family (out, json_array_get (metrics, i));
}

/* Whole or not at all: a reader never sees a part. */
static int
write_file (const char *path, const json_t *reply, bool json)
{
  struct ctl_file file;

  if (!ctl_file_begin (&file, path))
    return CTL_FAILED;
  put_metrics (file.stream, reply, json);
  return ctl_file_end (&file, true) ? CTL_OK : CTL_FAILED;
}

static int
tell (struct ctl_door *door, const char *path, bool json)
{
  json_t *reply = ctl_remote_ask (door->remote, ctl_request ("metrics", NULL),
                                  NULL);
  int status = CTL_FAILED;

  if (reply != NULL && path != NULL)
    status = write_file (path, reply, json);
  else if (reply != NULL) {
    put_metrics (stdout, reply, json);
    status = ctl_end_output ();
  }
  json_decref (reply);
  return status;
}

static bool
take_option (void *opaque, int option, const char *value)
{
  const char **path = opaque;

  (void) option;                /* there is only --textfile */
  *path = value;
  return true;
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  static const struct option more[] = {
    { "textfile", required_argument, NULL, CTL_OPT_DOOR_MORE },
    { NULL, 0, NULL, 0 },
  };
  const char *path = NULL;
  struct ctl_door_line line = {
    .more = more, .take = take_option, .opaque = &path,
  };
  int status;

  if (!ctl_door_parse (command, argc, argv, &line, &status))
    return status;
  status = tell (&line.door, path, line.json);
  ctl_door_close (&line.door);
  return status;
}

const struct ctl_command ctl_metrics_command = {
  .name = "metrics",
  .arguments = "[URI|FILE]",
  .summary = "Print a server's numbers for Prometheus",
  .help =
  "The server is found as for qedctl status; the numbers are of all images\n"
  "that are open.\n"
  "\n"
  "  --control SOCKET            the server's control socket\n"
  "  --textfile FILE             write them to a file, whole or not at all,\n"
  "                              for node_exporter's textfile collector\n"
  "  --json                      print a JSON object\n",
  .run = run,
};
