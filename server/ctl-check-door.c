/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl check of an image that is served: its server checks it, and tells
 * what there is to report.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl-check.h"
#include "ctl-remote.h"

/* ---- From JSON --------------------------------------------------------- */

/* What the server doesn't know it leaves out. */
static uint64_t
number_or_unknown (const json_t *object, const char *key)
{
  return json_object_get (object, key) != NULL
    ? ctl_json_number (object, key) : UINT64_MAX;
}

static bool
parse_problem (const json_t *object, struct qed_problem *problem)
{
  memset (problem, 0, sizeof *problem);
  problem->value = strtoull (ctl_json_string (object, "value"), NULL, 16);
  problem->where = number_or_unknown (object, "where");
  problem->guest = number_or_unknown (object, "guest");
  problem->guest_bytes = number_or_unknown (object, "guest-bytes");
  problem->other = number_or_unknown (object, "other");
  problem->bytes = number_or_unknown (object, "bytes");
  problem->error = -(int) (ctl_json_number (object, "errno") % 4096);
  return qed_problem_find (ctl_json_string (object, "code"), &problem->code);
}

/* The numbers of an object whose members are codes. */
static void
parse_counts (const json_t *object, uint64_t counts[QED_PROBLEM_CODES])
{
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++)
    counts[i] = ctl_json_number (object, qed_problem_kind (i)->code);
}

static void
parse_result (const json_t *object, struct qed_check_result *result)
{
  memset (result, 0, sizeof *result);
  parse_counts (json_object_get (object, "counts"), result->counts);
  result->errors = ctl_json_number (object, "check-errors");
  result->corruptions = ctl_json_number (object, "corruptions");
  result->corruptions_fixed = ctl_json_number (object, "corruptions-fixed");
  result->leaks = ctl_json_number (object, "leaks");
  result->leaks_fixed = ctl_json_number (object, "leaks-fixed");
  result->free = ctl_json_number (object, "free");
  result->lost_bytes = ctl_json_number (object, "lost-bytes");
  result->total_clusters = ctl_json_number (object, "total-clusters");
  result->allocated_clusters = ctl_json_number (object, "allocated-clusters");
  result->fragmented_clusters = ctl_json_number (object,
                                                 "fragmented-clusters");
  result->tables = ctl_json_number (object, "tables");
  result->image_end = ctl_json_number (object, "image-end-offset");
  result->need_check = ctl_json_bool (object, "need-check");
}

/* ---- The report -------------------------------------------------------- */

/* A code that is unknown here comes from a later version: it can't be told,
 * but it counts in the result.
 */
static void
report_findings (struct check_report *report, const json_t *reply)
{
  const json_t *list = json_object_get (reply, "problems"), *object;
  struct qed_problem problem;
  size_t i;

  for (i = 0; i < json_array_size (list); i++)
    if (parse_problem (json_array_get (list, i), &problem))
      check_report_found (report, &problem);
  list = json_object_get (reply, "repairs");
  for (i = 0; i < json_array_size (list); i++) {
    object = json_array_get (list, i);
    if (parse_problem (object, &problem))
      check_report_fixed (report, &problem, ctl_json_string (object,
                                                             "action"));
  }
  list = json_object_get (reply, "lost");
  for (i = 0; i < json_array_size (list); i++) {
    object = json_array_get (list, i);
    check_report_lost (report, ctl_json_number (object, "start"),
                       ctl_json_number (object, "bytes"));
  }
  if (ctl_json_bool (reply, "more-lost"))
    report->lost.incomplete = true;
  report->incomplete = ctl_json_bool (reply, "more-problems") ||
    ctl_json_bool (reply, "more-repairs");
  /* Of those that were not told, too. */
  parse_counts (json_object_get (reply, "problem-counts"), report->problems);
  parse_counts (json_object_get (reply, "repair-counts"), report->repairs);
}

static int
report_reply (struct check_report *report, const json_t *reply)
{
  struct qed_check_result result;

  report_findings (report, reply);
  parse_result (json_object_get (reply, "result"), &result);
  return check_report_end (report, &result)
    ? qed_check_exit_code (0, &result) : CTL_FAILED;
}

/* ---- Requests ---------------------------------------------------------- */

static json_t *
make_request (const struct ctl_door *door,
              const struct qed_check_options *check)
{
  const bool repair = check->repair != QED_REPAIR_NONE;
  const uint64_t rate = atomic_load (&check->control->rate);
  json_t *request = ctl_request (repair ? "repair" : "check", door->image);

  if (repair)
    json_object_set_new (request, "what", json_string
                         (check->repair == QED_REPAIR_ALL ? "all" : "leaks"));
  if (check->data)
    json_object_set_new (request, "data", json_true ());
  if (rate > 0)
    json_object_set_new (request, "rate", json_integer ((json_int_t) rate));
  return request;
}

