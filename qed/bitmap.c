/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bitmap.h"

#define SLAB_CHUNKS 256u

void
bitmap_init (struct bitmap *bitmap)
{
  memset (bitmap, 0, sizeof *bitmap);
}

void
bitmap_destroy (struct bitmap *bitmap)
{
  size_t i;

  for (i = 0; i * SLAB_CHUNKS < bitmap->chunks; i++)
    free (bitmap->slabs[i]);
  free (bitmap->slabs);
  free (bitmap->slots);
  free (bitmap->recent);
  free (bitmap->sorted);
  bitmap_init (bitmap);
}

uint64_t
bitmap_bytes (const struct bitmap *bitmap)
{
  return (uint64_t) bitmap->chunks * sizeof (struct bitmap_chunk) +
    (uint64_t) bitmap->slot_count *
    (sizeof *bitmap->slots + sizeof *bitmap->recent);
}

static struct bitmap_chunk *
chunk_number (const struct bitmap *bitmap, size_t i)
{
  return &bitmap->slabs[i / SLAB_CHUNKS][i % SLAB_CHUNKS];
}

static size_t
hash (const struct bitmap *bitmap, uint64_t index)
{
  return (size_t) ((index * UINT64_C (0x9e3779b97f4a7c15)) >> 32) &
    (bitmap->slot_count - 1);
}

/* Where a chunk is found without a search, next time. */
static inline struct bitmap_chunk **
recent_place (const struct bitmap *bitmap, uint64_t index)
{
  return &bitmap->recent[index & (bitmap->slot_count - 1)];
}

static struct bitmap_chunk *
find_chunk (struct bitmap *bitmap, uint64_t index)
{
  struct bitmap_chunk *chunk;
  size_t slot;

  if (bitmap->slot_count == 0)
    return NULL;
  chunk = *recent_place (bitmap, index);
  if (chunk && chunk->index == index)
    return chunk;
  slot = hash (bitmap, index);
  while (bitmap->slots[slot]) {
    chunk = chunk_number (bitmap, bitmap->slots[slot] - 1);
    if (chunk->index == index)
      return *recent_place (bitmap, index) = chunk;
    slot = (slot + 1) & (bitmap->slot_count - 1);
  }
  return NULL;
}

static void
insert_slot (struct bitmap *bitmap, size_t number)
{
  size_t slot = hash (bitmap, chunk_number (bitmap, number)->index);

  while (bitmap->slots[slot])
    slot = (slot + 1) & (bitmap->slot_count - 1);
  bitmap->slots[slot] = (uint32_t) (number + 1);
}

/* Keep the hash at most two thirds full. */
static int
grow_slots (struct bitmap *bitmap)
{
  size_t count = bitmap->slot_count ? bitmap->slot_count * 2 : 64, i;
  struct bitmap_chunk **recent;
  uint32_t *slots;

  if ((bitmap->chunks + 1) * 3 <= bitmap->slot_count * 2)
    return 0;
  if (bitmap->chunks >= UINT32_MAX - 1)
    return -ENOMEM;
  slots = calloc (count, sizeof *slots);
  recent = calloc (count, sizeof *recent);
  if (slots == NULL || recent == NULL) {
    free (slots);
    free (recent);
    return -ENOMEM;
  }
  free (bitmap->slots);
  free (bitmap->recent);
  bitmap->slots = slots;
  bitmap->recent = recent;
  bitmap->slot_count = count;
  for (i = 0; i < bitmap->chunks; i++)
    insert_slot (bitmap, i);
  return 0;
}

static int
grow_slabs (struct bitmap *bitmap)
{
  size_t slab = bitmap->chunks / SLAB_CHUNKS;
  struct bitmap_chunk **slabs;

  if (bitmap->chunks % SLAB_CHUNKS != 0)
    return 0;
  slabs = realloc (bitmap->slabs, (slab + 1) * sizeof *slabs);
  if (slabs == NULL)
    return -ENOMEM;
  bitmap->slabs = slabs;
  slabs[slab] = malloc (SLAB_CHUNKS * sizeof **slabs);
  return slabs[slab] ? 0 : -ENOMEM;
}

static struct bitmap_chunk *
add_chunk (struct bitmap *bitmap, uint64_t index)
{
  struct bitmap_chunk *chunk;

  if (grow_slots (bitmap) < 0 || grow_slabs (bitmap) < 0)
    return NULL;
  chunk = chunk_number (bitmap, bitmap->chunks);
  memset (chunk, 0, sizeof *chunk);
  chunk->index = index;
  insert_slot (bitmap, bitmap->chunks++);
  return *recent_place (bitmap, index) = chunk;
}

