/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image's event loop: a libev loop on a thread of its own, tasks posted to
 * it from any thread, timers, descriptors to watch, and a few threads for its
 * blocking calls.
 *
 * Everything that changes metadata on disk runs here.
 */

#ifndef QED_LOOP_H
#define QED_LOOP_H

#include <stdbool.h>

struct loop;

/* Something to be run on the loop; embed it and keep it alive.  Posting a
 * task that is queued already does nothing.
 */
struct loop_task {
  void (*run) (struct loop_task *task);
  struct loop_task *next;       /* protected by the loop's lock */
  bool queued;                  /* likewise */
};

/* Make a loop and its thread.  NULL and errno on failure. */
struct loop *loop_create (void);

/* End the loop after the tasks that are queued, join its threads, free it.
 * No timer may be active and no work under way.  Not on the loop.
 */
void loop_destroy (struct loop *loop);

/* Any thread. */
void loop_post (struct loop *loop, struct loop_task *task);

/* Whether the caller is on the loop (for assertions). */
bool loop_is_here (struct loop *loop);

/* A timer: 'run' is called on the loop once, 'seconds' after the start.
 * Starting an active timer starts it over.  Loop only.
 */
struct loop_timer {
  void (*run) (struct loop_timer *timer);
  void *watcher;                /* the loop's */
};

int loop_timer_init (struct loop *loop, struct loop_timer *timer,
                     void (*run) (struct loop_timer *timer));
void loop_timer_start (struct loop *loop, struct loop_timer *timer,
                       double seconds);
void loop_timer_stop (struct loop *loop, struct loop_timer *timer);
bool loop_timer_active (const struct loop_timer *timer);

/* Of an inactive timer, or one that was never made. */
void loop_timer_destroy (struct loop *loop, struct loop_timer *timer);

/* Seconds of a clock that only goes forward.  Any thread. */
double loop_now (void);

/* A descriptor that changes what it waits for from turn to turn, as that of a
 * library with a state machine of its own does.  From start to stop
 * 'before_sleep' is called each time before the loop sleeps; it may do
 * whatever has come up, and says with loop_watch_set what to wait for.  'ready'
 * is called when that has come.  Loop only, but for init.
 */
#define LOOP_READ 1u
#define LOOP_WRITE 2u

struct loop_watch {
  void (*before_sleep) (struct loop_watch *watch);
  void (*ready) (struct loop_watch *watch, unsigned events);
  void *watcher;                /* the loop's */
};

int loop_watch_init (struct loop *loop, struct loop_watch *watch,
                     void (*before_sleep) (struct loop_watch *watch),
                     void (*ready) (struct loop_watch *watch,
                                    unsigned events));
void loop_watch_start (struct loop *loop, struct loop_watch *watch);

/* Until this is called again.  A descriptor of the same number as before may
 * be another one: 'anew' says so.
 */
void loop_watch_set (struct loop *loop, struct loop_watch *watch, int fd,
                     unsigned events, bool anew);

/* Before the descriptor is closed, or in the same turn of the loop. */
void loop_watch_stop (struct loop *loop, struct loop_watch *watch);

/* Of a stopped watch, or one that was never made. */
void loop_watch_destroy (struct loop_watch *watch);

/* A blocking call: 'run' is called on one of the loop's threads, then 'done'
 * on the loop.  'slow' work (syncs, which may take seconds) takes at most
 * half of the threads.  Loop only.
 */
struct loop_work {
  void (*run) (struct loop_work *work);
  void (*done) (struct loop_work *work);
  bool slow;
  struct loop_work *next;
};

void loop_submit (struct loop *loop, struct loop_work *work);

#endif /* QED_LOOP_H */
