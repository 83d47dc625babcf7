/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The undo file of the repair at open, put back into an image that was used
 * since: what was written stays.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "check.h"
#include "file-bytes.h"
#include "format.h"
#include "sync-request.h"
#include "undo.h"

#define CLUSTER UINT64_C (4096)
#define CLUSTERS 16u
#define BYTES (CLUSTERS * CLUSTER)
#define AT_L1 CLUSTER
#define TABLE (3 * CLUSTER)
#define DATA (5 * CLUSTER)
#define TABLE_SPAN (1024 * CLUSTER)

/* Entries beyond the end, those of the table in two sectors. */
#define FAR (UINT64_C (1) << 30)
#define NEAR (BYTES + 64 * CLUSTER)
static const struct { uint64_t at, value; } drops[] = {
  { AT_L1 + 8 * 2, FAR + 8 * CLUSTER },
  { AT_L1 + 8 * 4, FAR },
  { TABLE + 8 * 3, FAR + CLUSTER },
  { TABLE + 8 * 5, NEAR },
  { TABLE + 8 * 100, FAR + 2 * CLUSTER },
};
#define DROPS (sizeof drops / sizeof drops[0])

static char directory[] = "/tmp/test-undo-entries.XXXXXX";
static char path[64], undo[64];
static char said[1024];
static struct qed_options options;

static void
keep_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  if (level == QED_LOG_ERROR)
    snprintf (said, sizeof said, "%s", message);
}

/* ---- Files ---- */

static unsigned char *
load (size_t *n)
{
  int fd = open (path, O_RDONLY);
  unsigned char *buf;

  *n = (size_t) lseek (fd, 0, SEEK_END);
  buf = malloc (*n);
  assert_int_equal (pread (fd, buf, *n, 0), *n);
  assert_int_equal (close (fd), 0);
  return buf;
}

/* ---- The image ---- */

/* Ten clusters of data from the disk's begin, but for the entries dropped.  The
 * second half of L1 is zeros, and no hole.
 */
static void
make_image (void)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 2, .header_size = 1,
    .features = QED_F_NEED_CHECK, .l1_table_offset = AT_L1,
    .image_size = 32 << 20,
  };
  unsigned char *buf = calloc (1, BYTES);
  unsigned i;

  format_encode_header (&header, buf);
  format_put64 (buf + AT_L1, TABLE);
  for (i = 0; i < 10; i++)
    format_put64 (buf + TABLE + 8 * i, DATA + i * CLUSTER);
  memset (buf + DATA, 1, 10 * CLUSTER);
  for (i = 0; i < DROPS; i++)
    format_put64 (buf + drops[i].at, drops[i].value);
  store_file (path, buf, BYTES);
  free (buf);
}

static struct qed_image *
start (void)
{
  struct qed_image *image;

  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
  return image;
}

/* It is repaired when it is opened. */
static int
setup (void **state)
{
  struct qed_image *image;
  unsigned i;

  (void) state;
  options.read_only = false;
  unlink (undo);
  make_image ();
  image = start ();
  assert_int_equal (sync_request (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
  assert_int_equal (qed_close (image), 0);
  for (i = 0; i < DROPS; i++)
    assert_int_equal (peek_file64 (path, drops[i].at), 0);
  said[0] = '\0';
  return 0;
}

static void
write_cluster (struct qed_image *image, uint64_t offset)
{
  unsigned char buf[CLUSTER];

  memset (buf, 2, sizeof buf);
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, CLUSTER, offset,
                                  0), 0);
}

static void
expect_cluster (struct qed_image *image, uint64_t offset, unsigned char value)
{
  unsigned char buf[CLUSTER];

  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER, offset,
                                  0), 0);
  assert_int_equal (buf[0], value);
  assert_int_equal (buf[CLUSTER - 1], value);
}

/* In it, so many of the entries are back; nothing else has changed but what
 * was there before, 'same'.
 */
static void
expect_back (unsigned char *same, size_t n, unsigned wanted)
{
  unsigned char *now;
  size_t bytes;
  unsigned i, back = 0;

  now = load (&bytes);
  assert_int_equal (bytes, n);
  for (i = 0; i < DROPS; i++)
    if (format_get64 (now + drops[i].at) == drops[i].value) {
      memcpy (same + drops[i].at, now + drops[i].at, 8);
      back++;
    }
  assert_memory_equal (now, same, n);
  assert_int_equal (back, wanted);
  free (now);
  free (same);
}

