/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* From a seed that fails to a small example: what can be left out of its life
 * so that a promise is still broken.  Things are requests (of the repair of a
 * damaged image: what was damaged), crashes, and the writes that survive one;
 * each has a name of numbers, like r1.0.17, c0.1.5, w1.5.230.
 *
 * A request that is left out changes who runs when; so that the failure isn't
 * lost by that, several schedules are tried.
 */

#ifndef CRASH_REDUCE_H
#define CRASH_REDUCE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum reduce_kind {
  REDUCE_REQUEST,               /* session, caller, number */
  REDUCE_CRASH,                 /* 0, session, number */
  REDUCE_WRITE,                 /* session, number of the crash, operation */
  REDUCE_KINDS
};

/* Whether it is part of what is run: asked each time one is met. */
bool reduce_has (enum reduce_kind kind, uint64_t a, uint64_t b, uint64_t c);

/* Goes into each scheduler's seed; 0 as the life has it. */
extern uint64_t reduce_schedule;

/* A list like "r1.0.3-7,c0.1.5,w-": of these kinds only that; "w-": none. */
bool reduce_parse (const char *list);

/* The options that say so, each after a space; nothing if all is run. */
void reduce_print (FILE *out);

/* Run it in a child; 'quiet': without its messages.  Whether it ended as
 * it should, not with a violation or worse.
 */
bool reduce_in_child (void (*run) (void *arg), void *arg, bool quiet);

/* 'run' fails in a child.  Leave out what can be, within about so many
 * seconds; children that are started later do without it.
 */
void reduce (void (*run) (void *arg), void *arg, unsigned seconds);

#endif /* CRASH_REDUCE_H */
