/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The loop: what it is made of may be missing, a signal may come, and a
 * descriptor is watched from turn to turn.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ev.h>

#include "loop.h"

/* ---- What fails ---- */

static const char *failing;     /* its next call */
static _Atomic unsigned signals;        /* so many waits are interrupted */

static bool
is_due (const char *call)
{
  if (failing == NULL || strcmp (call, failing) != 0)
    return false;
  failing = NULL;
  return true;
}

struct ev_loop *__real_ev_loop_new (unsigned flags);
struct ev_loop *__wrap_ev_loop_new (unsigned flags);
void *__real_malloc (size_t size);
void *__wrap_malloc (size_t size);
int __real_sem_wait (sem_t *semaphore);
int __wrap_sem_wait (sem_t *semaphore);

struct ev_loop *
__wrap_ev_loop_new (unsigned flags)
{
  return is_due ("ev_loop_new") ? NULL : __real_ev_loop_new (flags);
}

void *
__wrap_malloc (size_t size)
{
  return is_due ("malloc") ? NULL : __real_malloc (size);
}

int
__wrap_sem_wait (sem_t *semaphore)
{
  unsigned n = atomic_load (&signals);

  while (n > 0)
    if (atomic_compare_exchange_weak (&signals, &n, n - 1)) {
      errno = EINTR;
      return -1;
    }
  return __real_sem_wait (semaphore);
}

/* ---- Tests ---- */

static void
test_no_memory (void **state)
{
  struct loop_watch watch = { .watcher = NULL };
  struct loop *loop;

  (void) state;
  failing = "ev_loop_new";
  assert_null (loop_create ());
  assert_int_equal (errno, ENOMEM);
  loop = loop_create ();
  assert_non_null (loop);
  failing = "malloc";
  assert_int_equal (loop_watch_init (loop, &watch, NULL, NULL), -ENOMEM);
  loop_watch_destroy (&watch);          /* it was never made */
  assert_null (watch.watcher);
  loop_destroy (loop);
}

struct sum {
  struct loop_work work;
  _Atomic unsigned runs, done;
};

static void
run_sum (struct loop_work *work)
{
  atomic_fetch_add (&((struct sum *) work)->runs, 1);
}

static void
sum_done (struct loop_work *work)
{
  atomic_fetch_add (&((struct sum *) work)->done, 1);
}

struct post {
  struct loop_task task;
  struct loop *loop;
  struct sum *sum;
};

static void
submit_sum (struct loop_task *task)
{
  struct post *post = (struct post *) task;

  loop_submit (post->loop, &post->sum->work);
}

/* Threads that are woken by a signal go on waiting; the work is done once. */
static void
test_signals (void **state)
{
  struct sum sum = { .work = { .run = run_sum, .done = sum_done } };
  struct post post = { .task = { .run = submit_sum }, .sum = &sum };
  unsigned i;

  (void) state;
  atomic_store (&signals, 1000);
  post.loop = loop_create ();
  assert_non_null (post.loop);
  loop_post (post.loop, &post.task);
  for (i = 0; i < 5000 && atomic_load (&sum.done) == 0; i++)
    usleep (1000);
  loop_destroy (post.loop);
  assert_int_equal (sum.done, 1);
  assert_int_equal (sum.runs, 1);
  assert_int_equal (signals, 0);
}

/* A pipe that is watched until something comes; then nothing more, though it
 * stays readable.
 */
struct watched {
  struct loop_task task;
  struct loop *loop;
  struct loop_watch watch;
  int fd;
  _Atomic bool stop, stopped;
  _Atomic unsigned sleeps, ready;
};

static struct watched *
watched_of (struct loop_watch *watch)
{
  return (struct watched *)
    ((char *) watch - offsetof (struct watched, watch));
}

static void
before_sleep (struct loop_watch *watch)
{
  struct watched *w = watched_of (watch);
  unsigned events = atomic_load (&w->ready) == 0 ? LOOP_READ : 0;

  atomic_fetch_add (&w->sleeps, 1);
  loop_watch_set (w->loop, watch, w->fd, events, false);
}

static void
is_ready (struct loop_watch *watch, unsigned events)
{
  assert_int_equal (events, LOOP_READ);
  atomic_fetch_add (&watched_of (watch)->ready, 1);
}

/* Posted again and again, so that the loop turns. */
static void
turn (struct loop_task *task)
{
  struct watched *w = (struct watched *) task;

  if (atomic_load (&w->stop)) {
    loop_watch_stop (w->loop, &w->watch);
    atomic_store (&w->stopped, true);
  }
  else if (atomic_load (&w->sleeps) == 0)
    loop_watch_start (w->loop, &w->watch);
}

static void
turn_until (struct watched *w, const _Atomic unsigned *what, unsigned least)
{
  unsigned i;

  for (i = 0; i < 5000 && atomic_load (what) < least; i++) {
    loop_post (w->loop, &w->task);
    usleep (1000);
  }
  assert_true (atomic_load (what) >= least);
}

static void
test_watch (void **state)
{
  struct watched w = { .task = { .run = turn } };
  int fds[2];

  (void) state;
  assert_int_equal (pipe (fds), 0);
  w.fd = fds[0];
  w.loop = loop_create ();
  assert_non_null (w.loop);
  assert_int_equal (loop_watch_init (w.loop, &w.watch, before_sleep,
                                     is_ready), 0);
  turn_until (&w, &w.sleeps, 5);        /* as before, turn after turn */
  assert_int_equal (w.ready, 0);
  assert_int_equal (write (fds[1], "x", 1), 1);
  turn_until (&w, &w.ready, 1);
  turn_until (&w, &w.sleeps, w.sleeps + 5);
  assert_int_equal (w.ready, 1);        /* it waits for nothing any more */
  atomic_store (&w.stop, true);
  while (!atomic_load (&w.stopped)) {
    loop_post (w.loop, &w.task);
    usleep (1000);
  }
  loop_destroy (w.loop);
  loop_watch_destroy (&w.watch);
  assert_null (w.watch.watcher);
  close (fds[0]);
  close (fds[1]);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_no_memory),
    cmocka_unit_test (test_signals),
    cmocka_unit_test (test_watch),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
