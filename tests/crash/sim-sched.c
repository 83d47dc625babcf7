/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The scheduler.  See sim.h.
 *
 * The engine is compiled with its locks replaced (sim_mutex_lock and others,
 * at the end): with one thread a lock can't be contended, and if it seems to
 * be then someone yielded while holding it.
 */

#include <config.h>

#include <assert.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "reduce.h"
#include "sim.h"
#include "yield.h"

#if defined __SANITIZE_ADDRESS__
#define ASAN 1
#elif defined __has_feature
#if __has_feature (address_sanitizer)
#define ASAN 1
#endif
#endif
#ifdef ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define FIBERS_MAX 24u
#define STACK_BYTES (256u << 10)
#define YIELDS_MAX 4000000u     /* of a run: more is a livelock */
#define LOCKS_MAX 8u

enum fiber_state { FIBER_FREE, FIBER_READY, FIBER_WAITS };

struct fiber {
  enum fiber_state state;
  enum fiber_kind kind;
  char name[16];
  const char *where;            /* the last yield point */
  const void *waits_for;
  double until;
  unsigned weight;              /* how often it is picked */
  void (*run) (void *arg);
  void *arg;
  ucontext_t context;
  void *stack;                  /* kept when the fiber ends */
  void *fake_stack;             /* the address sanitizer's */
};

static struct {
  struct random random;
  struct fiber fibers[FIBERS_MAX];
  struct fiber *self;
  struct fiber *fresh;          /* the one being made */
  struct fiber main;            /* the context of sim_run */
  const void *main_bottom;
  size_t main_bytes;
  uint64_t ticks;
  uint64_t yields;
  double now;
  uint64_t pace;                /* an event takes so many us, at most */
  const void *locks[LOCKS_MAX];
  unsigned locks_held;
} sched;

bool sim_tracing;
void (*sim_describe) (void);
void (*sim_at) (const char *job, const char *step);
const char *sim_left_out;
double sim_write_back_seconds = 5;

/* ---- Saying what happens ---- */

void
sim_trace_line (const char *fmt, ...)
{
  va_list args;

  printf ("%8llu %9.3f %-8s ", (unsigned long long) sched.ticks, sched.now,
          sched.self ? sched.self->name : "-");
  va_start (args, fmt);
  vprintf (fmt, args);
  va_end (args);
  putchar ('\n');
}

void
sim_violation (const char *fmt, ...)
{
  va_list args;

  fflush (stdout);
  fprintf (stderr, "crash-test: VIOLATION: ");
  va_start (args, fmt);
  vfprintf (stderr, fmt, args);
  va_end (args);
  fputc ('\n', stderr);
  if (sim_describe)
    sim_describe ();
  fflush (NULL);
  _exit (1);            /* fibers are left as they are */
}

/* ---- Switching ---- */

static void
before_switch (struct fiber *from, const struct fiber *to)
{
#ifdef ASAN
  bool ends = from->state == FIBER_FREE;

  if (to == &sched.main)
    __sanitizer_start_switch_fiber (ends ? NULL : &from->fake_stack,
                                    sched.main_bottom, sched.main_bytes);
  else
    __sanitizer_start_switch_fiber (ends ? NULL : &from->fake_stack,
                                    to->stack, STACK_BYTES);
#else
  (void) from;
  (void) to;
#endif
}

/* On the new stack; 'fake_stack' is NULL when it's used for the first time. */
static void
after_switch (void *fake_stack, bool from_main)
{
#ifdef ASAN
  const void *bottom;
  size_t bytes;

  __sanitizer_finish_switch_fiber (fake_stack, &bottom, &bytes);
  if (from_main) {
    sched.main_bottom = bottom;
    sched.main_bytes = bytes;
  }
#else
  (void) fake_stack;
  (void) from_main;
#endif
}

static void
switch_to (struct fiber *to)
{
  struct fiber *from = sched.self ? sched.self : &sched.main;

  if (from == to)
    return;
  sched.self = to == &sched.main ? NULL : to;
  before_switch (from, to);
  swapcontext (&from->context, &to->context);
  after_switch (from->fake_stack, false);
}

static bool
is_ready (const struct fiber *fiber)
{
  return fiber->state == FIBER_READY ||
    (fiber->state == FIBER_WAITS && fiber->until <= sched.now);
}

