/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The change gate: every change of an entry holds it, shared, from its test
 * of NEED_CHECK until it is published; so an open gate *is* a durable
 * NEED_CHECK (O1).  Whoever clears NEED_CHECK closes the gate and waits until
 * the last holder has left (O7).
 *
 * Entering and leaving: any thread.  Opening and closing: the loop.
 */

#ifndef QED_GATE_H
#define QED_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gate {
  _Atomic uint64_t word;        /* GATE_OPEN and the number of holders */
  void (*drained) (void *opaque); /* the last holder left a closed gate; called
                                   * on his thread */
  void *opaque;
};

#define GATE_OPEN (UINT64_C (1) << 63)

/* The gate starts closed. */
void gate_init (struct gate *gate, void (*drained) (void *opaque),
                void *opaque);

/* Enter, unless the gate is closed. */
bool gate_enter (struct gate *gate);
void gate_leave (struct gate *gate);

void gate_open (struct gate *gate);

/* Close.  Returns true if nobody is inside; else 'drained' will be called. */
bool gate_close (struct gate *gate);

bool gate_is_open (struct gate *gate);

#endif /* QED_GATE_H */
