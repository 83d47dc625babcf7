/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image whose storage fails, call by call: who is told, what goes on, what
 * is still there afterwards.
 */

#include <errno.h>
#include <stdlib.h>

#include "fake-image.h"

#define TABLE AT_END
#define FIRST (AT_END + CLUSTER)
#define SECOND (AT_END + 2 * CLUSTER)

/* ---- Syncs (O8) ---- */

/* Nothing is reported durable any more, even if syncs work again; reads go
 * on; nothing more is written.
 */
static void
expect_failed (void)
{
  bool marked = need_check ();

  fake_drop_rules (fake);
  fake_forget (fake);
  assert_false (qed_writable (image));
  assert_int_equal (flush_image (), -EIO);
  assert_int_equal (write_byte (0, 9, 0), -EIO);
  assert_int_equal (write_byte (TABLE_SPAN, 9, QED_FUA), -EIO);
  assert_int_equal (read_result (0), 0);
  assert_int_equal (flush_image (), -EIO);
  assert_true (qed_close (image) < 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_SYNC), 0);
  assert_int_equal (fake_calls (fake, FAKE_RESIZE), 0);
  assert_int_equal (need_check (), marked);
}

/* The n-th sync of a flush of a new table (there are two). */
static void
flush_sync_fails (unsigned n)
{
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add_full (fake, (struct fake_rule) {
      .op = FAKE_SYNC, .to = 1, .error = -EIO, .times = 1, .skip = n });
  assert_int_equal (flush_image (), -EIO);
  expect_byte (0, 1);
  assert_true (need_check ());
  expect_failed ();
}

static void
test_first_sync_fails (void **state)
{
  (void) state;
  flush_sync_fails (0);
}

static void
test_last_sync_fails (void **state)
{
  (void) state;
  flush_sync_fails (1);
}

/* ENOSPC from a sync is no better. */
static void
test_fua_sync_fails (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, QED_FUA), 0);
  fake_rule_add (fake, FAKE_SYNC, 0, 1, -ENOSPC, 1);
  assert_true (write_byte (0, 2, QED_FUA) < 0);
  expect_failed ();
}

static void
test_mark_sync_fails (void **state)
{
  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_SYNC, 0, 1, -EIO, 1);
  assert_int_equal (write_byte (0, 1, 0), -EIO);
  expect_failed ();
}

/* Who waits for the next flush is told as well. */
static void
test_sync_fails_for_all (void **state)
{
  struct pending *flushes[3], *write;
  unsigned i;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_SYNC, 0, 1, 0, 1);
  flushes[0] = start_flush ();
  fake_wait_held (fake, 1);
  flushes[1] = start_flush ();
  flushes[2] = start_flush ();
  write = start_write (0, 1);
  assert_int_equal (write->result, QED_WAIT);
  fake_rule_add (fake, FAKE_SYNC, 0, 1, -EIO, 1);
  fake_let_go (fake);
  for (i = 0; i < 3; i++)
    assert_int_equal (pending_finish (image, flushes[i]), -EIO);
  assert_int_equal (pending_finish (image, write), -EIO);
  expect_failed ();
}

/* At the end: the caller learns it. */
static void
test_close_sync_fails (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, QED_FUA), 0);
  fake_rule_add (fake, FAKE_SYNC, 0, 1, -EIO, 1);
  assert_true (close_image () < 0);
  assert_true (need_check ());

  /* Of an image that was only written in place. */
  fake_drop_rules (fake);
  format_image (0, 0);
  start_image ();
  assert_int_equal (write_byte (0, 2, 0), 0);
  fake_rule_add (fake, FAKE_SYNC, 0, 1, -EIO, 1);
  assert_true (close_image () < 0);
}

/* ---- Writing tables ---- */

/* The flush fails, the page stays dirty, and the next flush writes it. */
static void
page_write_fails (uint64_t at, bool fua)
{
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_WRITE, at, at + CLUSTER, -EIO, 2);
  assert_int_equal (flush_image (), -EIO);
  if (fua)
    assert_int_equal (write_byte (512, 2, QED_FUA), -EIO);
  else
    assert_int_equal (flush_image (), -EIO);
  assert_true (qed_writable (image));
  expect_byte (0, 1);
  assert_true (fake_peek64 (fake, AT_L1) == 0);
  assert_int_equal (write_byte (CLUSTER, 3, 0), 0);
  assert_int_equal (flush_image (), 0);
  assert_true (fake_peek64 (fake, AT_L1) == TABLE);
  assert_true (fake_peek64 (fake, TABLE) == FIRST);
  assert_true (fake_peek64 (fake, TABLE + 8) == SECOND);
  assert_int_equal (close_image (), 0);
  assert_false (need_check ());
}

