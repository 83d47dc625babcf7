/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The map of an image and its chain: against a model, of damaged images, and
 * that it costs little.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake-image.h"
#include "random.h"

#define CLUSTERS (IMAGE_SIZE / CLUSTER)
#define TABLE(n) (AT_END + (n) * CLUSTER)
#define DATA_OF(tables) TABLE (tables)

/* ---- What the map says ---- */

static struct qed_map_extent found[2 * CLUSTERS];
static size_t found_n;
static size_t stop_after;       /* the callback then fails; 0: never */
static unsigned errors;         /* lines in the log */

static int
extent (void *opaque, const struct qed_map_extent *e)
{
  assert_ptr_equal (opaque, found);
  assert_true (found_n < sizeof found / sizeof found[0]);
  found[found_n++] = *e;
  return found_n == stop_after ? -ENOSPC : 0;
}

static void
count_errors (void *opaque, enum qed_log_level level, const char *message)
{
  log_quietly (opaque, level, message);
  errors += level <= QED_LOG_REQUEST;
}

static int
map_progress (uint64_t start, uint64_t length,
              const struct qed_progress *progress)
{
  const struct qed_map_request request = {
    .start = start, .length = length, .extent = extent, .opaque = found,
    .progress = progress,
  };

  found_n = 0;
  errors = 0;
  image->options.log.fn = count_errors;
  return qed_map (image, &request);
}

static int
map (uint64_t start, uint64_t length)
{
  return map_progress (start, length, NULL);
}

static void
open_to_map (void)
{
  fake->storage.read_only = true;
  assert_int_equal (open_image (), 0);
}

static void
expect (size_t i, uint64_t start, uint64_t length, unsigned depth,
        enum qed_map_kind kind, uint64_t offset)
{
  assert_true (i < found_n);
  assert_int_equal (found[i].start, start);
  assert_int_equal (found[i].length, length);
  assert_int_equal (found[i].depth, depth);
  assert_int_equal (found[i].kind, kind);
  assert_int_equal (found[i].offset, offset);
}

/* ---- Making images ---- */

/* So many tables, all empty, and that many data clusters behind them. */
static void
make_tables (struct fake_storage *f, unsigned tables, unsigned data)
{
  unsigned i;

  f->length = DATA_OF (tables) + data * CLUSTER;
  for (i = 0; i < tables; i++)
    fake_poke64 (f, AT_L1 + i * 8, TABLE (i));
}

/* Entry n of the disk; its table is the n / 512th. */
static void
set_entry (struct fake_storage *f, uint64_t n, uint64_t value)
{
  fake_poke64 (f, AT_END + n * 8, value);
}

/* The test's own directory, where a backing file "base" lies. */
static char directory[PATH_MAX];

static int
setup_directory (void **state)
{
  const char *tmp = getenv ("TMPDIR");

  snprintf (directory, sizeof directory, "%s/test-map.XXXXXX",
            tmp ? tmp : "/tmp");
  if (mkdtemp (directory) == NULL || chdir (directory) == -1)
    return -1;
  return fake_image_setup (state);
}

static int
teardown_directory (void **state)
{
  unlink ("base");
  if (chdir ("/") == -1 || rmdir (directory) == -1)
    return -1;
  return fake_image_teardown (state);
}

/* The image gets the backing file "base". */
static void
add_backing (bool raw)
{
  format_image (QED_F_BACKING_FILE |
                (raw ? QED_F_BACKING_FORMAT_NO_PROBE : 0), 0);
  fake_poke (fake, "base", 4, 64);
}

static void
dump (struct fake_storage *f, const char *path)
{
  FILE *fp = fopen (path, "w");

  assert_non_null (fp);
  assert_int_equal (fwrite (f->data, 1, f->length, fp), f->length);
  assert_int_equal (fclose (fp), 0);
}

/* ---- Images of all sorts ---- */

static void
test_empty (void **state)
{
  (void) state;
  open_to_map ();
  assert_int_equal (map (0, IMAGE_SIZE), 0);
  assert_int_equal (found_n, 1);
  expect (0, 0, IMAGE_SIZE, 0, QED_MAP_HOLE, 0);
  assert_int_equal (map (IMAGE_SIZE, 0), 0);
  assert_int_equal (found_n, 0);
  assert_int_equal (map (IMAGE_SIZE, 1), -EINVAL);
  assert_int_equal (map (1, IMAGE_SIZE), -EINVAL);
  assert_int_equal (map (UINT64_MAX, 2), -EINVAL);
  assert_int_equal (close_image (), 0);
}

