/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The undo file of a repair, put back: whole, torn at its end, damaged, of
 * another image or one that was used since, interrupted.
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "check.h"
#include "file-bytes.h"
#include "format.h"
#include "undo.h"

#define CLUSTER UINT64_C (4096)
#define CLUSTERS 16u
#define BYTES (CLUSTERS * CLUSTER)
#define UNDO_MAX (1u << 20)

static char directory[] = "/tmp/test-undo.XXXXXX";
static char path[64], undo[64];
static char said[1024];
static struct qed_options options;

static unsigned char before[BYTES], after[2 * BYTES], saved[UNDO_MAX];
static size_t after_bytes, saved_bytes;

static void
keep_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  if (level == QED_LOG_ERROR)
    snprintf (said, sizeof said, "%s", message);
}

static size_t
load (const char *name, unsigned char *buf, size_t max)
{
  int fd = open (name, O_RDONLY);
  ssize_t n;

  assert_true (fd >= 0);
  n = pread (fd, buf, max, 0);
  assert_in_range (n, 1, max);
  assert_int_equal (close (fd), 0);
  return (size_t) n;
}

/* ---- The repair ---- */

/* A table with two wrong entries, one cluster that two entries name, and some
 * that leak.
 */
static void
make_image (void)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 1, .header_size = 1,
    .l1_table_offset = CLUSTER, .image_size = 16 << 20,
  };
  unsigned i;

  for (i = 2 * CLUSTER; i < BYTES; i++)
    before[i] = (unsigned char) (i / CLUSTER * 7 + i % 251 + 1);
  memset (before, 0, 3 * CLUSTER);
  format_encode_header (&header, before);
  format_put64 (before + CLUSTER, 2 * CLUSTER);
  format_put64 (before + CLUSTER + 8, 12345);
  for (i = 0; i < 6; i++)
    format_put64 (before + 2 * CLUSTER + i * 8, (8 + i) * CLUSTER);
  format_put64 (before + 2 * CLUSTER + 6 * 8, 8 * CLUSTER);
  format_put64 (before + 2 * CLUSTER + 7 * 8, 1 << 30);
}

static int
setup_all (void **state)
{
  struct qed_check_options check;
  struct qed_check_result result;

  (void) state;
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/image.qed", directory);
  snprintf (undo, sizeof undo, "%s/undo", directory);
  qed_options_init (&options);
  options.path = path;
  options.log.fn = keep_message;
  make_image ();
  store_file (path, before, BYTES);
  qed_check_options_init (&check);
  check.repair = QED_REPAIR_ALL;
  check.undo = undo;
  assert_int_equal (qed_check (&options, &check, &result), 0);
  assert_int_equal (result.corruptions, 0);
  assert_in_range (result.corruptions_fixed, 3, 10);
  after_bytes = load (path, after, sizeof after);
  saved_bytes = load (undo, saved, sizeof saved);
  assert_in_range (saved_bytes, 1000, sizeof saved - 1);

  /* There is one already. */
  store_file (path, before, BYTES);
  assert_int_equal (qed_check (&options, &check, &result), -EEXIST);
  return 0;
}

static int
teardown_all (void **state)
{
  (void) state;
  unlink (path);
  unlink (undo);
  return rmdir (directory);
}

/* Everything as the repair has left it. */
static int
setup (void **state)
{
  (void) state;
  said[0] = '\0';
  options.read_only = false;
  store_file (path, after, after_bytes);
  store_file (undo, saved, saved_bytes);
  return 0;
}

static void
expect_before (void)
{
  static unsigned char buf[BYTES + 1];

  assert_int_equal (load (path, buf, sizeof buf), BYTES);
  assert_memory_equal (buf, before, BYTES);
}

static void
expect_untouched (void)
{
  static unsigned char buf[sizeof after];

  assert_int_equal (load (path, buf, sizeof buf), after_bytes);
  assert_memory_equal (buf, after, after_bytes);
}

