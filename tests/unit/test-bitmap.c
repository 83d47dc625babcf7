/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The sparse bitmap against a naive one. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitmap.h"
#include "random.h"

#define ISLANDS 6u
#define ISLAND_BITS 3000u       /* several chunks, not a multiple of one */

/* Places far apart, some off a chunk's start, the last at the very end. */
static const uint64_t islands[ISLANDS] = {
  0, 4000, (UINT64_C (1) << 32) - 1500, (UINT64_C (1) << 51) + 7,
  (UINT64_C (1) << 63) - 100, UINT64_MAX - ISLAND_BITS,
};

struct model {
  struct bitmap bitmap;
  bool set[ISLANDS][ISLAND_BITS];
  uint64_t count;
  uint64_t random;
};

static void
one_set (struct model *m, unsigned island, unsigned bit)
{
  bool was;

  assert_int_equal (bitmap_set (&m->bitmap, islands[island] + bit, &was), 0);
  assert_int_equal (was, m->set[island][bit]);
  m->count += !m->set[island][bit];
  m->set[island][bit] = true;
}

static void
one_clear (struct model *m, unsigned island, unsigned bit)
{
  bitmap_clear (&m->bitmap, islands[island] + bit);
  m->count -= m->set[island][bit];
  m->set[island][bit] = false;
}

static void
one_next_clear (struct model *m, unsigned island, unsigned bit)
{
  unsigned limit = bit +
    (unsigned) random_below (&m->random, ISLAND_BITS - bit + 1);
  unsigned expected = bit;

  while (expected < limit && m->set[island][expected])
    expected++;
  assert_true (bitmap_next_clear (&m->bitmap, islands[island] + bit,
                                  islands[island] + limit) ==
               islands[island] + expected);
}

/* Sets come in runs, so that chunks become full. */
static void
one_step (struct model *m)
{
  unsigned island = (unsigned) random_below (&m->random, ISLANDS);
  unsigned bit = (unsigned) random_below (&m->random, ISLAND_BITS);
  unsigned run = (unsigned) random_below (&m->random, 200), i;

  switch (random_below (&m->random, 5)) {
  case 0:
    for (i = bit; i < bit + run && i < ISLAND_BITS; i++)
      one_set (m, island, i);
    break;
  case 1:
    for (i = bit; i < bit + run / 2 && i < ISLAND_BITS; i++)
      one_clear (m, island, i);
    break;
  case 2:
    one_set (m, island, bit);
    break;
  default:
    one_next_clear (m, island, bit);
  }
  assert_int_equal (bitmap_test (&m->bitmap, islands[island] + bit),
                    m->set[island][bit]);
  assert_true (m->bitmap.count == m->count);
}

static void
test_random (void **state)
{
  static struct model m;
  unsigned i, bit;

  (void) state;
  memset (&m, 0, sizeof m);
  m.random = 1;
  bitmap_init (&m.bitmap);
  for (i = 0; i < 100000; i++)
    one_step (&m);
  for (i = 0; i < ISLANDS; i++)
    for (bit = 0; bit < ISLAND_BITS; bit++)
      assert_int_equal (bitmap_test (&m.bitmap, islands[i] + bit),
                        m.set[i][bit]);
  bitmap_destroy (&m.bitmap);
}

/* So many chunks that hash and slabs grow many times. */
static void
test_many_chunks (void **state)
{
  const uint64_t step = BITMAP_CHUNK_BITS * UINT64_C (1000003);
  struct bitmap bitmap;
  uint64_t i;
  bool was;

  (void) state;
  bitmap_init (&bitmap);
  for (i = 0; i < 100000; i++) {
    assert_int_equal (bitmap_set (&bitmap, i * step, &was), 0);
    assert_false (was);
  }
  assert_true (bitmap.count == 100000);
  for (i = 0; i < 100000; i++) {
    assert_true (bitmap_test (&bitmap, i * step));
    assert_false (bitmap_test (&bitmap, i * step + 1));
    assert_false (bitmap_test (&bitmap, i * step + BITMAP_CHUNK_BITS));
  }
  bitmap_destroy (&bitmap);
}

static void
test_empty (void **state)
{
  struct bitmap bitmap;

  (void) state;
  bitmap_init (&bitmap);
  assert_false (bitmap_test (&bitmap, 0));
  assert_false (bitmap_test (&bitmap, UINT64_MAX));
  bitmap_clear (&bitmap, 17);
  assert_false (bitmap_add_quickly (&bitmap, 17));
  assert_true (bitmap.count == 0);
  assert_true (bitmap_next_clear (&bitmap, 5, 5) == 5);
  assert_true (bitmap_next_clear (&bitmap, 5, UINT64_MAX) == 5);
  bitmap_destroy (&bitmap);
}

