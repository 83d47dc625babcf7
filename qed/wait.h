/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Queues of requests that wait for an event.
 *
 * A request that must wait adds itself, looks again whether the event has
 * happened meanwhile, and if so cancels; else it returns QED_WAIT.  If it was
 * woken before it could cancel it returns QED_WAIT as well, so that each wake
 * belongs to one QED_WAIT.  Whoever
 * makes the event happen does so first and wakes afterwards; so no wake-up is
 * lost.  All are woken; each looks up again what it waited for.
 * Any thread.
 */

#ifndef QED_WAIT_H
#define QED_WAIT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "qed.h"

struct wait_queue {
  const char *step;             /* what for, as in qed_request */
  pthread_mutex_t lock;         /* protects the list */
  struct qed_waiter *first;
};

void wait_queue_init (struct wait_queue *queue, const char *step);
void wait_queue_destroy (struct wait_queue *queue);

/* Note what a request does or waits for, a static string, for those who watch
 * it.  Its owner's thread only.
 */
static inline void
request_step (struct qed_request *request, const char *step)
{
  if (request->step != NULL)
    atomic_store_explicit (request->step, step, memory_order_release);
}

/* Queue a request that is in no queue. */
void wait_add (struct wait_queue *queue, struct qed_request *request);

/* Take a request out of the queue that it may be in.  Returns false if it was
 * in one and was woken already.
 */
bool wait_cancel (struct qed_request *request);

/* The event had happened: 0, or QED_WAIT if the request was woken for it. */
int wait_not_needed (struct qed_request *request);

/* Wake all who wait. */
void wait_wake_all (struct wait_queue *queue);

#endif /* QED_WAIT_H */
