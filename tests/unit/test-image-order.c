/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* In which order an image's changes reach its storage: call by call. */

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "fake-image.h"

#define EXPECT_CALLS(...) \
  do { \
    const struct fake_call expected_[] = { __VA_ARGS__ }; \
    expect_calls (expected_, sizeof expected_ / sizeof expected_[0]); \
  } while (0)

#define HEADER { FAKE_WRITE, 0, 512 }
#define SYNC { FAKE_SYNC, 0, 0 }
#define GROW { FAKE_RESIZE, UINT64_MAX, 0 }
#define CUT(length) { FAKE_RESIZE, length, 0 }
#define L1_PAGE { FAKE_WRITE, AT_L1, 4096 }
#define PAGE(at) { FAKE_WRITE, at, 4096 }
#define DATA(at) { FAKE_WRITE, at, 512 }
#define ZERO(at) { FAKE_ZERO, at, 4096 }

/* Where the first table and the clusters after it come to lie. */
#define TABLE AT_END
#define FIRST (AT_END + CLUSTER)
#define SECOND (AT_END + 2 * CLUSTER)

/* O1, O4, O6, O7: the first allocating write, a flush, and the end. */
static void
test_fresh (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  EXPECT_CALLS (HEADER, SYNC, GROW, DATA (FIRST));
  assert_true (need_check ());
  assert_int_equal (flush_image (), 0);
  EXPECT_CALLS (PAGE (TABLE), SYNC, L1_PAGE, SYNC);
  assert_true (fake_peek64 (fake, AT_L1) == TABLE);
  assert_true (fake_peek64 (fake, TABLE) == FIRST);

  /* The table is there: an allocation costs its data and nothing else. */
  assert_int_equal (write_byte (CLUSTER, 2, 0), 0);
  EXPECT_CALLS (DATA (SECOND));
  assert_int_equal (flush_image (), 0);
  EXPECT_CALLS (PAGE (TABLE), SYNC);

  /* In place. */
  assert_int_equal (write_byte (512, 3, 0), 0);
  EXPECT_CALLS (DATA (FIRST + 512));
  assert_int_equal (write_byte (1024, 4, QED_FUA), 0);
  EXPECT_CALLS (DATA (FIRST + 1024), SYNC);

  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (SYNC, CUT (AT_END + 3 * CLUSTER), HEADER, SYNC);
  assert_false (need_check ());
}

/* FUA: the data's write, and every entry needed to reach it. */
static void
test_fua (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, QED_FUA), 0);
  EXPECT_CALLS (HEADER, SYNC, GROW, DATA (FIRST), PAGE (TABLE), SYNC, L1_PAGE,
                SYNC);
  assert_int_equal (close_image (), 0);
}

/* O3: what was used before is zeroed, and durably so before anything names
 * it.
 */
static void
test_used_before (void **state)
{
  unsigned char rubbish[16 * CLUSTER];

  (void) state;
  memset (rubbish, 0xee, sizeof rubbish);
  fake->length = AT_END + sizeof rubbish;
  fake_poke (fake, rubbish, sizeof rubbish, AT_END);
  start_image ();
  assert_int_equal (write_byte (512, 1, 0), 0);
  EXPECT_CALLS (HEADER, SYNC, ZERO (TABLE), ZERO (FIRST), DATA (FIRST + 512));
  expect_byte (0, 0);
  expect_byte (512, 1);
  expect_byte (1024, 0);
  expect_byte (CLUSTER, 0);     /* the table has no other entry */
  assert_int_equal (flush_image (), 0);
  EXPECT_CALLS (SYNC, PAGE (TABLE), SYNC, L1_PAGE, SYNC);
  assert_int_equal (write_byte (CLUSTER, 2, QED_FUA), 0);
  EXPECT_CALLS (ZERO (SECOND), DATA (SECOND), SYNC, PAGE (TABLE), SYNC);
  assert_int_equal (write_byte (CLUSTER, 2, QED_FUA), 0);
  EXPECT_CALLS (DATA (SECOND), SYNC);           /* not twice */
  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (SYNC, CUT (AT_END + 3 * CLUSTER), HEADER, SYNC);
}

