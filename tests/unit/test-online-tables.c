/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The repair of L1 and of whole tables while the image is in use: four threads
 * read, write, trim and flush, with a backing file and without.  What could be
 * read stays as it is all the time, what is dropped reads as if it had never
 * been written, writes are refused until the repair has ended, and then go on
 * without a reopen.
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
#include "format.h"
#include "random.h"
#include "sync-request.h"

#define CLUSTER UINT64_C (8192)
#define PER_CLUSTER (CLUSTER / 8)       /* entries */
#define AT_HEADER_SIZE 12
#define AT_L1_OFFSET 40
#define L1 (2 * CLUSTER)        /* behind a header of two clusters */
#define TABLES 12u              /* of the disk */
#define FILLED 6u               /* tables with data to begin with */
#define PER_TABLE 8u            /* data clusters in each of them */
#define HURT 3u                 /* the table that most damage is about */
#define SPARE 9u                /* the one whose L1 entry was empty */
#define OWN 7u                  /* the table in which the threads write */
#define THREADS 4u
#define OWN_CLUSTERS 64u        /* each */
#define BASE_BYTE 0xba

static char directory[] = "/tmp/test-online-tables.XXXXXX";
static char path[80], base[80];
static struct qed_image *image;
static uint64_t table_clusters, entries;
static bool with_base;

/* What the threads hold to. */
enum phase { SOUND, DAMAGED, REPAIRED };
static _Atomic int phase;
static _Atomic bool stop;
static _Atomic unsigned failures, refused;
static bool may_lose;           /* what HURT holds may go, or fail */
static _Atomic bool may_fail;   /* HURT's first cluster, until the repair */
static bool twin;               /* SPARE reads as HURT does */

/* ---- The file ---- */

static void
poke (uint64_t offset, uint64_t value, size_t bytes)
{
  unsigned char buf[8];
  int fd = open (path, O_RDWR);

  assert_true (fd >= 0);
  format_put64 (buf, value);
  assert_int_equal (pwrite (fd, buf, bytes, (off_t) offset), bytes);
  close (fd);
}

static uint64_t
peek (uint64_t offset)
{
  unsigned char buf[8];
  int fd = open (path, O_RDONLY);

  assert_true (fd >= 0);
  assert_int_equal (pread (fd, buf, sizeof buf, (off_t) offset), 8);
  close (fd);
  return format_get64 (buf);
}

/* n clusters at the end of the file, of zeros; where they begin. */
static uint64_t
append (uint64_t n)
{
  int fd = open (path, O_RDWR);
  off_t end = lseek (fd, 0, SEEK_END);

  assert_true (end > 0);
  end = (off_t) (((uint64_t) end + CLUSTER - 1) & -CLUSTER);
  assert_int_equal (ftruncate (fd, end + (off_t) (n * CLUSTER)), 0);
  close (fd);
  return (uint64_t) end;
}

/* A data cluster that no one refers to yet. */
static uint64_t
append_data (unsigned char byte)
{
  unsigned char buf[CLUSTER];
  uint64_t at = append (1);
  int fd = open (path, O_RDWR);

  memset (buf, byte, sizeof buf);
  assert_int_equal (pwrite (fd, buf, sizeof buf, (off_t) at), CLUSTER);
  close (fd);
  return at;
}

static uint64_t
table_at (uint64_t l1_index)
{
  return peek (L1 + l1_index * 8);
}

