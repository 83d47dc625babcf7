/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The pending log (O10) of a killed process is replayed, in order; and a log
 * that grows, that is full, and none.
 */

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file-bytes.h"
#include "killed-image.h"

/* ---- What is whole is replayed ---- */

static void
test_replay (void **state)
{
  struct qed_image *image;

  (void) state;
  die_after (write_three);
  assert_true (peek_file64 (path, FORMAT_AT_AUTOCLEAR) & PENDING_IN_USE);
  assert_int_equal (qed_pending_waiting (path, directories), 5);
  image = open_image (true);
  assert_non_null (strstr (messages, "5 acknowledged changes wait"));
  expect_cluster (image, 3, 0);
  assert_int_equal (qed_close (image), 0);
  expect_three (0x33, 0x44, 0x55);
  assert_int_equal (qed_pending_waiting (path, directories), 0);
}

/* O3 and O4, as for any write-back; then the header says that it is done. */
static void
test_synced (void **state)
{
  struct qed_image *image;

  (void) state;
  die_after (write_three);
  recording = true;
  assert_int_equal (try_open (false, &image), 0);
  recording = false;
  assert_string_equal (calls, "sttslshs");
  assert_int_equal (qed_close (image), 0);
  expect_three (0x33, 0x44, 0x55);
}

static void
work_again (struct qed_image *image)
{
  unsigned i;

  expect_cluster (image, 3, 0x33);
  for (i = 0; i < 3; i++) {
    assert_int_equal (qed_request_sync (image, QED_OP_TRIM, NULL,
                                        2 * CLUSTER, 3 * CLUSTER, 0), 0);
    write_cluster (image, 3, 0x66);
    write_cluster (image, 4, 0x77);
  }
  assert_int_equal (qed_request_sync (image, QED_OP_ZERO, NULL, CLUSTER,
                                      1000 * CLUSTER, 0), 0);
}

/* The last record of an entry counts. */
static void
test_order (void **state)
{
  (void) state;
  die_after (write_three);
  die_after (work_again);
  expect_three (0x66, 0x77, 0);
}

/* Of two halves the younger one comes last, wherever it lies. */
static void
test_halves (void **state)
{
  uint64_t three, four;
  unsigned younger;

  for (younger = 0; younger < 2; younger++) {
    killed_setup (state);
    die_after (write_three);
    read_log ();
    three = record_at (0, 1)->value;
    four = record_at (0, 2)->value;
    clear_log (younger == 0 ? 9 : 8, younger == 1 ? 9 : 8);
    put_record (!younger, 0, PENDING_L1 | 0,
                three - CLUSTER < four ? three - CLUSTER : four, 1);
    put_record (!younger, 1, 3, 0, 2);
    put_record (younger, 0, 3, three, 1);
    put_record (younger, 1, 4, FORMAT_ENTRY_ZERO, 1);
    write_log (PENDING_BYTES);
    expect_three (0x33, 0, 0);
    killed_teardown (state);
  }
}

/* A slot that was not completed, in this generation, is left out. */
static void
test_torn (void **state)
{
  (void) state;
  die_after (write_three);
  read_log ();
  record_at (0, 2)->check = 0;
  write_log (PENDING_BYTES);
  expect_three (0x33, 0, 0x55);

  killed_setup (state);
  die_after (write_three);
  read_log ();
  clear_log (0, pending_log.head.generation[0]);        /* all of it */
  write_log (PENDING_BYTES);
  expect_three (0, 0, 0);
}

/* ---- A log that grows, that is full, and none ---- */

static uint64_t
log_length (void)
{
  struct stat st;

  assert_int_equal (stat (log_path, &st), 0);
  return (uint64_t) st.st_size;
}

static uint64_t
records_used (struct qed_image *image)
{
  struct qed_status status;

  qed_status (image, &status);
  assert_int_equal (status.pending, QED_PENDING_LOGGED);
  assert_true (status.pending_records > 0);
  return status.pending_records;
}

/* In an order in which neighbours share no record. */
static void
fill_image (struct qed_image *image)
{
  uint64_t i, n;

  for (i = 0; i < CLUSTERS + CLUSTERS / 4; i++) {
    n = i * 5003 % CLUSTERS;
    if (i >= CLUSTERS)
      assert_int_equal (qed_request_sync (image, QED_OP_TRIM, NULL, CLUSTER,
                                          n * CLUSTER, 0), 0);
    write_cluster (image, n, (unsigned char) (n % 255 + 1));
  }
}

static void
expect_filled (void)
{
  struct qed_image *image = open_image (false);
  uint64_t n;

  for (n = 0; n < CLUSTERS; n++)
    expect_cluster (image, n, (unsigned char) (n % 255 + 1));
  assert_int_equal (qed_close (image), 0);
}

/* An image that was made clean has a small log again. */
static void
fill_twice (struct qed_image *image)
{
  fill_image (image);
  assert_true (log_length () > PENDING_BYTES);
  assert_int_equal (qed_request_sync (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
  assert_int_equal (log_length (), PENDING_BYTES);
  assert_int_equal (qed_request_sync (image, QED_OP_TRIM, NULL, SIZE, 0, 0),
                    0);
  fill_image (image);
}

static void
test_grown (void **state)
{
  (void) state;
  die_after (fill_twice);
  expect_filled ();
}

static void
fill_image_and_log (struct qed_image *image)
{
  may_grow = false;
  fill_image (image);
  assert_true (records_used (image) <= 2 * PENDING_RECORDS);
  assert_int_equal (log_length (), PENDING_BYTES);
}

static void
test_full (void **state)
{
  (void) state;
  die_after (fill_image_and_log);
  expect_filled ();
}

/* Each part has to be there. */
static void
test_part_missing (void **state)
{
  (void) state;
  die_after (fill_image);
  assert_true (log_length () > PENDING_BYTES);
  assert_int_equal (truncate (log_path, PENDING_BYTES), 0);
  assert_int_equal (qed_close (open_image (false)), 0);
  assert_non_null (strstr (messages, "cut off"));
}

static void
write_without (struct qed_image *image)
{
  struct qed_status status;

  write_three (image);
  work_again (image);
  qed_status (image, &status);
  assert_int_equal (status.pending, QED_PENDING_WRITTEN_BACK);
}

static void
test_no_log (void **state)
{
  (void) state;
  directories[0] = "/proc/self";
  die_after (write_without);
  expect_three (0x66, 0x77, 0);
}

static int
run (void)
{
  const struct CMUnitTest tests[] = {
    KILLED_TEST (test_replay),
    KILLED_TEST (test_synced),
    KILLED_TEST (test_order),
    KILLED_TEST (test_halves),
    KILLED_TEST (test_torn),
    KILLED_TEST (test_grown),
    KILLED_TEST (test_full),
    KILLED_TEST (test_part_missing),
    KILLED_TEST (test_no_log),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}

int
main (void)
{
  return killed_run (run);
}
