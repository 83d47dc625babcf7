/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The pending log under load: threads change entries and read while halves of
 * a few records are full, waited for, switched and emptied all the time.  The
 * process is killed meanwhile, over and over; what it had acknowledged has to
 * be there each time.  The image is in memory, so that syncs take no time.
 *
 * Each cluster belongs to one thread, which counts its changes in memory that
 * the processes share.
 */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/magic.h>

#include <cmocka.h>

#include "image.h"
#include "random.h"

#define CLUSTER UINT64_C (4096)
#define CLUSTERS 4096u
#define THREADS 6u
#define RECORDS 12u             /* of a half */
#define ROUNDS 8u
#define HALVES 100u             /* are used in a round */
#define ROUND_MS_MAX 60000u

/* Of each cluster.  A change whose number is a multiple of three makes zeros,
 * others write the number.
 */
struct known {
  _Atomic uint64_t begun, acknowledged;
};

static struct known *known;     /* shared */
static char directory[64], path[128];
static const char *directories[2];
static _Atomic bool stop;
static _Atomic unsigned changes;

int __wrap_pending_file_resize (struct pending_file *file, size_t size);

/* So that the log never grows. */
int
__wrap_pending_file_resize (struct pending_file *file, size_t size)
{
  (void) file;
  (void) size;
  return -ENOSPC;
}

/* ---- Work ---- */

/* In any thread and process: cmocka's assertions are for the first one. */
static void
must_at (bool condition, int line)
{
  if (condition)
    return;
  fprintf (stderr, "test-pending-threads.c:%d: failed\n", line);
  abort ();
}
#define must(condition) must_at (condition, __LINE__)

static uint64_t
read_cluster (struct qed_image *image, uint64_t n)
{
  uint64_t data[2];

  must (qed_request_sync (image, QED_OP_READ, data, sizeof data, n * CLUSTER,
                          0) == 0);
  if (data[1] != 0)
    must (data[0] == n);
  return data[1];
}

static void
change_cluster (struct qed_image *image, uint64_t n, uint64_t *seed)
{
  uint64_t number = atomic_load (&known[n].acknowledged) + 1;
  uint64_t data[CLUSTER / 8] = { n, number };
  bool zeros = number % 3 == 0;
  enum qed_op op = !zeros ? QED_OP_WRITE
    : random_below (seed, 2) ? QED_OP_TRIM : QED_OP_ZERO;

  atomic_store (&known[n].begun, number);
  must (qed_request_sync (image, op, zeros ? NULL : data, CLUSTER, n * CLUSTER,
                          0) == 0);
  atomic_store (&known[n].acknowledged, number);
}

static uint64_t
content_after (uint64_t number)
{
  return number % 3 == 0 ? 0 : number;
}

struct worker {
  pthread_t thread;
  struct qed_image *image;
  uint64_t index, seed;
};

static void *
work (void *opaque)
{
  struct worker *worker = opaque;
  uint64_t n;

  while (!atomic_load (&stop)) {
    n = random_below (&worker->seed, CLUSTERS / THREADS) * THREADS +
      worker->index;
    change_cluster (worker->image, n, &worker->seed);
    atomic_fetch_add (&changes, 1);
    must (read_cluster (worker->image, n) ==
          content_after (atomic_load (&known[n].acknowledged)));
    if (random_below (&worker->seed, 500) == 0)
      must (qed_request_sync (worker->image, QED_OP_FLUSH, NULL, 0, 0, 0)
            == 0);
  }
  return NULL;
}

/* ---- A round ---- */

static struct qed_image *
open_image (void)
{
  struct qed_options options;
  struct qed_image *image;

  qed_options_init (&options);
  options.path = path;
  options.clean_after = 0;
  options.pending = QED_PENDING_LOG;
  options.pending_directories = directories;
  must (qed_open (&options, &image) == 0);
  must (qed_start (image) == 0);
  qed_wait_scanned (image);
  must (qed_writable (image));
  return image;
}

/* The acknowledged state, or that of a change that was under way. */
static void
verify (struct qed_image *image)
{
  uint64_t n, content, begun, acknowledged;

  for (n = 0; n < CLUSTERS; n++) {
    content = read_cluster (image, n);
    begun = atomic_load (&known[n].begun);
    acknowledged = atomic_load (&known[n].acknowledged);
    if (content != content_after (acknowledged)) {
      must (content == content_after (begun));
      atomic_store (&known[n].acknowledged, begun);
    }
  }
}

