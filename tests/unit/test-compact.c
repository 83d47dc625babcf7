/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Closing the gaps where a cluster of data can't be read: it stays, the others
 * are moved.  And storage that is full: a repair takes the gaps for its copies,
 * and a check that keeps freed clusters from being used again gives way.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fake-image.h"
#include "repair.h"

#define TABLE AT_END
#define AT(n) (AT_END + (n) * CLUSTER)

static void
fill (uint64_t offset, unsigned char byte)
{
  unsigned char buf[CLUSTER];

  memset (buf, byte, sizeof buf);
  fake_poke (fake, buf, sizeof buf, offset);
}

static void
open_examined (void)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = "fake";
  options.examine = true;
  options.clean_after = 0;
  options.log.fn = log_quietly;
  assert_int_equal (image_open_storage (&options, &fake->storage, &image), 0);
  assert_int_equal (qed_start (image), 0);
}

static int
repair (void)
{
  struct qed_check_options check;
  struct qed_check_result result;
  struct look look = { .options = &check };
  int r;

  qed_check_options_init (&check);
  check.repair = QED_REPAIR_ALL;
  memset (&result, 0, sizeof result);
  open_examined ();
  look.image = image;
  look.space = &image->space;
  r = look_run (&look);
  if (r == 0)
    r = repair_run (&look, &result);
  look_free (&look);
  assert_int_equal (close_image (), 0);
  return r;
}

static uint64_t
entry (unsigned n)
{
  return fake_peek64 (fake, TABLE + n * 8);
}

/* Clusters 1..3 leak, 4..7 are data. */
static void
make (void)
{
  unsigned i;

  format_image (0, 0);
  fake->length = AT (8);
  fake_poke64 (fake, AT_L1, TABLE);
  for (i = 1; i < 8; i++)
    fill (AT (i), (unsigned char) i);
  for (i = 4; i < 8; i++)
    fake_poke64 (fake, TABLE + i * 8, AT (i));
}

static void
test_all_readable (void **state)
{
  (void) state;
  make ();
  assert_int_equal (repair (), 0);
  assert_true (fake->length == AT (5));
}

static void
test_one_is_not (void **state)
{
  unsigned char byte;
  unsigned i;

  (void) state;
  make ();
  fake_rule_add (fake, FAKE_READ, AT (6), AT (7), -EIO, FAKE_ALWAYS);
  assert_int_equal (repair (), 0);
  assert_true (entry (6) == AT (6));
  assert_true (fake->length == AT (7));
  for (i = 4; i < 8; i++) {
    assert_true (i == 6 || entry (i) < AT (5));
    fake_peek (fake, &byte, 1, entry (i));
    assert_int_equal (byte, i);
  }
  assert_false (need_check ());
}

/* A table that can't be read between two batches: nothing goes where its data
 * is.  Cluster 1 leaks; 2 to 4 are the first table's, 6 and 7 the second's,
 * which is in 5.
 */
static void
test_table_is_not (void **state)
{
  unsigned skip = 0, i;
  int r = -EIO;

  (void) state;
  for (; r != 0; skip++) {
    fake_drop_rules (fake);
    format_image (0, 0);
    fake->length = AT (8);
    for (i = 0; i < 8; i++)
      fill (AT (i), i == 0 || i == 5 ? 0 : (unsigned char) i);
    fake_poke64 (fake, AT_L1, TABLE);
    fake_poke64 (fake, AT_L1 + 8, AT (5));
    for (i = 2; i < 8; i++)
      if (i != 5)
        fake_poke64 (fake, i < 5 ? TABLE + i * 8 : AT (5) + i * 8, AT (i));
    fake_rule_add_full (fake, (struct fake_rule) {
        .op = FAKE_READ, .from = TABLE, .to = TABLE + CLUSTER, .error = -EIO,
        .times = 1, .skip = skip });
    r = repair ();
    fake_drop_rules (fake);
    start_image ();
    for (i = 2; i < 8; i++)
      if (i != 5)
        expect_byte ((i < 5 ? 0 : TABLE_SPAN) + i * CLUSTER,
                     (unsigned char) i);
    assert_int_equal (close_image (), 0);
  }
  assert_in_range (skip, 3, 100);
}

