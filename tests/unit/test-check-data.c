/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A check of a closed image that reads all data: at a rate, paused, cancelled
 * by its control or by who is told of its progress.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "check.h"
#include "format.h"
#include "sync-request.h"

#define CLUSTER UINT64_C (65536)
#define DATA 8u                 /* clusters */

static char directory[] = "/tmp/test-check-data.XXXXXX";
static char path[64];
static struct qed_check_control control;
static struct qed_check_options check;
static struct qed_check_result result;

static int
setup_all (void **state)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 1, .header_size = 1,
    .l1_table_offset = CLUSTER, .image_size = 64 << 20,
  };
  const uint64_t bytes = (3 + DATA) * CLUSTER;
  unsigned char *buf = calloc (1, bytes);
  unsigned i;
  int fd;

  (void) state;
  if (buf == NULL || mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/image.qed", directory);
  fd = open (path, O_RDWR | O_CREAT, 0600);
  memset (buf + 3 * CLUSTER, 'x', DATA * CLUSTER);
  format_encode_header (&header, buf);
  format_put64 (buf + CLUSTER, 2 * CLUSTER);
  for (i = 0; i < DATA; i++)    /* every other one: a piece each */
    format_put64 (buf + 2 * CLUSTER + 16 * i, (3 + i) * CLUSTER);
  assert_int_equal (pwrite (fd, buf, bytes, 0), bytes);
  free (buf);
  return close (fd);
}

static int
teardown_all (void **state)
{
  (void) state;
  unlink (path);
  return rmdir (directory);
}

static int
setup (void **state)
{
  (void) state;
  memset (&control, 0, sizeof control);
  qed_check_options_init (&check);
  check.data = true;
  check.control = &control;
  return 0;
}

static int
run (void)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = log_quietly;
  return qed_check (&options, &check, &result);
}

static double
now (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void
nap (void)
{
  const struct timespec t = { .tv_nsec = 150000000 };

  nanosleep (&t, NULL);
}

/* ---- Without haste ---- */

static void
test_no_limit (void **state)
{
  (void) state;
  check.control = NULL;
  assert_int_equal (run (), 0);
  assert_int_equal (result.allocated_clusters, DATA);
  check.control = &control;
  assert_int_equal (run (), 0);
  assert_int_equal (result.errors, 0);
}

static void
test_rate (void **state)
{
  double start = now ();

  (void) state;
  atomic_store (&control.rate, DATA * CLUSTER * 2);
  assert_int_equal (run (), 0);
  assert_true (now () - start >= .4);
}

/* ---- From another thread ---- */

static _Atomic bool ended;
static void (*order) (void);

static void *
give_order (void *opaque)
{
  (void) opaque;
  nap ();
  assert_false (atomic_load (&ended));
  order ();
  return NULL;
}

static int
run_and (void (*then) (void))
{
  pthread_t thread;
  int r;

  order = then;
  atomic_store (&ended, false);
  assert_int_equal (pthread_create (&thread, NULL, give_order, NULL), 0);
  r = run ();
  atomic_store (&ended, true);
  assert_int_equal (pthread_join (thread, NULL), 0);
  return r;
}

static void
go_on (void)
{
  atomic_store (&control.pause, false);
}

static void
cancel (void)
{
  atomic_store (&control.cancel, true);
}

static void
hurry (void)
{
  atomic_store (&control.rate, 0);
}

static void
test_pause (void **state)
{
  (void) state;
  atomic_store (&control.pause, true);
  assert_int_equal (run_and (go_on), 0);
  atomic_store (&control.pause, true);
  assert_int_equal (run_and (cancel), -ECANCELED);
}

/* At a rate that would take hours. */
static void
test_slow (void **state)
{
  (void) state;
  atomic_store (&control.rate, 1);
  assert_int_equal (run_and (hurry), 0);
  atomic_store (&control.rate, 1);
  assert_int_equal (run_and (cancel), -ECANCELED);
}

/* ---- By who is told ---- */

static unsigned steps, stop_at;
static void (*at_step) (void);

static int
count (void *opaque, uint64_t done, uint64_t total)
{
  (void) opaque;
  (void) done;
  (void) total;
  if (++steps != stop_at)
    return 0;
  if (at_step == NULL)
    return 1;
  at_step ();
  return 0;
}

static void
hold (void)
{
  atomic_store (&control.pause, true);
}

static void
test_progress (void **state)
{
  unsigned most;

  (void) state;
  check.progress.fn = count;
  at_step = NULL;
  stop_at = 0;
  steps = 0;
  assert_int_equal (run (), 0);
  most = steps;
  assert_in_range (most, DATA, 1000);
  /* Where time passes there may be a step more, or less. */
  for (stop_at = 1; stop_at < most - 1; stop_at++) {
    steps = 0;
    assert_int_equal (run (), -ECANCELED);
    assert_int_equal (steps, stop_at);
  }

  /* Amid the data, whose pace is what notices. */
  stop_at = most - DATA / 2;
  steps = 0;
  at_step = cancel;
  assert_int_equal (run (), -ECANCELED);
  atomic_store (&control.cancel, false);
  steps = 0;
  at_step = hold;
  assert_int_equal (run_and (go_on), 0);
  steps = 0;
  assert_int_equal (run_and (cancel), -ECANCELED);
}

#define TEST(f) cmocka_unit_test_setup (f, setup)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_no_limit),
    TEST (test_rate),
    TEST (test_pause),
    TEST (test_slow),
    TEST (test_progress),
  };

  return cmocka_run_group_tests (tests, setup_all, teardown_all);
}
