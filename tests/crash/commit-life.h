/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The life of a chain: an overlay and its backing file, raw or QED, that it is
 * committed into a few times; meanwhile power fails.  What is read through
 * the overlay is the same in every state, and what lies behind its end is
 * never touched.  All of it follows from the seed; counted in life_totals.
 */

#ifndef CRASH_COMMIT_LIFE_H
#define CRASH_COMMIT_LIFE_H

#include <stdint.h>

/* 'geometry' is that of the overlay; -1: the seed says. */
void commit_life_run (uint64_t seed, int geometry);

#endif /* CRASH_COMMIT_LIFE_H */