static void
make_base (void)
{
  unsigned char *buf = malloc (1 << 20);
  int fd = open (base, O_RDWR | O_CREAT | O_TRUNC, 0600);
  uint64_t at, bytes = TABLES * entries * CLUSTER;

  assert_true (fd >= 0 && buf != NULL);
  memset (buf, BASE_BYTE, 1 << 20);
  for (at = 0; at < bytes; at += 1 << 20)
    assert_int_equal (pwrite (fd, buf, 1 << 20, (off_t) at), 1 << 20);
  close (fd);
  free (buf);
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

static uint64_t
guest (uint64_t table, uint64_t cluster)
{
  return (table * entries + cluster) * CLUSTER;
}

static unsigned char
content (uint64_t table, uint64_t cluster)
{
  return (unsigned char) (1 + table * PER_TABLE + cluster);
}

/* Its first tables have data. */
static void
make_image (unsigned table_size, bool over_base)
{
  struct qed_create_options options;
  unsigned char buf[CLUSTER];
  uint64_t table, cluster;

  table_clusters = table_size;
  entries = table_size * PER_CLUSTER;
  with_base = over_base;
  qed_create_options_init (&options);
  options.path = path;
  options.size = TABLES * entries * CLUSTER;
  options.cluster_size = CLUSTER;
  options.table_size = table_size;
  options.force = true;
  if (with_base) {
    make_base ();
    options.backing = base;
    options.backing_raw = true;
  }
  options.log.fn = log_quietly;
  assert_int_equal (qed_create (&options), 0);
  poke (AT_HEADER_SIZE, 2, 4);
  poke (AT_L1_OFFSET, L1, 8);
  append (1);
  open_image ();
  for (table = 0; table < FILLED; table++)
    for (cluster = 0; cluster < PER_TABLE; cluster++) {
      memset (buf, content (table, cluster), sizeof buf);
      assert_int_equal (sync_request (image, QED_OP_WRITE, buf, CLUSTER,
                                      guest (table, cluster), 0), 0);
    }
  assert_int_equal (qed_close (image), 0);
}

/* ---- The threads ---- */

struct worker {
  pthread_t thread;
  uint64_t seed;
  unsigned char own[OWN_CLUSTERS];      /* what its clusters hold */
  uint64_t first;               /* of them, in the table OWN */
};

static void
failed (const char *what, uint64_t at, int r, unsigned is, unsigned want)
{
  if (atomic_fetch_add (&failures, 1) < 10)
    fprintf (stderr, "%s at 0x%llx: %s, 0x%x, expected 0x%x\n", what,
             (unsigned long long) at, strerror (-r), is, want);
}

static unsigned char
nothing (void)
{
  return with_base ? BASE_BYTE : 0;
}

static void
read_filled (uint64_t *seed)
{
  uint64_t table = random_below (seed, FILLED + twin);
  uint64_t cluster = random_below (seed, PER_TABLE);
  uint64_t of = table == FILLED ? HURT : table;
  uint64_t at = guest (table == FILLED ? SPARE : table, cluster);
  unsigned char buf[CLUSTER], want = content (of, cluster);
  int before = atomic_load (&phase);
  int r = sync_request (image, QED_OP_READ, buf, CLUSTER, at, 0);
  bool loses = may_lose && of == HURT;

  if (may_fail && of == HURT && cluster == 0 && r == -EIO &&
      (before == DAMAGED || atomic_load (&phase) != before))
    return;
  if (loses && (r == -EIO || (r == 0 && buf[0] == nothing ())))
    return;
  if (r < 0 || buf[0] != want || buf[CLUSTER - 1] != want)
    failed ("reading", at, r, buf[0], want);
}

static void
read_own (struct worker *w, uint64_t n)
{
  uint64_t at = guest (OWN, w->first + n);
  unsigned char buf[CLUSTER];
  int r = sync_request (image, QED_OP_READ, buf, CLUSTER, at, 0);

  if (r < 0 || buf[0] != w->own[n] || buf[CLUSTER - 1] != w->own[n])
    failed ("reading what was written", at, r, buf[0], w->own[n]);
}

static void
change_own (struct worker *w, uint64_t n)
{
  int before = atomic_load (&phase);
  bool zero = random_below (&w->seed, 4) == 0;
  unsigned char buf[CLUSTER];
  uint64_t at = guest (OWN, w->first + n);
  int r;

  memset (buf, (int) (1 + random_below (&w->seed, 255)), sizeof buf);
  r = sync_request (image, zero ? QED_OP_ZERO : QED_OP_WRITE, buf, CLUSTER, at,
                    random_below (&w->seed, 50) == 0 ? QED_FUA : 0);
  if (r == -EROFS && (before == DAMAGED || atomic_load (&phase) != before))
    atomic_fetch_add (&refused, 1);
  else if (r < 0)
    failed ("writing", at, r, 0, 0);
  else
    w->own[n] = zero ? 0 : buf[0];
}

static void *
work (void *arg)
{
  struct worker *w = arg;
  uint64_t n;

  while (!atomic_load (&stop)) {
    n = random_below (&w->seed, OWN_CLUSTERS);
    switch (random_below (&w->seed, 8)) {
    case 0: case 1: case 2:
      read_filled (&w->seed);
      break;
    case 3: case 4:
      read_own (w, n);
      break;
    default:
      change_own (w, n);
    }
  }
  return NULL;
}

static struct worker workers[THREADS];

static void
start_workers (void)
{
  unsigned i;

  atomic_store (&stop, false);
  atomic_store (&failures, 0);
  atomic_store (&refused, 0);
  for (i = 0; i < THREADS; i++) {
    memset (&workers[i], 0, sizeof workers[i]);
    memset (workers[i].own, nothing (), sizeof workers[i].own);
    workers[i].seed = i + 1;
    workers[i].first = i * OWN_CLUSTERS;
    assert_int_equal (pthread_create (&workers[i].thread, NULL, work,
                                      &workers[i]), 0);
  }
  usleep (20000);
}

static void
stop_workers (void)
{
  unsigned i;

  usleep (20000);
  atomic_store (&stop, true);
  for (i = 0; i < THREADS; i++)
    pthread_join (workers[i].thread, NULL);
  assert_int_equal (failures, 0);
}

/* ---- Check and repair ---- */

static unsigned counts[QED_PROBLEM_CODES];

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

static void
fixed (void *opaque, const struct qed_problem *problem, const char *action)
{
  (void) opaque;
  (void) problem;
  if (getenv ("QED_TEST_LOG"))
    fprintf (stderr, "  %s\n", action);
}

static void
check (enum qed_repair repair, struct qed_check_result *result)
{
  struct qed_check_options options;

  memset (counts, 0, sizeof counts);
  qed_check_options_init (&options);
  options.repair = repair;
  options.found = found;
  options.fixed = fixed;
  assert_int_equal (qed_check_online (image, &options, result), 0);
}

static int
check_closed (void)
{
  struct qed_check_options check_options;
  struct qed_check_result result;
  struct qed_options options;
  int r;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = log_quietly;
  qed_check_options_init (&check_options);
  r = qed_check (&options, &check_options, &result);
  return qed_check_exit_code (r, &result);
}

/* What was written is there when the image is opened anew. */
static void
expect_own (void)
{
  unsigned i;
  uint64_t n;

  open_image ();
  for (i = 0; i < THREADS; i++)
    for (n = 0; n < OWN_CLUSTERS; n++)
      read_own (&workers[i], n);
  assert_int_equal (failures, 0);
  assert_int_equal (qed_close (image), 0);
}

/* Repair what was planted, and use the image before, meanwhile and after;
 * whether there are orphans, which stay until they are asked for.
 */
static void
repair_in_use (enum qed_problem_code code, bool orphans)
{
  struct qed_check_result result;
  unsigned i;

  atomic_store (&phase, DAMAGED);
  start_workers ();
  for (i = 0; i < 1000 && atomic_load (&refused) == 0; i++)
    usleep (10000);
  check (QED_REPAIR_ALL, &result);
  atomic_store (&phase, REPAIRED);
  assert_int_equal (counts[code], 1);
  assert_int_equal (result.corruptions, 0);
  assert_true (result.corruptions_fixed > 0);
  assert_int_equal (result.leaks > 0, orphans);
  assert_true (refused > 0);
  assert_true (qed_writable (image));
  check (QED_REPAIR_ALL, &result);
  assert_int_equal (result.corruptions, 0);
  stop_workers ();

  check (QED_REPAIR_NONE, &result);
  assert_int_equal (result.leaks, 0);   /* the second one has given it back */
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (check_closed (), 0);
  expect_own ();
}

/* ---- Damage that was there before ---- */

static void
plant_l1 (uint64_t value)
{
  may_lose = true;
  twin = false;
  poke (L1 + HURT * 8, value, 8);
}

static void
test_l1 (bool over_base)
{
  const struct {
    enum qed_problem_code code;
    uint64_t value;
  } cases[] = {
    { QED_PROBLEM_L1_PAST_END, UINT64_C (1) << 40 },
    { QED_PROBLEM_L1_MISALIGNED, 4 * CLUSTER + 4096 },
    { QED_PROBLEM_L1_RESERVED_BITS, 0x12345 },
    { QED_PROBLEM_L1_INTO_HEADER, CLUSTER },
  };
  unsigned i;

  for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    make_image (1, over_base);
    plant_l1 (cases[i].value);
    open_image ();
    repair_in_use (cases[i].code, true);
    assert_true (peek (L1 + HURT * 8) == 0);
  }
}

