/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The report of a check, as text or as JSON: see ctl-check.h.
 *
 * JSON has the names and the rules of presence of "qemu-img check
 * --output=json", and what we know beyond that.
 */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "ctl-check.h"

#define LINES_MAX 100u          /* of a kind, unless all are wanted */

const char *
check_severity_to_text (enum qed_severity severity)
{
  switch (severity) {
  case QED_SEVERITY_NOTE:       return "note";
  case QED_SEVERITY_LEAK:       return "leak";
  case QED_SEVERITY_CORRUPTION: return "corruption";
  case QED_SEVERITY_ERROR:      return "error";
  }
  return "unknown";
}

static bool
repairs (const struct check_report *report)
{
  return report->check->repair != QED_REPAIR_NONE && !report->check->dry_run;
}

/* ---- JSON -------------------------------------------------------------- */

/* Go on to an array of the object that is being written. */
static void
enter_section (struct check_report *report, enum check_section section)
{
  if (report->section == CHECK_NOTHING) {
    fputs ("{\n    \"problems\": [", stdout);
    report->section = CHECK_PROBLEMS;
  }
  if (report->section < section) {
    fputs (report->comma ? "\n    ],\n" : "],\n", stdout);
    fputs ("    \"repairs\": [", stdout);
    report->section = section;
    report->comma = false;
  }
}

static void
set_number (json_t *object, const char *key, uint64_t value)
{
  if (value <= INT64_MAX)
    json_object_set_new (object, key, json_integer ((json_int_t) value));
}

static void
set_bits (json_t *object, const char *key, uint64_t value)
{
  char text[20];

  snprintf (text, sizeof text, "0x%" PRIx64, value);
  json_object_set_new (object, key, json_string (text));
}

/* The fields that mean something for this kind; what isn't known is left
 * out.
 */
static json_t *
problem_to_json (const struct qed_problem *problem)
{
  const struct qed_problem_kind *kind = qed_problem_kind (problem->code);
  json_t *object = json_object ();

  json_object_set_new (object, "code", json_string (kind->code));
  json_object_set_new (object, "severity", json_string
                       (check_severity_to_text (kind->severity)));
  if (problem->code == QED_PROBLEM_NEED_CHECK)
    return object;
  set_number (object, "where", problem->where);
  if (problem->code == QED_PROBLEM_LEAK || problem->code == QED_PROBLEM_FREE) {
    set_number (object, "bytes", problem->bytes);
    return object;
  }
  if (problem->value != 0)
    set_bits (object, "value", problem->value);
  set_number (object, "guest", problem->guest);
  set_number (object, "guest-bytes", problem->guest_bytes);
  if (problem->code == QED_PROBLEM_CLUSTER_SHARED ||
      problem->code == QED_PROBLEM_TABLE_SHARED ||
      problem->code == QED_PROBLEM_TABLE_OVERLAP)
    set_number (object, "other", problem->other);
  if (problem->error != 0)
    json_object_set_new (object, "error",
                         json_string (strerror (-problem->error)));
  return object;
}

static void
write_member (struct check_report *report, json_t *member)
{
  fputs (report->comma ? ",\n        " : "\n        ", stdout);
  report->comma = true;
  if (member == NULL || ctl_json_print (member, stdout, JSON_COMPACT) == -1)
    fputs ("null", stdout);     /* out of memory */
  json_decref (member);
}

/* ---- Problems and repairs ---------------------------------------------- */

static void
write_line (struct check_report *report, uint64_t nr,
            const struct qed_problem *problem, const char *action)
{
  char text[QED_PROBLEM_TEXT_SIZE], *shown;

  if (nr >= LINES_MAX && !report->verbose)
    return;
  ctl_progress_hide ();
  qed_problem_to_text (problem, text);
  if (action == NULL)
    printf ("%s\n", text);
  else
    printf ("%s: %s\n", report->check->dry_run ? "would repair" : "repaired",
            text);
  if (action == NULL)
    return;
  shown = ctl_escape (action);
  printf ("  %s\n", shown != NULL ? shown : "?");
  free (shown);
}