/* A gap inside is used before the file grows; it was used before. */
static void
test_gap (void **state)
{
  (void) state;
  fake->length = AT_END + 4 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE, AT_END + 3 * CLUSTER);
  start_image ();
  assert_int_equal (write_byte (3 * CLUSTER, 1, 0), 0);
  EXPECT_CALLS (HEADER, SYNC, ZERO (FIRST), DATA (FIRST));
  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (SYNC, PAGE (TABLE), SYNC, HEADER, SYNC);
}

/* Reads and in-place writes mark nothing; closing then makes the data
 * durable and leaves the header alone.
 */
static void
test_clean_stays_clean (void **state)
{
  (void) state;
  fake->length = AT_END + 2 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE, FIRST);
  start_image ();
  expect_byte (0, 0);
  expect_byte (IMAGE_SIZE - 512, 0);
  expect_calls (NULL, 0);
  assert_int_equal (write_byte (512, 1, 0), 0);
  EXPECT_CALLS (DATA (FIRST + 512));
  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (SYNC);
}

/* All who come while a flush runs are served by the next one. */
static void
test_flush_together (void **state)
{
  struct pending *flushes[5];
  unsigned i;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_SYNC, 0, 1, 0, 1);
  flushes[0] = start_flush ();
  fake_wait_held (fake, 1);
  for (i = 1; i < 5; i++) {
    flushes[i] = start_flush ();
    assert_int_equal (flushes[i]->result, QED_WAIT);
  }
  fake_let_go (fake);
  for (i = 0; i < 5; i++)
    assert_int_equal (pending_finish (image, flushes[i]), 0);
  assert_int_equal (fake_calls (fake, FAKE_SYNC), 2);
  assert_int_equal (close_image (), 0);
}

/* Many tables at once, more than a round of the write-back's cache: all there
 * when the image is opened again.
 */
static void
test_many_tables (void **state)
{
  unsigned i;

  (void) state;
  start_image ();
  for (i = 0; i < TABLES; i++)
    assert_int_equal (write_byte (i * TABLE_SPAN + 1024, i + 1, 0), 0);
  for (i = 0; i < TABLES; i++)
    expect_byte (i * TABLE_SPAN + 1024, i + 1);
  assert_int_equal (close_image (), 0);
  assert_false (need_check ());
  assert_true (fake->length == AT_END + 2 * TABLES * CLUSTER);
  start_image ();
  for (i = 0; i < TABLES; i++) {
    expect_byte (i * TABLE_SPAN + 1024, i + 1);
    expect_byte (i * TABLE_SPAN, 0);
  }
  assert_int_equal (close_image (), 0);
}

/* ---- Two who want the same place ---- */

static int write_in_thread_result;

static void *
write_in_thread (void *arg)
{
  write_in_thread_result = write_byte (*(uint64_t *) arg, 1, 0);
  return NULL;
}

/* While one zeroes the cluster 'at' for its write at guest offset 0, another
 * writes at 'offset', which waits or is done first.  Both are there afterwards,
 * what one had reserved in vain is free, and nothing of the rubbish is seen.
 */
static void
race (uint64_t at, uint64_t offset, bool waits, uint64_t length)
{
  unsigned char rubbish[16 * CLUSTER];
  struct pending *other;
  uint64_t zero = 0;
  pthread_t thread;

  memset (rubbish, 0xee, sizeof rubbish);
  fake->length = AT_END + sizeof rubbish;
  fake_poke (fake, rubbish, sizeof rubbish, AT_END);
  start_image ();
  fake_rule_add (fake, FAKE_ZERO, at, at + CLUSTER, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, write_in_thread, &zero),
                    0);
  fake_wait_held (fake, 1);
  other = start_write (offset, 2);
  assert_int_equal (other->result, waits ? QED_WAIT : 0);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, other), 0);
  pthread_join (thread, NULL);
  assert_int_equal (write_in_thread_result, 0);
  expect_byte (0, 1);
  expect_byte (offset, 2);
  expect_byte (1024, 0);
  assert_int_equal (write_byte (2 * CLUSTER, 3, 0), 0);
  assert_int_equal (close_image (), 0);
  assert_true (fake->length == length);
  start_image ();
  assert_true (qed_writable (image));
  expect_byte (0, 1);
  expect_byte (offset, 2);
  expect_byte (2 * CLUSTER, 3);
  assert_int_equal (close_image (), 0);
}

