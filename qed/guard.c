/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <sched.h>
#include <time.h>

#include "guard.h"
#include "yield.h"

void
guard_init (struct guards *guards)
{
  unsigned i;

  atomic_init (&guards->epoch, 1);
  for (i = 0; i < GUARD_SLOTS; i++)
    atomic_init (&guards->slots[i].epoch, 0);
}

/* A thread mostly finds its last slot free again. */
static _Thread_local unsigned slot_hint;
static _Atomic unsigned next_hint;

static unsigned
first_slot (void)
{
  if (slot_hint == 0)
    slot_hint = 1 + atomic_fetch_add_explicit (&next_hint, 1,
                                               memory_order_relaxed);
  return slot_hint % GUARD_SLOTS;
}

unsigned
guard_enter (struct guards *guards)
{
  unsigned slot = first_slot (), tried = 0;
  uint64_t epoch, free_slot;

  yield_point ("guard-enter");
  for (;;) {
    epoch = atomic_load (&guards->epoch);
    free_slot = 0;
    if (atomic_compare_exchange_strong (&guards->slots[slot].epoch,
                                        &free_slot, epoch))
      break;
    slot = (slot + 1) % GUARD_SLOTS;
    if (++tried % GUARD_SLOTS == 0)
      sched_yield ();
  }
  if (tried)
    slot_hint = slot + GUARD_SLOTS;

  /* Who scanned the slots before ours was set has raised the epoch first:
   * reading it again orders our lookups after his change.
   */
  (void) atomic_load (&guards->epoch);
  return slot;
}

void
guard_leave (struct guards *guards, unsigned slot)
{
  atomic_store_explicit (&guards->slots[slot].epoch, 0, memory_order_release);
  yield_point ("guard-leave");
}

uint64_t
guard_mark (struct guards *guards)
{
  return atomic_fetch_add (&guards->epoch, 1) + 1;
}

bool
guard_passed (struct guards *guards, uint64_t mark)
{
  unsigned i;
  uint64_t epoch;

  for (i = 0; i < GUARD_SLOTS; i++) {
    epoch = atomic_load (&guards->slots[i].epoch);
    if (epoch != 0 && epoch < mark)
      return false;
  }
  return true;
}

static void
wait_a_little (void)
{
#ifdef QED_SIM
  sim_yield ("guard-wait");
#else
  nanosleep (&(struct timespec) { .tv_nsec = 1000000 }, NULL);
#endif
}

void
guard_wait (struct guards *guards)
{
  uint64_t mark = guard_mark (guards);

  while (!guard_passed (guards, mark))
    wait_a_little ();
}
