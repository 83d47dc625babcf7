/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Images with entries that must not be followed: each is found by the opening
 * scan, the good rest is still read, and nothing is written.
 */

#include <errno.h>
#include <string.h>

#include "fake-image.h"

/* Two tables, two data clusters each, and a free cluster between. */
#define TABLE0 AT_END
#define TABLE1 (AT_END + CLUSTER)
#define DATA(n) (AT_END + (2 + (n)) * CLUSTER)
#define FREE_CLUSTER DATA (4)
#define LENGTH DATA (6)

static void
make_image (void)
{
  unsigned i;

  fake->length = LENGTH;
  fake_poke64 (fake, AT_L1, TABLE0);
  fake_poke64 (fake, AT_L1 + 8, TABLE1);
  for (i = 0; i < 4; i++) {
    unsigned char content[CLUSTER];

    memset (content, (int) i + 1, sizeof content);
    fake_poke (fake, content, sizeof content, DATA (i));
    fake_poke64 (fake, (i < 2 ? TABLE0 : TABLE1) + i % 2 * 8, DATA (i));
  }
  fake_poke64 (fake, TABLE1 + 16, DATA (5));
}

/* With one entry changed: 'bad' is a guest offset that it concerns, and what
 * reading that gives.  Everything else reads as before.
 */
static void
expect_damage (uint64_t at, uint64_t value, uint64_t bad, int read_error)
{
  static const uint64_t good[] = { 0, CLUSTER, TABLE_SPAN,
                                   TABLE_SPAN + CLUSTER };
  unsigned char before[LENGTH], after[LENGTH];
  unsigned i;

  make_image ();
  fake_poke64 (fake, at, value);
  fake_peek (fake, before, sizeof before, 0);
  start_image ();
  assert_false (qed_writable (image));
  for (i = 0; i < 4; i++)
    if (good[i] / TABLE_SPAN != bad / TABLE_SPAN ||
        (good[i] != bad && at >= AT_END))
      expect_byte (good[i], (unsigned char) (i + 1));
  assert_int_equal (read_result (bad), read_error);
  assert_int_equal (write_byte (0, 9, 0), -EROFS);
  assert_int_equal (write_byte (bad, 9, 0), -EROFS);
  assert_int_equal (write_byte (2 * TABLE_SPAN, 9, 0), -EROFS);
  assert_int_equal (flush_image (), 0);
  assert_int_equal (close_image (), 0);
  assert_true (fake->length == LENGTH);
  fake_peek (fake, after, sizeof after, 0);
  assert_memory_equal (before, after, sizeof before);
}

/* As it is made nothing is wrong with it. */
static void
test_good (void **state)
{
  (void) state;
  make_image ();
  start_image ();
  assert_true (qed_writable (image));
  expect_byte (TABLE_SPAN + CLUSTER, 4);
  assert_int_equal (write_byte (0, 9, 0), 0);
  assert_int_equal (write_byte (2 * CLUSTER, 9, 0), 0);
  assert_int_equal (close_image (), 0);
  assert_true (fake_peek64 (fake, TABLE0 + 16) == FREE_CLUSTER);
}

/* What a host that lost power leaves: the next allocation would show there. */
static void
test_past_end (void **state)
{
  (void) state;
  expect_damage (TABLE0 + 8, LENGTH, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, LENGTH + 100 * CLUSTER, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, UINT64_MAX & ~UINT64_C (4095), CLUSTER, -EIO);
}

static void
test_reserved_bits (void **state)
{
  (void) state;
  expect_damage (TABLE0 + 8, DATA (1) | 1, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, DATA (1) | 8, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, 4, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, 2, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, DATA (1) + 512, CLUSTER, -EIO);
}

/* The guest must not read or write what steers the image. */
static void
test_into_metadata (void **state)
{
  (void) state;
  expect_damage (TABLE0 + 8, AT_L1, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, TABLE0, CLUSTER, -EIO);
  expect_damage (TABLE0 + 8, TABLE1, CLUSTER, -EIO);
}

