/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Check and repair of a closed image: what is found, what stays, and what the
 * file is afterwards.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "format.h"
#include "sync-request.h"

#define CLUSTER UINT64_C (4096)

static char directory[] = "/tmp/test-repair.XXXXXX";
static char path[64];
static struct qed_check_result result;
static bool dry_run;

/* ---- The image ---- */

static struct format_header header;
static uint64_t l1;             /* where it lies */
static int fd;

static void
poke_bytes (uint64_t at, const void *buf, size_t n)
{
  assert_int_equal (pwrite (fd, buf, n, (off_t) at), n);
}

static void
poke (uint64_t at, uint64_t value)
{
  unsigned char buf[8];

  format_put64 (buf, value);
  poke_bytes (at, buf, sizeof buf);
}

static uint64_t
peek (uint64_t at)
{
  unsigned char buf[8] = { 0 };

  assert_true (pread (fd, buf, sizeof buf, (off_t) at) >= 0);
  return format_get64 (buf);
}

/* An empty image that is 'clusters' long. */
static void
make_image (uint32_t table_size, uint64_t size, uint64_t clusters)
{
  unsigned char buf[FORMAT_HEADER_BYTES];

  header = (struct format_header) {
    .cluster_size = CLUSTER, .table_size = table_size, .header_size = 1,
    .l1_table_offset = CLUSTER, .image_size = size,
  };
  l1 = CLUSTER;
  format_encode_header (&header, buf);
  assert_int_equal (ftruncate (fd, 0), 0);
  assert_int_equal (ftruncate (fd, (off_t) (clusters * CLUSTER)), 0);
  poke_bytes (0, buf, sizeof buf);
}

/* A data cluster: noise that follows from its number, never 0. */
static void
fill (uint64_t number, uint64_t seed)
{
  unsigned char buf[CLUSTER];
  size_t i;

  for (i = 0; i < CLUSTER; i++) {
    seed = seed * UINT64_C (6364136223846793005) + 1442695040888963407u;
    buf[i] = (unsigned char) (seed >> 56) | 1;
  }
  poke_bytes (number * CLUSTER, buf, sizeof buf);
}

static int
check_image (enum qed_repair repair)
{
  struct qed_check_options check;
  struct qed_options options;
  int r;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = log_quietly;
  qed_check_options_init (&check);
  check.repair = repair;
  check.dry_run = dry_run;
  r = qed_check (&options, &check, &result);
  return qed_check_exit_code (r, &result);
}

static void
expect_fill (uint64_t guest, uint64_t seed)
{
  unsigned char buf[CLUSTER], want[CLUSTER];
  struct qed_options options;
  struct qed_image *image;
  size_t i;
  int r;

  for (i = 0; i < CLUSTER; i++) {
    seed = seed * UINT64_C (6364136223846793005) + 1442695040888963407u;
    want[i] = (unsigned char) (seed >> 56) | 1;
  }
  qed_options_init (&options);
  options.path = path;
  options.read_only = true;
  options.log.fn = log_quietly;
  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
  r = sync_request (image, QED_OP_READ, buf, CLUSTER, guest * CLUSTER, 0);
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (r, 0);
  assert_memory_equal (buf, want, sizeof buf);
}

/* ---- A wrong L1 entry ---- */

/* It names a cluster of data, which is not lost for that. */
static void
test_table_is_data (void **state)
{
  (void) state;
  make_image (1, 16 << 20, 10);
  poke (l1, 2 * CLUSTER);
  poke (2 * CLUSTER, 3 * CLUSTER);
  poke (2 * CLUSTER + 8, 4 * CLUSTER);
  fill (3, 3);
  fill (4, 4);
  poke (l1 + 8 * 5, 3 * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_NONE), 2);
  assert_int_equal (check_image (QED_REPAIR_ALL), 0);
  expect_fill (0, 3);
  expect_fill (1, 4);
}

/* It is a table, though one of its entries is wrong and another's entry names
 * it.
 */
