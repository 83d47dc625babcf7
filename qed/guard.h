/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Reader guards: a request holds one from its lookup until its data I/O ends,
 * so that no cluster is reused or moved beneath it.
 *
 * Entering and leaving cost an atomic operation each, without a shared
 * counter.  To wait until no one can still use an old entry: change the
 * entry, take a mark, and look from time to time whether it has passed; by
 * then every guard is gone that was entered before the change.  No one waits
 * for anything while he holds a guard, so a mark always passes.
 * Any thread; a guard may be left on another thread than it was entered.
 */

#ifndef QED_GUARD_H
#define QED_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GUARD_SLOTS 512u

struct guards {
  _Atomic uint64_t epoch;       /* grows with each mark */
  struct {
    _Alignas (64) _Atomic uint64_t epoch; /* of the guard, 0 if free */
  } slots[GUARD_SLOTS];
};

void guard_init (struct guards *guards);

/* Enter; returns the slot, for guard_leave. */
unsigned guard_enter (struct guards *guards);
void guard_leave (struct guards *guards, unsigned slot);

uint64_t guard_mark (struct guards *guards);
bool guard_passed (struct guards *guards, uint64_t mark);

/* Wait until every guard is gone that was entered before the call: without
 * one, not on the loop.
 */
void guard_wait (struct guards *guards);

#endif /* QED_GUARD_H */
