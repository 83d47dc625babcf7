/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* How a check of an image in use is asked for: without anyone to tell, of an
 * image that can't be written to, two at a time, of its data too, with a table
 * that can't be read, ended by who is told of its progress.
 */

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "fake-image.h"

#define TABLE AT_END
#define FIRST (TABLE + CLUSTER)

static struct qed_check_options check;
static struct qed_check_result result;
static unsigned problems;

static void
found (void *opaque, const struct qed_problem *problem)
{
  (void) opaque;
  (void) problem;
  problems++;
}

/* A table with clusters 0 and 1 of the disk, and one that leaks. */
static int
setup (void **state)
{
  unsigned char buf[CLUSTER];
  unsigned i;

  if (fake_image_setup (state) != 0)
    return -1;
  fake->length = FIRST + 3 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  memset (buf, 7, sizeof buf);
  for (i = 0; i < 3; i++)
    fake_poke (fake, buf, sizeof buf, FIRST + i * CLUSTER);
  fake_poke64 (fake, TABLE, FIRST);
  fake_poke64 (fake, TABLE + 16, FIRST + 2 * CLUSTER);
  qed_check_options_init (&check);
  check.found = found;
  problems = 0;
  return 0;
}

/* After the image was opened. */
static void
damage (void)
{
  fake_poke64 (fake, TABLE + 24, 12345);
}

static int
run (void)
{
  return qed_check_online (image, &check, &result);
}

/* ---- Who is told ------------------------------------------------------- */

static void
test_nobody_told (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (run (), 0);
  assert_int_equal (result.leaks, 1);
  assert_int_equal (problems, 1);
  damage ();
  check.found = NULL;
  assert_int_equal (run (), 0);
  assert_int_equal (result.corruptions, 1);
  assert_int_equal (problems, 1);
  assert_false (qed_writable (image));
  assert_int_equal (close_image (), 0);
}

static unsigned steps, stop_at;

static int
stop (void *opaque, uint64_t done, uint64_t total)
{
  (void) opaque;
  assert_in_range (done, 0, total);
  return ++steps == stop_at;
}

static void
test_ended (void **state)
{
  int r = -ECANCELED;

  (void) state;
  start_image ();
  check.progress.fn = stop;
  check.data = true;
  for (stop_at = 1; r == -ECANCELED; stop_at++) {
    steps = 0;
    r = run ();
    assert_int_equal (r, steps == stop_at ? -ECANCELED : 0);
    assert_true (qed_writable (image));
  }
  assert_in_range (stop_at, 3, 1000);
  check.progress.fn = NULL;
  assert_int_equal (run (), 0);
  assert_int_equal (result.leaks, 1);
  assert_int_equal (close_image (), 0);
}

/* ---- What is possible -------------------------------------------------- */

static void
test_read_only (void **state)
{
  (void) state;
  fake->storage.read_only = true;
  start_image ();
  check.repair = QED_REPAIR_ALL;
  assert_int_equal (run (), -EROFS);
  check.repair = QED_REPAIR_NONE;
  assert_int_equal (run (), 0);
  assert_int_equal (close_image (), 0);
}

static void *
run_in_thread (void *r)
{
  *(int *) r = run ();
  return NULL;
}

/* A check begins when the opening scan has ended. */
static void
test_during_scan (void **state)
{
  pthread_t thread;
  unsigned held;
  int r = 1;

  (void) state;
  assert_int_equal (open_image (), 0);
  fake_rule_add (fake, FAKE_READ, TABLE, FIRST, 0, 1);
  assert_int_equal (qed_start (image), 0);
  fake_wait_held (fake, 1);
  check.repair = QED_REPAIR_LEAKS;
  assert_int_equal (pthread_create (&thread, NULL, run_in_thread, &r), 0);
  usleep (100000);
  pthread_mutex_lock (&fake->lock);
  held = fake->held;
  pthread_mutex_unlock (&fake->lock);
  fake_let_go (fake);
  pthread_join (thread, NULL);
  assert_int_equal (held, 1);
  assert_int_equal (r, 0);
  assert_int_equal (problems, 1);
  assert_true (qed_writable (image));
  assert_int_equal (close_image (), 0);
}

static void *
run_first (void *r)
{
  struct qed_check_options first = check;
  struct qed_check_result of_first;

  *(int *) r = qed_check_online (image, &first, &of_first);
  return NULL;
}

static void
test_two (void **state)
{
  pthread_t thread;
  int r = 1;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_READ, TABLE, TABLE + 1, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, run_first, &r), 0);
  fake_wait_held (fake, 1);
  assert_int_equal (run (), -EBUSY);
  fake_let_go (fake);
  assert_int_equal (pthread_join (thread, NULL), 0);
  assert_int_equal (r, 0);
  assert_int_equal (run (), 0);
  assert_int_equal (close_image (), 0);
}

/* ---- What can't be read ------------------------------------------------ */

static void
test_unreadable (void **state)
{
  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_READ, TABLE, TABLE + 1, -EIO, FAKE_ALWAYS);
  assert_int_equal (run (), 0);
  assert_int_equal (result.errors, 1);
  assert_int_equal (result.leaks, 0);   /* nobody knows */
  fake_drop_rules (fake);
  assert_int_equal (run (), 0);
  assert_int_equal (result.leaks, 1);
  assert_int_equal (close_image (), 0);
}

/* What memory has of a table whose beginning is a hole of the file counts, even
 * if what lies behind the hole can't be read.
 */
static void
test_unreadable_behind_hole (void **state)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 4, .header_size = 1,
    .l1_table_offset = CLUSTER, .image_size = 4096 * CLUSTER,
  };
  const uint64_t table = 5 * CLUSTER, behind = table + 2 * PAGE_BYTES;

  (void) state;
  qed_check_options_init (&check);
  fake_format (fake, &header);
  fake->sparse = true;
  fake->length = 10 * CLUSTER;
  fake_poke64 (fake, CLUSTER, table);
  fake_poke64 (fake, behind, 9 * CLUSTER);
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_READ, behind, behind + 1, -EIO, FAKE_ALWAYS);
  assert_int_equal (run (), 0);
  assert_int_equal (result.errors, 1);
  assert_int_equal (result.allocated_clusters, 1);
  fake_drop_rules (fake);
  assert_int_equal (close_image (), 0);
}

/* Data that can't be read is told, and no reason to repair tables. */
static void
test_data (void **state)
{
  (void) state;
  start_image ();
  check.data = true;
  fake_rule_add (fake, FAKE_READ, FIRST, FIRST + 1, -EIO, FAKE_ALWAYS);
  assert_int_equal (run (), 0);
  assert_int_equal (result.errors, 1);
  assert_int_equal (problems, 2);
  check.found = NULL;
  assert_int_equal (run (), 0);
  assert_int_equal (result.errors, 1);
  check.found = found;
  check.repair = QED_REPAIR_ALL;
  assert_int_equal (run (), 0);
  assert_int_equal (result.leaks, 0);
  fake_drop_rules (fake);
  assert_int_equal (run (), 0);
  assert_int_equal (result.errors, 0);
  assert_true (qed_writable (image));
  assert_int_equal (close_image (), 0);
}

#define TEST(f) \
  cmocka_unit_test_setup_teardown (f, setup, fake_image_teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_nobody_told),
    TEST (test_ended),
    TEST (test_read_only),
    TEST (test_during_scan),
    TEST (test_two),
    TEST (test_unreadable),
    FAKE_IMAGE_TEST (test_unreadable_behind_hole),
    TEST (test_data),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