/* A full run across chunks: the limit, not beyond. */
static void
test_full_run (void **state)
{
  struct bitmap bitmap;
  uint64_t i;
  bool was;

  (void) state;
  bitmap_init (&bitmap);
  for (i = 100; i < 5000; i++)
    assert_int_equal (bitmap_set (&bitmap, i, &was), 0);
  assert_true (bitmap_next_clear (&bitmap, 100, 5000) == 5000);
  assert_true (bitmap_next_clear (&bitmap, 100, 4999) == 4999);
  assert_true (bitmap_next_clear (&bitmap, 100, 5001) == 5000);
  assert_true (bitmap_next_clear (&bitmap, 0, 5000) == 0);
  assert_true (bitmap_next_clear (&bitmap, 512, 1024) == 1024);
  bitmap_clear (&bitmap, 1023);
  assert_true (bitmap_next_clear (&bitmap, 512, 1024) == 1023);
  bitmap_destroy (&bitmap);
}

/* What is not there isn't asked for bit by bit, nor chunk by chunk. */
static void
test_next_set (void **state)
{
  const uint64_t far = UINT64_C (1) << 51;
  struct bitmap bitmap;
  bool was;

  (void) state;
  bitmap_init (&bitmap);
  assert_true (bitmap_next_set (&bitmap, 0, far) == far);
  assert_int_equal (bitmap_set (&bitmap, far, &was), 0);
  assert_int_equal (bitmap_set (&bitmap, 1000, &was), 0);
  assert_true (bitmap_next_set (&bitmap, 0, far) == 1000);
  assert_true (bitmap_next_set (&bitmap, 1001, far) == far);
  assert_true (bitmap_next_set (&bitmap, 1001, far + 1) == far);
  assert_true (bitmap_next_set (&bitmap, far + 1, 2 * far) == 2 * far);
  assert_int_equal (bitmap_set (&bitmap, 5000, &was), 0);
  assert_true (bitmap_next_set (&bitmap, 1001, far) == 5000);
  bitmap_clear (&bitmap, 5000);
  assert_true (bitmap_next_set (&bitmap, 1001, far) == far);
  assert_true (bitmap_next_set (&bitmap, 0, 0) == 0);
  bitmap_destroy (&bitmap);
}

/* One more than the last bit that is set, as counting down finds it; and
 * nothing counts down through what is not there.
 */
static void
test_end (void **state)
{
  const uint64_t far = UINT64_C (1) << 50;
  struct bitmap bitmap;
  uint64_t bit, limit, from, end;
  unsigned i, seed = 1;
  bool was;

  (void) state;
  bitmap_init (&bitmap);
  assert_true (bitmap_end (&bitmap, 3, far) == 3);
  for (i = 0; i < 60; i++) {
    seed = seed * 1103515245 + 12345;
    bit = seed / 65536 % 3000;
    assert_int_equal (bitmap_set (&bitmap, bit, &was), 0);
  }
  assert_int_equal (bitmap_set (&bitmap, 8000, &was), 0);
  for (limit = 0; limit < 9000; limit += 7)
    for (from = 0; from <= limit; from += 501) {
      for (end = limit; end > from && !bitmap_test (&bitmap, end - 1); end--)
        ;
      assert_true (bitmap_end (&bitmap, from, limit) == end);
    }
  assert_true (bitmap_end (&bitmap, 0, far) == 8001);
  assert_int_equal (bitmap_set (&bitmap, far, &was), 0);
  assert_true (bitmap_end (&bitmap, 0, far) == 8001);
  assert_true (bitmap_end (&bitmap, 0, far + 1) == far + 1);
  assert_true (bitmap_end (&bitmap, 0, UINT64_MAX) == far + 1);
  bitmap_clear (&bitmap, far);
  assert_true (bitmap_end (&bitmap, 0, UINT64_MAX) == 8001);
  assert_true (bitmap_end (&bitmap, 9000, UINT64_MAX) == 9000);
  bitmap_destroy (&bitmap);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_empty),
    cmocka_unit_test (test_full_run),
    cmocka_unit_test (test_random),
    cmocka_unit_test (test_many_chunks),
    cmocka_unit_test (test_next_set),
    cmocka_unit_test (test_end),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