static void
test_l2_write_fails (void **state)
{
  (void) state;
  page_write_fails (TABLE, false);
}

static void
test_l1_write_fails (void **state)
{
  (void) state;
  page_write_fails (AT_L1, true);
}

/* Changes wait for a write-back when too much is dirty; if that fails they
 * fail, and later all goes on.
 */
static void
test_pressure (void **state)
{
  unsigned i, failures = 0;

  (void) state;
  start_image ();
  fake_rule_add_full (fake, (struct fake_rule) {
      .op = FAKE_WRITE, .to = UINT64_MAX, .error = -ENOSPC,
      .times = FAKE_ALWAYS, .at_least = 4096 });
  for (i = 0; i < TABLES; i++)
    if (write_byte (i * TABLE_SPAN, i + 1, 0) == -ENOSPC)
      failures++;
    else
      expect_byte (i * TABLE_SPAN, i + 1);
  assert_in_range (failures, TABLES / 2, TABLES - 8);
  fake_drop_rules (fake);
  for (i = 0; i < TABLES; i++)
    assert_int_equal (write_byte (i * TABLE_SPAN, i + 1, 0), 0);
  assert_int_equal (flush_image (), 0);
  for (i = 0; i < TABLES; i++)
    expect_byte (i * TABLE_SPAN, i + 1);
  assert_int_equal (close_image (), 0);
}

/* At the end nothing can be written: NEED_CHECK stays. */
static void
test_close_write_fails (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_WRITE, TABLE, FIRST, -EIO, FAKE_ALWAYS);
  assert_true (close_image () < 0);
  assert_true (need_check ());
}

static void
test_clear_fails (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_WRITE, 0, 512, -EIO, 1);
  assert_true (close_image () < 0);
  assert_true (need_check ());
  assert_true (fake_peek64 (fake, TABLE) == FIRST);
}

/* ---- Data and space ---- */

static void
test_no_space_to_grow (void **state)
{
  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_RESIZE, 0, UINT64_MAX, -ENOSPC, FAKE_ALWAYS);
  assert_int_equal (write_byte (0, 1, 0), -ENOSPC);
  expect_byte (0, 0);
  assert_int_equal (flush_image (), 0);
  fake_drop_rules (fake);
  assert_int_equal (write_byte (0, 1, 0), 0);
  expect_byte (0, 1);
  assert_int_equal (close_image (), 0);
  assert_false (need_check ());
  assert_true (fake->length == AT_END + 2 * CLUSTER);
}

/* One request, no other; its cluster is there and holds zeros. */
static void
test_data_write_fails (void **state)
{
  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_WRITE, FIRST, SECOND, -ENOSPC, 1);
  assert_int_equal (write_byte (0, 1, 0), -ENOSPC);
  expect_byte (0, 0);
  assert_int_equal (write_byte (CLUSTER, 2, 0), 0);
  assert_int_equal (write_byte (512, 3, 0), 0);
  assert_int_equal (flush_image (), 0);
  expect_byte (0, 0);
  expect_byte (512, 3);
  expect_byte (CLUSTER, 2);
  assert_int_equal (close_image (), 0);
}

static void
test_data_read_fails (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_READ, FIRST, SECOND, -EIO, 1);
  assert_int_equal (read_result (0), -EIO);
  expect_byte (0, 1);
  assert_int_equal (close_image (), 0);
}

/* A used cluster that can't be zeroed fails one request, not each one after
 * it, and shows nothing of what it held.
 */
static void
test_zero_fails (void **state)
{
  (void) state;
  fake->length = AT_END + 8 * CLUSTER;
  fake_poke64 (fake, FIRST, UINT64_MAX);
  start_image ();
  fake_rule_add (fake, FAKE_ZERO, FIRST, SECOND, -EIO, FAKE_ALWAYS);
  assert_int_equal (write_byte (0, 1, 0), -EIO);
  expect_byte (0, 0);
  assert_int_equal (write_byte (0, 1, 0), 0);
  assert_int_equal (write_byte (CLUSTER, 2, 0), 0);
  expect_byte (0, 1);
  assert_int_equal (close_image (), 0);
}

/* ---- Reading tables ---- */

