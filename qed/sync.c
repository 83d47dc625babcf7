/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* For callers that have a thread to wait with: requests as plain calls, and
 * how far a long work has come.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>

#include "fetch.h"
#include "image.h"

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

/* Call 'run' of a request that stands ready. */
static int
wait_for (struct qed_request *request, struct caller *caller,
          int (*run) (struct qed_request *request, void *opaque), void *opaque)
{
  int r;

  pthread_mutex_init (&caller->lock, NULL);
  pthread_cond_init (&caller->cond, NULL);
  caller->woken = false;
  request->wake = wake;
  request->opaque = caller;
  while ((r = run (request, opaque)) == QED_WAIT || r == REQUEST_AGAIN) {
    if (r == QED_WAIT)
      wait_woken (caller);
    wait_cancel (request);
  }
  pthread_cond_destroy (&caller->cond);
  pthread_mutex_destroy (&caller->lock);
  return r;
}

int
sync_run (int (*run) (struct qed_request *request, void *opaque), void *opaque)
{
  struct qed_request request;
  struct caller caller;
  int r;

  qed_request_init (&request, QED_OP_READ, NULL, 0, 0, 0);
  r = wait_for (&request, &caller, run, opaque);
  fetch_drop (&request);
  return r;
}

static int
run_request (struct qed_request *request, void *opaque)
{
  return qed_request_run (opaque, request);
}

int
qed_request_sync (struct qed_image *image, enum qed_op op, void *buf,
                  uint64_t count, uint64_t offset, unsigned flags)
{
  struct qed_request request;
  struct caller caller;

  qed_request_init (&request, op, buf, count, offset, flags);
  return wait_for (&request, &caller, run_request, image);
}

/* ---- Looking at a part of the guest's disk ---- */

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
  r = wait_for (&request, &caller, run_request, image);
  *kind = caller.kind;
  *bytes = caller.bytes;
  return r;
}

struct part {
  struct qed_image *image;
  struct backing *backing;
  uint64_t at, bytes;
  uint64_t *done;
  enum format_entry *class;
  enum qed_extent *kind;
  void *buf;
};

static int
run_own (struct qed_request *request, void *opaque)
{
  struct part *p = opaque;

  return request_own (p->image, request, p->at, p->bytes, p->class, p->done);
}

int
sync_own (struct qed_image *image, uint64_t at, uint64_t bytes,
          enum format_entry *class, uint64_t *done)
{
  struct part part = { .image = image, .at = at, .bytes = bytes,
                       .class = class, .done = done };

  return sync_run (run_own, &part);
}

static int
run_extent (struct qed_request *request, void *opaque)
{
  struct part *p = opaque;

  return p->backing
    ? backing_extent (p->backing, request, p->at, p->bytes, p->kind, p->done)
    : request_extent (p->image, request, p->at, p->bytes, p->kind, p->done);
}

int
sync_extent (struct qed_image *image, struct backing *backing,
             struct qed_request *request, uint64_t at, enum qed_extent *kind,
             uint64_t *done)
{
  struct part part = { .image = image, .backing = backing, .at = at,
                       .bytes = request->offset + request->count - at,
                       .kind = kind, .done = done };
  struct caller caller;

  return wait_for (request, &caller, run_extent, &part);
}

static int
run_backing_read (struct qed_request *request, void *opaque)
{
  struct part *p = opaque;

  return backing_read (p->backing, request, p->at, p->bytes, p->buf, p->done);
}

int
sync_backing_read (struct backing *backing, uint64_t at, uint64_t bytes,
                   void *buf)
{
  uint64_t done = 0, end = at + bytes;
  int r = 0;

  for (; r == 0 && at < end; at += done, buf = (char *) buf + done) {
    struct part part = { .backing = backing, .at = at, .bytes = end - at,
                         .buf = buf, .done = &done };

    r = sync_run (run_backing_read, &part);
  }
  return r;
}

static int
run_wait_scanned (struct qed_request *request, void *opaque)
{
  return request_wait_scan (opaque, request, SCAN_DONE);
}

int
qed_wait_scanned (struct qed_image *image)
{
  (void) sync_run (run_wait_scanned, image);    /* which can't fail */
  return -atomic_load (&image->refuse);
}

int
qed_progress_tell (const struct qed_progress *progress, uint64_t done,
                   uint64_t total)
{
  if (progress == NULL || progress->fn == NULL)
    return 0;
  return progress->fn (progress->opaque, done, total) == 0 ? 0 : -ECANCELED;
}
