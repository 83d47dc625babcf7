/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Repairs by a server where things go wrong: the one at open is not come to, or
 * the entries that it drops lie at the end of the guest's disk, or the opening
 * scan has not seen everything.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "check.h"
#include "fake-image.h"

#define TABLE AT_END
#define FIRST (TABLE + CLUSTER)
#define BEYOND (UINT64_C (1) << 32)     /* the end of the file */

static void
make_dirty (void)
{
  format_image (QED_F_NEED_CHECK, 0);
  fake->length = AT_END + 2 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE, FIRST);
}

static void *
close_early (void *result)
{
  *(int *) result = qed_close (image);
  return NULL;
}

/* Closed before all tables were read: what they hold is not known. */
static void
test_closed_early (void **state)
{
  pthread_t thread;
  bool closing = false;
  int r;

  (void) state;
  make_dirty ();
  fake_poke64 (fake, TABLE + 8, BEYOND);
  fake_rule_add (fake, FAKE_READ, TABLE, TABLE + 1, 0, 1);
  assert_int_equal (open_image (), 0);
  assert_int_equal (qed_start (image), 0);
  fake_wait_held (fake, 1);
  assert_int_equal (pthread_create (&thread, NULL, close_early, &r), 0);
  while (!closing) {
    pthread_mutex_lock (&image->lock);
    closing = image->want_close;
    pthread_mutex_unlock (&image->lock);
    sched_yield ();
  }
  fake_let_go (fake);
  pthread_join (thread, NULL);
  assert_int_equal (r, 0);
  assert_true (fake->closed);
  assert_true (need_check ());
  assert_true (fake_peek64 (fake, TABLE + 8) == BEYOND);
}

/* The last page of the tables describes the end of the disk, and what would
 * be behind it: both kinds of entries are dropped.
 */
static void
test_end_of_disk (void **state)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 1, .header_size = 1,
    .features = QED_F_NEED_CHECK, .l1_table_offset = AT_L1,
    .image_size = 3 * CLUSTER,
  };

  (void) state;
  make_dirty ();
  fake_format (fake, &header);
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE + 8, BEYOND);
  fake_poke64 (fake, TABLE + 8 * 100, BEYOND);
  start_image ();
  assert_int_equal (sync_request (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
  assert_false (need_check ());
  assert_true (fake_peek64 (fake, TABLE) == FIRST);
  assert_true (fake_peek64 (fake, TABLE + 8) == 0);
  assert_true (fake_peek64 (fake, TABLE + 8 * 100) == 0);
  assert_int_equal (write_byte (CLUSTER, 1, 0), 0);
  assert_int_equal (close_image (), 0);
  assert_true (fake_peek64 (fake, TABLE) == FIRST);
  assert_true (fake_peek64 (fake, TABLE + 8) != 0);
  assert_true (fake_peek64 (fake, TABLE + 8 * 100) == 0);
}

/* The scan could not read a table, a check can: the repair makes the image
 * writable, and what the table names is not free.
 */
static void
test_read_again (void **state)
{
  struct qed_check_options options;
  struct qed_check_result result;
  const unsigned char data[] = { 7, 7, 7, 7 };

  (void) state;
  make_dirty ();
  format_image (0, 0);
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, AT_L1 + 8, FIRST + CLUSTER);
  fake->length = FIRST + 3 * CLUSTER;
  fake_poke (fake, data, sizeof data, FIRST);
  fake_rule_add (fake, FAKE_READ, TABLE, TABLE + 1, -EIO, 2);
  start_image ();
  assert_false (qed_writable (image));
  fake_drop_rules (fake);
  qed_check_options_init (&options);
  options.repair = QED_REPAIR_ALL;
  assert_int_equal (qed_check_online (image, &options, &result), 0);
  assert_int_equal (qed_check_exit_code (0, &result), 0);
  assert_true (qed_writable (image));
  assert_int_equal (write_byte (CLUSTER, 1, 0), 0);
  assert_int_equal (close_image (), 0);
  assert_true (fake_peek64 (fake, TABLE) == FIRST);
  assert_true (fake_peek64 (fake, TABLE + 8) != FIRST);
  assert_true (fake_peek64 (fake, FIRST) == 0x07070707);
}

/* Between what is in use, and behind it. */
static void
make_leaks (void)
{
  const unsigned char data[] = { 7, 7, 7, 7 };

  make_dirty ();
  fake->length = FIRST + 4 * CLUSTER;
  fake_poke64 (fake, TABLE + 8, FIRST + 2 * CLUSTER);
  fake_poke (fake, data, sizeof data, FIRST + CLUSTER);
  fake_poke (fake, data, sizeof data, FIRST + 2 * CLUSTER);
  fake_poke (fake, data, sizeof data, FIRST + 3 * CLUSTER);
}

/* What leaked is punched and used again, the tail is cut. */
static void
test_leaks (void **state)
{
  (void) state;
  make_leaks ();
  fake_poke64 (fake, TABLE + 16, BEYOND);
  start_image ();
  assert_int_equal (sync_request (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
  assert_false (need_check ());
  assert_true (fake_peek64 (fake, TABLE + 16) == 0);
  assert_true (fake_peek64 (fake, FIRST + CLUSTER) == 0);
  assert_true (fake_peek64 (fake, FIRST + 2 * CLUSTER) == 0x07070707);
  assert_true (fake->length == FIRST + 3 * CLUSTER);
  assert_int_equal (write_byte (5 * CLUSTER, 1, 0), 0);
  assert_int_equal (close_image (), 0);
  assert_true (fake_peek64 (fake, TABLE + 8 * 5) == FIRST + CLUSTER);
}

/* But where an entry of L1 was dropped nobody knows whose it was. */
static void
test_orphans (void **state)
{
  (void) state;
  make_leaks ();
  fake_poke64 (fake, AT_L1 + 8, BEYOND);
  start_image ();
  assert_int_equal (sync_request (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
  assert_false (need_check ());
  assert_true (fake_peek64 (fake, AT_L1 + 8) == 0);
  assert_int_equal (write_byte (5 * CLUSTER, 1, 0), 0);
  assert_int_equal (close_image (), 0);
  assert_true (fake_peek64 (fake, FIRST + CLUSTER) == 0x07070707);
  assert_true (fake_peek64 (fake, FIRST + 3 * CLUSTER) == 0x07070707);
  assert_true (fake_peek64 (fake, TABLE + 8 * 5) >= FIRST + 4 * CLUSTER);
}

/* More pages have to change than the cache holds: it goes on in turns. */
static void
test_small_cache (void **state)
{
  unsigned i;

  (void) state;
  format_image (QED_F_NEED_CHECK, 0);
  fake->length = TABLE + TABLES * CLUSTER;
  for (i = 0; i < TABLES; i++) {
    fake_poke64 (fake, AT_L1 + i * 8, TABLE + i * CLUSTER);
    fake_poke64 (fake, TABLE + i * CLUSTER + 8, BEYOND + i * CLUSTER);
  }
  start_image ();
  assert_int_equal (sync_request (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
  for (i = 0; i < TABLES; i++)
    assert_true (fake_peek64 (fake, TABLE + i * CLUSTER + 8) == 0);
  assert_int_equal (close_image (), 0);
  assert_false (need_check ());
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_closed_early),
    FAKE_IMAGE_TEST (test_end_of_disk),
    FAKE_IMAGE_TEST (test_read_again),
    FAKE_IMAGE_TEST (test_leaks),
    FAKE_IMAGE_TEST (test_orphans),
    FAKE_IMAGE_TEST (test_small_cache),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
