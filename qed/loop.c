/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include <ev.h>

#include "loop.h"

#define LOOP_WORKERS 4
#define LOOP_SLOW_MAX (LOOP_WORKERS / 2)

/* A queue of tasks or works, first in, first out. */
struct work_list {
  struct loop_work *first, **end;
};

struct loop {
  struct ev_loop *ev;
  ev_async wake;                /* something was posted or finished */
  pthread_t thread;

  pthread_mutex_t lock;         /* protects all that follows */
  struct loop_task *tasks, **tasks_end;
  struct work_list finished;
  bool stop;

  struct work_list fast, slow;
  unsigned slow_running;
  bool workers_stop;

  /* Raised when a worker may find something to do.  Not a condition variable:
   * to signal one may wait for threads that were woken and have not run yet.
   */
  sem_t work_ready;
  unsigned workers;
  pthread_t worker[LOOP_WORKERS];
};

static void
list_init (struct work_list *list)
{
  list->first = NULL;
  list->end = &list->first;
}

static void
list_append (struct work_list *list, struct loop_work *work)
{
  work->next = NULL;
  *list->end = work;
  list->end = &work->next;
}

static struct loop_work *
list_take_first (struct work_list *list)
{
  struct loop_work *work = list->first;

  if (work) {
    list->first = work->next;
    if (list->first == NULL)
      list->end = &list->first;
  }
  return work;
}

/* ---- The loop's thread ---- */

static void
run_tasks (struct loop *loop)
{
  struct loop_task *task, *next;

  pthread_mutex_lock (&loop->lock);
  task = loop->tasks;
  loop->tasks = NULL;
  loop->tasks_end = &loop->tasks;
  while (task) {
    next = task->next;
    task->queued = false;
    pthread_mutex_unlock (&loop->lock);
    task->run (task);
    pthread_mutex_lock (&loop->lock);
    task = next;
  }
  pthread_mutex_unlock (&loop->lock);
}

static void
run_finished (struct loop *loop)
{
  struct loop_work *work, *next;

  pthread_mutex_lock (&loop->lock);
  work = loop->finished.first;
  list_init (&loop->finished);
  pthread_mutex_unlock (&loop->lock);
  while (work) {
    next = work->next;
    work->done (work);
    work = next;
  }
}

static void
woken (struct ev_loop *ev, ev_async *wake, int revents)
{
  struct loop *loop = ev_userdata (ev);
  bool stop;

  (void) wake;
  (void) revents;
  run_finished (loop);
  run_tasks (loop);

  pthread_mutex_lock (&loop->lock);
  stop = loop->stop && loop->tasks == NULL;
  pthread_mutex_unlock (&loop->lock);
  if (stop)
    ev_break (ev, EVBREAK_ALL);
}

static void *
loop_thread (void *arg)
{
  struct loop *loop = arg;

  ev_run (loop->ev, 0);
  return NULL;
}

/* ---- The worker threads ---- */

/* With the lock held.  Slow work waits while half of the threads do some. */
static struct loop_work *
next_work (struct loop *loop)
{
  struct loop_work *work = list_take_first (&loop->fast);

  if (work == NULL && loop->slow_running < LOOP_SLOW_MAX) {
    work = list_take_first (&loop->slow);
    if (work)
      loop->slow_running++;
  }
  return work;
}

static void
wait_for_work (struct loop *loop)
{
  while (sem_wait (&loop->work_ready) < 0)
    ;                           /* a signal */
}

static void *
worker_thread (void *arg)
{
  struct loop *loop = arg;
  struct loop_work *work;

  pthread_mutex_lock (&loop->lock);
  for (;;) {
    work = next_work (loop);
    if (work == NULL) {
      if (loop->workers_stop)
        break;
      pthread_mutex_unlock (&loop->lock);
      wait_for_work (loop);
      pthread_mutex_lock (&loop->lock);
      continue;
    }
    pthread_mutex_unlock (&loop->lock);
    work->run (work);
    pthread_mutex_lock (&loop->lock);
    if (work->slow) {
      loop->slow_running--;
      sem_post (&loop->work_ready);     /* other slow work may begin */
    }
    list_append (&loop->finished, work);
    ev_async_send (loop->ev, &loop->wake);
  }
  pthread_mutex_unlock (&loop->lock);
  return NULL;
}