/* It lies where a table of two clusters would have to go. */
static void
test_in_a_window (void **state)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 2, .header_size = 1,
    .l1_table_offset = AT_L1, .image_size = 16 * TABLE_SPAN,
  };
  unsigned char byte;
  unsigned i;

  (void) state;
  fake_format (fake, &header);
  fake->length = 12 * CLUSTER;
  fake_poke64 (fake, AT_L1, 3 * CLUSTER);
  fake_poke64 (fake, AT_L1 + 8, 10 * CLUSTER);
  for (i = 5; i < 10; i += 2) {
    fill (i * CLUSTER, (unsigned char) i);
    fake_poke64 (fake, 3 * CLUSTER + i * 8, i * CLUSTER);
  }
  fake_rule_add (fake, FAKE_READ, 5 * CLUSTER, 6 * CLUSTER, -EIO,
                 FAKE_ALWAYS);
  assert_int_equal (repair (), 0);
  assert_true (fake_peek64 (fake, AT_L1 + 8) == 6 * CLUSTER);
  assert_true (fake_peek64 (fake, 3 * CLUSTER + 5 * 8) == 5 * CLUSTER);
  assert_true (fake->length == 10 * CLUSTER);
  for (i = 7; i < 10; i += 2) {
    fake_peek (fake, &byte, 1, fake_peek64 (fake, 3 * CLUSTER + i * 8));
    assert_int_equal (byte, i);
  }
  assert_false (need_check ());
}

/* The copy of a shared cluster goes between what is in use. */
static void
test_repair_when_full (void **state)
{
  unsigned char byte;

  (void) state;
  make ();
  fake->max = fake->length;
  fake_poke64 (fake, TABLE + 8 * 20, AT (4));
  assert_int_equal (repair (), 0);
  assert_true (entry (20) != 0 && entry (20) != entry (4));
  fake_peek (fake, &byte, 1, entry (4));
  assert_int_equal (byte, 4);
  fake_peek (fake, &byte, 1, entry (20));
  assert_int_equal (byte, 4);
  assert_true (fake->length == AT (6));
  assert_false (need_check ());
}

static int
check_online (void)
{
  struct qed_check_options check;
  struct qed_check_result result;
  int r;

  qed_check_options_init (&check);
  r = qed_check_online (image, &check, &result);
  return r < 0 ? r : qed_check_exit_code (0, &result);
}

/* A write while a check runs, on full storage: it gets what was freed. */
static void
test_write_when_full (void **state)
{
  (void) state;
  make ();
  fake->length = fake->max = AT (8);
  fake_poke64 (fake, TABLE + 8, AT (1));
  fake_poke64 (fake, TABLE + 16, AT (2));
  fake_poke64 (fake, TABLE + 24, AT (3));
  start_image ();
  assert_int_equal (write_byte (30 * CLUSTER, 1, 0), -ENOSPC);
  assert_int_equal (space_hold (&image->space), 0);
  assert_int_equal (sync_request (image, QED_OP_TRIM, NULL, CLUSTER,
                                  4 * CLUSTER, 0), 0);
  assert_false (space_hold_broken (&image->space));
  assert_int_equal (write_byte (30 * CLUSTER, 1, 0), 0);
  assert_true (space_hold_broken (&image->space));
  expect_byte (30 * CLUSTER, 1);
  space_release_hold (&image->space);
  assert_int_equal (check_online (), 0);
  assert_int_equal (close_image (), 0);
  assert_true (entry (30) == AT (4));
}

/* The check that was in the way says so, and no nonsense. */
static void *
check_thread (void *result)
{
  *(int *) result = check_online ();
  return NULL;
}

static void
test_check_when_full (void **state)
{
  pthread_t thread;
  int r;

  (void) state;
  make ();
  fake->length = fake->max = AT (8);
  fake_poke64 (fake, TABLE + 8, AT (1));
  fake_poke64 (fake, TABLE + 16, AT (2));
  fake_poke64 (fake, TABLE + 24, AT (3));
  start_image ();
  expect_byte (4 * CLUSTER, 4);         /* its page is cached: only the check
                                         * reads the table */
  fake_rule_add (fake, FAKE_READ, TABLE, TABLE + 1, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, check_thread, &r), 0);
  fake_wait_held (fake, 1);
  assert_int_equal (sync_request (image, QED_OP_TRIM, NULL, CLUSTER,
                                  4 * CLUSTER, 0), 0);
  assert_int_equal (write_byte (30 * CLUSTER, 1, 0), 0);
  fake_let_go (fake);
  pthread_join (thread, NULL);
  assert_int_equal (r, -ENOSPC);
  assert_true (qed_writable (image));
  assert_int_equal (check_online (), 0);
  assert_int_equal (close_image (), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_all_readable),
    FAKE_IMAGE_TEST (test_one_is_not),
    FAKE_IMAGE_TEST (test_table_is_not),
    FAKE_IMAGE_TEST (test_in_a_window),
    FAKE_IMAGE_TEST (test_repair_when_full),
    FAKE_IMAGE_TEST (test_write_when_full),
    FAKE_IMAGE_TEST (test_check_when_full),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