void
check_report_found (void *opaque, const struct qed_problem *problem)
{
  struct check_report *report = opaque;

  if (report->json) {
    enter_section (report, CHECK_PROBLEMS);
    write_member (report, problem_to_json (problem));
  }
  else
    write_line (report, report->problems[problem->code], problem, NULL);
  report->problems[problem->code]++;
}

void
check_report_fixed (void *opaque, const struct qed_problem *problem,
                    const char *action)
{
  struct check_report *report = opaque;
  json_t *object;

  if (report->json) {
    enter_section (report, CHECK_REPAIRS);
    object = problem_to_json (problem);
    json_object_set_new (object, "action", json_string (action));
    write_member (report, object);
  }
  else
    write_line (report, report->repairs[problem->code], problem, action);
  report->repairs[problem->code]++;
}

void
check_report_lost (void *opaque, uint64_t guest, uint64_t bytes)
{
  struct check_report *report = opaque;

  ctl_ranges_add (&report->lost, guest, bytes);
}

/* ---- Text -------------------------------------------------------------- */

bool
check_report_begin (struct check_report *report)
{
  report->name = ctl_escape (report->path);
  if (report->name == NULL) {
    ctl_error ("out of memory");
    return false;
  }
  return true;
}

void
check_report_opened (void *opaque)
{
  const struct check_report *report = opaque;

  if (report->json)
    return;
  if (report->served)
    printf ("%s is being served: its server checks it.\n", report->name);
  if (report->check->repair == QED_REPAIR_NONE)
    printf ("Checking %s, read-only: only with --repair is anything "
            "written.\n", report->name);
  else if (report->check->dry_run)
    printf ("Checking %s, and telling what a repair would do: nothing is "
            "written.\n", report->name);
  else
    printf ("Checking and repairing %s.\n", report->name);
  fflush (stdout);
}

static void
tell_omitted (const struct check_report *report, const uint64_t *counts,
              const char *what)
{
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++)
    if (counts[i] > LINES_MAX && (!report->verbose || report->served))
      printf ("%s%s: and %" PRIu64 " more%s\n", what,
              qed_problem_kind (i)->code, counts[i] - LINES_MAX,
              report->served ? "" : " (--verbose shows all)");
}

static void
tell_lost (struct check_report *report)
{
  const struct ctl_ranges *lost = &report->lost;
  size_t i, n = lost->count;

  if (n == 0)
    return;
  printf (repairs (report)
          ? "Lost, and reading as zeros or from the backing file now:\n"
          : "A repair would lose these ranges of the disk:\n");
  if (n > LINES_MAX && !report->verbose)
    n = LINES_MAX;
  for (i = 0; i < n; i++)
    printf ("  0x%" PRIx64 "+0x%" PRIx64 " (%" PRIu64 " bytes)\n",
            lost->list[i].start, lost->list[i].bytes, lost->list[i].bytes);
  if (n < lost->count || lost->incomplete)
    printf ("  and more\n");
}

/* ---- What was done ------------------------------------------------------ */

static uint64_t
sum (const uint64_t *counts, enum qed_problem_code first,
     enum qed_problem_code last)
{
  uint64_t n = 0;
  unsigned i;

  for (i = first; i <= last; i++)
    n += counts[i];
  return n;
}

/* Where L1 or a table is wrong, nobody knows what the other clusters are. */
static bool
hides_leaks (const struct check_report *report,
             const struct qed_check_result *result)
{
  if (repairs (report) && result->corruptions == 0)
    return false;
  return sum (result->counts, QED_PROBLEM_L1_PAST_END,
              QED_PROBLEM_TABLE_UNREADABLE) > 0;
}

static void
tell_suspects (const struct check_report *report)
{
  uint64_t n = sum (report->problems, QED_PROBLEM_L1_PAST_END,
                    QED_PROBLEM_PAGE_DIFFERS);

  if (n == 0)
    printf ("  suspects: none\n");
  else
    printf ("  suspects: %" PRIu64 " %s wrong%s\n", n,
            n == 1 ? "entry or table is" : "entries or tables are",
            report->served ? ", and still were when looked at again" : "");
}