void
loop_submit (struct loop *loop, struct loop_work *work)
{
  assert (loop_is_here (loop));
  pthread_mutex_lock (&loop->lock);
  list_append (work->slow ? &loop->slow : &loop->fast, work);
  pthread_mutex_unlock (&loop->lock);
  sem_post (&loop->work_ready);
}

/* ---- Life ---- */

/* Signals are for the program's own threads. */
static int
create_thread (pthread_t *thread, void *(*run) (void *), void *arg)
{
  sigset_t all, before;
  int r;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &before);
  r = pthread_create (thread, NULL, run, arg);
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  return r;
}

static void
stop_workers (struct loop *loop)
{
  unsigned i;

  pthread_mutex_lock (&loop->lock);
  loop->workers_stop = true;
  pthread_mutex_unlock (&loop->lock);
  for (i = 0; i < loop->workers; i++)
    sem_post (&loop->work_ready);
  while (loop->workers > 0)
    pthread_join (loop->worker[--loop->workers], NULL);
}

static void
free_loop (struct loop *loop)
{
  ev_async_stop (loop->ev, &loop->wake);
  ev_loop_destroy (loop->ev);
  sem_destroy (&loop->work_ready);
  pthread_mutex_destroy (&loop->lock);
  free (loop);
}

struct loop *
loop_create (void)
{
  struct loop *loop = calloc (1, sizeof *loop);
  int r;

  if (loop == NULL)
    return NULL;
  loop->ev = ev_loop_new (EVFLAG_AUTO | EVFLAG_NOENV);
  if (loop->ev == NULL) {
    free (loop);
    errno = ENOMEM;
    return NULL;
  }
  ev_set_userdata (loop->ev, loop);
  ev_async_init (&loop->wake, woken);
  ev_async_start (loop->ev, &loop->wake);
  pthread_mutex_init (&loop->lock, NULL);
  sem_init (&loop->work_ready, 0, 0);
  loop->tasks_end = &loop->tasks;
  list_init (&loop->finished);
  list_init (&loop->fast);
  list_init (&loop->slow);

  for (r = 0; r == 0 && loop->workers < LOOP_WORKERS; loop->workers += r == 0)
    r = create_thread (&loop->worker[loop->workers], worker_thread, loop);
  if (r == 0)
    r = create_thread (&loop->thread, loop_thread, loop);
  if (r != 0) {
    stop_workers (loop);
    free_loop (loop);
    errno = r;
    return NULL;
  }
  return loop;
}

void
loop_destroy (struct loop *loop)
{
  pthread_mutex_lock (&loop->lock);
  loop->stop = true;
  ev_async_send (loop->ev, &loop->wake);
  pthread_mutex_unlock (&loop->lock);
  pthread_join (loop->thread, NULL);
  stop_workers (loop);
  free_loop (loop);
}

void
loop_post (struct loop *loop, struct loop_task *task)
{
  pthread_mutex_lock (&loop->lock);
  if (!task->queued) {
    task->queued = true;
    task->next = NULL;
    *loop->tasks_end = task;
    loop->tasks_end = &task->next;
    ev_async_send (loop->ev, &loop->wake);
  }
  pthread_mutex_unlock (&loop->lock);
}

bool
loop_is_here (struct loop *loop)
{
  return pthread_equal (pthread_self (), loop->thread);
}

/* ---- Timers ---- */

static void
timer_fired (struct ev_loop *ev, ev_timer *watcher, int revents)
{
  struct loop_timer *timer = watcher->data;

  (void) ev;
  (void) revents;
  timer->run (timer);
}

int
loop_timer_init (struct loop *loop, struct loop_timer *timer,
                 void (*run) (struct loop_timer *timer))
{
  ev_timer *watcher = malloc (sizeof *watcher);

  (void) loop;
  if (watcher == NULL)
    return -ENOMEM;
  ev_init (watcher, timer_fired);
  watcher->data = timer;
  timer->run = run;
  timer->watcher = watcher;
  return 0;
}

