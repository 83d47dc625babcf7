/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The steps of the engine's jobs, and which of them were passed while
 * something failed.
 */

#ifndef STEPS_H
#define STEPS_H

#include <stdbool.h>

/* To be called first; processes that are forked then see for all. */
void steps_begin (void);

/* Look at a line of the engine's trace.  'hits': how many calls have failed
 * so far.  Any thread.
 */
void steps_note (const char *message, unsigned hits);

/* Whether the table is right, and, with 'all', whether each step was passed and
 * each that can fail has failed: 0, else what is wrong was named.
 */
int steps_judge (bool all);

/* All of them, a line each. */
void steps_list (void);

#endif /* STEPS_H */