static void
tell_repair (const struct check_report *report)
{
  uint64_t n = sum (report->repairs, 0, QED_PROBLEM_CODES - 1);

  if (report->check->repair != QED_REPAIR_NONE)
    printf ("  repair:   %" PRIu64 " step%s%s\n", n, n == 1 ? "" : "s",
            report->check->dry_run ? " would be taken" :
            n > 0 ? ", and all tables were read once more" : "");
}

static void
tell_data (const struct check_report *report)
{
  uint64_t n = report->problems[QED_PROBLEM_DATA_UNREADABLE];

  if (report->check->data && n == 0)
    printf ("  data:     all of it was read\n");
  else if (report->check->data)
    printf ("  data:     all of it was read, but for %" PRIu64 " place%s\n", n,
            n == 1 ? "" : "s");
}

static void
tell_leaks (const struct check_report *report,
            const struct qed_check_result *result)
{
  uint64_t n = report->problems[QED_PROBLEM_LEAK];

  if (hides_leaks (report, result))
    printf ("  leaks:    not looked for, as L1 or a table is wrong\n");
  else if (n == 0)
    printf ("  leaks:    none\n");
  else
    printf ("  leaks:    in %" PRIu64 " place%s of the file\n", n,
            n == 1 ? "" : "s");
}

/* In the order in which it was done. */
static void
tell_phases (const struct check_report *report,
             const struct qed_check_result *result)
{
  printf ("What was done:\n"
          "  tables:   %" PRIu64 " read, which name %" PRIu64 " clusters\n",
          result->tables, result->allocated_clusters);
  tell_suspects (report);
  tell_data (report);
  tell_leaks (report, result);
  tell_repair (report);
}

static void
print_verdict (const struct check_report *report,
               const struct qed_check_result *result)
{
  const char *name = report->name;

  switch (qed_check_exit_code (0, result)) {
  case 0:
    /* One that is being written to is marked. */
    if (result->need_check && !report->served)
      printf ("%s was not closed cleanly, but nothing is wrong with it: a "
              "repair only takes the mark away.\n", name);
    else if (result->corruptions_fixed + result->leaks_fixed > 0)
      printf ("%s was repaired and is in order.\n", name);
    else
      printf ("%s is in order.\n", name);
    break;
  case 2:
    printf ("%s is damaged%s\n", name, repairs (report) && report->served &&
            result->counts[QED_PROBLEM_PAGE_DIFFERS] > 0
            ? " still, and nothing was repaired: tables differ between the "
            "server's memory and the file, and which of them is right can't "
            "be known while it is served.  Find out who else wrote to the "
            "file, stop the server, then check the closed image."
            : repairs (report) ? " still: see above."
            : report->check->dry_run || report->served ? "."
            : ": --repair --dry-run tells what a repair would do.");
    break;
  case 3:
    if (result->corruptions_fixed > 0)
      printf ("%s was repaired.  What nothing refers to may belong to what was "
              "lost: if that is not wanted back, --repair=leaks closes the "
              "gaps.\n", name);
    else
      printf ("%s has leaks: they take space, but no data is at risk.  "
              "--repair=leaks closes them.\n", name);
    break;
  default:
    printf ("%s could not be read everywhere: copy it to sound storage "
            "before anything else.\n", name);
    break;
  }
}

/* ---- The end ----------------------------------------------------------- */

/* qemu-img leaves out what is 0. */
static void
add_count (struct ctl_report *summary, const char *key, const char *label,
           uint64_t value, const char *unit)
{
  if (value != 0)
    ctl_report_number (summary, key, label, value, unit);
}

/* What is told twice counts once, as long as all of it is known. */
static uint64_t
lost_bytes (const struct check_report *report,
            const struct qed_check_result *result)
{
  return report->lost.incomplete ? result->lost_bytes
    : ctl_ranges_sum (&report->lost);
}

