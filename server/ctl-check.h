/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl check: what it tells.
 *
 * Problems and repairs are written as they come, as lines of text or as
 * members of one JSON object, so that memory does not grow with what is
 * found.  All of it from the main thread.
 */

#ifndef QED_CTL_CHECK_H
#define QED_CTL_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "ctl.h"

/* ---- Ranges ------------------------------------------------------------ */

/* At most so many are kept; of what goes beyond only the sum is known. */
#define CTL_RANGES_MAX ((size_t) 1 << 16)

struct ctl_range {
  uint64_t start, bytes;
};

/* Ranges of the guest's disk. */
struct ctl_ranges {
  struct ctl_range *list;
  size_t count, capacity;
  bool incomplete;              /* some were not kept */
};

void ctl_ranges_add (struct ctl_ranges *ranges, uint64_t start,
                     uint64_t bytes);

/* Sort them, and join those that touch. */
void ctl_ranges_join (struct ctl_ranges *ranges);

/* After ctl_ranges_join. */
uint64_t ctl_ranges_sum (const struct ctl_ranges *ranges);
void ctl_ranges_free (struct ctl_ranges *ranges);

/* ---- The report of a check --------------------------------------------- */

enum check_section {
  CHECK_NOTHING,                /* was written so far */
  CHECK_PROBLEMS,
  CHECK_REPAIRS,
};

struct check_report {
  /* Filled in by the owner. */
  const char *path;
  bool json;
  bool verbose;                 /* every problem gets its line of text */
  bool served;                  /* it is, and its server does the check */
  const struct qed_check_options *check;

  /* The report's. */
  char *name;                   /* the path, harmless */
  enum check_section section;
  bool comma;                   /* JSON: the array has members */
  uint64_t problems[QED_PROBLEM_CODES];
  uint64_t repairs[QED_PROBLEM_CODES];
  struct ctl_ranges lost;
  bool incomplete;              /* not all problems were told (served) */
};

/* "corruption", as in JSON. */
const char *check_severity_to_text (enum qed_severity severity);

/* For struct qed_check_options; opaque is the report.  The first says what is
 * being checked.
 */
void check_report_opened (void *opaque);
void check_report_found (void *opaque, const struct qed_problem *problem);
void check_report_fixed (void *opaque, const struct qed_problem *problem,
                         const char *action);
void check_report_lost (void *opaque, uint64_t guest, uint64_t bytes);

/* Before and after.  'result' is NULL if the check did not run
 * to its end.  They return false, with a message, if memory runs out or
 * something could not be written.
 */
bool check_report_begin (struct check_report *report);
bool check_report_end (struct check_report *report,
                       const struct qed_check_result *result);
void check_report_free (struct check_report *report);

/* ---- ctl-check-door.c: the check of an image that is served ------------ */

struct ctl_door;

/* What is asked of it beside struct qed_check_options. */
enum check_action {
  CHECK_START,
  CHECK_PAUSE,
  CHECK_CONTINUE,
  CHECK_CANCEL,
};

/* Let its server check it, and fill the report, whose path is NULL if the
 * command line doesn't name the image; or steer a check that runs.
 * Return the exit status; what is wrong was told.
 */
int check_at_door (struct ctl_door *door, struct qed_check_options *check,
                   struct check_report *report);
int check_steer (struct ctl_door *door, enum check_action action,
                 uint64_t rate, bool json);

#endif /* QED_CTL_CHECK_H */
