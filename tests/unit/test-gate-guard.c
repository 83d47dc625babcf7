/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The change gate and the reader guards. */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "gate.h"
#include "guard.h"

/* ---- The gate ---- */

static void
count_drained (void *opaque)
{
  atomic_fetch_add ((_Atomic unsigned *) opaque, 1);
}

static void
test_gate (void **state)
{
  _Atomic unsigned drained = 0;
  struct gate gate;

  (void) state;
  gate_init (&gate, count_drained, &drained);
  assert_false (gate_is_open (&gate));
  assert_false (gate_enter (&gate));
  gate_open (&gate);
  assert_true (gate_is_open (&gate));
  assert_true (gate_enter (&gate));
  gate_leave (&gate);
  assert_true (gate_close (&gate));
  assert_false (gate_is_open (&gate));
  assert_false (gate_enter (&gate));
  assert_int_equal (drained, 0);
}

/* The last of those inside says so, once. */
static void
test_gate_drain (void **state)
{
  _Atomic unsigned drained = 0;
  struct gate gate;
  unsigned i;

  (void) state;
  gate_init (&gate, count_drained, &drained);
  for (i = 1; i < 4; i++) {
    gate_open (&gate);
    assert_true (gate_enter (&gate));
    assert_true (gate_enter (&gate));
    assert_false (gate_close (&gate));
    assert_false (gate_enter (&gate));
    gate_leave (&gate);
    assert_int_equal (drained, i - 1);
    gate_leave (&gate);
    assert_int_equal (drained, i);
  }
  assert_true (gate_close (&gate));     /* closed already, nobody inside */
  assert_int_equal (drained, 3);
}

struct gate_test {
  struct gate gate;
  _Atomic unsigned drained;
  _Atomic bool stop;
  bool closed;                  /* plain: whoever is inside reads false */
  _Atomic unsigned entered, wrong;
};

static void *
go_in_and_out (void *arg)
{
  struct gate_test *t = arg;

  while (!atomic_load (&t->stop)) {
    if (!gate_enter (&t->gate)) {
      sched_yield ();
      continue;
    }
    if (t->closed)
      atomic_fetch_add (&t->wrong, 1);
    atomic_fetch_add (&t->entered, 1);
    gate_leave (&t->gate);
  }
  return NULL;
}

/* When it is closed and drained nobody is inside: 'closed' is written then,
 * and a thread sanitizer sees if anyone can read it meanwhile.
 */
static void
test_gate_threads (void **state)
{
  static struct gate_test t;
  pthread_t threads[4];
  unsigned i, seen;

  (void) state;
  gate_init (&t.gate, count_drained, &t.drained);
  for (i = 0; i < 4; i++)
    assert_int_equal (pthread_create (&threads[i], NULL, go_in_and_out, &t),
                      0);
  for (i = 0; i < 100; i++) {
    seen = atomic_load (&t.entered);
    gate_open (&t.gate);
    while (atomic_load (&t.entered) == seen)
      sched_yield ();
    if (!gate_close (&t.gate)) {
      while (atomic_load (&t.drained) == 0)
        sched_yield ();
      atomic_store (&t.drained, 0);
    }
    t.closed = true;
    sched_yield ();
    t.closed = false;
    assert_int_equal (atomic_load (&t.drained), 0);
  }
  atomic_store (&t.stop, true);
  for (i = 0; i < 4; i++)
    pthread_join (threads[i], NULL);
  assert_int_equal (t.wrong, 0);
}

/* ---- Guards ---- */

static struct guards guards;

static void
test_guard_marks (void **state)
{
  unsigned old, young;
  uint64_t first, second;

  (void) state;
  guard_init (&guards);
  assert_true (guard_passed (&guards, guard_mark (&guards)));
  old = guard_enter (&guards);
  first = guard_mark (&guards);
  assert_false (guard_passed (&guards, first));
  young = guard_enter (&guards);
  assert_int_not_equal (old, young);
  second = guard_mark (&guards);
  guard_leave (&guards, old);
  assert_true (guard_passed (&guards, first));
  assert_false (guard_passed (&guards, second));
  guard_leave (&guards, young);
  assert_true (guard_passed (&guards, second));
}

static void *
leave_slot (void *arg)
{
  guard_leave (&guards, *(unsigned *) arg);
  return NULL;
}