static void
test_l1_alone (void **state)
{
  (void) state;
  test_l1 (false);
}

static void
test_l1_over_base (void **state)
{
  (void) state;
  test_l1 (true);
}

/* Half a table at the end of the file: what is there stays. */
static void
test_truncated (void **state)
{
  uint64_t data, table;
  unsigned char buf[CLUSTER];

  (void) state;
  may_lose = twin = false;
  make_image (2, false);
  data = append_data (0xd1);
  table = append (1);
  poke (table + 5 * 8, data, 8);
  poke (L1 + SPARE * 8, table, 8);
  open_image ();
  repair_in_use (QED_PROBLEM_TABLE_TRUNCATED, true);
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 5), 0), 0);
  assert_int_equal (buf[0], 0xd1);
  assert_int_equal (qed_close (image), 0);
}

/* Both places read as they did; afterwards each can be written to alone. */
static void
test_shared (bool over_base)
{
  unsigned char buf[CLUSTER] = { 0x99 };

  may_lose = false;
  twin = true;
  make_image (1, over_base);
  poke (L1 + SPARE * 8, table_at (HURT), 8);
  open_image ();
  repair_in_use (QED_PROBLEM_TABLE_SHARED, false);
  assert_true (table_at (SPARE) != table_at (HURT));
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, 1,
                                  guest (HURT, 0), QED_FUA), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 0), 0), 0);
  assert_int_equal (buf[0], content (HURT, 0));
  assert_int_equal (qed_close (image), 0);
}

