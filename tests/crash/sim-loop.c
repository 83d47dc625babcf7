/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* loop.h on the simulated machine: the loop and its workers are fibers. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "loop.h"
#include "sim.h"

#define WORKERS 4u
#define SLOW_MAX (WORKERS / 2)

struct sim_timer {
  struct loop_timer *timer;
  bool active;
  double due;
  struct sim_timer *next;
};

struct work_list {
  struct loop_work *first;
  unsigned count;
};

struct loop {
  struct fiber *fiber;
  struct loop_task *tasks, **tasks_end;
  struct work_list waiting, finished;
  struct sim_timer *timers;
  struct random order;          /* of what can be done: by the time, which
                                 * crashes that are judged don't change */
  unsigned slow_running;
  unsigned fibers;              /* that have not ended */
  bool stop;                    /* after the tasks that are queued */
  bool workers_stop;
};

/* Any of them, with equal chances, is the next one. */
static struct loop_work *
take_any (struct loop *loop, struct work_list *list, bool slow_too)
{
  struct loop_work **p, *work;
  uint64_t eligible = 0, n;

  for (work = list->first; work; work = work->next)
    eligible += slow_too || !work->slow;
  if (eligible == 0)
    return NULL;
  n = random_below (&loop->order, eligible);
  for (p = &list->first; ; p = &(*p)->next)
    if ((slow_too || !(*p)->slow) && n-- == 0)
      break;
  work = *p;
  *p = work->next;
  list->count--;
  return work;
}

static void
add (struct work_list *list, struct loop_work *work)
{
  work->next = list->first;
  list->first = work;
  list->count++;
}

/* ---- The loop's fiber ---- */

/* The one that has been due for longest. */
static struct sim_timer *
due_timer (struct loop *loop, double *next)
{
  struct sim_timer *t, *first = NULL;

  *next = FOREVER;
  for (t = loop->timers; t; t = t->next)
    if (t->active && t->due < *next) {
      *next = t->due;
      first = t;
    }
  return first && first->due <= sim_now () ? first : NULL;
}

static void
run_task (struct loop *loop)
{
  struct loop_task *task = loop->tasks;

  loop->tasks = task->next;
  if (loop->tasks == NULL)
    loop->tasks_end = &loop->tasks;
  task->queued = false;
  task->run (task);
}

/* One thing that the loop can do now; false if there is none. */
static bool
turn (struct loop *loop, double *next)
{
  struct sim_timer *timer = due_timer (loop, next);
  struct loop_work *work;

  if (timer && random_one_in (&loop->order, 2)) {
    timer->active = false;
    timer->timer->run (timer->timer);
  }
  else if (loop->tasks && random_one_in (&loop->order, 2))
    run_task (loop);
  else if ((work = take_any (loop, &loop->finished, true)) != NULL)
    work->done (work);
  else
    return timer || loop->tasks;
  return true;
}

static void
fiber_ends (struct loop *loop)
{
  loop->fibers--;
  fiber_wake (loop);
}

static void
loop_fiber (void *arg)
{
  struct loop *loop = arg;
  double next;

  while (!loop->stop || loop->tasks)
    if (turn (loop, &next))
      sim_yield ("loop");
    else
      fiber_wait (&loop->tasks, next);
  loop->workers_stop = true;
  fiber_wake (&loop->waiting);
  fiber_ends (loop);
}

/* ---- The workers ---- */

static void
worker_fiber (void *arg)
{
  struct loop *loop = arg;
  struct loop_work *work;

  for (;;) {
    work = take_any (loop, &loop->waiting, loop->slow_running < SLOW_MAX);
    if (work == NULL) {
      if (loop->workers_stop)
        break;
      fiber_wait (&loop->waiting, FOREVER);
      continue;
    }
    loop->slow_running += work->slow;
    work->run (work);
    loop->slow_running -= work->slow;
    if (work->slow)
      fiber_wake (&loop->waiting);
    add (&loop->finished, work);
    fiber_wake (&loop->tasks);
  }
  fiber_ends (loop);
}

void
loop_submit (struct loop *loop, struct loop_work *work)
{
  assert (loop_is_here (loop));
  add (&loop->waiting, work);
  fiber_wake (&loop->waiting);
}

/* ---- Life ---- */

struct loop *
loop_create (void)
{
  struct loop *loop = calloc (1, sizeof *loop);
  char name[16];
  unsigned i;

  if (loop == NULL)
    return NULL;
  loop->order.state = random_mix ((uint64_t) (sim_now () * 1e6));
  loop->tasks_end = &loop->tasks;
  loop->fiber = fiber_spawn ("loop", FIBER_LOOP, loop_fiber, loop);
  for (i = 0; i < WORKERS; i++) {
    snprintf (name, sizeof name, "worker%u", i);
    fiber_spawn (name, FIBER_WORKER, worker_fiber, loop);
  }
  loop->fibers = 1 + WORKERS;
  return loop;
}

void
loop_destroy (struct loop *loop)
{
  assert (loop->timers == NULL);
  loop->stop = true;
  fiber_wake (&loop->tasks);
  while (loop->fibers > 0)
    fiber_wait (loop, FOREVER);
  assert (loop->waiting.count == 0 && loop->finished.count == 0);
  free (loop);
}

void
loop_post (struct loop *loop, struct loop_task *task)
{
  if (task->queued)
    return;
  task->queued = true;
  task->next = NULL;
  *loop->tasks_end = task;
  loop->tasks_end = &task->next;
  fiber_wake (&loop->tasks);
}

bool
loop_is_here (struct loop *loop)
{
  return fiber_self () == loop->fiber;
}

/* ---- Timers ---- */

int
loop_timer_init (struct loop *loop, struct loop_timer *timer,
                 void (*run) (struct loop_timer *timer))
{
  struct sim_timer *t = calloc (1, sizeof *t);

  if (t == NULL)
    return -ENOMEM;
  timer->run = run;
  timer->watcher = t;
  t->timer = timer;
  t->next = loop->timers;
  loop->timers = t;
  return 0;
}

void
loop_timer_start (struct loop *loop, struct loop_timer *timer, double seconds)
{
  struct sim_timer *t = timer->watcher;

  assert (loop_is_here (loop));
  t->active = true;
  t->due = sim_now () + seconds;
}

void
loop_timer_stop (struct loop *loop, struct loop_timer *timer)
{
  struct sim_timer *t = timer->watcher;

  assert (loop_is_here (loop));
  t->active = false;
}

bool
loop_timer_active (const struct loop_timer *timer)
{
  return ((const struct sim_timer *) timer->watcher)->active;
}

void
loop_timer_destroy (struct loop *loop, struct loop_timer *timer)
{
  struct sim_timer *t = timer->watcher, **p = &loop->timers;

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
  return sim_now ();
}