static void
test_race_for_table (void **state)
{
  (void) state;
  race (TABLE, CLUSTER, true, AT_END + 4 * CLUSTER);
}

static void
test_race_for_cluster (void **state)
{
  (void) state;
  race (FIRST, 512, false, AT_END + 3 * CLUSTER);
}

/* ---- The scan ---- */

static int
find_vanishing_data (struct storage *s, uint64_t offset, uint64_t *start,
                     uint64_t *end)
{
  (void) s;
  *start = offset;
  *end = offset < TABLE ? TABLE : offset;
  return 0;
}

/* A page that the file system takes for data, and then for a hole, ends no
 * table: the clusters that it names are not handed out.
 */
static void
test_vanishing_data (void **state)
{
  const struct storage_ops *real = fake->storage.ops;
  static struct storage_ops ops;
  unsigned char data[CLUSTER];

  (void) state;
  memset (data, 7, sizeof data);
  fake->length = AT_END + 3 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, AT_L1 + 8, FIRST + CLUSTER);       /* behind the data */
  fake_poke64 (fake, TABLE, FIRST);
  fake_poke (fake, data, sizeof data, FIRST);
  ops = *real;
  ops.next_data = find_vanishing_data;
  fake->storage.ops = &ops;
  start_image ();
  assert_int_equal (write_byte (CLUSTER, 2, 0), 0);
  assert_int_equal (close_image (), 0);
  fake->storage.ops = real;
  start_image ();
  expect_byte (0, 7);
  expect_byte (CLUSTER, 2);
  assert_int_equal (close_image (), 0);
}

/* ---- The header ---- */

/* Unknown autoclear bits go, durably, before anything else. */
static void
test_autoclear (void **state)
{
  (void) state;
  format_image (0, 0x8001);
  fake_poke64 (fake, 256, 0x1122334455667788);  /* others' data */
  assert_int_equal (open_image (), 0);
  EXPECT_CALLS (HEADER, SYNC);
  assert_true (fake_peek64 (fake, FORMAT_AT_AUTOCLEAR) == 0);
  assert_true (fake_peek64 (fake, 256) == 0x1122334455667788);
  assert_int_equal (close_image (), 0);

  format_image (0, 0x8001);
  fake_rule_add (fake, FAKE_SYNC, 0, 1, -EIO, 1);
  assert_int_equal (open_image (), -EIO);
  assert_true (fake->closed);

  /* Not in a file that we only read. */
  format_image (0, 0x8001);
  fake->storage.read_only = true;
  fake_forget (fake);
  start_image ();
  assert_int_equal (close_image (), 0);
  assert_true (fake_peek64 (fake, FORMAT_AT_AUTOCLEAR) == 0x8001);
}

static void
make_dirty (void)
{
  format_image (QED_F_NEED_CHECK, 0);
  fake->length = AT_END + 4 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE, FIRST);
}