void
loop_timer_start (struct loop *loop, struct loop_timer *timer, double seconds)
{
  ev_timer *watcher = timer->watcher;

  assert (loop_is_here (loop));
  ev_timer_stop (loop->ev, watcher);
  ev_now_update (loop->ev);
  ev_timer_set (watcher, seconds, 0.);
  ev_timer_start (loop->ev, watcher);
}

void
loop_timer_stop (struct loop *loop, struct loop_timer *timer)
{
  assert (loop_is_here (loop));
  ev_timer_stop (loop->ev, (ev_timer *) timer->watcher);
}

bool
loop_timer_active (const struct loop_timer *timer)
{
  return ev_is_active ((ev_timer *) timer->watcher);
}

void
loop_timer_destroy (struct loop *loop, struct loop_timer *timer)
{
  (void) loop;
  if (timer->watcher == NULL)
    return;
  assert (!loop_timer_active (timer));
  free (timer->watcher);
  timer->watcher = NULL;
}

/* ---- Descriptors ---- */

struct watcher {
  ev_io io;
  ev_prepare prepare;
};

static void
about_to_sleep (struct ev_loop *ev, ev_prepare *prepare, int revents)
{
  struct loop_watch *watch = prepare->data;

  (void) ev;
  (void) revents;
  watch->before_sleep (watch);
}

static void
descriptor_ready (struct ev_loop *ev, ev_io *io, int revents)
{
  struct loop_watch *watch = io->data;

  (void) ev;
  watch->ready (watch, (revents & EV_READ ? LOOP_READ : 0) |
                (revents & EV_WRITE ? LOOP_WRITE : 0));
}

int
loop_watch_init (struct loop *loop, struct loop_watch *watch,
                 void (*before_sleep) (struct loop_watch *watch),
                 void (*ready) (struct loop_watch *watch, unsigned events))
{
  struct watcher *watcher = malloc (sizeof *watcher);

  (void) loop;
  if (watcher == NULL)
    return -ENOMEM;
  ev_io_init (&watcher->io, descriptor_ready, -1, 0);
  ev_prepare_init (&watcher->prepare, about_to_sleep);
  watcher->io.data = watcher->prepare.data = watch;
  watch->before_sleep = before_sleep;
  watch->ready = ready;
  watch->watcher = watcher;
  return 0;
}

void
loop_watch_start (struct loop *loop, struct loop_watch *watch)
{
  assert (loop_is_here (loop));
  ev_prepare_start (loop->ev, &((struct watcher *) watch->watcher)->prepare);
}

void
loop_watch_set (struct loop *loop, struct loop_watch *watch, int fd,
                unsigned events, bool anew)
{
  ev_io *io = &((struct watcher *) watch->watcher)->io;
  int wanted = (events & LOOP_READ ? EV_READ : 0) |
    (events & LOOP_WRITE ? EV_WRITE : 0);

  assert (loop_is_here (loop));
  if (!anew && ev_is_active (io) && io->fd == fd &&
      (io->events & (EV_READ | EV_WRITE)) == wanted)
    return;
  ev_io_stop (loop->ev, io);
  ev_io_set (io, fd, wanted);
  if (wanted)
    ev_io_start (loop->ev, io);
}

void
loop_watch_stop (struct loop *loop, struct loop_watch *watch)
{
  struct watcher *watcher = watch->watcher;

  assert (loop_is_here (loop));
  ev_io_stop (loop->ev, &watcher->io);
  ev_prepare_stop (loop->ev, &watcher->prepare);
}

void
loop_watch_destroy (struct loop_watch *watch)
{
  struct watcher *watcher = watch->watcher;

  if (watcher == NULL)
    return;
  assert (!ev_is_active (&watcher->io) && !ev_is_active (&watcher->prepare));
  free (watcher);
  watch->watcher = NULL;
}

double
loop_now (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC_COARSE, &ts);
  return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}