static struct qed_image *
start_workers (struct qed_image *image, struct worker workers[THREADS],
               unsigned round)
{
  uint64_t i;

  atomic_store (&stop, false);
  atomic_store (&changes, 0);
  for (i = 0; i < THREADS; i++) {
    workers[i] = (struct worker) {
      .image = image, .index = i, .seed = round * THREADS + i + 1
    };
    must (pthread_create (&workers[i].thread, NULL, work, &workers[i]) == 0);
  }
  return image;
}

static void
end_workers (struct worker workers[THREADS])
{
  unsigned i;

  atomic_store (&stop, true);
  for (i = 0; i < THREADS; i++)
    pthread_join (workers[i].thread, NULL);
}

/* What is there is verified; then the threads start, with a small log. */
static struct qed_image *
begin (struct worker workers[THREADS], unsigned round)
{
  struct qed_image *image = open_image ();
  uint64_t seed = 1;

  verify (image);
  /* A repair at open may still be about to make the image clean, which empties
   * the log and makes it as large as it was; the change begins another.
   */
  must (qed_request_sync (image, QED_OP_CLEAN, NULL, 0, 0, 0) == 0);
  do                            /* until an entry changes */
    change_cluster (image, CLUSTERS - 1, &seed);
  while (image->pending.file.memory == NULL ||
         pending_count (&image->pending) == 0);
  atomic_store (&image->pending.records, RECORDS);
  return start_workers (image, workers, round);
}

/* Each one that is begun has a number. */
static uint64_t
halves_used (struct qed_image *image)
{
  uint64_t a = atomic_load (&image->pending.generation[0]),
    b = atomic_load (&image->pending.generation[1]);

  return a > b ? a : b;
}

/* Until that many halves were full. */
static void
watch (struct qed_image *image)
{
  struct qed_status status;
  unsigned i;

  for (i = 0; halves_used (image) < HALVES; i++) {
    must (i < ROUND_MS_MAX);
    usleep (1000);
    qed_status (image, &status);
    must (status.pending == QED_PENDING_LOGGED);
    must (status.pending_records <= 2 * RECORDS);
  }
}

static void
be_killed (unsigned round)
{
  struct worker workers[THREADS];

  watch (begin (workers, round));
  kill (getpid (), SIGKILL);
}

static void
test_killed (void **state)
{
  unsigned round;
  int status;
  pid_t pid;

  (void) state;
  for (round = 0; round < ROUNDS; round++) {
    pid = fork ();
    assert_true (pid >= 0);
    if (pid == 0)
      be_killed (round);
    assert_int_equal (waitpid (pid, &status, 0), pid);
    assert_true (WIFSIGNALED (status) && WTERMSIG (status) == SIGKILL);
  }
}

/* The rest is in this process, so that a sanitizer can say what it has seen. */
static void
test_ended (void **state)
{
  struct worker workers[THREADS];
  struct qed_image *image = begin (workers, ROUNDS);

  (void) state;
  watch (image);
  end_workers (workers);
  assert_int_equal (qed_close (image), 0);
  image = open_image ();
  verify (image);
  assert_int_equal (qed_close (image), 0);
}

/* There is no log yet when they come, and a new token after each clean. */
static void
test_begun (void **state)
{
  struct worker workers[THREADS];
  struct qed_image *image = start_workers (open_image (), workers, ROUNDS + 1);
  unsigned i;

  (void) state;
  for (i = 1; i <= 5; i++) {
    while (atomic_load (&changes) < i * 100)
      usleep (1000);
    assert_int_equal (qed_request_sync (image, QED_OP_CLEAN, NULL, 0, 0, 0),
                      0);
  }
  end_workers (workers);
  verify (image);
  assert_int_equal (qed_close (image), 0);
}

static void
init_files (void)
{
  struct qed_create_options options;

  snprintf (path, sizeof path, "%s/disk.qed", directory);
  qed_create_options_init (&options);
  options.path = path;
  options.size = CLUSTERS * CLUSTER;
  options.cluster_size = CLUSTER;
  options.table_size = 1;
  if (qed_create (&options) < 0)
    exit (1);
  known = mmap (NULL, CLUSTERS * sizeof *known, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (known == MAP_FAILED)
    exit (1);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_killed),
    cmocka_unit_test (test_ended),
    cmocka_unit_test (test_begun),
  };
  struct statfs fs;
  int r;

  strcpy (directory, "/dev/shm/qed-test-pending.XXXXXX");
  if (mkdtemp (directory) == NULL || statfs (directory, &fs) == -1 ||
      fs.f_type != TMPFS_MAGIC) {
    fprintf (stderr, "test-pending-threads: skipped: /dev/shm is not tmpfs\n");
    rmdir (directory);
    return 77;
  }
  directories[0] = directory;
  init_files ();
  r = cmocka_run_group_tests (tests, NULL, NULL);
  unlink (path);
  rmdir (directory);
  return r;
}