static void
expect_refusal (int error, const char *what)
{
  assert_int_equal (qed_undo (undo, &options, NULL), error);
  if (strstr (said, what) == NULL)
    fail_msg ("it said: %s", said);
  expect_untouched ();
}

/* ---- Whole ---- */

static void
test_whole (void **state)
{
  (void) state;
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  expect_before ();
  assert_int_equal (qed_undo (undo, &options, NULL), 0);        /* again */
  expect_before ();
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

  (void) state;
  for (stop_at = 1; ; stop_at++) {
    setup (NULL);
    steps = 0;
    if (qed_undo (undo, &options, &progress) == 0)
      break;
    assert_non_null (strstr (said, "run it again"));
    assert_int_equal (qed_undo (undo, &options, NULL), 0);
    expect_before ();
  }
  assert_in_range (stop_at, 4, 1000);
  expect_before ();
}

/* ---- No undo file ---- */

static void
test_no_undo_file (void **state)
{
  (void) state;
  unlink (undo);
  expect_refusal (-ENOENT, "cannot open");
  mkdir (undo, 0700);           /* what can't be written to is of no use */
  expect_refusal (-EISDIR, "cannot open");
  rmdir (undo);
  store_file (undo, saved, UNDO_HEADER - 1);
  expect_refusal (-EINVAL, "not an undo file");
  store_file (undo, saved, saved_bytes);
  poke_file64 (undo, 0, 1);
  expect_refusal (-EINVAL, "not an undo file");
  setup (NULL);
  poke_file64 (undo, UNDO_AT_VERSION, UNDO_VERSION - 1);
  expect_refusal (-EINVAL, "version 2, of which");
}

/* ---- Torn ---- */

/* What was left by a repair that was killed is not known. */
static void
setup_killed (void)
{
  setup (NULL);
  poke_file64 (undo, UNDO_AT_END, 0);
  poke_file64 (undo, UNDO_AT_FLAGS, 0);
}

/* The repair was killed: its last record is torn, in its data or before, or
 * is not what was meant; the write it was for did not happen.
 */
static void
test_torn (void **state)
{
  static const unsigned char garbage[] = "garbage that is no record at all";
  unsigned char record[UNDO_RECORD_BYTES + 8] = { 0 };
  size_t n;

  (void) state;
  for (n = 0; n <= UNDO_RECORD_BYTES + 8; n++) {
    setup_killed ();
    format_put64 (record + 8, 8);       /* its sum is wrong */
    if (n > 0)
      poke_file (undo, saved_bytes, record, n);
    assert_int_equal (qed_undo (undo, &options, NULL), 0);
    expect_before ();
  }
  setup_killed ();
  poke_file (undo, saved_bytes, garbage, sizeof garbage);
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  expect_before ();
}

/* ---- Damaged ---- */

/* Where the n-th record begins. */
static uint64_t
record_at (unsigned n)
{
  uint64_t at = UNDO_HEADER;

  while (n-- > 0)
    at += UNDO_RECORD_BYTES + format_get64 (saved + at + 8);
  assert_true (at < saved_bytes);
  return at;
}

static uint64_t
l1_record (void)
{
  unsigned n;
  uint64_t at;

  for (n = 0; ; n++) {
    at = record_at (n);
    if (format_get64 (saved + at) / CLUSTER == 1)
      return at;
  }
}

static void
expect_part (void)
{
  int r = qed_undo (undo, &options, NULL);

  assert_true (r == -EBADMSG || r == -EINVAL);
  assert_non_null (strstr (said, r == -EBADMSG ? "only a part was put back"
                           : "undo file is damaged, too"));
  if (r == -EINVAL)
    expect_untouched ();
}

