/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A sparse set of cluster numbers: memory grows with what is in it (about a
 * bit and a half for each cluster where they lie densely), wherever in the
 * 64-bit range they are.  Not locked: the owner says how.
 */

#ifndef QED_BITMAP_H
#define QED_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITMAP_CHUNK_BITS 512u

struct bitmap_chunk {
  uint64_t index;               /* bits index * 512 ... */
  uint64_t words[BITMAP_CHUNK_BITS / 64];
};

struct bitmap {
  struct bitmap_chunk **slabs;  /* chunks, never moved */
  size_t chunks;                /* in use */
  uint32_t *slots;              /* hash of chunk number + 1, 0 empty */
  size_t slot_count;            /* a power of 2, or 0 */
  struct bitmap_chunk **recent; /* slot_count of them, found lately: index i
                                 * is at i % slot_count or not there.  Where
                                 * chunks lie densely that is all of them, and
                                 * neighbours share cache lines. */
  uint64_t count;               /* bits set */
  uint64_t *sorted;             /* the indices of the first sorted_count
                                 * chunks, ascending, for those searches that
                                 * pass what is not there */
  size_t sorted_count;
};

void bitmap_init (struct bitmap *bitmap);
void bitmap_destroy (struct bitmap *bitmap);

/* The memory that it takes. */
uint64_t bitmap_bytes (const struct bitmap *bitmap);

bool bitmap_test (struct bitmap *bitmap, uint64_t bit);

/* Set or clear a bit; true in *was if it was set before.  -ENOMEM. */
int bitmap_set (struct bitmap *bitmap, uint64_t bit, bool *was);
void bitmap_clear (struct bitmap *bitmap, uint64_t bit);

/* Set a bit that is clear, if that needs no search: else false, and nothing
 * was done.
 */
static inline bool
bitmap_add_quickly (struct bitmap *bitmap, uint64_t bit)
{
  uint64_t index = bit / BITMAP_CHUNK_BITS, mask = UINT64_C (1) << (bit % 64);
  struct bitmap_chunk *chunk;
  uint64_t *word;

  if (bitmap->slot_count == 0)
    return false;
  chunk = bitmap->recent[index & (bitmap->slot_count - 1)];
  if (chunk == NULL || chunk->index != index)
    return false;
  word = &chunk->words[bit % BITMAP_CHUNK_BITS / 64];
  if (*word & mask)
    return false;
  *word |= mask;
  bitmap->count++;
  return true;
}

/* Set n bits from 'first' on, as far as they are clear: *added says how many
 * that were.  -ENOMEM.
 */
int bitmap_add_run (struct bitmap *bitmap, uint64_t first, uint64_t n,
                    uint64_t *added);

/* One more than the last bit in from..limit-1 that is set, or from. */
uint64_t bitmap_end (struct bitmap *bitmap, uint64_t from, uint64_t limit);

/* The first bit in from..limit-1 that is set, or limit. */
uint64_t bitmap_next_set (struct bitmap *bitmap, uint64_t from,
                          uint64_t limit);

/* The first bit in from..limit-1 that is clear, or limit. */
uint64_t bitmap_next_clear (struct bitmap *bitmap, uint64_t from,
                            uint64_t limit);

#endif /* QED_BITMAP_H */
