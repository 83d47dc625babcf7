/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a check finds, for its reply: see control-findings.h. */

#include <config.h>

#include <stdio.h>
#include <string.h>

#include "control-command.h"
#include "control-findings.h"

static json_t *
describe_problem (const struct qed_problem *problem)
{
  json_t *object = json_object ();
  char value[20];

  json_object_set_new (object, "code", json_string
                       (qed_problem_kind (problem->code)->code));
  snprintf (value, sizeof value, "0x%llx", (unsigned long long) problem->value);
  json_object_set_new (object, "value", json_string (value));
  control_set_number (object, "where", problem->where);
  control_set_number (object, "guest", problem->guest);
  control_set_number (object, "guest-bytes", problem->guest_bytes);
  control_set_number (object, "other", problem->other);
  control_set_number (object, "bytes", problem->bytes);
  if (problem->error != 0)
    json_object_set_new (object, "errno", json_integer (-problem->error));
  return object;
}

static void
add_finding (struct findings_list *findings, const struct qed_problem *problem,
             const char *action)
{
  json_t *object;

  if (findings->counts[problem->code]++ >= FINDINGS_PROBLEMS_MAX) {
    findings->more = true;
    return;
  }
  object = describe_problem (problem);
  if (action != NULL)
    json_object_set_new (object, "action", control_string (action));
  json_array_append_new (findings->list, object);
}

/* How many there were of each code, also of those that are not told. */
static json_t *
describe_counts (const struct findings_list *findings)
{
  json_t *counts = json_object ();
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++)
    if (findings->counts[i] != 0)
      control_set_number (counts, qed_problem_kind (i)->code,
                          findings->counts[i]);
  return counts;
}

void
findings_init (struct findings *findings)
{
  memset (findings, 0, sizeof *findings);
  findings->found.list = json_array ();
  findings->fixed.list = json_array ();
}

void
findings_free (struct findings *findings)
{
  json_decref (findings->found.list);
  json_decref (findings->fixed.list);
}

void
findings_add_problem (struct findings *findings,
                      const struct qed_problem *problem)
{
  add_finding (&findings->found, problem, NULL);
}

void
findings_add_repair (struct findings *findings,
                     const struct qed_problem *problem, const char *action)
{
  add_finding (&findings->fixed, problem, action);
}

/* Neighbours are joined. */
void
findings_add_lost (struct findings *findings, uint64_t guest, uint64_t bytes)
{
  const unsigned n = findings->nr_lost;

  if (n > 0 &&
      findings->lost[n - 1].start + findings->lost[n - 1].bytes == guest)
    findings->lost[n - 1].bytes += bytes;
  else if (n == FINDINGS_RANGES_MAX)
    findings->more_lost = true;
  else {
    findings->lost[n].start = guest;
    findings->lost[n].bytes = bytes;
    findings->nr_lost++;
  }
}

static json_t *
describe_lost (const struct findings *findings)
{
  json_t *array = json_array (), *range;
  unsigned i;

  for (i = 0; i < findings->nr_lost; i++) {
    range = json_object ();
    control_set_number (range, "start", findings->lost[i].start);
    control_set_number (range, "bytes", findings->lost[i].bytes);
    json_array_append_new (array, range);
  }
  return array;
}

void
findings_describe (const struct findings *findings, json_t *reply)
{
  const struct findings_list *found = &findings->found;
  const struct findings_list *fixed = &findings->fixed;

  json_object_set (reply, "problems", found->list);
  json_object_set_new (reply, "problem-counts", describe_counts (found));
  json_object_set_new (reply, "more-problems", json_boolean (found->more));
  json_object_set (reply, "repairs", fixed->list);
  json_object_set_new (reply, "repair-counts", describe_counts (fixed));
  json_object_set_new (reply, "more-repairs", json_boolean (fixed->more));
  json_object_set_new (reply, "lost", describe_lost (findings));
  json_object_set_new (reply, "more-lost", json_boolean (findings->more_lost));
}

json_t *
findings_result (const struct qed_check_result *result)
{
  json_t *object = json_object (), *counts = json_object ();
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++)
    if (result->counts[i] != 0)
      control_set_number (counts, qed_problem_kind (i)->code,
                          result->counts[i]);
  json_object_set_new (object, "counts", counts);
  control_set_number (object, "check-errors", result->errors);
  control_set_number (object, "corruptions", result->corruptions);
  control_set_number (object, "corruptions-fixed", result->corruptions_fixed);
  control_set_number (object, "leaks", result->leaks);
  control_set_number (object, "leaks-fixed", result->leaks_fixed);
  control_set_number (object, "free", result->free);
  control_set_number (object, "lost-bytes", result->lost_bytes);
  control_set_number (object, "total-clusters", result->total_clusters);
  control_set_number (object, "allocated-clusters",
                      result->allocated_clusters);
  control_set_number (object, "fragmented-clusters",
                      result->fragmented_clusters);
  control_set_number (object, "tables", result->tables);
  control_set_number (object, "image-end-offset", result->image_end);
  json_object_set_new (object, "need-check",
                       json_boolean (result->need_check));
  return object;
}