/* Joined over tables, and not where the file doesn't go on. */
static void
test_joined (void **state)
{
  const uint64_t data = DATA_OF (2);
  unsigned i;

  (void) state;
  make_tables (fake, 2, 20);
  for (i = 0; i < 4; i++)
    set_entry (fake, 510 + i, data + i * CLUSTER);
  set_entry (fake, 514, data + 10 * CLUSTER);
  set_entry (fake, 515, 1);
  set_entry (fake, 516, 1);
  set_entry (fake, 518, data + 11 * CLUSTER);
  open_to_map ();
  assert_int_equal (map (0, IMAGE_SIZE), 0);
  assert_int_equal (found_n, 7);
  expect (0, 0, 510 * CLUSTER, 0, QED_MAP_HOLE, 0);
  expect (1, 510 * CLUSTER, 4 * CLUSTER, 0, QED_MAP_DATA, data);
  expect (2, 514 * CLUSTER, CLUSTER, 0, QED_MAP_DATA, data + 10 * CLUSTER);
  expect (3, 515 * CLUSTER, 2 * CLUSTER, 0, QED_MAP_ZERO, 0);
  expect (4, 517 * CLUSTER, CLUSTER, 0, QED_MAP_HOLE, 0);
  expect (5, 518 * CLUSTER, CLUSTER, 0, QED_MAP_DATA, data + 11 * CLUSTER);
  expect (6, 519 * CLUSTER, IMAGE_SIZE - 519 * CLUSTER, 0, QED_MAP_HOLE, 0);

  /* From the middle of a cluster to that of another. */
  assert_int_equal (map (511 * CLUSTER + 100, 4 * CLUSTER), 0);
  assert_int_equal (found_n, 3);
  expect (0, 511 * CLUSTER + 100, 3 * CLUSTER - 100, 0, QED_MAP_DATA,
          data + CLUSTER + 100);
  expect (2, 515 * CLUSTER, 100, 0, QED_MAP_ZERO, 0);
  assert_int_equal (close_image (), 0);
  assert_int_equal (errors, 0);
}

/* ---- Against a model ---- */

struct model {
  unsigned tables;
  uint64_t entries[CLUSTERS];
};

static struct model models[2];

/* Entries in runs, of data that goes on or not, zeros and nothing. */
static void
make_random (struct fake_storage *f, struct model *model, uint64_t *seed)
{
  const unsigned data = 500;
  uint64_t n, left = 0, value = 0;

  memset (model, 0, sizeof *model);
  model->tables = 1 + random_below (seed, TABLES);
  make_tables (f, model->tables, data);
  for (n = 0; n < model->tables * 512; n++, left--) {
    if (left == 0) {
      left = 1 + random_below (seed, random_below (seed, 10) ? 8 : 2000);
      value = random_below (seed, 4);
      if (value > 1)
        value = DATA_OF (model->tables) + random_below (seed, data) * CLUSTER;
    }
    model->entries[n] = value;
    set_entry (f, n, value);
    if (value > 1)
      value += CLUSTER;
    if (value >= f->length)
      value = DATA_OF (model->tables);
  }
}

/* What the map must say of one cluster. */
static struct qed_map_extent
expected_cluster (uint64_t n, unsigned count, uint64_t base_clusters)
{
  struct qed_map_extent e = { .start = n * CLUSTER, .length = CLUSTER };
  uint64_t entry;

  for (;;) {
    entry = models[e.depth].entries[n];
    e.kind = entry == 0 ? QED_MAP_HOLE : entry == 1 ? QED_MAP_ZERO
      : QED_MAP_DATA;
    e.offset = entry > 1 ? entry : 0;
    if (entry != 0 || e.depth + 1 == count)
      return e;
    if (n >= base_clusters) {
      e.kind = QED_MAP_BEYOND;
      return e;
    }
    e.depth++;
  }
}

