/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "sync-request.h"

static void
wake (struct qed_request *request)
{
  struct pending *pending = request->opaque;

  pthread_mutex_lock (&pending->lock);
  pending->wakes++;
  pending->wakes_seen++;
  pthread_cond_signal (&pending->cond);
  pthread_mutex_unlock (&pending->lock);
}

static void
init (struct pending *pending, enum qed_op op, void *buf, uint64_t count,
      uint64_t offset, unsigned flags)
{
  pthread_mutex_init (&pending->lock, NULL);
  pthread_cond_init (&pending->cond, NULL);
  pending->wakes = pending->wakes_seen = 0;
  qed_request_init (&pending->request, op, buf, count, offset, flags);
  pending->request.wake = wake;
  pending->request.opaque = pending;
}

/* Exactly one wake for each QED_WAIT (qed.h). */
static void
destroy (struct pending *pending)
{
  if (pending->wakes != 0) {
    fprintf (stderr, "a request was woken that did not wait\n");
    abort ();
  }
  pthread_mutex_destroy (&pending->lock);
  pthread_cond_destroy (&pending->cond);
}

static void
run_on (struct qed_image *image, struct pending *pending)
{
  while (pending->result == QED_WAIT) {
    pthread_mutex_lock (&pending->lock);
    while (pending->wakes == 0)
      pthread_cond_wait (&pending->cond, &pending->lock);
    pending->wakes--;
    pthread_mutex_unlock (&pending->lock);
    pending->result = qed_request_run (image, &pending->request);
  }
}

int
sync_request (struct qed_image *image, enum qed_op op, void *buf,
              uint64_t count, uint64_t offset, unsigned flags)
{
  struct pending pending;

  init (&pending, op, buf, count, offset, flags);
  pending.result = qed_request_run (image, &pending.request);
  run_on (image, &pending);
  destroy (&pending);
  return pending.result;
}

struct pending *
pending_start (struct qed_image *image, enum qed_op op, void *buf,
               uint64_t count, uint64_t offset, unsigned flags)
{
  struct pending *pending = malloc (sizeof *pending);

  if (pending == NULL)
    abort ();
  init (pending, op, buf, count, offset, flags);
  pending->result = qed_request_run (image, &pending->request);
  return pending;
}

int
pending_finish (struct qed_image *image, struct pending *pending)
{
  int r;

  run_on (image, pending);
  destroy (pending);
  r = pending->result;
  free (pending);
  return r;
}

static void
woken_too_late (struct qed_request *request)
{
  (void) request;
  fprintf (stderr, "a request was woken that had been withdrawn\n");
  abort ();
}

/* Without a sanitizer the memory mostly stays as it is for a while. */
void
pending_withdraw (struct qed_image *image, struct pending *pending)
{
  qed_request_withdraw (image, &pending->request);
  pending->request.wake = woken_too_late;
  pthread_mutex_destroy (&pending->lock);
  pthread_cond_destroy (&pending->cond);
  free (pending);
}

void
log_quietly (void *opaque, enum qed_log_level level, const char *message)
{
  (void) message;
  if (opaque && level <= QED_LOG_REQUEST)
    atomic_fetch_add ((_Atomic unsigned *) opaque, 1);
  if (getenv ("QED_TEST_LOG"))
    fprintf (stderr, "%d: %s\n", (int) level, message);
}
