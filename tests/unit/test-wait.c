/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Queues of waiting requests: woken once, never after having been taken out. */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "random.h"
#include "wait.h"

static void
count_wake (struct qed_request *request)
{
  atomic_fetch_add ((_Atomic unsigned *) request->opaque, 1);
}

static void
init (struct qed_request *request, _Atomic unsigned *count)
{
  qed_request_init (request, QED_OP_READ, NULL, 0, 0, 0);
  atomic_store (count, 0);
  request->wake = count_wake;
  request->opaque = count;
}

static void
test_wake_all (void **state)
{
  struct qed_request requests[5];
  _Atomic unsigned counts[5];
  struct wait_queue queue;
  unsigned i;

  (void) state;
  wait_queue_init (&queue, "test");
  wait_wake_all (&queue);
  for (i = 0; i < 5; i++) {
    init (&requests[i], &counts[i]);
    wait_add (&queue, &requests[i]);
  }
  wait_cancel (&requests[4]);   /* the newest, the oldest, one between */
  wait_cancel (&requests[0]);
  wait_cancel (&requests[2]);
  wait_wake_all (&queue);
  wait_wake_all (&queue);
  for (i = 0; i < 5; i++) {
    assert_int_equal (counts[i], i == 1 || i == 3);
    wait_cancel (&requests[i]);         /* woken or not */
    wait_cancel (&requests[i]);
  }
  wait_queue_destroy (&queue);
}

/* A request that is woken may wait again at once, also elsewhere. */
static void
test_move (void **state)
{
  struct wait_queue one, two;
  struct qed_request request;
  _Atomic unsigned count;

  (void) state;
  wait_queue_init (&one, "test");
  wait_queue_init (&two, "test");
  init (&request, &count);
  wait_add (&one, &request);
  wait_wake_all (&one);
  wait_add (&two, &request);
  wait_wake_all (&one);
  assert_int_equal (count, 1);
  wait_add (&one, &request);    /* out of the other */
  wait_wake_all (&two);
  assert_int_equal (count, 1);
  wait_wake_all (&one);
  assert_int_equal (count, 2);
  wait_cancel (&request);
  wait_queue_destroy (&one);
  wait_queue_destroy (&two);
}

/* ---- Threads: one event, many who wait for it ---- */

struct wait_test {
  struct wait_queue queue;
  _Atomic unsigned event;       /* grows */
  _Atomic bool stop;
};

#define WAITERS 4u
#define ROUNDS 3000u

struct waiter {
  struct wait_test *test;
  uint64_t random;
  pthread_t thread;
};

/* Wait for a later event, or give up; then free the request: a wake that
 * comes after that is seen by a sanitizer, one that is missing hangs.
 */
static void
wait_once (struct waiter *w)
{
  struct qed_request *request = malloc (sizeof *request);
  _Atomic unsigned *count = malloc (sizeof *count);
  unsigned seen = atomic_load (&w->test->event);

  if (request == NULL || count == NULL)
    abort ();
  init (request, count);
  wait_add (&w->test->queue, request);
  if (atomic_load (&w->test->event) == seen &&
      random_below (&w->random, 4) > 0)
    while (atomic_load (count) == 0)
      sched_yield ();
  wait_cancel (request);
  if (atomic_load (count) > 1)
    abort ();
  free (request);
  free ((void *) count);
}

static void *
wait_often (void *arg)
{
  struct waiter *w = arg;
  unsigned i;

  for (i = 0; i < ROUNDS; i++)
    wait_once (w);
  return NULL;
}

static void *
make_events (void *arg)
{
  struct wait_test *test = arg;

  while (!atomic_load (&test->stop)) {
    atomic_fetch_add (&test->event, 1);
    wait_wake_all (&test->queue);
    sched_yield ();
  }
  return NULL;
}

static void
test_threads (void **state)
{
  struct waiter waiters[WAITERS];
  struct wait_test test = { .event = 0, .stop = false };
  pthread_t waker;
  unsigned i;

  (void) state;
  wait_queue_init (&test.queue, "test");
  assert_int_equal (pthread_create (&waker, NULL, make_events, &test), 0);
  for (i = 0; i < WAITERS; i++) {
    waiters[i].test = &test;
    waiters[i].random = i + 1;
    assert_int_equal (pthread_create (&waiters[i].thread, NULL, wait_often,
                                      &waiters[i]), 0);
  }
  for (i = 0; i < WAITERS; i++)
    pthread_join (waiters[i].thread, NULL);
  atomic_store (&test.stop, true);
  pthread_join (waker, NULL);
  assert_null (test.queue.first);
  wait_queue_destroy (&test.queue);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_wake_all),
    cmocka_unit_test (test_move),
    cmocka_unit_test (test_threads),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
