/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Random numbers that follow from a seed, the same everywhere. */

#ifndef CRASH_RANDOM_H
#define CRASH_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random {
  uint64_t state;
};

/* A bijection whose every output bit depends on every input bit. */
static inline uint64_t
random_mix (uint64_t x)
{
  x = (x ^ x >> 30) * UINT64_C (0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C (0x94d049bb133111eb);
  return x ^ x >> 31;
}

static inline uint64_t
random_next (struct random *random)
{
  random->state += UINT64_C (0x9e3779b97f4a7c15);
  return random_mix (random->state);
}

/* 0 .. n-1 */
static inline uint64_t
random_below (struct random *random, uint64_t n)
{
  return random_next (random) % n;
}

/* low .. high */
static inline uint64_t
random_between (struct random *random, uint64_t low, uint64_t high)
{
  return low + random_below (random, high - low + 1);
}

/* True once in n times. */
static inline bool
random_one_in (struct random *random, uint64_t n)
{
  return random_below (random, n) == 0;
}

/* A stream of its own: what one part draws doesn't shift another's. */
static inline struct random
random_fork (struct random *random)
{
  return (struct random) { random_next (random) };
}

#endif /* CRASH_RANDOM_H */
