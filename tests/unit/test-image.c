/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The whole engine on a file: threads that read and write at random, against
 * a flat model; a cache of tables that is far too small; then the file is
 * looked at without the engine, and opened again.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "format.h"
#include "qed.h"
#include "random.h"
#include "sync-request.h"

/* Windows of the guest's disk, each over the border of two L2 tables (of
 * 2 MiB), so that there are more tables than the cache has pages (64).
 */
#define WINDOWS 100u
#define WINDOW 32768u
#define TABLE_SPAN (UINT64_C (2) << 20)
#define SIZE ((WINDOWS + 1) * TABLE_SPAN)

/* A window is dealt out in pieces, in turns, so that threads meet in nearly
 * every cluster.
 */
#define THREADS 4u
#define PIECE 1337u
#define PIECES (WINDOW / PIECE)

static char path[256];
static struct qed_image *image;
static unsigned char model[WINDOWS][WINDOW];
static _Atomic unsigned failures;

static uint64_t
window_start (unsigned window)
{
  return (window + 1) * TABLE_SPAN - WINDOW / 2;
}

static void
open_image (unsigned clean_after)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.clean_after = clean_after;
  options.log.fn = log_quietly;
  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
  assert_true (qed_size (image) == SIZE);
  assert_true (qed_writable (image));
}

static void
create_image (void)
{
  const char *dir = getenv ("TMPDIR");
  struct qed_create_options options;

  snprintf (path, sizeof path, "%s/test-image-%d.qed", dir ? dir : "/tmp",
            (int) getpid ());
  qed_create_options_init (&options);
  options.path = path;
  options.size = SIZE;
  options.cluster_size = 4096;
  options.table_size = 1;
  options.log.fn = log_quietly;
  assert_int_equal (qed_create (&options), 0);
  memset (model, 0, sizeof model);
}

static int
remove_image (void **state)
{
  (void) state;
  unlink (path);
  return 0;
}

/* ---- What a thread does ---- */

struct worker {
  uint64_t random;
  unsigned number;
  pthread_t thread;
};

static void
expect_ok (int r, const char *what, uint64_t offset)
{
  if (r != 0) {
    fprintf (stderr, "%s at 0x%" PRIx64 ": %s\n", what, offset,
             strerror (-r));
    atomic_fetch_add (&failures, 1);
  }
}

static void
check_range (unsigned window, unsigned from, unsigned count)
{
  unsigned char buf[WINDOW];
  uint64_t offset = window_start (window) + from;

  expect_ok (sync_request (image, QED_OP_READ, buf, count, offset, 0), "read",
             offset);
  if (memcmp (buf, model[window] + from, count) != 0) {
    fprintf (stderr, "read at 0x%" PRIx64 ": other data\n", offset);
    atomic_fetch_add (&failures, 1);
  }
}

static void
write_range (struct worker *w, unsigned window, unsigned from,
             unsigned count)
{
  uint64_t offset = window_start (window) + from;
  unsigned flags = random_below (&w->random, 200) == 0 ? QED_FUA : 0;
  unsigned i;

  for (i = 0; i < count; i++)
    model[window][from + i] = (unsigned char) random_next (&w->random);
  expect_ok (sync_request (image, QED_OP_WRITE, model[window] + from, count,
                           offset, flags), "write", offset);
}

/* In one of the pieces that are this thread's. */
static void
work_in_piece (struct worker *w)
{
  unsigned window = (unsigned) random_below (&w->random, WINDOWS);
  unsigned turn = (unsigned) random_below (&w->random, PIECES / THREADS);
  unsigned in = (unsigned) random_below (&w->random, PIECE);
  unsigned count = 1 + (unsigned) random_below (&w->random, PIECE - in);
  unsigned from = (turn * THREADS + w->number) * PIECE + in;

  switch (random_below (&w->random, 300)) {
  case 0:
    expect_ok (sync_request (image, QED_OP_FLUSH, NULL, 0, 0, 0), "flush", 0);
    break;
  case 1 ... 140:
    check_range (window, from, count);
    break;
  default:
    write_range (w, window, from, count);
  }
}

static unsigned steps;

