/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a check finds and a repair does, as JSON for the reply; bounded.  One
 * thread.
 */

#ifndef SERVER_CONTROL_FINDINGS_H
#define SERVER_CONTROL_FINDINGS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "check.h"

/* Of a code, in a reply. */
#define FINDINGS_PROBLEMS_MAX 100u

#define FINDINGS_RANGES_MAX 500u

/* Problems, or what was done about them. */
struct findings_list {
  json_t *list;
  unsigned counts[QED_PROBLEM_CODES];
  bool more;                    /* than are in the list */
};

struct findings {
  struct findings_list found, fixed;
  struct { uint64_t start, bytes; } lost[FINDINGS_RANGES_MAX];
  unsigned nr_lost;
  bool more_lost;
};

void findings_init (struct findings *findings);
void findings_free (struct findings *findings);

void findings_add_problem (struct findings *findings,
                           const struct qed_problem *problem);
void findings_add_repair (struct findings *findings,
                          const struct qed_problem *problem,
                          const char *action);
void findings_add_lost (struct findings *findings, uint64_t guest,
                        uint64_t bytes);

/* Add them to a reply. */
void findings_describe (const struct findings *findings, json_t *reply);

json_t *findings_result (const struct qed_check_result *result);

#endif /* SERVER_CONTROL_FINDINGS_H */