static void
test_table_is_table (void **state)
{
  unsigned i;

  (void) state;
  make_image (1, 16 << 20, 30);
  poke (l1, 2 * CLUSTER);
  poke (l1 + 8, 3 * CLUSTER);
  for (i = 0; i < 10; i++) {
    poke (3 * CLUSTER + 8 * i, (4 + i) * CLUSTER);
    fill (4 + i, 4 + i);
  }
  poke (3 * CLUSTER + 8 * 20, 12345);
  poke (2 * CLUSTER, 3 * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_ALL), 0);
  for (i = 0; i < 10; i++)
    expect_fill (512 + i, 4 + i);
}

/* Zero clusters say something, too. */
static void
test_table_of_zeros (void **state)
{
  (void) state;
  make_image (1, 16 << 20, 10);
  poke (l1, 2 * CLUSTER);
  poke (l1 + 8, 3 * CLUSTER);
  poke (3 * CLUSTER, FORMAT_ENTRY_ZERO);
  poke (2 * CLUSTER, 3 * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_ALL), 0);
  assert_true (peek (l1 + 8) != 0);
  assert_true (peek (peek (l1 + 8)) == FORMAT_ENTRY_ZERO);
}

/* A table of two clusters that begins in data and ends in a table, or the
 * other way round.
 */
static void
test_table_overlap (bool before)
{
  uint64_t table = 5;

  make_image (2, 8 << 20, 12);
  poke (l1, table * CLUSTER);
  fill (4, 4);
  fill (7, 7);
  fill (8, 8);
  poke (table * CLUSTER, 8 * CLUSTER);
  poke (table * CLUSTER + CLUSTER, 4 * CLUSTER);
  poke (table * CLUSTER + CLUSTER + 8, 7 * CLUSTER);
  poke (l1 + 8, (before ? 4 : 6) * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_ALL), 0);
  expect_fill (0, 8);
  expect_fill (512, 4);
  expect_fill (513, 7);
}

static void
test_overlap_before (void **state)
{
  (void) state;
  test_table_overlap (true);
}

static void
test_overlap_behind (void **state)
{
  (void) state;
  test_table_overlap (false);
}

/* Two tables that the file cuts short: what one's copy holds is no part of
 * the other.
 */
static void
test_two_truncated (void **state)
{
  (void) state;
  make_image (4, 64 << 20, 10);
  l1 = CLUSTER;
  poke (l1, 8 * CLUSTER);
  poke (l1 + 8, 9 * CLUSTER);
  poke (8 * CLUSTER, 6 * CLUSTER);
  poke (9 * CLUSTER, 7 * CLUSTER);
  fill (6, 6);
  fill (7, 7);
  assert_int_equal (check_image (QED_REPAIR_ALL), 3);  /* cut tables */
  assert_int_equal (check_image (QED_REPAIR_LEAKS), 0);
  expect_fill (0, 6);
  expect_fill (2048, 7);
  assert_int_equal (result.tables, 2);
  /* The first has what the second had, too: it overlapped. */
  assert_int_equal (result.allocated_clusters, 3);
}

/* So many entries name a place where no table can be that not all of them are
 * looked at: they are told, and mended, all the same.
 */
static void
test_many_in_one_place (uint64_t first, uint64_t others, uint64_t clusters)
{
  const unsigned many = 40;
  unsigned i;

  make_image (4, UINT64_C (1) << 30, clusters);
  poke (l1, first * CLUSTER);
  poke (first * CLUSTER, 5 * CLUSTER);
  fill (5, 5);
  for (i = 1; i <= many; i++)
    poke (l1 + 8 * i, others * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_NONE), 2);
  assert_in_range (result.corruptions, many, 2 * many);
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  assert_int_equal (result.corruptions, 0);
  assert_int_equal (check_image (QED_REPAIR_LEAKS), 0);
  expect_fill (0, 5);
}

