/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>

#include "gate.h"
#include "yield.h"

void
gate_init (struct gate *gate, void (*drained) (void *opaque), void *opaque)
{
  atomic_init (&gate->word, 0);
  gate->drained = drained;
  gate->opaque = opaque;
}

bool
gate_enter (struct gate *gate)
{
  uint64_t word = atomic_load (&gate->word);

  yield_point ("gate-enter");
  do {
    if (!(word & GATE_OPEN))
      return false;
  } while (!atomic_compare_exchange_weak (&gate->word, &word, word + 1));
  return true;
}

void
gate_leave (struct gate *gate)
{
  uint64_t word = atomic_fetch_sub (&gate->word, 1);

  assert ((word & ~GATE_OPEN) != 0);
  if (word == 1)
    gate->drained (gate->opaque);
  yield_point ("gate-leave");
}

void
gate_open (struct gate *gate)
{
  atomic_fetch_or (&gate->word, GATE_OPEN);
}

bool
gate_close (struct gate *gate)
{
  return (atomic_fetch_and (&gate->word, ~GATE_OPEN) & ~GATE_OPEN) == 0;
}

bool
gate_is_open (struct gate *gate)
{
  return (atomic_load (&gate->word) & GATE_OPEN) != 0;
}
