/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "pattern.h"

#define PLACE_BITS 40
#define PLACE_MASK ((UINT64_C (1) << PLACE_BITS) - 1)

/* Any odd numbers make a bijection; these two mix well. */
#define MULTIPLIER1 UINT64_C (0xbf58476d1ce4e5b9)
#define MULTIPLIER2 UINT64_C (0x94d049bb133111eb)

uint64_t
pattern_mix (uint64_t x)
{
  x = (x ^ (x >> 30)) * MULTIPLIER1;
  x = (x ^ (x >> 27)) * MULTIPLIER2;
  return x ^ (x >> 31);
}

/* The inverse of an odd number modulo 2^64, by Newton's iteration. */
static uint64_t
inverse (uint64_t a)
{
  uint64_t x = a;

  for (int i = 0; i < 6; i++)
    x *= 2 - a * x;
  return x;
}

static uint64_t
unmix (uint64_t x)
{
  x ^= (x >> 31) ^ (x >> 62);
  x *= inverse (MULTIPLIER2);
  x ^= (x >> 27) ^ (x >> 54);
  x *= inverse (MULTIPLIER1);
  return x ^ (x >> 30) ^ (x >> 60);
}

static uint64_t
word_at (uint64_t key, uint32_t number, uint64_t offset)
{
  return pattern_mix ((((uint64_t) number << PLACE_BITS)
                       | ((offset / 8) & PLACE_MASK)) ^ key);
}

unsigned char
pattern_byte (uint64_t key, uint32_t number, uint64_t offset)
{
  return word_at (key, number, offset) >> (offset % 8 * 8);
}

void
pattern_fill (uint64_t key, uint32_t number, uint64_t offset, uint64_t count,
              unsigned char *buf)
{
  while (count > 0) {
    uint64_t word = word_at (key, number, offset);
    unsigned i = offset % 8;

    for (; i < 8 && count > 0; i++, offset++, count--)
      *buf++ = word >> (i * 8);
  }
}

void
pattern_decode (uint64_t key, const unsigned char *word, uint32_t *number,
                uint64_t *offset)
{
  uint64_t x = 0;

  for (unsigned i = 0; i < 8; i++)
    x |= (uint64_t) word[i] << (i * 8);
  x = unmix (x) ^ key;
  *number = x >> PLACE_BITS;
  *offset = (x & PLACE_MASK) * 8;
}