static void
try_undo (int result, const char *what, unsigned back)
{
  size_t n;
  unsigned char *same = load (&n);

  assert_int_equal (qed_undo (undo, &options, NULL), result);
  if (strstr (said, what) == NULL)
    fail_msg ("it said: %s", said);
  expect_back (same, n, back);
}

/* ---- The tests ---- */

static void
test_unused (void **state)
{
  (void) state;
  try_undo (0, "", DROPS);
  try_undo (0, "", DROPS);
}

static unsigned steps, stop_at;

static int
stop (void *opaque, uint64_t done, uint64_t total)
{
  (void) opaque;
  assert_in_range (done, 1, total);
  return ++steps == stop_at;
}

static void
test_interrupted (void **state)
{
  const struct qed_progress progress = { .fn = stop };

  for (stop_at = 1; ; stop_at++) {
    setup (state);
    steps = 0;
    if (qed_undo (undo, &options, &progress) == 0)
      break;
    assert_non_null (strstr (said, "run it again"));
    try_undo (0, "", DROPS);
  }
  assert_in_range (stop_at, 3, 10);
}

/* Written: an entry of the table that was dropped, others beside it, one of L1
 * that was dropped, and one that is new.
 */
static void
test_used (void **state)
{
  static const uint64_t places[] = {
    3 * CLUSTER, 20 * CLUSTER, 2 * TABLE_SPAN + CLUSTER, TABLE_SPAN, 0,
  };
  struct qed_image *image = start ();
  unsigned i;

  (void) state;
  for (i = 0; i < 5; i++)
    write_cluster (image, places[i]);
  assert_int_equal (qed_close (image), 0);
  try_undo (-ESTALE, "2 of 5 entries that the repair had dropped are not put "
            "back: written since, and kept: 2;", 3);
  try_undo (-ESTALE, "2 of 5", 3);
  options.read_only = true;
  image = start ();
  for (i = 0; i < 5; i++)
    expect_cluster (image, places[i], 2);
  expect_cluster (image, CLUSTER, 1);
  assert_int_equal (qed_close (image), 0);
}

/* The file has the place that an entry names by now. */
static void
test_grown (void **state)
{
  (void) state;
  assert_int_equal (truncate (path, NEAR + 1), 0);
  try_undo (-ESTALE, "1 of 5 entries that the repair had dropped are not put "
            "back: written since, and kept: 0;", 4);
  assert_int_equal (truncate (path, NEAR), 0);
  try_undo (0, "", 5);
}

static void
test_other_image (void **state)
{
  (void) state;
  poke_file64 (path, AT_L1, 14 * CLUSTER);     /* the table was moved */
  try_undo (-EINVAL, "a table that it had is not where it was", 0);
  poke_file64 (path, AT_L1, 0);
  try_undo (-EINVAL, "a table that it had is not where it was", 0);
  poke_file64 (path, AT_L1, TABLE);
  assert_int_equal (truncate (path, TABLE + 2 * FORMAT_SECTOR), 0);
  try_undo (-EINVAL, "a table that it had is not where it was", 0);
  setup (state);
  poke_file64 (path, FORMAT_AT_L1 + 8, 8 << 20);
  try_undo (-EINVAL, "its header differs", 0);
  setup (state);
  options.read_only = true;
  try_undo (-EROFS, "cannot be written to", 0);
}

/* ---- What is wrong with the undo file ---- */

#define RECORD_L1 UNDO_HEADER
#define RECORD_TABLE (RECORD_L1 + UNDO_RECORD_BYTES + CLUSTER)

/* The record there was changed: let its sum say so. */
static void
seal_record (uint64_t at)
{
  static unsigned char buf[4 * CLUSTER];
  uint64_t count = peek_file64 (undo, at + 8);
  int fd = open (undo, O_RDONLY);

  assert_in_range (count, 1, sizeof buf);
  assert_int_equal (pread (fd, buf, count, (off_t) at + UNDO_RECORD_BYTES),
                    count);
  close (fd);
  poke_file64 (undo, at + 16,
               undo_check_sum (peek_file64 (undo, at), count, buf));
}

/* Say that a record is of another place. */
static void
move_record (uint64_t at, uint64_t offset)
{
  poke_file64 (undo, at, offset);
  seal_record (at);
}