static void *
work (void *arg)
{
  struct worker *w = arg;
  unsigned i;

  for (i = 0; i < steps; i++)
    work_in_piece (w);
  return NULL;
}

/* A thread has a whole window, every so many: larger requests. */
static void *
work_in_windows (void *arg)
{
  struct worker *w = arg;
  unsigned i, window, from, count;

  for (i = 0; i < steps; i++) {
    window = (unsigned) random_below (&w->random, WINDOWS / THREADS) *
      THREADS + w->number;
    from = (unsigned) random_below (&w->random, WINDOW);
    count = 1 + (unsigned) random_below (&w->random, WINDOW - from);
    if (random_below (&w->random, 2))
      write_range (w, window, from, count);
    else
      check_range (window, from, count);
  }
  return NULL;
}

static void
run_threads (void *(*run) (void *), uint64_t seed)
{
  struct worker workers[THREADS];
  unsigned i;

  for (i = 0; i < THREADS; i++) {
    workers[i].number = i;
    workers[i].random = seed * THREADS + i + 1;
    assert_int_equal (pthread_create (&workers[i].thread, NULL, run,
                                      &workers[i]), 0);
  }
  for (i = 0; i < THREADS; i++)
    pthread_join (workers[i].thread, NULL);
  assert_int_equal (failures, 0);
}

/* All windows, and that nothing is between them. */
static void
check_all (void)
{
  static const unsigned char zeros[4096];
  unsigned char buf[4096];
  unsigned window;

  for (window = 0; window < WINDOWS; window++) {
    check_range (window, 0, WINDOW);
    assert_int_equal (sync_request (image, QED_OP_READ, buf, sizeof buf,
                                    window_start (window) + 3 * WINDOW, 0),
                      0);
    assert_memory_equal (buf, zeros, sizeof buf);
  }
  assert_int_equal (failures, 0);
}

/* ---- The file, without the engine ---- */

struct file_check {
  int fd;
  uint64_t clusters;
  unsigned char *seen;
};

static uint64_t
read64 (int fd, uint64_t offset)
{
  unsigned char buf[8];

  assert_int_equal (pread (fd, buf, sizeof buf, (off_t) offset), 8);
  return format_get64 (buf);
}

static void
refer (struct file_check *c, uint64_t offset)
{
  assert_true (offset % 4096 == 0);
  assert_true (offset / 4096 < c->clusters);
  assert_false (c->seen[offset / 4096]);
  c->seen[offset / 4096] = 1;
}

/* Clean, each cluster referenced once, the file no longer than its use, and
 * at most so many free clusters inside.
 */
static void
check_file (uint64_t free_most)
{
  struct file_check c;
  struct stat st;
  uint64_t table, entry, i, j, unused = 0;

  c.fd = open (path, O_RDONLY);
  assert_true (c.fd >= 0);
  assert_int_equal (fstat (c.fd, &st), 0);
  assert_true (st.st_size % 4096 == 0);
  c.clusters = (uint64_t) st.st_size / 4096;
  c.seen = calloc (1, c.clusters);
  assert_non_null (c.seen);
  assert_true (read64 (c.fd, FORMAT_AT_FEATURES) == 0);
  refer (&c, 0);
  refer (&c, 4096);
  for (i = 0; i < 512; i++) {
    table = read64 (c.fd, 4096 + i * 8);
    if (table == 0)
      continue;
    refer (&c, table);
    for (j = 0; j < 512; j++) {
      entry = read64 (c.fd, table + j * 8);
      if (entry != 0)
        refer (&c, entry);
    }
  }
  assert_true (c.seen[c.clusters - 1]);
  for (i = 0; i < c.clusters; i++)
    unused += !c.seen[i];
  assert_true (unused <= free_most);
  free (c.seen);
  close (c.fd);
}

/* ---- Tests ---- */

static void
test_random (void **state)
{
  unsigned round;

  (void) state;
  create_image ();
  for (round = 0; round < 3; round++) {
    steps = 1500;
    open_image (round == 1 ? 1 : 0);
    run_threads (work, round + 1);
    steps = 150;
    run_threads (work_in_windows, round + 100);
    check_all ();
    assert_int_equal (qed_close (image), 0);
    check_file (0);
  }
  open_image (5);
  check_all ();
  assert_int_equal (qed_close (image), 0);
}

