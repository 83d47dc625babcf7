/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The engine in one thread, so that an input does the same each time, and
 * thousands of them run in a second.
 *
 * It is compiled as for the crash tests (qed/yield.h), with its locks and
 * waits replaced: whoever waits runs the loop meanwhile, a turn at a time, and
 * the loop's workers and timers have their turns there too, in an order that
 * follows from a seed.  A wait for which nothing is left to run would last for
 * ever: that ends the program.  There is one loop at a time, and one caller.
 */

#ifndef FUZZ_ONE_THREAD_H
#define FUZZ_ONE_THREAD_H

#include <stdbool.h>
#include <stdint.h>

/* Before each input. */
void one_thread_reset (uint64_t seed);

/* Whether the loop or one of its workers runs: else the caller does, who is
 * what a thread of nbdkit's is.
 */
bool one_thread_in_loop (void);

/* Let the loop have its turns until it has nothing to do for now; timers that
 * are not due yet stay.
 */
void one_thread_settle (void);

#endif /* FUZZ_ONE_THREAD_H */