bool
bitmap_test (struct bitmap *bitmap, uint64_t bit)
{
  struct bitmap_chunk *chunk = find_chunk (bitmap, bit / BITMAP_CHUNK_BITS);
  unsigned in = bit % BITMAP_CHUNK_BITS;

  return chunk && (chunk->words[in / 64] >> (in % 64) & 1);
}

int
bitmap_set (struct bitmap *bitmap, uint64_t bit, bool *was)
{
  struct bitmap_chunk *chunk = find_chunk (bitmap, bit / BITMAP_CHUNK_BITS);
  unsigned in = bit % BITMAP_CHUNK_BITS;
  uint64_t mask = UINT64_C (1) << (in % 64);

  if (chunk == NULL)
    chunk = add_chunk (bitmap, bit / BITMAP_CHUNK_BITS);
  if (chunk == NULL)
    return -ENOMEM;
  *was = (chunk->words[in / 64] & mask) != 0;
  chunk->words[in / 64] |= mask;
  bitmap->count += !*was;
  return 0;
}

/* Set the bits of one word, as far as they are clear; how many. */
static unsigned
add_in_word (struct bitmap *bitmap, uint64_t *word, unsigned in, uint64_t n)
{
  uint64_t clash = *word >> in, mask;
  unsigned most = n < 64 - in ? (unsigned) n : 64 - in;

  if (clash && (unsigned) __builtin_ctzll (clash) < most)
    most = (unsigned) __builtin_ctzll (clash);
  if (most > 0) {
    mask = most == 64 ? UINT64_MAX : (UINT64_C (1) << most) - 1;
    *word |= mask << in;
    bitmap->count += most;
  }
  return most;
}

int
bitmap_add_run (struct bitmap *bitmap, uint64_t first, uint64_t n,
                uint64_t *added)
{
  struct bitmap_chunk *chunk;
  unsigned in, wanted, m;
  uint64_t done = 0;

  do {
    chunk = find_chunk (bitmap, (first + done) / BITMAP_CHUNK_BITS);
    if (chunk == NULL)
      chunk = add_chunk (bitmap, (first + done) / BITMAP_CHUNK_BITS);
    if (chunk == NULL)
      return -ENOMEM;
    in = (first + done) % BITMAP_CHUNK_BITS;
    wanted = n - done < 64 - in % 64 ? (unsigned) (n - done) : 64 - in % 64;
    m = add_in_word (bitmap, &chunk->words[in / 64], in % 64, wanted);
    done += m;
  } while (m == wanted && done < n);
  *added = done;
  return 0;
}

void
bitmap_clear (struct bitmap *bitmap, uint64_t bit)
{
  struct bitmap_chunk *chunk = find_chunk (bitmap, bit / BITMAP_CHUNK_BITS);
  unsigned in = bit % BITMAP_CHUNK_BITS;
  uint64_t mask = UINT64_C (1) << (in % 64);

  if (chunk && (chunk->words[in / 64] & mask)) {
    chunk->words[in / 64] &= ~mask;
    bitmap->count--;
  }
}

/* The first clear bit of a chunk at or after 'in', or BITMAP_CHUNK_BITS. */
static unsigned
clear_in_chunk (const struct bitmap_chunk *chunk, unsigned in)
{
  uint64_t clear;

  while (in < BITMAP_CHUNK_BITS) {
    clear = ~chunk->words[in / 64] >> (in % 64);
    if (clear)
      return in + (unsigned) __builtin_ctzll (clear);
    in = (in / 64 + 1) * 64;
  }
  return in;
}

uint64_t
bitmap_next_clear (struct bitmap *bitmap, uint64_t from, uint64_t limit)
{
  struct bitmap_chunk *chunk;
  unsigned in;

  while (from < limit) {
    chunk = find_chunk (bitmap, from / BITMAP_CHUNK_BITS);
    if (chunk == NULL)
      return from;
    in = clear_in_chunk (chunk, from % BITMAP_CHUNK_BITS);
    from = from - from % BITMAP_CHUNK_BITS + in;
    if (in < BITMAP_CHUNK_BITS)
      break;
  }
  return from < limit ? from : limit;
}

