/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The check of an image in use: threads write, trim, zero and flush, with a
 * backing file and without, while it is checked again and again.  No false
 * alarm, nothing that was planted is missed, what is repaired can be written
 * to again.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "file-bytes.h"
#include "format.h"
#include "random.h"
#include "sync-request.h"

#define CLUSTER 4096u
#define AT_L1 4096u             /* tables of one cluster */
#define IMAGE_BYTES (UINT64_C (48) << 20)
#define WRITERS 4u
#define CHECKS 60u

static char directory[] = "/tmp/test-online.XXXXXX";
static char path[64], base[64];
static struct qed_image *image;
static _Atomic bool stop;
static _Atomic unsigned failures;
static unsigned counts[QED_PROBLEM_CODES];

/* ---- The image ---- */

static void
make_base (void)
{
  unsigned char buf[CLUSTER];
  uint64_t at;
  int fd = open (base, O_RDWR | O_CREAT | O_TRUNC, 0600);

  assert_true (fd >= 0);
  memset (buf, 0xba, sizeof buf);
  for (at = 0; at < IMAGE_BYTES / 2; at += 3 * CLUSTER)
    assert_int_equal (pwrite (fd, buf, sizeof buf, (off_t) at), CLUSTER);
  close (fd);
}

static void
make_image (bool with_base)
{
  struct qed_create_options options;

  qed_create_options_init (&options);
  options.path = path;
  options.size = IMAGE_BYTES;
  options.cluster_size = CLUSTER;
  options.table_size = 1;
  options.force = true;
  if (with_base) {
    make_base ();
    options.backing = base;
    options.backing_raw = true;
  }
  options.log.fn = log_quietly;
  assert_int_equal (qed_create (&options), 0);
}

static void
open_image (void)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.backing = QED_BACKING_ANY;
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.clean_after = 1;
  options.log.fn = log_quietly;
  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
}

/* ---- Who uses it ---- */

static enum qed_op
draw_op (uint64_t *seed)
{
  switch (random_below (seed, 16)) {
  case 0:
    return QED_OP_FLUSH;
  case 1: case 2: case 3:
    return QED_OP_TRIM;
  case 4: case 5:
    return QED_OP_ZERO;
  case 6: case 7:
    return QED_OP_READ;
  default:
    return QED_OP_WRITE;
  }
}

static void *
writer (void *arg)
{
  uint64_t seed = *(uint64_t *) arg, offset, count;
  unsigned char buf[4 * CLUSTER];
  enum qed_op op;

  memset (buf, 0x77, sizeof buf);
  while (!atomic_load (&stop)) {
    op = draw_op (&seed);
    count = op == QED_OP_FLUSH ? 0 : 512 * (1 + random_below (&seed, 32));
    offset = op == QED_OP_FLUSH ? 0
      : 512 * random_below (&seed, (IMAGE_BYTES - count) / 512);
    if (sync_request (image, op, buf, count, offset,
                      random_below (&seed, 50) == 0 ? QED_FUA : 0) != 0)
      atomic_fetch_add (&failures, 1);
  }
  return NULL;
}

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

static int
check (enum qed_repair repair, struct qed_check_result *result)
{
  struct qed_check_options options;

  memset (counts, 0, sizeof counts);
  qed_check_options_init (&options);
  options.repair = repair;
  options.found = found;
  return qed_check_online (image, &options, result);
}

static void
run_writers (enum qed_repair repair, bool with_base)
{
  struct qed_check_result result;
  uint64_t seeds[WRITERS];
  pthread_t threads[WRITERS];
  unsigned i;

  make_image (with_base);
  open_image ();
  atomic_store (&stop, false);
  atomic_store (&failures, 0);
  for (i = 0; i < WRITERS; i++) {
    seeds[i] = i + 1;
    assert_int_equal (pthread_create (&threads[i], NULL, writer, &seeds[i]),
                      0);
  }
  for (i = 0; i < CHECKS; i++) {
    assert_int_equal (check (repair, &result), 0);
    assert_int_equal (result.corruptions, 0);
    assert_int_equal (result.errors, 0);
    assert_int_equal (result.leaks, 0);
    usleep (2000);
  }
  atomic_store (&stop, true);
  for (i = 0; i < WRITERS; i++)
    pthread_join (threads[i], NULL);
  assert_int_equal (failures, 0);
  assert_int_equal (qed_close (image), 0);
}

/* Closed, it is as good. */
static void
expect_sound (void)
{
  struct qed_check_options check_options;
  struct qed_check_result result;
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = log_quietly;
  qed_check_options_init (&check_options);
  assert_int_equal (qed_check (&options, &check_options, &result), 0);
  assert_int_equal (qed_check_exit_code (0, &result), 0);
}

static void
test_no_false_alarm (void **state)
{
  (void) state;
  run_writers (QED_REPAIR_NONE, false);
  expect_sound ();
  run_writers (QED_REPAIR_NONE, true);
  expect_sound ();
}

/* Nor is anything repaired that is sound. */
static void
test_repair_meanwhile (void **state)
{
  (void) state;
  run_writers (QED_REPAIR_ALL, false);
  expect_sound ();
  run_writers (QED_REPAIR_LEAKS, true);
  expect_sound ();
}