static void
test_table_read_fails (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  assert_int_equal (close_image (), 0);
  start_image ();
  fake_rule_add (fake, FAKE_READ, AT_L1, AT_END, -EIO, 1);
  fake_rule_add (fake, FAKE_READ, TABLE, FIRST, -EIO, 2);
  assert_int_equal (read_result (0), -EIO);
  assert_int_equal (read_result (0), -EIO);
  assert_int_equal (write_byte (512, 2, 0), -EIO);
  assert_true (qed_writable (image));
  assert_int_equal (write_byte (512, 2, 0), 0);
  expect_byte (0, 1);
  expect_byte (512, 2);
  assert_int_equal (close_image (), 0);
}

/* A table that the scan can't read may name anything: no changes. */
static void
scan_fails (uint64_t at)
{
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  assert_int_equal (close_image (), 0);
  assert_int_equal (open_image (), 0);
  fake_rule_add (fake, FAKE_READ, at, at + CLUSTER, -EIO, 1);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  fake_forget (fake);
  expect_byte (0, 1);
  assert_int_equal (write_byte (CLUSTER, 2, 0), -EROFS);
  assert_false (qed_writable (image));
  assert_int_equal (flush_image (), 0);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_RESIZE), 0);
}

static void
test_scan_l1_fails (void **state)
{
  (void) state;
  scan_fails (AT_L1);
}

static void
test_scan_l2_fails (void **state)
{
  (void) state;
  scan_fails (TABLE);
}

/* ---- NEED_CHECK ---- */

/* The update that fails takes with it those who waited for it, and no one
 * else.
 */
static void
test_mark_fails (void **state)
{
  struct pending *flush, *writes[3];
  unsigned i;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_SYNC, 0, 1, 0, 1);
  flush = start_flush ();       /* keeps the loop busy */
  fake_wait_held (fake, 1);
  for (i = 0; i < 3; i++) {
    writes[i] = start_write (i * TABLE_SPAN, i + 1);
    assert_int_equal (writes[i]->result, QED_WAIT);
  }
  expect_byte (0, 0);           /* who only reads doesn't wait */
  fake_rule_add (fake, FAKE_WRITE, 0, 512, -EIO, 1);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, flush), 0);
  for (i = 0; i < 3; i++)
    assert_int_equal (pending_finish (image, writes[i]), -EIO);
  assert_false (need_check ());
  assert_true (qed_writable (image));
  expect_byte (0, 0);
  assert_int_equal (write_byte (0, 1, 0), 0);
  assert_true (need_check ());
  assert_int_equal (close_image (), 0);
}

/* All who come while the header is marked wait for that, and none longer. */
static void
test_mark_together (void **state)
{
  struct pending *writes[20];
  unsigned i;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_SYNC, 0, 1, 0, 1);
  for (i = 0; i < 20; i++)
    writes[i] = start_write (i * TABLE_SPAN, i + 1);
  fake_wait_held (fake, 1);
  fake_let_go (fake);
  for (i = 0; i < 20; i++) {
    assert_int_equal (pending_finish (image, writes[i]), 0);
    expect_byte (i * TABLE_SPAN, i + 1);
  }
  assert_int_equal (fake_calls (fake, FAKE_SYNC), 1);
  assert_int_equal (close_image (), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_first_sync_fails),
    FAKE_IMAGE_TEST (test_last_sync_fails),
    FAKE_IMAGE_TEST (test_fua_sync_fails),
    FAKE_IMAGE_TEST (test_mark_sync_fails),
    FAKE_IMAGE_TEST (test_sync_fails_for_all),
    FAKE_IMAGE_TEST (test_close_sync_fails),
    FAKE_IMAGE_TEST (test_l2_write_fails),
    FAKE_IMAGE_TEST (test_l1_write_fails),
    FAKE_IMAGE_TEST (test_pressure),
    FAKE_IMAGE_TEST (test_close_write_fails),
    FAKE_IMAGE_TEST (test_clear_fails),
    FAKE_IMAGE_TEST (test_no_space_to_grow),
    FAKE_IMAGE_TEST (test_data_write_fails),
    FAKE_IMAGE_TEST (test_data_read_fails),
    FAKE_IMAGE_TEST (test_zero_fails),
    FAKE_IMAGE_TEST (test_table_read_fails),
    FAKE_IMAGE_TEST (test_scan_l1_fails),
    FAKE_IMAGE_TEST (test_scan_l2_fails),
    FAKE_IMAGE_TEST (test_mark_fails),
    FAKE_IMAGE_TEST (test_mark_together),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