static uint64_t
next_set_in_chunk (const struct bitmap_chunk *chunk, unsigned in)
{
  uint64_t set;

  while (in < BITMAP_CHUNK_BITS) {
    set = chunk->words[in / 64] >> (in % 64);
    if (set)
      return in + (unsigned) __builtin_ctzll (set);
    in = (in / 64 + 1) * 64;
  }
  return in;
}

static int
compare_indices (const void *a, const void *b)
{
  const uint64_t *p = a, *q = b;

  return *p < *q ? -1 : *p > *q;
}

/* False if there is no memory. */
static bool
sort_chunks (struct bitmap *bitmap)
{
  uint64_t *sorted;
  size_t i;

  if (bitmap->sorted_count == bitmap->chunks)
    return true;
  sorted = realloc (bitmap->sorted, bitmap->chunks * sizeof *sorted);
  if (sorted == NULL)
    return false;
  for (i = 0; i < bitmap->chunks; i++)
    sorted[i] = chunk_number (bitmap, i)->index;
  qsort (sorted, bitmap->chunks, sizeof *sorted, compare_indices);
  bitmap->sorted = sorted;
  bitmap->sorted_count = bitmap->chunks;
  return true;
}

/* The first chunk that there is at or after an index, or UINT64_MAX: what is
 * not there may be more than can be asked for one by one.
 */
static uint64_t
next_index (struct bitmap *bitmap, uint64_t index)
{
  size_t low = 0, high, middle;

  if (!sort_chunks (bitmap))
    return index + 1;
  high = bitmap->sorted_count;
  while (low < high) {
    middle = low + (high - low) / 2;
    if (bitmap->sorted[middle] < index)
      low = middle + 1;
    else
      high = middle;
  }
  return low < bitmap->sorted_count ? bitmap->sorted[low] : UINT64_MAX;
}

uint64_t
bitmap_next_set (struct bitmap *bitmap, uint64_t from, uint64_t limit)
{
  struct bitmap_chunk *chunk;
  uint64_t in, index;

  while (from < limit) {
    chunk = find_chunk (bitmap, from / BITMAP_CHUNK_BITS);
    if (chunk == NULL) {
      index = next_index (bitmap, from / BITMAP_CHUNK_BITS);
      if (index > (limit - 1) / BITMAP_CHUNK_BITS)
        return limit;
      from = index * BITMAP_CHUNK_BITS;
      continue;
    }
    in = next_set_in_chunk (chunk, from % BITMAP_CHUNK_BITS);
    from = from - from % BITMAP_CHUNK_BITS + in;
    if (in < BITMAP_CHUNK_BITS)
      break;
  }
  return from < limit ? from : limit;
}

/* The last chunk that there is before an index, or UINT64_MAX. */
static uint64_t
previous_index (struct bitmap *bitmap, uint64_t index)
{
  size_t low = 0, high, middle;

  if (!sort_chunks (bitmap))
    return index - 1;           /* of the first: there is none */
  high = bitmap->sorted_count;
  while (low < high) {
    middle = low + (high - low) / 2;
    if (bitmap->sorted[middle] < index)
      low = middle + 1;
    else
      high = middle;
  }
  return low > 0 ? bitmap->sorted[low - 1] : UINT64_MAX;
}

/* One more than the last bit below 'most' that is set, or 0. */
static uint64_t
end_in_chunk (const struct bitmap_chunk *chunk, uint64_t most)
{
  uint64_t word;

  for (; most > 0; most = (most - 1) / 64 * 64) {
    word = chunk->words[(most - 1) / 64];
    if (most % 64 != 0)
      word &= (UINT64_C (1) << most % 64) - 1;
    if (word != 0)
      return (most - 1) / 64 * 64 + 64 - (uint64_t) __builtin_clzll (word);
  }
  return 0;
}

uint64_t
bitmap_end (struct bitmap *bitmap, uint64_t from, uint64_t limit)
{
  struct bitmap_chunk *chunk;
  uint64_t in, index;

  while (from < limit) {
    index = (limit - 1) / BITMAP_CHUNK_BITS;
    chunk = find_chunk (bitmap, index);
    if (chunk == NULL) {
      index = previous_index (bitmap, index);
      if (index == UINT64_MAX)
        return from;
      limit = (index + 1) * BITMAP_CHUNK_BITS;
      continue;
    }
    in = end_in_chunk (chunk, limit - index * BITMAP_CHUNK_BITS);
    limit = index * BITMAP_CHUNK_BITS + in;
    if (in > 0)
      break;
  }
  return from < limit ? limit : from;
}