static void
test_many_truncated (void **state)
{
  (void) state;
  test_many_in_one_place (6, 18, 20);
}

static void
test_many_overlap (void **state)
{
  (void) state;
  test_many_in_one_place (6, 8, 20);
}

/* A copy of their table for each would be much more than the file ever held:
 * the first of them get one, the others are unlinked and told as lost.
 */
static void
test_crowded (void **state)
{
  const uint64_t many = 40, copies = 16, span = 4 * 512 * CLUSTER;
  uint64_t i;

  (void) state;
  make_image (4, UINT64_C (1) << 30, 20);
  poke (l1, 6 * CLUSTER);
  poke (6 * CLUSTER, 5 * CLUSTER);
  fill (5, 5);
  fill (12, 12);
  poke (8 * CLUSTER, 12 * CLUSTER);     /* of the first, and of the others */
  for (i = 1; i <= many; i++)
    poke (l1 + 8 * i, 8 * CLUSTER);
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  assert_true (result.lost_bytes == (many - copies) * span);
  for (i = 1; i <= many; i++)
    assert_int_equal (peek (l1 + 8 * i) != 0, i <= copies);
  expect_fill (0, 5);
  expect_fill (1024, 12);
  for (i = 1; i <= copies; i++)
    expect_fill (i * 4 * 512, 12);
  assert_int_not_equal (check_image (QED_REPAIR_LEAKS), 2);
  assert_int_equal (check_image (QED_REPAIR_NONE), 0);
}

/* A table that overlaps and names nothing is nothing to be copied. */
static void
test_empty_overlap (void **state)
{
  (void) state;
  make_image (2, 8 << 20, 7);
  fill (6, 6);
  poke (l1, 3 * CLUSTER);
  poke (3 * CLUSTER, 6 * CLUSTER);
  poke (l1 + 8, 4 * CLUSTER);
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  assert_true (result.lost_bytes == 0);
  assert_true (peek (l1 + 8) == 0);
  expect_fill (0, 6);
  assert_int_not_equal (check_image (QED_REPAIR_LEAKS), 2);
  assert_int_equal (check_image (QED_REPAIR_NONE), 0);
}

/* All entries of a disk without a byte are beyond its end; those that are
 * wrong go.
 */
static void
test_no_disk (void **state)
{
  (void) state;
  make_image (1, 0, 6);
  poke (l1, 2 * CLUSTER);
  poke (2 * CLUSTER, 12345);
  poke (2 * CLUSTER + 8, 4 * CLUSTER);
  poke (l1 + 8, UINT64_C (1) << 40);
  assert_int_equal (check_image (QED_REPAIR_NONE), 2);
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  assert_true (result.lost_bytes == 0);
  assert_true (peek (2 * CLUSTER) == 0);
  assert_int_not_equal (check_image (QED_REPAIR_LEAKS), 2);
  assert_int_equal (check_image (QED_REPAIR_NONE), 0);
}

/* What is no table is lost in each place where it is linked, and once,
 * however many entries lead into it.
 */
static void
test_no_table_often (void **state)
{
  const uint64_t span = 512 * CLUSTER;
  unsigned i;

  (void) state;
  make_image (1, UINT64_C (1) << 30, 6);
  fill (4, 4);
  poke (l1, 2 * CLUSTER);
  poke (2 * CLUSTER, 4 * CLUSTER);
  for (i = 0; i < 40; i++)
    poke (l1 + 16 + i * 32, 3 * CLUSTER);
  for (i = 0; i < 3; i++)
    poke (3 * CLUSTER + 8 * i, 3 * CLUSTER);
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  assert_true (result.lost_bytes == 40 * span);
  assert_true (peek (l1) == 2 * CLUSTER);
  for (i = 0; i < 40; i++)
    assert_true (peek (l1 + 16 + i * 32) == 0);
  expect_fill (0, 4);
  assert_int_not_equal (check_image (QED_REPAIR_LEAKS), 2);
  assert_int_equal (check_image (QED_REPAIR_NONE), 0);
}