/* Two writes into the same empty cluster, and a third across its end, at
 * once: all survive.
 */
static void *
write_third (void *arg)
{
  struct worker *w = arg;
  unsigned char buf[2000];
  uint64_t cluster;

  memset (buf, (int) w->number + 1, sizeof buf);
  for (cluster = 0; cluster < steps; cluster++)
    expect_ok (sync_request (image, QED_OP_WRITE, buf, sizeof buf,
                             cluster * 8192 + w->number * sizeof buf, 0),
               "write", cluster * 8192);
  return NULL;
}

static void
same_cluster (uint64_t free_most)
{
  unsigned char buf[8192];
  uint64_t cluster;
  unsigned i;

  open_image (0);
  steps = 2000;
  run_threads (write_third, 1);
  for (cluster = 0; cluster < steps; cluster++) {
    assert_int_equal (sync_request (image, QED_OP_READ, buf, sizeof buf,
                                    cluster * 8192, 0), 0);
    for (i = 0; i < sizeof buf; i++)
      assert_int_equal (buf[i], i < 8000 ? i / 2000 + 1 : 0);
  }
  assert_int_equal (qed_close (image), 0);
  check_file (free_most);
}

static void
test_same_cluster (void **state)
{
  (void) state;
  create_image ();
  same_cluster (0);
}

/* In clusters that hold somebody's data: none of it is ever seen.  Of two who
 * reserve one for the same place the second gives his back, which may stay
 * free.
 */
static void
test_same_cluster_used_before (void **state)
{
  unsigned char rubbish[4096];
  int fd, i;

  (void) state;
  create_image ();
  memset (rubbish, 0xee, sizeof rubbish);
  fd = open (path, O_WRONLY | O_APPEND);
  assert_true (fd >= 0);
  for (i = 0; i < 3000; i++)
    assert_int_equal (write (fd, rubbish, sizeof rubbish), sizeof rubbish);
  close (fd);
  same_cluster (THREADS);
}

static void
test_range (void **state)
{
  unsigned char buf[1024] = { 1 };

  (void) state;
  create_image ();
  open_image (0);
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, 512, SIZE - 512,
                                  0), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, 512, SIZE - 512,
                                  0), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, 0, SIZE, 0), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, 513, SIZE - 512,
                                  0), -EINVAL);
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, 1, SIZE, 0),
                    -EINVAL);
  assert_int_equal (sync_request (image, QED_OP_WRITE, buf, 2, UINT64_MAX, 0),
                    -EINVAL);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, UINT64_MAX, 2, 0),
                    -EINVAL);
  assert_int_equal (qed_close (image), 0);
  check_file (0);
}

/* Opened and closed without a word: the file is as it was. */
static void
test_no_change (void **state)
{
  struct stat before, after;

  (void) state;
  create_image ();
  assert_int_equal (stat (path, &before), 0);
  open_image (0);
  check_all ();
  assert_int_equal (sync_request (image, QED_OP_FLUSH, NULL, 0, 0, 0), 0);
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (stat (path, &after), 0);
  assert_true (before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
               before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
  assert_true (before.st_size == after.st_size);
}

/* A cache that is too small is refused, before anything else is looked at. */
static void
test_small_cache (void **state)
{
  struct qed_options options;
  struct qed_image *none = NULL;

  (void) state;
  qed_options_init (&options);
  options.path = "/nowhere";
  options.log.fn = log_quietly;
  options.metadata_cache = QED_METADATA_CACHE_MIN - 1;
  assert_int_equal (qed_open (&options, &none), -EINVAL);
  assert_null (none);
  options.metadata_cache++;
  assert_int_equal (qed_open (&options, &none), -ENOENT);
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_teardown (f, remove_image)
  const struct CMUnitTest tests[] = {
    TEST (test_no_change),
    TEST (test_range),
    TEST (test_same_cluster),
    TEST (test_same_cluster_used_before),
    TEST (test_random),
    cmocka_unit_test (test_small_cache),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