/* A byte of the data of one record, or of two that follow each other. */
static void
test_damaged (void **state)
{
  unsigned n, two;

  (void) state;
  for (two = 0; two < 2; two++)
    for (n = 0; n < 4; n++) {
      setup (NULL);
      poke_file64 (undo, record_at (n) + UNDO_RECORD_BYTES, 0x5555);
      if (two)
        poke_file64 (undo, record_at (n + 1) + UNDO_RECORD_BYTES, 0x5555);
      expect_part ();
    }
  setup (NULL);
  poke_file64 (undo, l1_record () + UNDO_RECORD_BYTES, 0x5555);
  expect_refusal (-EINVAL, "undo file is damaged, too");
}

/* Records that can't be ones: what follows them is not found. */
static void
test_no_records (void **state)
{
  const uint64_t at = record_at (1);
  const struct { uint64_t at, value; } wrong[] = {
    { 8, 0 }, { 8, UNDO_PIECE_BYTES + 1 }, { 0, BYTES + 1 }, { 0, BYTES },
    { 0, UINT64_MAX }, { 8, UINT64_MAX }, { 8, saved_bytes },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    setup (NULL);
    poke_file64 (undo, at + wrong[i].at, wrong[i].value);
    expect_part ();
  }
  setup (NULL);                 /* it ends before its records do */
  store_file (undo, saved, record_at (2) + 5);
  expect_part ();
  setup (NULL);                 /* or there's said to be more of them */
  poke_file64 (undo, UNDO_AT_END, saved_bytes + 100);
  assert_int_equal (qed_undo (undo, &options, NULL), -EBADMSG);
  expect_before ();
}

/* ---- Another image ---- */

static void
test_other_image (void **state)
{
  (void) state;
  poke_file (undo, UNDO_AT_IDENTITY + 4, "x", 1);
  expect_refusal (-EINVAL, "its header differs");
  setup (NULL);
  poke_file64 (undo, UNDO_AT_L1_SUM, 1);
  expect_refusal (-EINVAL, "its L1 table would not be what it was");
  setup (NULL);
  options.read_only = true;
  expect_refusal (-EROFS, "cannot be written to");
  options.read_only = false;
  unlink (path);
  assert_int_equal (qed_undo (undo, &options, NULL), -ENOENT);
}

/* ---- Used since ---- */

/* Every byte that putting back would change, one at a time and each in a place
 * of its own; then what was left comes back.
 */
static void
test_used (void **state)
{
  const uint64_t step = 509;
  uint64_t at;
  unsigned refused = 0;
  unsigned char byte;
  int r;

  (void) state;
  for (at = 0; at < after_bytes; at += step) {
    byte = after[at] ^ 0x80;
    poke_file (path, at, &byte, 1);
    said[0] = '\0';
    r = qed_undo (undo, &options, NULL);
    if (r == 0) {               /* the repair has not changed it */
      assert_true (at < BYTES);
      before[at] ^= 0x80;
      expect_before ();
      before[at] ^= 0x80;
      setup (NULL);
      continue;
    }
    refused++;
    assert_int_equal (r, -EINVAL);
    assert_non_null (strstr (said, "since"));
    poke_file (path, at, &after[at], 1);
    expect_untouched ();
  }
  assert_in_range (refused, 20, after_bytes / step);
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  expect_before ();
}

static void
expect_used (const unsigned char *image, size_t n)
{
  static unsigned char buf[sizeof after];

  assert_int_equal (qed_undo (undo, &options, NULL), -EINVAL);
  assert_non_null (strstr (said, "was changed since the repair"));
  assert_int_equal (load (path, buf, sizeof buf), n);
  assert_memory_equal (buf, image, n);
}

/* What lies behind all that was: it would be cut off. */
static void
test_grown (void **state)
{
  static unsigned char more[sizeof after];

  (void) state;
  memcpy (more, after, after_bytes);
  memset (more + after_bytes, 7, CLUSTER);
  store_file (path, more, after_bytes + CLUSTER);
  expect_used (more, after_bytes + CLUSTER);
  assert_non_null (strstr (said, "length"));

  setup_killed ();              /* there it can't be known */
  store_file (path, more, after_bytes + CLUSTER);
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  expect_before ();
}

