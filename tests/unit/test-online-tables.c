/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The repair of L1 and of whole tables while the image is in use: four threads
 * read, write, trim and flush, with a backing file and without.  What could be
 * read stays as it is all the time, what is dropped reads as if it had never
 * been written, writes are refused until the repair has ended, and then go on
 * without a reopen.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "sync-request.h"
#include "used-image.h"

/* ---- Check and repair ---- */

static unsigned counts[QED_PROBLEM_CODES];

static void
found (void *opaque, const struct qed_problem *problem)
{
  char text[QED_PROBLEM_TEXT_SIZE];

  (void) opaque;
  counts[problem->code]++;
  qed_problem_to_text (problem, text);
  if (getenv ("QED_TEST_LOG"))
    fprintf (stderr, "%s\n", text);
}

static void
fixed (void *opaque, const struct qed_problem *problem, const char *action)
{
  (void) opaque;
  (void) problem;
  if (getenv ("QED_TEST_LOG"))
    fprintf (stderr, "  %s\n", action);
}

static void
check (enum qed_repair repair, struct qed_check_result *result)
{
  struct qed_check_options options;

  memset (counts, 0, sizeof counts);
  qed_check_options_init (&options);
  options.repair = repair;
  options.found = found;
  options.fixed = fixed;
  assert_int_equal (qed_check_online (image, &options, result), 0);
}

static int
check_closed (void)
{
  struct qed_check_options check_options;
  struct qed_check_result result;
  struct qed_options options;
  int r;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = log_quietly;
  qed_check_options_init (&check_options);
  r = qed_check (&options, &check_options, &result);
  return qed_check_exit_code (r, &result);
}

/* What was written is there when the image is opened anew. */
static void
expect_own (void)
{
  unsigned i;
  uint64_t n;

  open_image ();
  for (i = 0; i < THREADS; i++)
    for (n = 0; n < OWN_CLUSTERS; n++)
      read_own (&workers[i], n);
  assert_int_equal (failures, 0);
  assert_int_equal (qed_close (image), 0);
}

/* Repair what was planted, and use the image before, meanwhile and after;
 * whether there are orphans, which stay until they are asked for.
 */
static void
repair_in_use (enum qed_problem_code code, bool orphans)
{
  struct qed_check_result result;
  unsigned i;

  atomic_store (&phase, DAMAGED);
  start_workers ();
  for (i = 0; i < 1000 && atomic_load (&refused) == 0; i++)
    usleep (10000);
  check (QED_REPAIR_ALL, &result);
  atomic_store (&phase, REPAIRED);
  assert_int_equal (counts[code], 1);
  assert_int_equal (result.corruptions, 0);
  assert_true (result.corruptions_fixed > 0);
  assert_int_equal (result.leaks > 0, orphans);
  assert_true (refused > 0);
  assert_true (qed_writable (image));
  check (QED_REPAIR_ALL, &result);
  assert_int_equal (result.corruptions, 0);
  stop_workers ();

  check (QED_REPAIR_NONE, &result);
  assert_int_equal (result.leaks, 0);   /* the second one has given it back */
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (check_closed (), 0);
  expect_own ();
}

/* ---- Damage that was there before ---- */

static void
plant_l1 (uint64_t value)
{
  may_lose = true;
  twin = false;
  poke (L1 + HURT * 8, value, 8);
}

static void
test_l1 (bool over_base)
{
  const struct {
    enum qed_problem_code code;
    uint64_t value;
  } cases[] = {
    { QED_PROBLEM_L1_PAST_END, UINT64_C (1) << 40 },
    { QED_PROBLEM_L1_MISALIGNED, 4 * CLUSTER + 4096 },
    { QED_PROBLEM_L1_RESERVED_BITS, 0x12345 },
    { QED_PROBLEM_L1_INTO_HEADER, CLUSTER },
  };
  unsigned i;

  for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    make_image (1, over_base);
    plant_l1 (cases[i].value);
    open_image ();
    repair_in_use (cases[i].code, true);
    assert_true (peek (L1 + HURT * 8) == 0);
  }
}

static void
test_l1_alone (void **state)
{
  (void) state;
  test_l1 (false);
}

static void
test_l1_over_base (void **state)
{
  (void) state;
  test_l1 (true);
}

/* Half a table at the end of the file: what is there stays. */
static void
test_truncated (void **state)
{
  uint64_t data, table;
  unsigned char buf[CLUSTER];

  (void) state;
  may_lose = twin = false;
  make_image (2, false);
  data = append_data (0xd1);
  table = append (1);
  poke (table + 5 * 8, data, 8);
  poke (L1 + SPARE * 8, table, 8);
  open_image ();
  repair_in_use (QED_PROBLEM_TABLE_TRUNCATED, true);
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 5), 0), 0);
  assert_int_equal (buf[0], 0xd1);
  assert_int_equal (qed_close (image), 0);
}