/* Nobody can run: time passes until someone can. */
static bool
let_time_pass (void)
{
  double next = FOREVER;
  unsigned i, alive = 0;

  for (i = 0; i < FIBERS_MAX; i++)
    if (sched.fibers[i].state != FIBER_FREE) {
      alive++;
      if (sched.fibers[i].until < next)
        next = sched.fibers[i].until;
    }
  if (alive == 0)
    return false;
  if (next >= FOREVER) {
    for (i = 0; i < FIBERS_MAX; i++)
      if (sched.fibers[i].state != FIBER_FREE)
        fprintf (stderr, "crash-test: %s waits at %s\n",
                 sched.fibers[i].name, sched.fibers[i].where);
    sim_violation ("deadlock: everyone waits and no timer is set");
  }
  sched.now = next;
  return true;
}

/* Who goes on?  By weight, so that some are much slower than others. */
static struct fiber *
pick (void)
{
  uint64_t total = 0, n;
  unsigned i;

  for (i = 0; i < FIBERS_MAX; i++)
    if (is_ready (&sched.fibers[i]))
      total += sched.fibers[i].weight;
  if (total == 0)
    return let_time_pass () ? pick () : &sched.main;
  n = random_below (&sched.random, total);
  for (i = 0;; i++) {
    if (!is_ready (&sched.fibers[i]))
      continue;
    if (n < sched.fibers[i].weight)
      break;
    n -= sched.fibers[i].weight;
  }
  sched.fibers[i].state = FIBER_READY;
  sched.fibers[i].until = FOREVER;
  return &sched.fibers[i];
}

static unsigned
draw_weight (void)
{
  static const unsigned char weights[] = { 1, 4, 4, 4, 16, 64 };

  return weights[random_below (&sched.random, sizeof weights)];
}

/* ---- Fibers ---- */

static void
start_fiber (void)
{
  struct fiber *self = sched.self;

  after_switch (NULL, sched.main_bottom == NULL);
  self->run (self->arg);
  self->state = FIBER_FREE;
  self->waits_for = NULL;
  switch_to (pick ());
  abort ();                     /* no one comes back */
}

/* No local variables: getcontext counts as a function that returns twice. */
static void __attribute__ ((noinline))
make_context (void)
{
  getcontext (&sched.fresh->context);
  sched.fresh->context.uc_stack.ss_sp = sched.fresh->stack;
  sched.fresh->context.uc_stack.ss_size = STACK_BYTES;
  sched.fresh->context.uc_link = NULL;
  makecontext (&sched.fresh->context, start_fiber, 0);
}