/* Once all is back, that is what may not change. */
static void
test_used_undone (void **state)
{
  static unsigned char used[BYTES];

  (void) state;
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  memcpy (used, before, BYTES);
  format_put64 (used + 2 * CLUSTER + 8, 0);
  poke_file64 (path, 2 * CLUSTER + 8, 0);
  expect_used (used, BYTES);
  poke_file (path, 2 * CLUSTER + 8, before + 2 * CLUSTER + 8, 8);
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  expect_before ();
  poke_file (path, FORMAT_AT_FEATURES, "\2", 1);
  memcpy (used, before, BYTES);
  used[FORMAT_AT_FEATURES] = 2;
  expect_used (used, BYTES);
}

/* The same where what the repair left is not known. */
static void
test_used_undone_killed (void **state)
{
  static unsigned char used[BYTES];
  unsigned i;

  (void) state;
  setup_killed ();
  for (i = 0; i < 2; i++) {
    assert_int_equal (qed_undo (undo, &options, NULL), 0);
    expect_before ();
  }
  memcpy (used, before, BYTES);
  format_put64 (used + 2 * CLUSTER + 8, 0);
  poke_file64 (path, 2 * CLUSTER + 8, 0);
  expect_used (used, BYTES);
}

/* And once it is repaired again, as by a copy. */
static void
test_used_repaired (void **state)
{
  static unsigned char used[sizeof after];

  (void) state;
  assert_true (after_bytes != BYTES);
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  memcpy (used, after, after_bytes);
  format_put64 (used + 2 * CLUSTER + 8, 0);
  store_file (path, used, after_bytes);
  expect_used (used, after_bytes);
  store_file (path, after, after_bytes);
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  expect_before ();
}

/* Leaks were closed by moving data there, and that was overwritten in place:
 * no table tells.
 */
static void
test_used_moved (void **state)
{
  static unsigned char leaky[BYTES], used[sizeof after];
  struct qed_check_options check;
  struct qed_check_result result;
  size_t n;

  (void) state;
  memcpy (leaky, before, BYTES);
  memset (leaky + CLUSTER + 8, 0, CLUSTER - 8);
  memset (leaky + 2 * CLUSTER + 6 * 8, 0, CLUSTER - 6 * 8);
  store_file (path, leaky, BYTES);
  unlink (undo);
  qed_check_options_init (&check);
  check.repair = QED_REPAIR_LEAKS;
  check.undo = undo;
  assert_int_equal (qed_check (&options, &check, &result), 0);
  assert_true (peek_file64 (path, 2 * CLUSTER + 8 * 5) < 13 * CLUSTER);
  n = load (path, used, sizeof used);
  used[3 * CLUSTER + 5] ^= 0x80;
  poke_file (path, 3 * CLUSTER + 5, &used[3 * CLUSTER + 5], 1);
  expect_used (used, n);
  assert_non_null (strstr (said, "other content at"));
  used[3 * CLUSTER + 5] ^= 0x80;
  poke_file (path, 3 * CLUSTER + 5, &used[3 * CLUSTER + 5], 1);
  assert_int_equal (qed_undo (undo, &options, NULL), 0);
  assert_int_equal (load (path, used, sizeof used), BYTES);
  assert_memory_equal (used, leaky, BYTES);
}

#define TEST(f) cmocka_unit_test_setup (f, setup)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_whole),
    TEST (test_interrupted),
    TEST (test_no_undo_file),
    TEST (test_torn),
    TEST (test_damaged),
    TEST (test_no_records),
    TEST (test_other_image),
    TEST (test_used),
    TEST (test_grown),
    TEST (test_used_undone),
    TEST (test_used_undone_killed),
    TEST (test_used_repaired),
    TEST (test_used_moved),
  };

  return cmocka_run_group_tests (tests, setup_all, teardown_all);
}
