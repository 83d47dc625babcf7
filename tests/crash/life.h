/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The life of an image: made, then opened, worked on and closed a few times;
 * between that, and meanwhile, power fails.  A *state* is what one crash
 * leaves, or one close; each is judged.  All of it follows from the seed.
 */

#ifndef CRASH_LIFE_H
#define CRASH_LIFE_H

#include <stdbool.h>
#include <stdint.h>

/* What was covered, all lives together. */
struct life_totals {
  uint64_t lives, states, crashes;
  uint64_t reused;              /* freed clusters */
};

extern struct life_totals life_totals;

/* A step of a job that was met, and how often power failed before it. */
struct life_step {
  const char *job, *name;
  uint64_t crashes;
};

/* It is entered when it is met first. */
struct life_step *life_find_step (const char *job, const char *name);

/* 'geometry' is one of geometry_names, 'backing' whether there is a backing
 * file; -1: the seed says.  'reshape': most sessions resize or rebase.
 */
void life_run (uint64_t seed, int geometry, int backing, bool reshape);

/* Before which steps of which jobs power failed: "flush:sync 17" a line.
 * Returns how many steps were seen, and how many of them never met a crash.
 */
unsigned life_steps (bool print, unsigned *missed);

#endif /* CRASH_LIFE_H */