static struct fiber *
free_fiber (void)
{
  struct fiber *fiber = sched.fibers;

  while (fiber->state != FIBER_FREE) {
    fiber++;
    assert (fiber < sched.fibers + FIBERS_MAX);
  }
  if (fiber->stack == NULL) {
    fiber->stack = mmap (NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (fiber->stack == MAP_FAILED)
      abort ();
  }
  return fiber;
}

struct fiber *
fiber_spawn (const char *name, enum fiber_kind kind, void (*run) (void *arg),
             void *arg)
{
  struct fiber *const fiber = free_fiber ();

  snprintf (fiber->name, sizeof fiber->name, "%s", name);
  fiber->kind = kind;
  fiber->state = FIBER_READY;
  fiber->where = "start";
  fiber->until = FOREVER;
  fiber->weight = draw_weight ();
  fiber->run = run;
  fiber->arg = arg;
  fiber->fake_stack = NULL;
  sched.fresh = fiber;
  make_context ();
  return fiber;
}

struct fiber *
fiber_self (void)
{
  return sched.self;
}

enum fiber_kind
fiber_kind_self (void)
{
  return sched.self ? sched.self->kind : FIBER_CALLER;
}

void
sim_reset (void)
{
  assert (sched.self == NULL);
  sched.ticks = 0;
  sched.now = 0;
  sim_write_back_seconds = 5;
}

void
sim_hurry (void)
{
  sim_write_back_seconds = .001;
}

void
sim_turn_back (uint64_t ticks, double now)
{
  assert (sched.self == NULL);
  sched.ticks = ticks - 1;
  sched.now = now;
}

void
sim_run (const struct random *random, void (*run) (void *arg), void *arg)
{
  static const uint64_t paces[] = { 1000, 1000, 10000, 100000 };

  assert (sched.self == NULL);
  sched.random = *random;
  sched.random.state ^= reduce_schedule;
  sched.pace = paces[random_below (&sched.random, 4)];
  sched.yields = 0;
  sched.main_bottom = NULL;
  fiber_spawn ("owner", FIBER_CALLER, run, arg);
  switch_to (pick ());
}

/* Each event takes a moment, now and then a long one: so timers fire in the
 * middle of things.
 */
static void
advance (void)
{
  sched.ticks++;
  sched.now += (double) random_below (&sched.random, sched.pace) / 1e6;
  if (random_one_in (&sched.random, 1000)) {
    sched.now += (double) random_below (&sched.random, 3000) / 1e3;
    sched.self->weight = draw_weight ();
  }
}

static void
event (const char *where)
{
  advance ();
  sched.self->where = where;
  if (sched.locks_held > 0)
    sim_violation ("%s yields at %s while it holds a lock", sched.self->name,
                   where);
  if (++sched.yields > YIELDS_MAX)
    sim_violation ("livelock: %u yields and no end", YIELDS_MAX);
}

void
sim_yield (const char *where)
{
  if (sched.self == NULL)
    return;
  event (where);
  if (sim_at)
    sim_at (NULL, where);
  if (random_one_in (&sched.random, 3))
    return;
  switch_to (pick ());
}

void
fiber_wait (const void *what, double until)
{
  event ("wait");
  sched.self->state = FIBER_WAITS;
  sched.self->waits_for = what;
  sched.self->until = until;
  switch_to (pick ());
  sched.self->waits_for = NULL;
}

void
fiber_wake (const void *what)
{
  unsigned i;

  for (i = 0; i < FIBERS_MAX; i++)
    if (sched.fibers[i].state == FIBER_WAITS &&
        sched.fibers[i].waits_for == what)
      sched.fibers[i].state = FIBER_READY;
}

uint64_t
sim_ticks (void)
{
  return ++sched.ticks;
}

void
sim_set_ticks (uint64_t next)
{
  assert (sched.self == NULL);
  sched.ticks = next - 1;
}

double
sim_now (void)
{
  return sched.now;
}

bool
sim_skips (const char *job, const char *step)
{
  size_t n = strlen (job);

  if (sched.self)
    sched.ticks++;
  if (sim_at)
    sim_at (job, step);
  return sim_left_out && strncmp (sim_left_out, job, n) == 0 &&
    sim_left_out[n] == ':' && strcmp (sim_left_out + n + 1, step) == 0;
}

/* ---- Locks: what the engine is given in place of the real ones ---- */

/* Others may come first where a thread without locks takes one, and where it
 * has let the last one go.
 */
static void
may_yield (const char *where)
{
  if (sched.self && sched.locks_held == 0 &&
      random_one_in (&sched.random, 3))
    sim_yield (where);
}

int
sim_mutex_lock (pthread_mutex_t *mutex)
{
  unsigned i;

  may_yield ("lock");
  for (i = 0; i < sched.locks_held; i++)
    if (sched.locks[i] == mutex)
      sim_violation ("deadlock: a lock is taken twice");
  assert (sched.locks_held < LOCKS_MAX);
  sched.locks[sched.locks_held++] = mutex;
  return 0;
}

int
sim_mutex_unlock (pthread_mutex_t *mutex)
{
  unsigned i = sched.locks_held;

  while (i > 0 && sched.locks[i - 1] != mutex)
    i--;
  if (i == 0)
    sim_violation ("a lock is let go that is not held");
  sched.locks[i - 1] = sched.locks[--sched.locks_held];
  may_yield ("unlock");
  return 0;
}

int
sim_cond_wait (pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex)
{
  assert (sched.locks_held == 1 && sched.locks[0] == mutex);
  sched.locks_held = 0;         /* at once with the wait */
  fiber_wait (cond, FOREVER);
  return sim_mutex_lock (mutex);
}

/* The time that is given is another clock's: a short while. */
int
sim_cond_timedwait (pthread_cond_t *restrict cond,
                    pthread_mutex_t *restrict mutex,
                    const struct timespec *restrict until)
{
  (void) until;
  assert (sched.locks_held == 1 && sched.locks[0] == mutex);
  sched.locks_held = 0;
  fiber_wait (cond, sched.now + .1);
  return sim_mutex_lock (mutex);
}

int
sim_cond_signal (pthread_cond_t *cond)
{
  fiber_wake (cond);
  return 0;
}