/* Shared: each reads what is there, no one writes. */
static void
test_shared (void **state)
{
  (void) state;
  expect_damage (TABLE0 + 8, DATA (0), CLUSTER, 0);
  expect_damage (TABLE0 + 8, DATA (3), CLUSTER, 0);
  expect_damage (TABLE0 + 16, DATA (5), 2 * CLUSTER, 0);
}

static void
test_bad_table (void **state)
{
  (void) state;
  expect_damage (AT_L1 + 8, LENGTH, TABLE_SPAN, -EIO);
  expect_damage (AT_L1 + 8, UINT64_MAX & ~UINT64_C (4095), TABLE_SPAN, -EIO);
  expect_damage (AT_L1 + 8, 1, TABLE_SPAN, -EIO);
  expect_damage (AT_L1 + 8, TABLE1 + 4, TABLE_SPAN, -EIO);
  expect_damage (AT_L1 + 8, AT_L1, TABLE_SPAN, -EIO);
}

static void
test_shared_table (void **state)
{
  (void) state;
  expect_damage (AT_L1 + 8, TABLE0, TABLE_SPAN, 0);
}

/* A table within the data of another. */
static void
test_table_in_data (void **state)
{
  (void) state;
  make_image ();
  fake_poke64 (fake, AT_L1 + 16, DATA (0));
  start_image ();
  assert_false (qed_writable (image));
  assert_int_equal (read_result (0), -EIO);     /* leads into a table */
  assert_int_equal (write_byte (0, 9, 0), -EROFS);
  expect_byte (CLUSTER, 2);
  assert_int_equal (close_image (), 0);
}

/* A write that waits for the scan when that finds damage. */
static void
test_waiting_write (void **state)
{
  struct pending *allocating, *in_place;

  (void) state;
  make_image ();
  fake_poke64 (fake, TABLE1, LENGTH);
  assert_int_equal (open_image (), 0);
  fake_rule_add (fake, FAKE_READ, AT_L1, AT_END, 0, 1);
  assert_int_equal (qed_start (image), 0);
  fake_wait_held (fake, 1);
  allocating = start_write (5 * CLUSTER, 7);
  in_place = start_write (0, 8);
  assert_int_equal (allocating->result, QED_WAIT);
  assert_int_equal (in_place->result, QED_WAIT);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, allocating), -EROFS);
  (void) pending_finish (image, in_place);      /* before or after */
  wait_scanned ();
  assert_int_equal (write_byte (0, 9, 0), -EROFS);
  assert_int_equal (close_image (), 0);
  assert_true (fake_peek64 (fake, TABLE0 + 40) == 0);
  assert_false (need_check ());
}

/* In an image opened for reading, too, nothing bad is followed. */
static void
test_read_only (void **state)
{
  (void) state;
  make_image ();
  fake_poke64 (fake, TABLE0 + 8, TABLE1);
  fake_poke64 (fake, TABLE0 + 16, LENGTH);
  fake->storage.read_only = true;
  start_image ();
  expect_byte (0, 1);
  expect_byte (TABLE_SPAN, 3);
  assert_int_equal (read_result (CLUSTER), -EIO);
  assert_int_equal (read_result (2 * CLUSTER), -EIO);
  assert_int_equal (write_byte (0, 9, 0), -EROFS);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_SYNC), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_good),
    FAKE_IMAGE_TEST (test_past_end),
    FAKE_IMAGE_TEST (test_reserved_bits),
    FAKE_IMAGE_TEST (test_into_metadata),
    FAKE_IMAGE_TEST (test_shared),
    FAKE_IMAGE_TEST (test_bad_table),
    FAKE_IMAGE_TEST (test_shared_table),
    FAKE_IMAGE_TEST (test_table_in_data),
    FAKE_IMAGE_TEST (test_waiting_write),
    FAKE_IMAGE_TEST (test_read_only),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