/* So many wrong entries, in so many places, are told of by the table. */
static void
test_lost_often (void **state)
{
  const uint64_t entries = 4 * 512, span = entries * CLUSTER;
  uint64_t i;

  (void) state;
  make_image (4, entries * span, 10);
  for (i = 0; i < entries; i++)
    poke (l1 + 8 * i, 6 * CLUSTER);
  for (i = 1; i < entries; i++)
    poke (6 * CLUSTER + 8 * i, (i + 100) * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_NONE), 2);
  assert_true (result.lost_bytes ==
               (entries - 1) * CLUSTER + (entries - 1) * span);
}

/* Of a table that was overwritten in part, the rest is worth more than an entry
 * that names a cluster of it.
 */
static void
test_noise_in_table (void **state)
{
  uint64_t i;

  (void) state;
  make_image (4, 64 << 20, 2000);
  poke (l1, 5 * CLUSTER);
  for (i = 0; i < 600; i++)
    poke (5 * CLUSTER + 8 * i, (20 + i) * CLUSTER);
  poke (7 * CLUSTER, 8 * CLUSTER);
  for (i = 0; i < 40; i++)
    poke (8 * CLUSTER + 8 * i, 12345 + 16 * i);
  fill (20, 20);
  assert_int_equal (check_image (QED_REPAIR_ALL), 0);
  assert_true (result.lost_bytes == 41 * CLUSTER);
  assert_true (peek (l1) != 0);
  expect_fill (0, 20);
}

/* What is unlinked though it names something: that stays until someone asks for
 * the repair of leaks.
 */
static void
test_noise_names (void **state)
{
  uint64_t was, i;

  (void) state;
  make_image (1, 16 << 20, 7);
  fill (4, 4);
  fill (6, 6);
  poke (l1, 2 * CLUSTER);
  poke (l1 + 8, 3 * CLUSTER);
  poke (2 * CLUSTER, 3 * CLUSTER);
  poke (2 * CLUSTER + 8, 4 * CLUSTER);
  for (i = 1; i < 60; i++)
    poke (3 * CLUSTER + 8 * i, 12345 + 16 * i);
  poke (3 * CLUSTER, 6 * CLUSTER);
  was = peek (6 * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_ALL), 3);
  assert_true (peek (l1 + 8) == 0);
  assert_true (peek (6 * CLUSTER) == was);
  expect_fill (1, 4);
  assert_int_equal (check_image (QED_REPAIR_LEAKS), 0);
  assert_int_equal (check_image (QED_REPAIR_NONE), 0);
  expect_fill (1, 4);
}

/* A table that the file cuts, and of which two entries name itself and one
 * names another table: they go, what else it names is copied.
 */
static void
test_self_in_cut_table (void **state)
{
  const uint64_t cut = 11 * CLUSTER, span = 2048 * CLUSTER;

  (void) state;
  make_image (4, 64 << 20, 13);
  fill (9, 9);
  fill (10, 10);
  poke (l1, 5 * CLUSTER);
  poke (5 * CLUSTER, 9 * CLUSTER);
  poke (l1 + 8, cut);
  poke (cut, 10 * CLUSTER);
  poke (cut + 8, cut);
  poke (cut + 16, cut + CLUSTER);
  poke (cut + 24, 6 * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_ALL), 3);
  assert_true (result.lost_bytes == span / 2 + 3 * CLUSTER);
  assert_true (peek (l1 + 8) > cut);
  assert_true (peek (peek (l1 + 8) + 8) == 0);
  expect_fill (0, 9);
  expect_fill (2048, 10);
  assert_int_equal (check_image (QED_REPAIR_LEAKS), 0);
  expect_fill (2048, 10);
}

/* A table that the file cuts lies where a cluster of data does: what its
 * entries beyond the end would be is data.
 */