static void
test_shared_alone (void **state)
{
  (void) state;
  test_shared (false);
}

static void
test_shared_over_base (void **state)
{
  (void) state;
  test_shared (true);
}

/* An entry is wrong in a table that is shared: the pages by which the other
 * place is looked up must not outlive that.
 */
static void
test_shared_and_wrong (void **state)
{
  struct qed_check_result result;
  unsigned char buf[CLUSTER];

  (void) state;
  may_lose = false;
  twin = true;
  make_image (1, false);
  poke (L1 + SPARE * 8, table_at (HURT), 8);
  poke (table_at (HURT) + 100 * 8, 0x12345, 8);
  poke (table_at (HURT) + 101 * 8, UINT64_C (1) << 40, 8);
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 100), 0), -EIO);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (HURT, 100), 0), -EIO);
  repair_in_use (QED_PROBLEM_TABLE_SHARED, false);
  open_image ();
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 100), 0), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  guest (SPARE, 101), 0), 0);
  check (QED_REPAIR_NONE, &result);
  assert_int_equal (result.corruptions, 0);
  assert_int_equal (qed_close (image), 0);
}

/* Two tables with a cluster in common. */
static void
test_overlap (void **state)
{
  uint64_t data[3], first;
  unsigned char buf[CLUSTER];
  unsigned i;

  (void) state;
  may_lose = twin = false;
  make_image (2, false);
  for (i = 0; i < 3; i++)
    data[i] = append_data ((unsigned char) (0xd0 + i));
  first = append (3);
  for (i = 0; i < 3; i++)
    poke (first + i * CLUSTER, data[i], 8);
  poke (first + 2 * CLUSTER + 8, UINT64_C (1) << 40, 8);
  poke (L1 + SPARE * 8, first, 8);
  poke (L1 + (SPARE + 1) * 8, first + CLUSTER, 8);
  open_image ();
  repair_in_use (QED_PROBLEM_TABLE_OVERLAP, true);
  open_image ();
  for (i = 0; i < 4; i++) {
    assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                    guest (SPARE, i * PER_CLUSTER), 0), 0);
    assert_int_equal (buf[0], i < 2 ? 0xd0 + i : 0xd0 + i - 1);
  }
  assert_int_equal (qed_close (image), 0);
}

/* A table that is another one's data. */
static void
test_data (void **state)
{
  uint64_t table, data;

  (void) state;
  may_lose = twin = false;
  make_image (1, false);
  table = table_at (HURT);
  data = peek (table);
  poke (L1 + SPARE * 8, data, 8);
  open_image ();
  may_fail = true;
  repair_in_use (QED_PROBLEM_ENTRY_INTO_TABLE, false);
  may_fail = false;
  assert_true (table_at (SPARE) == 0);
  assert_true (peek (table) == data);
}

/* ---- Damage that comes while the image is written to ---- */

/* Of a page of L1 that no one has looked at. */
static void
test_later (void **state)
{
  const uint64_t at = L1 + 8 * (5 * 512 + 7);
  struct qed_check_result result;
  unsigned i;

  (void) state;
  may_lose = twin = false;
  for (i = 0; i < 4; i++) {
    make_image (16, false);
    open_image ();
    atomic_store (&phase, SOUND);
    start_workers ();
    check (QED_REPAIR_ALL, &result);
    assert_int_equal (result.corruptions, 0);
    assert_int_equal (refused, 0);
    may_fail = i == 3;          /* it would be within a table */
    atomic_store (&phase, DAMAGED);
    poke (at, i == 0 ? UINT64_C (1) << 40 : i == 1 ? 0x12345
          : i == 2 ? table_at (HURT) : table_at (HURT) + CLUSTER, 8);
    check (QED_REPAIR_ALL, &result);
    atomic_store (&phase, REPAIRED);
    assert_int_equal (result.corruptions, 0);
    assert_true (result.corruptions_fixed > 0);
    stop_workers ();
    check (QED_REPAIR_ALL, &result);
    assert_int_equal (result.leaks, 0);
    assert_int_equal (qed_close (image), 0);
    assert_int_equal (check_closed (), 0);
    expect_own ();
  }
  may_fail = false;
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
    cmocka_unit_test (test_l1_alone),
    cmocka_unit_test (test_l1_over_base),
    cmocka_unit_test (test_truncated),
    cmocka_unit_test (test_shared_alone),
    cmocka_unit_test (test_shared_over_base),
    cmocka_unit_test (test_shared_and_wrong),
    cmocka_unit_test (test_overlap),
    cmocka_unit_test (test_data),
    cmocka_unit_test (test_later),
  };

  return cmocka_run_group_tests (tests, setup, teardown);
}