/* Both places read as they did; afterwards each can be written to alone. */
static void
test_shared (bool over_base)
{
  unsigned char buf[CLUSTER] = { 0x99 };

  may_lose = false;
  twin = true;
  make_image (1, over_base);
  poke (L1 + SPARE * 8, table_at (HURT), 8);
  open_image ();
  repair_in_use (QED_PROBLEM_TABLE_SHARED, false);
  assert_true (table_at (SPARE) != table_at (HURT));
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, 1,
                                  guest (HURT, 0), QED_FUA), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 0), 0), 0);
  assert_int_equal (buf[0], content (HURT, 0));
  assert_int_equal (qed_close (image), 0);
}

static void
test_shared_alone (void **state)
{
  (void) state;
  test_shared (false);
}

static void
test_shared_over_base (void **state)
{
  (void) state;
  test_shared (true);
}

/* An entry is wrong in a table that is shared: the pages by which the other
 * place is looked up must not outlive that.
 */
static void
test_shared_and_wrong (void **state)
{
  struct qed_check_result result;
  unsigned char buf[CLUSTER];

  (void) state;
  may_lose = false;
  twin = true;
  make_image (1, false);
  poke (L1 + SPARE * 8, table_at (HURT), 8);
  poke (table_at (HURT) + 100 * 8, 0x12345, 8);
  poke (table_at (HURT) + 101 * 8, UINT64_C (1) << 40, 8);
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 100), 0), -EIO);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (HURT, 100), 0), -EIO);
  repair_in_use (QED_PROBLEM_TABLE_SHARED, false);
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 100), 0), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 101), 0), 0);
  check (QED_REPAIR_NONE, &result);
  assert_int_equal (result.corruptions, 0);
  assert_int_equal (qed_close (image), 0);
}

/* Two tables with a cluster in common. */
static void
test_overlap (void **state)
{
  uint64_t data[3], first;
  unsigned char buf[CLUSTER];
  unsigned i;

  (void) state;
  may_lose = twin = false;
  make_image (2, false);
  for (i = 0; i < 3; i++)
    data[i] = append_data ((unsigned char) (0xd0 + i));
  first = append (3);
  for (i = 0; i < 3; i++)
    poke (first + i * CLUSTER, data[i], 8);
  poke (first + 2 * CLUSTER + 8, UINT64_C (1) << 40, 8);
  poke (L1 + SPARE * 8, first, 8);
  poke (L1 + (SPARE + 1) * 8, first + CLUSTER, 8);
  open_image ();
  repair_in_use (QED_PROBLEM_TABLE_OVERLAP, true);
  open_image ();
  for (i = 0; i < 4; i++) {
    assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                    guest (SPARE, i * PER_CLUSTER), 0), 0);
    assert_int_equal (buf[0], i < 2 ? 0xd0 + i : 0xd0 + i - 1);
  }
  assert_int_equal (qed_close (image), 0);
}

/* A table that is another one's data. */
static void
test_data (void **state)
{
  uint64_t table, data;

  (void) state;
  may_lose = twin = false;
  make_image (1, false);
  table = table_at (HURT);
  data = peek (table);
  poke (L1 + SPARE * 8, data, 8);
  open_image ();
  may_fail = true;
  repair_in_use (QED_PROBLEM_ENTRY_INTO_TABLE, false);
  may_fail = false;
  assert_true (table_at (SPARE) == 0);
  assert_true (peek (table) == data);
}

/* ---- Damage that comes while the image is written to ---- */

/* Of a page of L1 that no one has looked at. */
static void
test_later (void **state)
{
  const uint64_t at = L1 + 8 * (5 * 512 + 7);
  struct qed_check_result result;
  unsigned i;

  (void) state;
  may_lose = twin = false;
  for (i = 0; i < 4; i++) {
    make_image (16, false);
    open_image ();
    atomic_store (&phase, SOUND);
    start_workers ();
    check (QED_REPAIR_ALL, &result);
    assert_int_equal (result.corruptions, 0);
    assert_int_equal (refused, 0);
    may_fail = i == 3;          /* it would be within a table */
    atomic_store (&phase, DAMAGED);
    poke (at, i == 0 ? UINT64_C (1) << 40 : i == 1 ? 0x12345
          : i == 2 ? table_at (HURT) : table_at (HURT) + CLUSTER, 8);
    check (QED_REPAIR_ALL, &result);
    atomic_store (&phase, REPAIRED);
    assert_int_equal (result.corruptions, 0);
    assert_true (result.corruptions_fixed > 0);
    stop_workers ();
    check (QED_REPAIR_ALL, &result);
    assert_int_equal (result.leaks, 0);
    assert_int_equal (qed_close (image), 0);
    assert_int_equal (check_closed (), 0);
    expect_own ();
  }
  may_fail = false;
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_l1_alone),
    cmocka_unit_test (test_l1_over_base),
    cmocka_unit_test (test_truncated),
    cmocka_unit_test (test_shared_alone),
    cmocka_unit_test (test_shared_over_base),
    cmocka_unit_test (test_shared_and_wrong),
    cmocka_unit_test (test_overlap),
    cmocka_unit_test (test_data),
    cmocka_unit_test (test_later),
  };

  return cmocka_run_group_tests (tests, used_setup, used_teardown);
}
