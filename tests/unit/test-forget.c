/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Forgetting clusters: the backing file shows, or zeros; parts are left; and
 * no cluster is punched before its entry is durably gone (O5).
 */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake-image.h"

#define TABLE AT_END
#define FIRST (AT_END + CLUSTER)
#define SECOND (AT_END + 2 * CLUSTER)
#define AT_IMAGE_SIZE 48        /* in the header */
#define BACKING "./bk"          /* four bytes, as the header says */

static char directory[] = "/tmp/test-forget.XXXXXX";

/* ---- The image: data, a zero cluster, data, nothing ---- */

static void
fill (uint64_t offset, unsigned char byte)
{
  unsigned char buf[CLUSTER];

  memset (buf, byte, sizeof buf);
  fake_poke (fake, buf, sizeof buf, offset);
}

static void
make (bool backing)
{
  format_image (backing ? QED_F_BACKING_FILE |
                QED_F_BACKING_FORMAT_NO_PROBE : 0, 0);
  fake_poke (fake, BACKING, strlen (BACKING), 64);
  fake->length = AT_END + 3 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE, FIRST);
  fake_poke64 (fake, TABLE + 8, FORMAT_ENTRY_ZERO);
  fake_poke64 (fake, TABLE + 16, SECOND);
  fill (FIRST, 0xaa);
  fill (SECOND, 0xbb);
}

static void
start (bool skip)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = "fake";
  options.backing = QED_BACKING_ANY;
  options.skip_backing = skip;
  options.clean_after = 0;
  options.log.fn = log_quietly;
  assert_int_equal (image_open_storage (&options, &fake->storage, &image), 0);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  fake_forget (fake);
}

static int
forget (uint64_t offset, uint64_t count, unsigned flags)
{
  return sync_request (image, QED_OP_FORGET, NULL, count, offset, flags);
}

static void
wait_punched (size_t calls)
{
  while (fake_calls (fake, FAKE_ZERO) < calls)
    sched_yield ();
}

static uint64_t
entry (unsigned n)
{
  return fake_peek64 (fake, TABLE + n * 8);
}

/* ---- The tests ---- */

static void
test_over_backing (void **state)
{
  (void) state;
  make (true);
  start (false);
  expect_byte (0, 0xaa);
  expect_byte (CLUSTER, 0);
  expect_byte (3 * CLUSTER, 0x55);
  assert_int_equal (forget (0, 4 * CLUSTER, 0), 0);
  expect_byte (0, 0x55);
  expect_byte (CLUSTER, 0x55);
  expect_byte (2 * CLUSTER, 0x55);
  expect_byte (3 * CLUSTER, 0x55);
  /* What is written there now is filled from the backing file. */
  assert_int_equal (write_byte (512, 0x77, 0), 0);
  expect_byte (0, 0x55);
  expect_byte (512, 0x77);
  assert_int_equal (close_image (), 0);
  assert_true (entry (0) != 0);
  assert_true (entry (1) == 0 && entry (2) == 0 && entry (3) == 0);
  assert_false (need_check ());
}

static void
test_without_backing (void **state)
{
  (void) state;
  make (false);
  start (false);
  assert_int_equal (forget (0, 4 * CLUSTER, 0), 0);
  expect_byte (0, 0);
  expect_byte (2 * CLUSTER, 0);
  assert_int_equal (close_image (), 0);
  assert_true (entry (0) == 0 && entry (1) == 0 && entry (2) == 0);
  assert_true (fake->length == AT_END + CLUSTER);       /* its table */
}

/* O1, O5: what no entry names on disk is punched, and nothing else. */
static void
test_order (void **state)
{
  static const struct fake_call calls[] = {
    { FAKE_WRITE, 0, 512 },     /* NEED_CHECK */
    { FAKE_SYNC, 0, 0 },
    { FAKE_WRITE, TABLE, 4096 },
    { FAKE_SYNC, 0, 0 },
    { FAKE_ZERO, FIRST, 2 * CLUSTER },
  };

  (void) state;
  make (true);
  start (true);
  assert_int_equal (forget (0, 4 * CLUSTER, QED_FUA), 0);
  wait_punched (1);
  expect_calls (calls, sizeof calls / sizeof calls[0]);
  assert_int_equal (close_image (), 0);
}

/* While the entries are on their way no cluster is touched. */
static void
test_held (void **state)
{
  struct pending *pending;
  unsigned char byte;

  (void) state;
  make (true);
  start (true);
  fake_rule_add (fake, FAKE_WRITE, TABLE, TABLE + CLUSTER, 0, FAKE_ALWAYS);
  assert_int_equal (forget (0, CLUSTER, 0), 0);
  pending = start_flush ();
  fake_wait_held (fake, 1);
  assert_int_equal (fake_calls (fake, FAKE_ZERO), 0);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, pending), 0);
  wait_punched (1);
  fake_peek (fake, &byte, 1, FIRST);
  assert_int_equal (byte, 0);
  fake_peek (fake, &byte, 1, SECOND);
  assert_int_equal (byte, 0xbb);
  assert_int_equal (close_image (), 0);
}