static void
test_data_in_cut_table (void **state)
{
  const uint64_t table = 5 * CLUSTER, cut = 11 * CLUSTER, data = 12 * CLUSTER;
  struct qed_options options;
  struct qed_image *image;
  uint64_t i, word;
  int r;

  (void) state;
  make_image (4, 64 << 20, 14);
  fill (9, 9);
  poke (l1, table);
  poke (table, data);
  poke (l1 + 16, cut);
  poke (cut, 9 * CLUSTER);
  for (i = 0; i < 512; i++)
    poke (data + 8 * i, (i + 1) << 32);
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  qed_options_init (&options);
  options.path = path;
  options.read_only = true;
  options.log.fn = log_quietly;
  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
  for (i = 0; i < 512; i++) {
    r = sync_request (image, QED_OP_READ, &word, 8, 8 * i, 0);
    assert_int_equal (r, 0);
    assert_true (format_get64 ((unsigned char *) &word) == (i + 1) << 32);
  }
  assert_int_equal (qed_close (image), 0);
  expect_fill (2 * 2048, 9);
}

/* What there is no room to list at once is counted once, too. */
static void
test_lost_once (void **state)
{
  enum { TABLE = 16, ENTRIES = TABLE * 512, TABLES = 36 };
  unsigned char buf[TABLE * CLUSTER];
  uint64_t first = 1 + TABLE, t, i;

  (void) state;
  make_image (TABLE, UINT64_C (4) << 30, first + TABLES * TABLE + 1);
  for (i = 0; i < ENTRIES; i++)
    format_put64 (buf + i * 8, (first + TABLES * TABLE) * CLUSTER + 512);
  for (t = 0; t < TABLES; t++) {
    poke (l1 + 8 * t, (first + t * TABLE) * CLUSTER);
    poke_bytes ((first + t * TABLE) * CLUSTER, buf, sizeof buf);
  }
  assert_int_equal (check_image (QED_REPAIR_NONE), 2);
  assert_true (result.lost_bytes > 0);
  dry_run = true;
  assert_int_equal (check_image (QED_REPAIR_ALL), 2);
  assert_true (result.lost_bytes > 0);
  dry_run = false;
  assert_int_not_equal (check_image (QED_REPAIR_ALL), 2);
  assert_true (result.corruptions_fixed == TABLES * ENTRIES);
  assert_true (result.lost_bytes == TABLES * ENTRIES * CLUSTER);
}

/* A table that another one overlaps, and that is set apart therefore, names
 * data that L1 names as a table: no other entry does.
 */
static void
test_data_of_overlapped (void **state)
{
  (void) state;
  make_image (2, 64 << 20, 10);
  fill (7, 7);
  fill (8, 8);
  poke (l1, 5 * CLUSTER);
  poke (6 * CLUSTER, 7 * CLUSTER);
  poke (6 * CLUSTER + 8, 8 * CLUSTER);
  poke (l1 + 8, 4 * CLUSTER);
  poke (l1 + 16, 7 * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_NONE), 2);
  assert_true (result.lost_bytes == 1024 * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_ALL), 3);
  assert_true (result.lost_bytes == 1024 * CLUSTER);
  assert_true (peek (l1 + 16) == 0);
  expect_fill (512, 7);
  expect_fill (513, 8);
}

/* L1 names clusters of data, as an old copy of it does: more wrong entries than
 * can be listed, before it is known that these tables are none.
 */
static void
test_data_as_tables (void **state)
{
  enum { TABLE = 16, TABLES = 36 };
  const uint64_t first = 1 + TABLE, n = TABLES * TABLE, table = first + n;
  uint64_t i;

  (void) state;
  make_image (TABLE, UINT64_C (4) << 30, table + TABLE);
  poke (l1, table * CLUSTER);
  for (i = 0; i < n; i++) {
    fill (first + i, i);
    poke (table * CLUSTER + 8 * i, (first + i) * CLUSTER);
  }
  for (i = 0; i < TABLES; i++)
    poke (l1 + 8 * (i + 1), (first + i * TABLE) * CLUSTER);
  assert_int_equal (check_image (QED_REPAIR_ALL), 0);
  assert_true (peek (l1) == table * CLUSTER);
  for (i = 0; i < n; i++)
    expect_fill (i, i);
  for (i = 0; i < TABLES; i++)
    assert_true (peek (l1 + 8 * (i + 1)) == 0);
}

