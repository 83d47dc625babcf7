/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl status: an image's health and its requests, in words. */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl-remote.h"

static const struct {
  const char *word, *text;
} healths[] = {
  { "clean", "clean" },
  { "dirty", "dirty: it is being changed, or was not closed cleanly" },
  { "leaks", "leaks: the last check left some (qedctl check --repair=leaks)" },
  { "corrupt", "corrupt: damage was found (qedctl check --repair)" },
  { "failed", "failed: written data may be lost; restart the server when the "
    "storage works" },
};

static const struct {
  const char *word, *text;
} steps[] = {
  { "start", "begins" },
  { "run", "is carried out" },
  { "hand-over", "the image is to be active on this server" },
  { "read-data", "the image's storage is to read data" },
  { "write-data", "the image's storage is to write data" },
  { "read-backing", "the backing file's storage is to read data" },
  { "load-table", "a table is to be read" },
  { "fetch", "the backing file's server is to answer" },
  { "scan", "the opening scan, or the repair at open, is to end" },
  { "mark-dirty", "the mark of a change is to become durable" },
  { "write-back", "tables are to be written back and synced" },
  { "make-clean", "the mark of a change is to be cleared" },
  { "change-header", "the header is to be written" },
  { "copy-on-write", "another request fills the same cluster" },
  { "make-table", "a table is to be made" },
  { "grow", "the file is to be made longer" },
  { "reclaim", "clusters that were freed are to become usable" },
};

static void
report_health (struct ctl_report *report, const char *word)
{
  const char *text = word;
  size_t i;

  for (i = 0; i < sizeof healths / sizeof healths[0]; i++)
    if (strcmp (healths[i].word, word) == 0)
      text = healths[i].text;
  ctl_report_string (report, NULL, "health", text);
}

static void
report_oldest (struct ctl_report *report, const json_t *oldest)
{
  const char *step = ctl_json_string (oldest, "step"), *text = "?";
  const char *request = ctl_json_string (oldest, "request");
  char range[64] = "", line[256];
  size_t i;

  if (oldest == NULL)
    return;
  for (i = 0; i < sizeof steps / sizeof steps[0]; i++)
    if (strcmp (steps[i].word, step) == 0)
      text = steps[i].text;
  if (strcmp (request, "flush") != 0)
    snprintf (range, sizeof range, " of %" PRIu64 " bytes at 0x%" PRIx64,
              ctl_json_number (oldest, "length"),
              ctl_json_number (oldest, "offset"));
  snprintf (line, sizeof line, "%s%s, for %.3f s, at %s: %s", request, range,
            json_number_value (json_object_get (oldest, "seconds")), step,
            text);
  ctl_report_string (report, NULL, "oldest request", line);
}

void
ctl_report_requests (struct ctl_report *report, const json_t *image)
{
  char line[128];

  if (json_object_get (image, "requests") == NULL)
    return;
  snprintf (line, sizeof line, "%" PRIu64 " in flight, %" PRIu64 " so far, %"
            PRIu64 " of them failed",
            ctl_json_number (image, "requests-in-flight"),
            ctl_json_number (image, "requests"),
            ctl_json_number (image, "request-errors"));
  ctl_report_string (report, NULL, "requests", line);
  report_oldest (report, json_object_get (image, "oldest-request"));
}

void
ctl_report_watch (struct ctl_report *report, const json_t *image)
{
  const uint64_t requests = ctl_json_number (image, "requests");
  const uint64_t loads = ctl_json_number (image, "table-loads");
  char line[128];

  if (json_object_get (image, "health") == NULL)
    return;                     /* an older server */
  report_health (report, ctl_json_string (image, "health"));
  ctl_report_requests (report, image);
  if (requests == 0)
    return;
  snprintf (line, sizeof line, "%.1f %% of the requests, %" PRIu64
            " reads of tables", loads < requests
            ? 100 - (double) loads * 100 / (double) requests : 0, loads);
  ctl_report_string (report, NULL, "cache hits", line);
}

void
ctl_report_allocation (struct ctl_report *report, const json_t *image)
{
  const uint64_t used = ctl_json_number (image, "used-bytes");
  const uint64_t size = ctl_json_number (image, "virtual-size");
  char text[CTL_SIZE_TEXT], line[128];

  if (json_object_get (image, "used-bytes") == NULL)
    return;
  ctl_size_to_text (used, text);
  snprintf (line, sizeof line, "%s (%" PRIu64 " bytes), %.1f %% of the "
            "virtual size", text, used,
            size > 0 ? (double) used * 100 / (double) size : 0);
  ctl_report_string (report, NULL, "in use", line);
}