static void
add_results (const struct check_report *report, struct ctl_report *summary,
             const struct qed_check_result *result)
{
  const uint64_t lost = lost_bytes (report, result);

  ctl_report_number (summary, "check-errors",
                     result->errors ? "cannot be read" : NULL, result->errors,
                     "place");
  ctl_report_number (summary, NULL, "corruptions", result->corruptions, "");
  add_count (summary, "corruptions", NULL, result->corruptions, "");
  add_count (summary, "corruptions-fixed", "corruptions repaired",
             result->corruptions_fixed, "");
  if (hides_leaks (report, result)) {
    ctl_report_string (summary, NULL, "leaks", "not known, as long as L1 or "
                       "a table is wrong");
    ctl_report_bool (summary, "leaks-known", NULL, false);
  }
  else
    ctl_report_number (summary, NULL, "leaks", result->leaks, "cluster");
  add_count (summary, "leaks", NULL, result->leaks, "");
  add_count (summary, "leaks-fixed", "leaks repaired", result->leaks_fixed,
             "cluster");
  ctl_report_number (summary, "free", result->free ? "free" : NULL,
                     result->free, "cluster");
  ctl_report_size (summary, "lost-bytes", lost == 0 ? NULL :
                   repairs (report) ? "lost" : "would be lost", lost);
  add_count (summary, "total-clusters", "clusters of the disk",
             result->total_clusters, "");
  add_count (summary, "allocated-clusters", "allocated",
             result->allocated_clusters, "");
  add_count (summary, "fragmented-clusters", "fragmented",
             result->fragmented_clusters, "");
  ctl_report_number (summary, "tables", "tables", result->tables, "");
  ctl_report_number (summary, "image-end-offset", NULL, result->image_end, "");
  ctl_report_bits (summary, NULL, "use of the file ends at",
                   result->image_end);
  ctl_report_bool (summary, "need-check",
                   report->served ? NULL : "needs a check",
                   result->need_check);
}

/* Objects that have no place in a summary of text. */
static json_t *
counts_to_json (const struct qed_check_result *result)
{
  json_t *counts = json_object ();
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++)
    if (result->counts[i] != 0)
      set_number (counts, qed_problem_kind (i)->code, result->counts[i]);
  return counts;
}

static json_t *
lost_to_json (const struct ctl_ranges *lost)
{
  json_t *array = json_array (), *range;
  size_t i;

  for (i = 0; i < lost->count; i++) {
    range = json_object ();
    set_number (range, "start", lost->list[i].start);
    set_number (range, "bytes", lost->list[i].bytes);
    json_array_append_new (array, range);
  }
  return array;
}

/* Behind the arrays, which may be empty, the rest of the object. */
static bool
end_json (struct check_report *report, struct ctl_report *summary,
          const struct qed_check_result *result)
{
  enter_section (report, CHECK_REPAIRS);
  fputs (report->comma ? "\n    ]," : "],", stdout);
  if (result != NULL) {
    ctl_report_json (summary, "counts", counts_to_json (result));
    ctl_report_json (summary, "lost", lost_to_json (&report->lost));
    if (report->lost.incomplete)
      ctl_report_bool (summary, "lost-incomplete", NULL, true);
    if (report->incomplete)
      ctl_report_bool (summary, "problems-incomplete", NULL, true);
  }
  if (report->served)
    ctl_report_bool (summary, "served", NULL, true);
  ctl_report_bool (summary, "complete", NULL, result != NULL);
  return ctl_report_print_rest (summary);
}

static bool
end_text (struct check_report *report, struct ctl_report *summary,
          const struct qed_check_result *result)
{
  tell_omitted (report, report->problems, "");
  tell_omitted (report, report->repairs, "repairs of ");
  if (result != NULL)
    tell_phases (report, result);
  if (!ctl_report_print (summary, false))
    return false;
  if (result != NULL) {
    tell_lost (report);
    print_verdict (report, result);
  }
  return ctl_end_output () == CTL_OK;
}

bool
check_report_end (struct check_report *report,
                  const struct qed_check_result *result)
{
  struct ctl_report *summary;

  /* What could not even be begun has no report, only its message. */
  if (result == NULL && report->section == CHECK_NOTHING && report->json)
    return true;
  ctl_ranges_join (&report->lost);
  summary = ctl_report_new ();
  if (report->json) {
    ctl_report_string (summary, "filename", NULL, report->path);
    ctl_report_string (summary, "format", NULL, "qed");
  }
  if (result != NULL)
    add_results (report, summary, result);
  return report->json ? end_json (report, summary, result)
    : end_text (report, summary, result);
}

void
check_report_free (struct check_report *report)
{
  ctl_ranges_free (&report->lost);
  free (report->name);
}