/* One more, of zeros. */
static void
append_record (uint64_t offset, uint64_t count)
{
  static const unsigned char zeros[4 * CLUSTER];
  uint64_t at = peek_file64 (undo, UNDO_AT_END);

  poke_file64 (undo, at, offset);
  poke_file64 (undo, at + 8, count);
  poke_file (undo, at + UNDO_RECORD_BYTES, zeros, count);
  seal_record (at);
  poke_file64 (undo, UNDO_AT_END, at + UNDO_RECORD_BYTES + count);
}

static void
test_damaged (void **state)
{
  static const uint64_t places[] = {
    TABLE + 1, DATA, TABLE - 8, AT_L1 - FORMAT_SECTOR, BYTES - FORMAT_SECTOR,
  };
  unsigned i;

  (void) state;
  assert_int_equal (peek_file64 (undo, RECORD_L1), AT_L1);
  assert_int_equal (peek_file64 (undo, RECORD_TABLE), TABLE);
  for (i = 0; i < sizeof places / sizeof places[0]; i++) {
    setup (state);              /* the record of two entries is lost */
    move_record (RECORD_TABLE, places[i]);
    try_undo (-EBADMSG, "only a part was put back", 3);
  }
  setup (state);                /* the tables are not known */
  poke_file64 (undo, RECORD_L1 + UNDO_RECORD_BYTES + 8, 1);
  try_undo (-EBADMSG, "only a part was put back", 0);
  setup (state);                /* two of the same place */
  move_record (RECORD_TABLE + UNDO_RECORD_BYTES + FORMAT_SECTOR, TABLE);
  try_undo (0, "", 4);
}

/* Larger than L1 and than a table. */
static void
test_large_record (void **state)
{
  static const uint64_t places[] = { AT_L1, AT_L1 + FORMAT_SECTOR,
                                     TABLE + 7 * FORMAT_SECTOR };
  unsigned i;

  for (i = 0; i < sizeof places / sizeof places[0]; i++) {
    setup (state);
    append_record (places[i], 3 * CLUSTER);
    try_undo (places[i] == AT_L1 ? 0 : -EBADMSG, "", DROPS);
  }
}

static void
test_no_records (void **state)
{
  (void) state;
  poke_file64 (undo, UNDO_AT_END, UNDO_HEADER);
  try_undo (0, "", 0);
}

/* What can't be put back, as it is damaged, is told before what needn't. */
static void
test_damaged_and_used (void **state)
{
  struct qed_image *image = start ();

  (void) state;
  write_cluster (image, 3 * CLUSTER);
  assert_int_equal (qed_close (image), 0);
  move_record (RECORD_TABLE + UNDO_RECORD_BYTES + FORMAT_SECTOR, DATA);
  try_undo (-EBADMSG, "only a part was put back", 3);
}

/* What it says to have been dropped was not: no repair at open does so. */
static void
test_not_dropped (void **state)
{
  (void) state;
  poke_file64 (undo, UNDO_AT_LENGTH, NEAR + CLUSTER);
  try_undo (0, "", 4);
  setup (state);
  poke_file64 (undo, RECORD_L1 + UNDO_RECORD_BYTES + 8 * 4, FAR + 1);
  seal_record (RECORD_L1);
  poke_file64 (undo, RECORD_TABLE + UNDO_RECORD_BYTES + 8 * 5, FAR + 1);
  seal_record (RECORD_TABLE);
  try_undo (0, "", 3);
}

#define TEST(f) cmocka_unit_test_setup (f, setup)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_unused),
    TEST (test_interrupted),
    TEST (test_used),
    TEST (test_grown),
    TEST (test_other_image),
    TEST (test_damaged),
    TEST (test_large_record),
    TEST (test_no_records),
    TEST (test_damaged_and_used),
    TEST (test_not_dropped),
  };
  int r;

  if (mkdtemp (directory) == NULL)
    return 1;
  snprintf (path, sizeof path, "%s/image.qed", directory);
  snprintf (undo, sizeof undo, "%s/image.qed.undo", directory);
  qed_options_init (&options);
  options.path = path;
  options.log.fn = keep_message;
  r = cmocka_run_group_tests (tests, NULL, NULL);
  unlink (path);
  unlink (undo);
  rmdir (directory);
  return r;
}
