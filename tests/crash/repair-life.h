/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The life of an image that is damaged, and repaired while it is closed or
 * while a guest reads: power fails in the middle of that, and of the next
 * repair.  Whatever is left, the last repair ends with a good image in which
 * nothing was lost that was there before the damage, nor what could be kept.
 * All of it follows from the seed.
 */

#ifndef CRASH_REPAIR_LIFE_H
#define CRASH_REPAIR_LIFE_H

#include <stdint.h>

/* 'geometry' is one of geometry_names; -1: the seed says.  Counts in
 * life_totals.
 */
void repair_life_run (uint64_t seed, int geometry);

#endif /* CRASH_REPAIR_LIFE_H */
