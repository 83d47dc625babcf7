/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See one-thread.h. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../crash/random.h"
#include "fuzz.h"
#include "loop.h"
#include "one-thread.h"
#include "yield.h"

#define LOCKS_MAX 16u

/* More than any input takes; in that many turns of a timer that polls nothing
 * happened.
 */
#define TURNS_MAX (UINT64_C (1) << 26)

struct timer {
  struct loop_timer *timer;
  bool active;
  double due;
  struct timer *next;
};

struct loop {
  struct loop_task *tasks, **tasks_end;
  struct loop_work *waiting, *finished;
  struct timer *timers;
};

static struct loop *loop;
static struct random order;
static double now;
static uint64_t turns;
static enum { IN_CALLER, IN_LOOP, IN_WORKER } where;

static pthread_mutex_t *locks[LOCKS_MAX];
static unsigned locks_held;

void
one_thread_reset (uint64_t seed)
{
  if (loop)
    fuzz_fail ("a loop was left behind");
  order.state = random_mix (seed);
  now = 0;
  turns = 0;
}

bool
one_thread_in_loop (void)
{
  return where != IN_CALLER;
}

/* ---- Turns ---- */

static bool
run_task (void)
{
  struct loop_task *task = loop->tasks;

  if (task == NULL)
    return false;
  loop->tasks = task->next;
  if (loop->tasks == NULL)
    loop->tasks_end = &loop->tasks;
  task->queued = false;
  where = IN_LOOP;
  task->run (task);
  return true;
}

static struct loop_work *
take_any (struct loop_work **list)
{
  struct loop_work *work, **p;
  uint64_t n = 0;

  for (work = *list; work; work = work->next)
    n++;
  if (n == 0)
    return NULL;
  n = random_below (&order, n);
  for (p = list; n > 0; n--)
    p = &(*p)->next;
  work = *p;
  *p = work->next;
  return work;
}

static bool
run_work (void)
{
  struct loop_work *work = take_any (&loop->waiting);

  if (work == NULL)
    return false;
  where = IN_WORKER;
  work->run (work);
  work->next = loop->finished;
  loop->finished = work;
  return true;
}

static bool
run_finished (void)
{
  struct loop_work *work = take_any (&loop->finished);

  if (work == NULL)
    return false;
  where = IN_LOOP;
  work->done (work);
  return true;
}

/* When nothing else is to be done the clock jumps to the next timer. */
static bool
run_timer (bool jump)
{
  struct timer *t, *first = NULL;

  for (t = loop->timers; t; t = t->next)
    if (t->active && (first == NULL || t->due < first->due))
      first = t;
  if (first == NULL || (!jump && first->due > now))
    return false;
  if (first->due > now)
    now = first->due;
  first->active = false;
  where = IN_LOOP;
  first->timer->run (first->timer);
  return true;
}

static bool
turn (bool jump)
{
  static bool (*const kinds[]) (void) = { run_task, run_work, run_finished };
  unsigned first = (unsigned) random_below (&order, 3), i;
  bool ran = false;

  assert (where == IN_CALLER && locks_held == 0);
  if (loop == NULL)
    return false;
  if (++turns > TURNS_MAX)
    fuzz_fail ("it does not come to an end");
  for (i = 0; i < 3 && !ran; i++)
    ran = kinds[(first + i) % 3] ();
  if (!ran)
    ran = run_timer (jump);
  where = IN_CALLER;
  if (locks_held > 0)
    fuzz_fail ("a lock is still held at the end of a turn");
  return ran;
}

void
one_thread_settle (void)
{
  while (turn (false))
    ;
}

/* ---- What the engine's locks have become ---- */

int sim_mutex_lock (pthread_mutex_t *mutex);
int sim_mutex_unlock (pthread_mutex_t *mutex);
int sim_cond_wait (pthread_cond_t *restrict cond,
                   pthread_mutex_t *restrict mutex);
int sim_cond_timedwait (pthread_cond_t *restrict cond,
                        pthread_mutex_t *restrict mutex,
                        const struct timespec *restrict until);
