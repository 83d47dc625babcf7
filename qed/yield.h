/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Where the crash tests may switch callers.
 *
 * Built with QED_SIM the engine runs under a seeded scheduler, whose callers
 * and loop are coroutines: every storage call, publish, guard and gate
 * operation is a place where another may go on, or the power may fail.  No
 * mutex is held at any of them.  In the real build they are nothing.
 */

#ifndef QED_YIELD_H
#define QED_YIELD_H

/* sim_skips is asked before each step of a job, and before a few others: the
 * tests leave out one that an ordering rule needs, to prove that they notice.
 */

#include <stdbool.h>

#ifdef QED_SIM
void sim_yield (const char *where);
bool sim_skips (const char *job, const char *step);
extern double sim_write_back_seconds;   /* short: it meets everything */
#define yield_point(where) sim_yield (where)
#else
#define yield_point(where) ((void) 0)
#define sim_skips(job, step) false
#endif

#endif /* QED_YIELD_H */