static void
test_guard_other_thread (void **state)
{
  unsigned slot;
  pthread_t thread;
  uint64_t mark;

  (void) state;
  guard_init (&guards);
  slot = guard_enter (&guards);
  mark = guard_mark (&guards);
  assert_int_equal (pthread_create (&thread, NULL, leave_slot, &slot), 0);
  pthread_join (thread, NULL);
  assert_true (guard_passed (&guards, mark));
}

static _Atomic bool begun, got_in;

static void *
enter_and_leave (void *arg)
{
  unsigned slot;

  (void) arg;
  atomic_store (&begun, true);
  slot = guard_enter (&guards);
  atomic_store (&got_in, true);
  guard_leave (&guards, slot);
  return NULL;
}

/* When all slots are taken the next one waits for a free one. */
static void
test_guard_slots (void **state)
{
  unsigned slots[GUARD_SLOTS], i;
  const struct timespec while_it_tries = { .tv_nsec = 20000000 };
  bool seen[GUARD_SLOTS] = { false };
  pthread_t thread;

  (void) state;
  guard_init (&guards);
  for (i = 0; i < GUARD_SLOTS; i++) {
    slots[i] = guard_enter (&guards);
    assert_true (slots[i] < GUARD_SLOTS && !seen[slots[i]]);
    seen[slots[i]] = true;
  }
  atomic_store (&begun, false);
  atomic_store (&got_in, false);
  assert_int_equal (pthread_create (&thread, NULL, enter_and_leave, NULL), 0);
  while (!atomic_load (&begun))
    sched_yield ();
  nanosleep (&while_it_tries, NULL);
  assert_false (atomic_load (&got_in));
  guard_leave (&guards, slots[77]);
  pthread_join (thread, NULL);
  assert_true (atomic_load (&got_in));
  for (i = 0; i < GUARD_SLOTS; i++)
    if (i != 77)
      guard_leave (&guards, slots[i]);
  assert_true (guard_passed (&guards, guard_mark (&guards)));
}

/* What an entry names is reclaimed as a cluster would be: change the entry,
 * mark, wait, free.  A sanitizer sees a reader that is still there.
 */
struct thing {
  unsigned value, copy;
};

static _Atomic (struct thing *) entry;
static _Atomic bool stop_readers;
static _Atomic unsigned torn, reads;

static void *
read_things (void *arg)
{
  struct thing *thing;
  unsigned slot;

  (void) arg;
  while (!atomic_load (&stop_readers)) {
    slot = guard_enter (&guards);
    thing = atomic_load_explicit (&entry, memory_order_acquire);
    if (thing->value != thing->copy)
      atomic_fetch_add (&torn, 1);
    guard_leave (&guards, slot);
    atomic_fetch_add (&reads, 1);
  }
  return NULL;
}

static struct thing *
new_thing (unsigned value)
{
  struct thing *thing = malloc (sizeof *thing);

  assert_non_null (thing);
  thing->value = thing->copy = value;
  return thing;
}

static void
test_guard_reclaim (void **state)
{
  struct thing *old;
  pthread_t threads[3];
  unsigned i;
  uint64_t mark;

  (void) state;
  guard_init (&guards);
  atomic_store (&entry, new_thing (0));
  for (i = 0; i < 3; i++)
    assert_int_equal (pthread_create (&threads[i], NULL, read_things, NULL),
                      0);
  while (atomic_load (&reads) == 0)
    sched_yield ();
  for (i = 1; i <= 1000; i++) {
    old = atomic_load (&entry);
    atomic_store_explicit (&entry, new_thing (i), memory_order_release);
    mark = guard_mark (&guards);
    while (!guard_passed (&guards, mark))
      sched_yield ();
    old->value = UINT32_MAX;
    free (old);
  }
  atomic_store (&stop_readers, true);
  for (i = 0; i < 3; i++)
    pthread_join (threads[i], NULL);
  free (atomic_load (&entry));
  assert_int_equal (torn, 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_gate),
    cmocka_unit_test (test_gate_drain),
    cmocka_unit_test (test_gate_threads),
    cmocka_unit_test (test_guard_marks),
    cmocka_unit_test (test_guard_other_thread),
    cmocka_unit_test (test_guard_slots),
    cmocka_unit_test (test_guard_reclaim),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
