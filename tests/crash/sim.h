/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The simulated machine: fibers in place of threads, a scheduler that picks
 * the next one at random at each yield point, a clock that only moves when it
 * says so.  Everything follows from the seed.  One thread.
 */

#ifndef CRASH_SIM_H
#define CRASH_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "random.h"

/* ---- Violations ---- */

/* What promise was broken: printed with the way to reproduce it; ends the
 * program (exit status 1).
 */
void sim_violation (const char *fmt, ...)
  __attribute__ ((noreturn, format (printf, 1, 2)));

/* Called before the program ends, to say where it was. */
extern void (*sim_describe) (void);

/* ---- Tracing ---- */

extern bool sim_tracing;

void sim_trace_line (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));
#define sim_trace(...) \
  do { if (sim_tracing) sim_trace_line (__VA_ARGS__); } while (0)

/* ---- Fibers ---- */

enum fiber_kind {
  FIBER_CALLER,         /* like a thread of nbdkit's */
  FIBER_LOOP,
  FIBER_WORKER,         /* like a thread of the loop's pool */
};

struct fiber;

/* Back to the beginning of time, so that what follows depends on nothing that
 * was before.
 */
void sim_reset (void);

/* Back to a moment, as if nothing had been run since, and the ticks not been
 * asked for; not on a fiber.
 */
void sim_turn_back (uint64_t ticks, double now);

/* Run a fiber, and all that it spawns, until the last one has ended. */
void sim_run (const struct random *random, void (*run) (void *arg),
              void *arg);

struct fiber *fiber_spawn (const char *name, enum fiber_kind kind,
                           void (*run) (void *arg), void *arg);

/* NULL outside of sim_run. */
struct fiber *fiber_self (void);
enum fiber_kind fiber_kind_self (void);

/* Wait until someone wakes those who wait for 'what', or until 'until' of the
 * clock; as there's no preemption nothing happens between a test of what is
 * waited for and this call.  May return early.
 */
#define FOREVER 1e18
void fiber_wait (const void *what, double until);
void fiber_wake (const void *what);

/* Let others go on. */
void sim_yield (const char *where);

/* A number for each event, growing; and the clock in seconds. */
uint64_t sim_ticks (void);
double sim_now (void);

/* What happened elsewhere, and is told again, has numbers already: the next
 * one.
 */
void sim_set_ticks (uint64_t next);

/* ---- Crash points, rules switched off ---- */

/* Called at each yield ('job' NULL) and before each step of a job.  It must
 * not yield.
 */
extern void (*sim_at) (const char *job, const char *step);

/* The step that is left out, as "job:step"; NULL for none. */
extern const char *sim_left_out;

bool sim_skips (const char *job, const char *step);

/* How soon what is dirty is written back; sim_reset makes it as in real life,
 * sim_hurry such that a write-back meets all that goes on.
 */
extern double sim_write_back_seconds;
void sim_hurry (void);

#endif /* CRASH_SIM_H */