/* ---- What was planted ---- */

/* Clusters 0 and 1 of the guest hold 1 and 2; where their table lies. */
static uint64_t
make_two_clusters (void)
{
  unsigned char buf[CLUSTER];

  make_image (false);
  open_image ();
  memset (buf, 1, sizeof buf);
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, CLUSTER, 0, 0), 0);
  memset (buf, 2, sizeof buf);
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, CLUSTER, CLUSTER,
                                  0), 0);
  assert_int_equal (qed_close (image), 0);
  return peek_file64 (path, AT_L1);
}

static void
expect_cluster (uint64_t number, unsigned char byte)
{
  unsigned char buf[CLUSTER];

  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  number * CLUSTER, 0), 0);
  assert_int_equal (buf[0], byte);
  assert_int_equal (buf[CLUSTER - 1], byte);
}

/* Damage that was there before: the repair makes the image writable again. */
static void
test_repair_planted (void **state)
{
  struct qed_check_result result;
  unsigned char buf[CLUSTER] = { 0 };
  uint64_t table = make_two_clusters ();

  (void) state;
  poke_file64 (path, table + 8 * 10, peek_file64 (path, table)); /* shared */
  poke_file64 (path, table + 8 * 20, 0x12345);               /* reserved bits */
  /* beyond the end */
  poke_file64 (path, table + 8 * 30, UINT64_C (1) << 40);
  open_image ();
  assert_int_equal (check (QED_REPAIR_NONE, &result), 0);
  assert_int_equal (counts[QED_PROBLEM_CLUSTER_SHARED], 1);
  assert_int_equal (counts[QED_PROBLEM_L2_RESERVED_BITS], 1);
  assert_int_equal (counts[QED_PROBLEM_L2_PAST_END], 1);
  assert_int_equal (result.corruptions, 3);
  assert_false (qed_writable (image));
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, CLUSTER, 0, 0),
                    -EROFS);

  assert_int_equal (check (QED_REPAIR_ALL, &result), 0);
  assert_int_equal (result.corruptions, 0);
  assert_int_equal (result.corruptions_fixed, 3);
  assert_true (qed_writable (image));
  expect_cluster (0, 1);
  expect_cluster (1, 2);
  expect_cluster (10, 1);
  expect_cluster (20, 0);
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, CLUSTER, 0, 0), 0);
  expect_cluster (0, 0);
  expect_cluster (10, 1);
  assert_int_equal (qed_close (image), 0);
  expect_sound ();
}

/* The disk is changed beneath the server: an entry that it has cached. */
static void
test_page_differs (void **state)
{
  struct qed_check_result result;
  uint64_t table = make_two_clusters ();

  (void) state;
  open_image ();
  expect_cluster (0, 1);
  assert_int_equal (check (QED_REPAIR_NONE, &result), 0);
  assert_int_equal (result.corruptions, 0);
  poke_file64 (path, table + 8 * 5, peek_file64 (path, table));
  assert_int_equal (check (QED_REPAIR_NONE, &result), 0);
  assert_int_equal (counts[QED_PROBLEM_PAGE_DIFFERS], 1);
  assert_false (qed_writable (image));

  /* Which of the two is right is not for a repair to say. */
  assert_int_equal (check (QED_REPAIR_ALL, &result), 0);
  assert_int_equal (result.corruptions, 1);
  assert_int_equal (result.corruptions_fixed, 0);
  assert_false (qed_writable (image));
  assert_int_equal (qed_close (image), 0);
  assert_true (peek_file64 (path, table + 8 * 5) == peek_file64 (path, table));
}

/* Leaks: told, and given back. */
static void
test_leaks (void **state)
{
  struct qed_check_result result;
  uint64_t table = make_two_clusters ();

  (void) state;
  poke_file64 (path, table, 0);
  open_image ();
  assert_int_equal (check (QED_REPAIR_NONE, &result), 0);
  assert_int_equal (result.leaks, 1);
  assert_int_equal (counts[QED_PROBLEM_LEAK], 1);
  assert_int_equal (check (QED_REPAIR_LEAKS, &result), 0);
  assert_int_equal (result.leaks, 0);
  assert_int_equal (result.leaks_fixed, 1);
  assert_int_equal (check (QED_REPAIR_NONE, &result), 0);
  assert_int_equal (result.leaks, 0);
  expect_cluster (1, 2);
  assert_int_equal (qed_close (image), 0);
}

static int
setup (void **state)
{
  (void) state;
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/image.qed", directory);
  snprintf (base, sizeof base, "%s/base.raw", directory);
  return 0;
}

static int
teardown (void **state)
{
  (void) state;
  unlink (path);
  unlink (base);
  return rmdir (directory);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_no_false_alarm),
    cmocka_unit_test (test_repair_meanwhile),
    cmocka_unit_test (test_repair_planted),
    cmocka_unit_test (test_page_differs),
    cmocka_unit_test (test_leaks),
  };

  return cmocka_run_group_tests (tests, setup, teardown);
}