static void
wait_clean (void)
{
  while (need_check ())
    sched_yield ();
  assert_int_equal (sync_request (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
}

/* Not closed cleanly, but nothing is wrong: the tail goes, then the mark. */
static void
test_recover (void **state)
{
  (void) state;
  make_dirty ();
  assert_int_equal (open_image (), 0);
  fake_forget (fake);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  wait_clean ();
  EXPECT_CALLS (SYNC, SYNC, CUT (AT_END + 2 * CLUSTER), HEADER, SYNC, SYNC);
  assert_false (need_check ());
  assert_true (qed_writable (image));
  assert_int_equal (write_byte (0, 1, 0), 0);
  EXPECT_CALLS (DATA (FIRST));
  assert_int_equal (close_image (), 0);
}

/* Entries beyond the end are dropped, durably, before the mark goes. */
static void
test_recover_debris (void **state)
{
  (void) state;
  make_dirty ();
  fake_poke64 (fake, AT_L1 + 8, AT_END + 50 * CLUSTER);
  fake_poke64 (fake, TABLE + 16, AT_END + 60 * CLUSTER);
  assert_int_equal (open_image (), 0);
  fake_forget (fake);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  wait_clean ();
  /* What nothing names may be the dropped table's: nothing is cut. */
  EXPECT_CALLS (PAGE (TABLE), SYNC, L1_PAGE, SYNC, SYNC, HEADER, SYNC, SYNC);
  assert_true (fake_peek64 (fake, AT_L1) == TABLE);
  assert_true (fake_peek64 (fake, AT_L1 + 8) == 0);
  assert_true (fake_peek64 (fake, TABLE) == FIRST);
  assert_true (fake_peek64 (fake, TABLE + 16) == 0);
  assert_true (qed_writable (image));
  assert_int_equal (close_image (), 0);
}

/* If L1 was in order it is known what is free: the tail is cut. */
static void
test_recover_cuts (void **state)
{
  (void) state;
  make_dirty ();
  fake_poke64 (fake, TABLE + 16, AT_END + 60 * CLUSTER);
  assert_int_equal (open_image (), 0);
  fake_forget (fake);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  wait_clean ();
  EXPECT_CALLS (PAGE (TABLE), SYNC, SYNC,
                CUT (AT_END + 2 * CLUSTER), HEADER, SYNC, SYNC);
  assert_true (fake_peek64 (fake, TABLE + 16) == 0);
  assert_int_equal (close_image (), 0);
}

/* A cluster in two places: not for a server to decide. */
static void
test_recover_not (void **state)
{
  (void) state;
  make_dirty ();
  fake_poke64 (fake, TABLE + 8, FIRST);
  fake_poke64 (fake, TABLE + 16, AT_END + 60 * CLUSTER);
  start_image ();
  assert_false (qed_writable (image));
  assert_int_equal (write_byte (2 * TABLE_SPAN, 1, 0), -EROFS);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_RESIZE), 0);
  assert_true (need_check ());
}

/* Told not to check: served, but nothing is ever written. */
static void
test_need_check (void **state)
{
  (void) state;
  make_dirty ();
  fake_check = QED_CHECK_NEVER;
  start_image ();
  fake_check = QED_CHECK_AUTO;
  assert_false (qed_writable (image));
  expect_byte (0, 0);
  assert_int_equal (write_byte (0, 1, 0), -EROFS);
  assert_int_equal (write_byte (CLUSTER, 1, 0), -EROFS);
  assert_int_equal (flush_image (), 0);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_RESIZE), 0);
  assert_true (need_check ());
}

static void
test_refused (void **state)
{
  (void) state;
  format_image (QED_F_BACKING_FILE, 0);         /* without a name */
  assert_int_equal (open_image (), -EINVAL);
  assert_true (fake->closed);
  format_image (8, 0);
  assert_int_equal (open_image (), -ENOTSUP);
  fake_poke64 (fake, 0, 0);
  assert_int_equal (open_image (), -EINVAL);
  format_image (0, 0);
  fake_rule_add (fake, FAKE_READ, 0, 1, -EIO, 1);
  assert_int_equal (open_image (), -EIO);
  fake_rule_add (fake, FAKE_READ, AT_L1, AT_L1 + 1, -EIO, 1);
  assert_int_equal (open_image (), -EIO);
  assert_true (fake->closed);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_fresh),
    FAKE_IMAGE_TEST (test_fua),
    FAKE_IMAGE_TEST (test_used_before),
    FAKE_IMAGE_TEST (test_gap),
    FAKE_IMAGE_TEST (test_clean_stays_clean),
    FAKE_IMAGE_TEST (test_flush_together),
    FAKE_IMAGE_TEST (test_many_tables),
    FAKE_IMAGE_TEST (test_race_for_table),
    FAKE_IMAGE_TEST (test_race_for_cluster),
    FAKE_IMAGE_TEST (test_vanishing_data),
    FAKE_IMAGE_TEST (test_autoclear),
    FAKE_IMAGE_TEST (test_recover),
    FAKE_IMAGE_TEST (test_recover_debris),
    FAKE_IMAGE_TEST (test_recover_cuts),
    FAKE_IMAGE_TEST (test_recover_not),
    FAKE_IMAGE_TEST (test_need_check),
    FAKE_IMAGE_TEST (test_refused),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