static bool
joins (const struct qed_map_extent *a, const struct qed_map_extent *b)
{
  return a->kind == b->kind && a->depth == b->depth &&
    (a->kind != QED_MAP_DATA || a->offset + a->length == b->offset);
}

static void
expect_model (unsigned count, uint64_t base_clusters)
{
  struct qed_map_extent e, all = expected_cluster (0, count, base_clusters);
  size_t i = 0;
  uint64_t n;

  for (n = 1; n < CLUSTERS; n++) {
    e = expected_cluster (n, count, base_clusters);
    if (joins (&all, &e))
      all.length += CLUSTER;
    else {
      expect (i++, all.start, all.length, all.depth, all.kind, all.offset);
      all = e;
    }
  }
  expect (i++, all.start, all.length, all.depth, all.kind, all.offset);
  assert_int_equal (found_n, i);
}

static void
test_random (void **state)
{
  uint64_t seed = 1;
  unsigned i;

  (void) state;
  for (i = 0; i < 20; i++) {
    memset (fake->data, 0, fake->length);
    fake->sparse = i % 2;
    format_image (0, 0);
    make_random (fake, &models[0], &seed);
    open_to_map ();
    assert_int_equal (map (0, IMAGE_SIZE), 0);
    expect_model (1, 0);
    assert_int_equal (close_image (), 0);
    assert_int_equal (errors, 0);
  }
}

/* Over a QED file, as large or smaller. */
static void
test_random_chain (void **state)
{
  struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 1, .header_size = 1,
    .l1_table_offset = AT_L1,
  };
  struct fake_storage *base;
  struct qed_chain_file file;
  uint64_t seed = 2, n;
  unsigned i;

  (void) state;
  for (i = 0; i < 20; i++) {
    memset (fake->data, 0, fake->length);
    fake->sparse = i % 2;
    add_backing (false);
    make_random (fake, &models[0], &seed);
    base = fake_new (0, fake->max);
    n = i % 2 ? CLUSTERS : 1 + random_below (&seed, CLUSTERS);
    header.image_size = n * CLUSTER;
    fake_format (base, &header);
    make_random (base, &models[1], &seed);
    dump (base, "base");
    open_to_map ();
    assert_int_equal (map (0, IMAGE_SIZE), 0);
    expect_model (2, n);

    assert_true (qed_chain_file (image, 1, &file));
    assert_false (file.raw);
    assert_int_equal (file.size, n * CLUSTER);
    assert_int_equal (file.length, base->length);
    assert_string_equal (strrchr (file.path, '/'), "/base");
    assert_false (qed_chain_file (image, 2, &file));
    assert_int_equal (close_image (), 0);
    fake_free (base);
  }
}

/* A raw file whose end is no cluster's. */
static void
test_raw (void **state)
{
  const uint64_t hole = 1 << 20, size = 3 * hole + 1000, data = DATA_OF (1);
  int fd = open ("base", O_RDWR | O_CREAT, 0600);
  struct qed_chain_file file;

  (void) state;
  assert_true (fd >= 0);
  assert_int_equal (ftruncate (fd, (off_t) size), 0);
  assert_int_equal (pwrite (fd, "x", 1, (off_t) hole), 1);
  if (lseek (fd, 0, SEEK_DATA) != (off_t) hole) {
    close (fd);
    skip ();                    /* no holes here */
  }
  assert_int_equal (pwrite (fd, "x", 1, (off_t) size - 1), 1);
  close (fd);
  add_backing (true);
  make_tables (fake, 1, 10);
  set_entry (fake, hole / CLUSTER, data);
  set_entry (fake, 10, 1);
  open_to_map ();
  assert_int_equal (map (0, IMAGE_SIZE), 0);
  assert_true (found_n > 6);
  expect (0, 0, 10 * CLUSTER, 1, QED_MAP_RAW_HOLE, 0);
  expect (1, 10 * CLUSTER, CLUSTER, 0, QED_MAP_ZERO, 0);
  expect (2, 11 * CLUSTER, hole - 11 * CLUSTER, 1, QED_MAP_RAW_HOLE,
          11 * CLUSTER);
  expect (3, hole, CLUSTER, 0, QED_MAP_DATA, data);
  assert_int_equal (found[found_n - 2].kind, QED_MAP_DATA);
  assert_int_equal (found[found_n - 2].offset, found[found_n - 2].start);
  expect (found_n - 1, size, IMAGE_SIZE - size, 0, QED_MAP_BEYOND, 0);
  assert_true (qed_chain_file (image, 1, &file));
  assert_true (file.raw);
  assert_int_equal (file.length, size);
  assert_int_equal (close_image (), 0);
}