/* If the entries can't be written the clusters stay. */
static void
test_write_fails (void **state)
{
  unsigned char byte;

  (void) state;
  make (true);
  start (true);
  fake_rule_add (fake, FAKE_WRITE, TABLE, TABLE + CLUSTER, -EIO, 1);
  assert_int_equal (forget (0, CLUSTER, QED_FUA), -EIO);
  assert_int_equal (fake_calls (fake, FAKE_ZERO), 0);
  assert_true (entry (0) == FIRST);
  fake_peek (fake, &byte, 1, FIRST);
  assert_int_equal (byte, 0xaa);
  assert_int_equal (close_image (), 0);         /* it is tried again */
  assert_true (entry (0) == 0);
}

static void
test_parts (void **state)
{
  (void) state;
  make (true);
  start (true);
  assert_int_equal (forget (512, CLUSTER - 512, 0), 0);
  assert_int_equal (forget (0, CLUSTER - 512, 0), 0);
  assert_int_equal (forget (CLUSTER + 512, 512, 0), 0);
  assert_int_equal (forget (3 * CLUSTER, 100 * CLUSTER, 0), 0);
  assert_int_equal (forget (0, 0, 0), 0);
  expect_calls (NULL, 0);       /* there was nothing to be done */
  expect_byte (0, 0xaa);

  /* Parts at both ends. */
  assert_int_equal (forget (512, 2 * CLUSTER, 0), 0);
  expect_byte (0, 0xaa);
  expect_byte (512, 0xaa);
  expect_byte (2 * CLUSTER, 0xbb);
  assert_int_equal (close_image (), 0);
  assert_true (entry (0) == FIRST && entry (1) == 0 && entry (2) == SECOND);
}

/* The image's last cluster is whole where the image ends. */
static void
test_end (void **state)
{
  const uint64_t size = 2 * CLUSTER + 1024;

  (void) state;
  make (true);
  fake_poke64 (fake, AT_IMAGE_SIZE, size);
  start (true);
  assert_int_equal (forget (2 * CLUSTER, 512, 0), 0);
  expect_byte (2 * CLUSTER, 0xbb);
  assert_int_equal (forget (2 * CLUSTER, 1536, 0), -EINVAL);
  assert_int_equal (forget (2 * CLUSTER, 1024, 0), 0);
  expect_byte (2 * CLUSTER, 0);
  assert_int_equal (close_image (), 0);
  assert_true (entry (0) == FIRST && entry (2) == 0);
}

/* Without the backing file only what needs nothing of it is carried out. */
static void
test_skipped (void **state)
{
  (void) state;
  make (true);
  start (true);
  expect_byte (3 * CLUSTER, 0);
  assert_int_equal (write_byte (0, 1, 0), -EOPNOTSUPP);
  assert_int_equal (sync_request (image, QED_OP_ZERO, NULL, CLUSTER, 0, 0),
                    -EOPNOTSUPP);
  assert_int_equal (sync_request (image, QED_OP_TRIM, NULL, CLUSTER, 0, 0),
                    -EOPNOTSUPP);
  expect_calls (NULL, 0);
  assert_int_equal (close_image (), 0);
  assert_true (entry (0) == FIRST);
}

static int
make_backing (void **state)
{
  static unsigned char buf[4 * CLUSTER];
  int fd;

  (void) state;
  if (mkdtemp (directory) == NULL || chdir (directory) == -1)
    return -1;
  memset (buf, 0x55, sizeof buf);
  fd = open (BACKING, O_WRONLY | O_CREAT, 0600);
  if (fd == -1 || write (fd, buf, sizeof buf) != (ssize_t) sizeof buf)
    return -1;
  return close (fd);
}

static int
remove_backing (void **state)
{
  (void) state;
  unlink (BACKING);
  return rmdir (directory);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_over_backing),
    FAKE_IMAGE_TEST (test_without_backing),
    FAKE_IMAGE_TEST (test_order),
    FAKE_IMAGE_TEST (test_held),
    FAKE_IMAGE_TEST (test_write_fails),
    FAKE_IMAGE_TEST (test_parts),
    FAKE_IMAGE_TEST (test_end),
    FAKE_IMAGE_TEST (test_skipped),
  };

  return cmocka_run_group_tests (tests, make_backing, remove_backing);
}
