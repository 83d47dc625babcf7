/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <stddef.h>

#include "wait.h"

static struct qed_request *
request_of (struct qed_waiter *waiter)
{
  return (struct qed_request *)
    ((char *) waiter - offsetof (struct qed_request, waiter));
}

/* With the queue's lock held. */
static void
unlink_waiter (struct qed_waiter *waiter)
{
  *waiter->link = waiter->next;
  if (waiter->next)
    waiter->next->link = waiter->link;
  waiter->link = NULL;
}

void
wait_queue_init (struct wait_queue *queue, const char *step)
{
  queue->step = step;
  pthread_mutex_init (&queue->lock, NULL);
  queue->first = NULL;
}

void
wait_queue_destroy (struct wait_queue *queue)
{
  assert (queue->first == NULL);
  pthread_mutex_destroy (&queue->lock);
}

void
wait_add (struct wait_queue *queue, struct qed_request *request)
{
  struct qed_waiter *waiter = &request->waiter;

  wait_cancel (request);
  request_step (request, queue->step);
  waiter->queue = queue;
  pthread_mutex_lock (&queue->lock);
  waiter->next = queue->first;
  if (waiter->next)
    waiter->next->link = &waiter->next;
  waiter->link = &queue->first;
  queue->first = waiter;
  pthread_mutex_unlock (&queue->lock);
}

bool
wait_cancel (struct qed_request *request)
{
  struct qed_waiter *waiter = &request->waiter;
  struct wait_queue *queue = waiter->queue;
  bool queued;

  if (queue == NULL)
    return true;
  /* The queue is the owner's to clear; the lock makes sure that a waker has
   * finished with the request.
   */
  pthread_mutex_lock (&queue->lock);
  queued = waiter->link != NULL;
  if (queued)
    unlink_waiter (waiter);
  pthread_mutex_unlock (&queue->lock);
  waiter->queue = NULL;
  return queued;
}

int
wait_not_needed (struct qed_request *request)
{
  return wait_cancel (request) ? 0 : QED_WAIT;
}

void
wait_wake_all (struct wait_queue *queue)
{
  struct qed_waiter *waiter;
  struct qed_request *request;

  pthread_mutex_lock (&queue->lock);
  while ((waiter = queue->first) != NULL) {
    unlink_waiter (waiter);
    request = request_of (waiter);
    request->wake (request);
  }
  pthread_mutex_unlock (&queue->lock);
}