/* ---- Damage ---- */

/* Clusters 0 and 2 are good; 1 is made of the value, and damaged. */
static void
expect_damaged_entry (uint64_t value)
{
  make_tables (fake, 2, 10);
  set_entry (fake, 0, DATA_OF (2));
  set_entry (fake, 1, value);
  set_entry (fake, 2, DATA_OF (2) + CLUSTER);
  open_to_map ();
  assert_int_equal (map (0, IMAGE_SIZE), -EIO);
  assert_int_equal (found_n, 4);
  expect (0, 0, CLUSTER, 0, QED_MAP_DATA, DATA_OF (2));
  expect (1, CLUSTER, CLUSTER, 0, QED_MAP_DAMAGED, 0);
  expect (2, 2 * CLUSTER, CLUSTER, 0, QED_MAP_DATA, DATA_OF (2) + CLUSTER);
  expect (3, 3 * CLUSTER, IMAGE_SIZE - 3 * CLUSTER, 0, QED_MAP_HOLE, 0);
  assert_int_equal (errors, 1); /* named, and once */
  assert_int_equal (close_image (), 0);
}

static void
test_damaged_entry (void **state)
{
  (void) state;
  expect_damaged_entry (DATA_OF (2) + 10 * CLUSTER);    /* behind the end */
  expect_damaged_entry (DATA_OF (2) + 8);
  expect_damaged_entry (2);
  expect_damaged_entry (AT_L1);
  expect_damaged_entry (TABLE (0));
  expect_damaged_entry (TABLE (1));     /* known before it is looked at */
}

/* As far as the table would reach, and named once. */
static void
test_damaged_table (void **state)
{
  static const uint64_t values[] = { 1, 12, UINT64_C (1) << 60, AT_L1 };
  unsigned i;

  (void) state;
  for (i = 0; i < sizeof values / sizeof values[0]; i++) {
    make_tables (fake, 3, 10);
    set_entry (fake, 0, DATA_OF (3));
    set_entry (fake, 1024, DATA_OF (3) + CLUSTER);
    fake_poke64 (fake, AT_L1 + 8, values[i]);
    open_to_map ();
    assert_int_equal (map (0, IMAGE_SIZE), -EIO);
    assert_int_equal (found_n, 5);
    expect (2, TABLE_SPAN, TABLE_SPAN, 0, QED_MAP_DAMAGED, 0);
    expect (3, 2 * TABLE_SPAN, CLUSTER, 0, QED_MAP_DATA,
            DATA_OF (3) + CLUSTER);
    assert_int_equal (errors, 1);
    assert_int_equal (close_image (), 0);
  }
}

/* Two tables in one place: both are listed, and it is said. */
static void
test_shared_table (void **state)
{
  (void) state;
  make_tables (fake, 2, 10);
  set_entry (fake, 0, DATA_OF (2));
  fake_poke64 (fake, AT_L1 + 8, TABLE (0));
  open_to_map ();
  assert_int_equal (map (0, IMAGE_SIZE), -EIO);
  expect (0, 0, CLUSTER, 0, QED_MAP_DATA, DATA_OF (2));
  expect (2, TABLE_SPAN, CLUSTER, 0, QED_MAP_DATA, DATA_OF (2));
  assert_int_equal (errors, 1);
  assert_int_equal (close_image (), 0);
}

