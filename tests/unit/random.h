/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Random numbers that are the same in each run with the same seed. */

#ifndef UNIT_RANDOM_H
#define UNIT_RANDOM_H

#include <stdint.h>

/* The state must not be 0. */
static inline uint64_t
random_next (uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state * UINT64_C (0x2545f4914f6cdd1d);
}

/* 0..limit-1 */
static inline uint64_t
random_below (uint64_t *state, uint64_t limit)
{
  return (random_next (state) >> 11) % limit;
}

#endif /* UNIT_RANDOM_H */