/* What a server can't do for us. */
static bool
check_possible (const struct check_report *report,
                const struct qed_check_options *check)
{
  const char *option = check->dry_run ? "--dry-run"
    : check->undo != NULL ? "--undo" : NULL;

  if (option == NULL)
    return true;
  ctl_error ("%s is in use by its server, which has no %s: a check without "
             "--repair tells what is wrong; stop the server to use %s",
             report->path, option, option);
  return false;
}

/* Whether there is such an image; its path, where the command line names only
 * the server.
 */
static bool
find_image (struct ctl_door *door, struct check_report *report, json_t **status)
{
  const json_t *images, *image;

  *status = ctl_remote_ask (door->remote,
                            ctl_request ("status", door->image), NULL);
  images = json_object_get (*status, "images");
  image = json_array_get (images, 0);
  if (report->path == NULL && json_array_size (images) == 1)
    report->path = json_string_value (json_object_get (image, "path"));
  if (report->path == NULL)
    report->path = door->remote->name;
  return *status != NULL;
}

/* The report begins when the check does, as it may be refused. */
struct course {
  struct ctl_progress progress;
  struct check_report *report;
  bool begun;
};

static void
begin (struct course *course)
{
  if (!course->begun && check_report_begin (course->report))
    check_report_opened (course->report);
  course->begun = true;
}

static int
follow (void *opaque, uint64_t done, uint64_t total)
{
  struct course *course = opaque;

  if (total > 0)
    begin (course);
  return qed_progress_tell (&course->progress.progress, done,
                            total > 0 ? total : 1);
}

/* It was refused, or ended early. */
static int
report_failure (struct ctl_door *door, struct course *course, bool stopped,
                const json_t *reply)
{
  if (reply != NULL && !stopped)
    ctl_remote_tell_error (door->remote, reply);
  if (course->begun)
    check_report_end (course->report, NULL);
  return CTL_FAILED;
}

static int
run_check (struct ctl_door *door, const struct qed_check_options *check,
           struct check_report *report)
{
  struct course course = { .report = report };
  const struct qed_progress progress = { follow, &course };
  json_t *reply;
  bool stopped;
  int status;

  ctl_progress_start (&course.progress, check->repair == QED_REPAIR_NONE
                      ? "check" : "repair");
  reply = ctl_remote_call (door->remote, make_request (door, check),
                           &progress);
  stopped = ctl_progress_end (&course.progress);
  if (reply == NULL || json_object_get (reply, "error") != NULL)
    status = report_failure (door, &course, stopped, reply);
  else {
    begin (&course);
    status = report_reply (report, reply);
  }
  json_decref (reply);
  return status;
}

int
check_at_door (struct ctl_door *door, struct qed_check_options *check,
               struct check_report *report)
{
  json_t *image;
  int status = CTL_FAILED;

  report->served = true;
  report->check = check;
  if (find_image (door, report, &image) && check_possible (report, check))
    status = run_check (door, check, report);
  json_decref (image);
  return status;
}

/* ---- Steering ---------------------------------------------------------- */

static const char *const actions[] = {
  [CHECK_PAUSE] = "pause",
  [CHECK_CONTINUE] = "continue",
  [CHECK_CANCEL] = "cancel",
};

static const char *const done_texts[] = {
  [CHECK_PAUSE] = "is paused; qedctl check --continue lets it go on",
  [CHECK_CONTINUE] = "goes on",
  [CHECK_CANCEL] = "ends",
};

int
check_steer (struct ctl_door *door, enum check_action action, uint64_t rate,
             bool json)
{
  json_t *request = ctl_request ("check", door->image), *reply;
  const char *what;

  json_object_set_new (request, "action", json_string (actions[action]));
  if (rate > 0)
    json_object_set_new (request, "rate", json_integer ((json_int_t) rate));
  reply = ctl_remote_ask (door->remote, request, NULL);
  if (reply == NULL)
    return CTL_FAILED;
  what = ctl_json_string (json_object_get (reply, "running"), "what");
  if (!json)
    printf ("The %s %s.\n", strcmp (what, "check") == 0 ? "check" : "repair",
            done_texts[action]);
  else if (ctl_json_print (reply, stdout, JSON_INDENT (4)) == 0)
    putchar ('\n');
  json_decref (reply);
  return ctl_end_output ();
}