static void
test_unreadable (void **state)
{
  (void) state;
  make_tables (fake, 3, 10);
  set_entry (fake, 0, DATA_OF (3));
  set_entry (fake, 1024, DATA_OF (3) + CLUSTER);
  open_to_map ();
  fake_rule_add (fake, FAKE_READ, TABLE (1), TABLE (2), -EIO, FAKE_ALWAYS);
  assert_int_equal (map (0, IMAGE_SIZE), -EIO);
  assert_int_equal (found_n, 5);
  expect (2, TABLE_SPAN, TABLE_SPAN, 0, QED_MAP_DAMAGED, 0);
  assert_int_equal (errors, 1);
  assert_int_equal (close_image (), 0);

  fake_drop_rules (fake);
  open_to_map ();
  fake_rule_add (fake, FAKE_READ, AT_L1, AT_END, -EIO, FAKE_ALWAYS);
  assert_int_equal (map (0, IMAGE_SIZE), -EIO);
  assert_int_equal (found_n, 1);
  expect (0, 0, IMAGE_SIZE, 0, QED_MAP_DAMAGED, 0);
  assert_int_equal (errors, 1);
  assert_int_equal (close_image (), 0);
}

/* ---- Ending early, and cost ---- */

static int
cancel (void *opaque, uint64_t done, uint64_t total)
{
  assert_int_equal (total, IMAGE_SIZE);
  return done >= *(uint64_t *) opaque;
}

static void
test_ends_early (void **state)
{
  uint64_t limit = 2 * CLUSTER;
  struct qed_progress progress = { .fn = cancel, .opaque = &limit };
  unsigned i;

  (void) state;
  make_tables (fake, 1, 10);
  for (i = 0; i < 10; i += 2)
    set_entry (fake, i, DATA_OF (1) + i * CLUSTER);
  open_to_map ();
  stop_after = 3;
  assert_int_equal (map (0, IMAGE_SIZE), -ENOSPC);
  assert_int_equal (found_n, 3);
  stop_after = 0;
  assert_int_equal (map_progress (0, IMAGE_SIZE, &progress), -ECANCELED);
  assert_true (found_n < 3);
  assert_int_equal (close_image (), 0);
}

static void
test_outside (void **state)
{
  (void) state;
  open_to_map ();
  assert_int_equal (map (0, IMAGE_SIZE + 1), -EINVAL);
  assert_int_equal (map (1, IMAGE_SIZE), -EINVAL);
  assert_int_equal (map (UINT64_MAX, 2), -EINVAL);
  assert_int_equal (found_n, 0);
  assert_int_equal (map (IMAGE_SIZE, 0), 0);
  assert_int_equal (close_image (), 0);
}

/* Each page of the tables is read once or twice, and missing ones never. */
static void
test_cheap (void **state)
{
  unsigned i;

  (void) state;
  make_tables (fake, 100, 10);
  for (i = 0; i < 100; i += 2)
    fake_poke64 (fake, AT_L1 + i * 8, 0);
  open_to_map ();
  fake_forget (fake);
  assert_int_equal (map (0, IMAGE_SIZE), 0);
  assert_int_equal (found_n, 1);
  assert_true (fake_calls (fake, FAKE_READ) >= 50);
  assert_true (fake_calls (fake, FAKE_READ) <= 52);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (close_image (), 0);

  /* In a file with holes, only those that hold something. */
  fake->sparse = true;
  set_entry (fake, 512, 1);
  set_entry (fake, 99 * 512, 1);
  open_to_map ();
  fake_forget (fake);
  assert_int_equal (map (0, IMAGE_SIZE), 0);
  assert_int_equal (found_n, 5);
  expect (1, TABLE_SPAN, CLUSTER, 0, QED_MAP_ZERO, 0);
  expect (3, 99 * TABLE_SPAN, CLUSTER, 0, QED_MAP_ZERO, 0);
  assert_true (fake_calls (fake, FAKE_READ) <= 4);
  assert_int_equal (close_image (), 0);
}

#define DIRECTORY_TEST(f) \
  cmocka_unit_test_setup_teardown (f, setup_directory, teardown_directory)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_empty),
    FAKE_IMAGE_TEST (test_joined),
    FAKE_IMAGE_TEST (test_random),
    DIRECTORY_TEST (test_random_chain),
    DIRECTORY_TEST (test_raw),
    FAKE_IMAGE_TEST (test_damaged_entry),
    FAKE_IMAGE_TEST (test_damaged_table),
    FAKE_IMAGE_TEST (test_shared_table),
    FAKE_IMAGE_TEST (test_unreadable),
    FAKE_IMAGE_TEST (test_ends_early),
    FAKE_IMAGE_TEST (test_outside),
    FAKE_IMAGE_TEST (test_cheap),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