static void
test_names (void **state)
{
  enum qed_problem_code code;

  (void) state;
  assert_true (qed_problem_find ("leak", &code));
  assert_int_equal (code, QED_PROBLEM_LEAK);
  assert_false (qed_problem_find ("leaks", &code));
}

/* ---- Shared clusters ---- */

/* More than are remembered at a time; who refers to them a second time comes
 * last.
 */
static void
test_many_shared (void **state)
{
  const uint64_t tables = 1040, data = 2 + 4 * 1 + 4 * 1040;
  unsigned char buf[CLUSTER];
  uint64_t t, i;

  (void) state;
  make_image (4, UINT64_C (1) << 34, data + 520 * 512);
  for (t = 0; t < tables; t++) {
    for (i = 0; i < 512; i++)
      format_put64 (buf + i * 8, (data + t % 520 * 512 + i) * CLUSTER);
    poke_bytes ((6 + t * 4) * CLUSTER, buf, sizeof buf);
    poke (l1 + t * 8, (6 + t * 4) * CLUSTER);
  }
  assert_int_equal (check_image (QED_REPAIR_NONE), 2);
  assert_int_equal (result.corruptions, 520 * 512);
}

/* ---- Where L1 lies ---- */

/* Behind a gap that holds something: it can't move. */
static void
test_l1_far (void **state)
{
  unsigned char buf[FORMAT_HEADER_BYTES];

  (void) state;
  make_image (1, 16 << 20, 60);
  header.l1_table_offset = 50 * CLUSTER;
  format_encode_header (&header, buf);
  poke_bytes (0, buf, sizeof buf);
  l1 = header.l1_table_offset;
  poke (l1, 40 * CLUSTER);
  poke (40 * CLUSTER, 30 * CLUSTER);
  fill (30, 30);
  fill (20, 20);
  fill (55, 55);
  assert_int_equal (check_image (QED_REPAIR_NONE), 3);
  assert_int_equal (check_image (QED_REPAIR_ALL), 0);
  assert_int_equal (result.leaks, 0);
  expect_fill (0, 30);
}

static int
setup (void **state)
{
  (void) state;
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/image.qed", directory);
  fd = open (path, O_RDWR | O_CREAT, 0600);
  return fd >= 0 ? 0 : -1;
}

static int
teardown (void **state)
{
  (void) state;
  close (fd);
  unlink (path);
  return rmdir (directory);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_table_is_data),
    cmocka_unit_test (test_table_is_table),
    cmocka_unit_test (test_table_of_zeros),
    cmocka_unit_test (test_overlap_before),
    cmocka_unit_test (test_overlap_behind),
    cmocka_unit_test (test_two_truncated),
    cmocka_unit_test (test_many_truncated),
    cmocka_unit_test (test_many_overlap),
    cmocka_unit_test (test_crowded),
    cmocka_unit_test (test_empty_overlap),
    cmocka_unit_test (test_no_disk),
    cmocka_unit_test (test_no_table_often),
    cmocka_unit_test (test_lost_often),
    cmocka_unit_test (test_noise_in_table),
    cmocka_unit_test (test_noise_names),
    cmocka_unit_test (test_self_in_cut_table),
    cmocka_unit_test (test_data_in_cut_table),
    cmocka_unit_test (test_lost_once),
    cmocka_unit_test (test_data_of_overlapped),
    cmocka_unit_test (test_data_as_tables),
    cmocka_unit_test (test_names),
    cmocka_unit_test (test_many_shared),
    cmocka_unit_test (test_l1_far),
  };

  return cmocka_run_group_tests (tests, setup, teardown);
}