int sim_cond_signal (pthread_cond_t *cond);

int
sim_mutex_lock (pthread_mutex_t *mutex)
{
  unsigned i;

  for (i = 0; i < locks_held; i++)
    if (locks[i] == mutex)
      fuzz_fail ("deadlock: a lock is taken twice");
  assert (locks_held < LOCKS_MAX);
  locks[locks_held++] = mutex;
  return 0;
}

int
sim_mutex_unlock (pthread_mutex_t *mutex)
{
  unsigned i = locks_held;

  while (i > 0 && locks[i - 1] != mutex)
    i--;
  if (i == 0)
    fuzz_fail ("a lock is let go that is not held");
  locks[i - 1] = locks[--locks_held];
  return 0;
}

int
sim_cond_wait (pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex)
{
  (void) cond;
  assert (locks_held == 1 && locks[0] == mutex);
  locks_held = 0;
  if (!turn (true))
    fuzz_fail ("hangs: nothing is left to run that could end this wait");
  locks[locks_held++] = mutex;
  return 0;
}

int
sim_cond_timedwait (pthread_cond_t *restrict cond,
                    pthread_mutex_t *restrict mutex,
                    const struct timespec *restrict until)
{
  (void) until;
  return sim_cond_wait (cond, mutex);
}

int
sim_cond_signal (pthread_cond_t *cond)
{
  (void) cond;
  return 0;
}

void
sim_yield (const char *at)
{
  if (strcmp (at, "guard-wait") == 0)
    fuzz_fail ("hangs: a guard is never left");
}

double sim_write_back_seconds = 5;

bool
sim_skips (const char *job, const char *step)
{
  (void) job;
  (void) step;
  return false;
}

/* ---- loop.h ---- */

struct loop *
loop_create (void)
{
  if (loop)
    fuzz_fail ("a second loop");
  loop = calloc (1, sizeof *loop);
  if (loop)
    loop->tasks_end = &loop->tasks;
  return loop;
}

void
loop_destroy (struct loop *l)
{
  while (l->tasks)
    turn (false);
  if (l->timers || l->waiting || l->finished)
    fuzz_fail ("the loop ends with work under way");
  free (l);
  loop = NULL;
}

void
loop_post (struct loop *l, struct loop_task *task)
{
  if (task->queued)
    return;
  task->queued = true;
  task->next = NULL;
  *l->tasks_end = task;
  l->tasks_end = &task->next;
}

bool
loop_is_here (struct loop *l)
{
  return l == loop && where == IN_LOOP;
}

void
loop_submit (struct loop *l, struct loop_work *work)
{
  assert (loop_is_here (l));
  work->next = l->waiting;
  l->waiting = work;
}

int
loop_timer_init (struct loop *l, struct loop_timer *timer,
                 void (*run) (struct loop_timer *timer))
{
  struct timer *t = calloc (1, sizeof *t);

  if (t == NULL)
    return -ENOMEM;
  timer->run = run;
  timer->watcher = t;
  t->timer = timer;
  t->next = l->timers;
  l->timers = t;
  return 0;
}

void
loop_timer_start (struct loop *l, struct loop_timer *timer, double seconds)
{
  struct timer *t = timer->watcher;

  assert (loop_is_here (l));
  t->active = true;
  t->due = now + seconds;
}

void
loop_timer_stop (struct loop *l, struct loop_timer *timer)
{
  struct timer *t = timer->watcher;

  assert (loop_is_here (l));
  t->active = false;
}

bool
loop_timer_active (const struct loop_timer *timer)
{
  return ((const struct timer *) timer->watcher)->active;
}

void
loop_timer_destroy (struct loop *l, struct loop_timer *timer)
{
  struct timer *t = timer->watcher, **p = &l->timers;

  if (t == NULL)
    return;
  assert (!t->active);
  while (*p != t)
    p = &(*p)->next;
  *p = t->next;
  free (t);
  timer->watcher = NULL;
}

double
loop_now (void)
{
  return now;
}
