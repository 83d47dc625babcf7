/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* For callers that have a thread to wait with: requests as plain calls, and
 * how far a long work has come.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>

#include "qed.h"

struct caller {
  pthread_mutex_t lock;         /* protects woken */
  pthread_cond_t cond;
  bool woken;
  enum qed_extent kind;         /* the answer to qed_extent_sync */
  uint64_t bytes;
};

static void
wake (struct qed_request *request)
{
  struct caller *caller = request->opaque;

  pthread_mutex_lock (&caller->lock);
  caller->woken = true;
  pthread_cond_signal (&caller->cond);
  pthread_mutex_unlock (&caller->lock);
}

static void
wait_woken (struct caller *caller)
{
  pthread_mutex_lock (&caller->lock);
  while (!caller->woken)
    pthread_cond_wait (&caller->cond, &caller->lock);
  caller->woken = false;
  pthread_mutex_unlock (&caller->lock);
}

static int
run (struct qed_image *image, struct qed_request *request,
     struct caller *caller)
{
  int r;

  pthread_mutex_init (&caller->lock, NULL);
  pthread_cond_init (&caller->cond, NULL);
  caller->woken = false;
  request->wake = wake;
  request->opaque = caller;
  while ((r = qed_request_run (image, request)) == QED_WAIT)
    wait_woken (caller);
  pthread_cond_destroy (&caller->cond);
  pthread_mutex_destroy (&caller->lock);
  return r;
}

int
qed_request_sync (struct qed_image *image, enum qed_op op, void *buf,
                  uint64_t count, uint64_t offset, unsigned flags)
{
  struct qed_request request;
  struct caller caller;

  qed_request_init (&request, op, buf, count, offset, flags);
  return run (image, &request, &caller);
}

static int
note_extent (struct qed_request *request, uint64_t offset, uint64_t bytes,
             enum qed_extent kind)
{
  struct caller *caller = request->opaque;

  (void) offset;
  caller->kind = kind;
  caller->bytes = bytes;
  return 0;
}

int
qed_extent_sync (struct qed_image *image, uint64_t offset, uint64_t count,
                 enum qed_extent *kind, uint64_t *bytes)
{
  struct qed_request request;
  struct caller caller;
  int r;

  qed_request_init (&request, QED_OP_EXTENTS, NULL, count, offset,
                    QED_REQ_ONE);
  request.extent = note_extent;
  r = run (image, &request, &caller);
  *kind = caller.kind;
  *bytes = caller.bytes;
  return r;
}

int
qed_progress_tell (const struct qed_progress *progress, uint64_t done,
                   uint64_t total)
{
  if (progress == NULL || progress->fn == NULL)
    return 0;
  return progress->fn (progress->opaque, done, total) == 0 ? 0 : -ECANCELED;
}
