/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Requests: what the thread that brings one does with it.
 *
 *        +--> lookup (guard held) --miss--> load the page --+
 *        |      | hit                                       |
 *        |      +-- data: read or write in place            |
 *        |      +-- none: zeros, or allocate and write      |
 *        |      |   (trim, zero: discard.c)                 |
 *        +------+-------------------------------------------+
 *               | all bytes done
 *               +-- FUA: the next write-back (O6) --> done
 *
 * A request that must wait (for a page, the scan, NEED_CHECK, a write-back, a
 * server) is queued, lets go of its guard and returns QED_WAIT; when it is run
 * again it looks up anew, from the first byte not yet done.  Across a wait it
 * keeps no other state but a copy on write (cow.c) and what it has from a
 * server (fetch.h), which are given back however it ends.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fetch.h"
#include "image.h"

void
qed_request_init (struct qed_request *request, enum qed_op op, void *buf,
                  uint64_t count, uint64_t offset, unsigned flags)
{
  memset (request, 0, sizeof *request);
  request->op = op;
  request->buf = buf;
  request->count = count;
  request->offset = offset;
  request->flags = flags;
}

/* ---- Waiting ---- */

int
request_wait_scan (struct qed_image *image, struct qed_request *request,
                   enum scan_state state)
{
  if (atomic_load (&image->scan_state) >= (int) state)
    return 0;
  wait_add (&image->scanned, request);
  if (atomic_load (&image->scan_state) < (int) state)
    return QED_WAIT;
  return wait_not_needed (request);
}

int
request_refused (const struct qed_image *image,
                 const struct qed_request *request)
{
  if (request->op == QED_OP_AMEND && !image->read_only &&
      !atomic_load (&image->failed))
    return 0;
  return -atomic_load (&image->refuse);
}

static const char *
job_step (const struct qed_image *image, const struct request_list *list)
{
  return list == &image->want_mark ? "mark-dirty"
    : list == &image->want_flush ? "write-back"
    : list == &image->want_make_clean ? "make-clean" : "change-header";
}

int
request_wait_job (struct qed_image *image, struct request_list *list,
                  struct qed_request *request)
{
  request_step (request, job_step (image, list));
  request->phase = REQUEST_LISTED;
  image_queue (image, list, request);
  return QED_WAIT;
}

bool
qed_request_drains (const struct qed_request *request)
{
  return request->phase != REQUEST_RUNS;
}

int
request_job_result (struct qed_image *image, struct qed_request *request)
{
  int r = 0;

  pthread_mutex_lock (&image->lock);
  if (request->phase == REQUEST_LISTED)
    r = QED_WAIT;
  else {
    assert (request->phase == REQUEST_SERVED);
    request->phase = REQUEST_RUNS;
    r = request->flush_error;
  }
  pthread_mutex_unlock (&image->lock);
  return r;
}

static void
unlist (struct request_list *list, struct qed_request *request)
{
  struct qed_request **p = &list->first;

  while (*p && *p != request)
    p = &(*p)->flush_next;
  if (*p)
    *p = request->flush_next;
}

void
qed_request_withdraw (struct qed_image *image, struct qed_request *request)
{
  wait_cancel (request);
  pthread_mutex_lock (&image->lock);
  unlist (&image->want_mark, request);
  unlist (&image->want_flush, request);
  unlist (&image->want_make_clean, request);
  unlist (&image->want_header, request);
  unlist (&image->served, request);
  request->phase = REQUEST_RUNS;
  pthread_mutex_unlock (&image->lock);
  cow_abort (image, request);
  fetch_drop (request);
}

/* ---- Read ---- */

static int
read_extent (struct qed_image *image, struct qed_request *request,
             uint64_t at, struct extent *extent, void *buf)
{
  int r;

  if (extent->class == FORMAT_UNALLOCATED && image->backing) {
    r = backing_read (image->backing, request, at, extent->bytes, buf,
                      &extent->bytes);
    if (r < 0 && backing_image (image->backing) == NULL)
      image_report (image, "reading the backing file at offset", at, r);
    return r;
  }
  if (extent->class != FORMAT_ALLOCATED) {
    memset (buf, 0, extent->bytes);
    return 0;
  }
  request_step (request, "read-data");
  r = image->storage->ops->pread (image->storage, buf, extent->bytes,
                                  extent->offset);
  if (r < 0)
    image_report (image, "reading data at file offset", extent->offset, r);
  return r;
}

int
request_read (struct qed_image *image, struct qed_request *request,
              uint64_t at, uint64_t bytes, void *buf, uint64_t *done)
{
  unsigned guard = guard_enter (&image->guards);
  struct extent extent;
  int r = request_lookup (image, request, at, bytes, &extent);

  if (r == 0)
    r = read_extent (image, request, at, &extent, buf);
  guard_leave (&image->guards, guard);
  *done = extent.bytes;
  return r;
}

static int
read_some (struct qed_image *image, struct qed_request *request)
{
  uint64_t done;
  int r = request_read (image, request, request->offset + request->done,
                        request->count - request->done,
                        (char *) request->buf + request->done, &done);

  if (r == 0)
    request->done += done;
  return r;
}

/* ---- Write ---- */

/* In place, or into what was just allocated: a failure is this request's
 * alone.
 */
static int
write_extent (struct qed_image *image, struct qed_request *request,
              const struct extent *extent, const void *buf)
{
  int r;

  request_step (request, "write-data");
  r = image->storage->ops->pwrite (image->storage, buf, extent->bytes,
                                   extent->offset);
  if (r < 0)
    image_report (image, "writing data at file offset", extent->offset, r);
  return r;
}

/* With a guard held. */
static int
write_range (struct qed_image *image, struct qed_request *request,
             uint64_t at, uint64_t bytes, uint64_t *done)
{
  const char *data = (char *) request->buf + request->done;
  struct extent extent;
  int r = request_lookup (image, request, at, bytes, &extent);

  if (r == 0 && extent.class != FORMAT_ALLOCATED) {
    if (image->backing)
      return cow_extent (image, request, at, &extent, data, done);
    r = allocate_extent (image, request, at, extent.bytes, &extent);
  }
  if (r == 0)
    r = write_extent (image, request, &extent, data);
  *done = extent.bytes;
  return r;
}

static bool
is_zero (const unsigned char *buf, uint64_t n)
{
  return buf[0] == 0 && memcmp (buf, buf + 1, n - 1) == 0;
}

/* detect-zeroes=on: cluster by cluster, zeros become a hole. */
static int
write_or_zero (struct qed_image *image, struct qed_request *request,
               uint64_t at, uint64_t bytes, uint64_t *done)
{
  uint64_t in = at & (image->geometry.cluster_size - 1);
  uint64_t piece = image->geometry.cluster_size - in;

  if (piece > bytes)
    piece = bytes;
  if (is_zero ((unsigned char *) request->buf + request->done, piece))
    return discard_some (image, request, QED_OP_ZERO, at, piece, done);
  return write_range (image, request, at, piece, done);
}

/* In write-through, whether the entries that were changed, or were found as
 * they are, may be nowhere but in memory: O10 asks for them, whoever changed
 * them.
 */
static bool
is_unwritten (struct qed_image *image, uint64_t at)
{
  uint64_t l1_page = image_l1_index (image, at) / PAGE_ENTRIES;

  return atomic_load (&image->pending.write_through) &&
    (metadata_is_unwritten (&image->metadata, image_l2_key (image, at)) ||
     metadata_is_unwritten (&image->metadata, METADATA_KEY_L1 (l1_page)));
}

/* A step of a write, zero, trim or forget. */
static int
change_some (struct qed_image *image, struct qed_request *request)
{
  uint64_t at = request->offset + request->done;
  uint64_t bytes = request->count - request->done, done = 0;
  unsigned guard;
  int r = request_wait_scan (image, request, SCAN_READING_L2);

  if (r != 0)
    return r;
  guard = guard_enter (&image->guards);
  r = request_refused (image, request); /* who refuses waits for the guards */
  if (r != 0)
    ;
  else if (request->cow)
    r = cow_extent (image, request, at, NULL, request->op == QED_OP_WRITE
                    ? (char *) request->buf + request->done : NULL, &done);
  else if (request->op != QED_OP_WRITE)
    r = discard_some (image, request, request->op, at, bytes, &done);
  else if (image->options.detect_zeroes)
    r = write_or_zero (image, request, at, bytes, &done);
  else
    r = write_range (image, request, at, bytes, &done);
  guard_leave (&image->guards, guard);
  if (r == 0) {
    request->done += done;
    request->unwritten = request->unwritten || is_unwritten (image, at);
  }
  return r;
}

/* ---- Extents and read-ahead ---- */

static enum qed_extent
extent_kind (enum format_entry class)
{
  return class == FORMAT_ALLOCATED ? QED_EXTENT_DATA
    : class == FORMAT_ZERO ? QED_EXTENT_ZERO : QED_EXTENT_HOLE;
}

/* Pass on the piece that ends at 'done'. */
static int
pass_extent (struct qed_request *request)
{
  if (request->done == request->kind_start)
    return 0;
  return request->extent (request, request->offset + request->kind_start,
                          request->done - request->kind_start, request->kind);
}

int
request_extent (struct qed_image *image, struct qed_request *request,
                uint64_t at, uint64_t bytes, enum qed_extent *kind,
                uint64_t *done)
{
  unsigned guard = guard_enter (&image->guards);
  struct extent extent;
  int r = request_lookup (image, request, at, bytes, &extent);

  if (r == 0 && extent.class == FORMAT_UNALLOCATED && image->backing)
    r = backing_extent (image->backing, request, at, extent.bytes, kind,
                        &extent.bytes);
  else if (r == 0)
    *kind = extent_kind (extent.class);
  guard_leave (&image->guards, guard);
  *done = extent.bytes;
  return r;
}

int
request_own (struct qed_image *image, struct qed_request *request,
             uint64_t at, uint64_t bytes, enum format_entry *class,
             uint64_t *done)
{
  unsigned guard = guard_enter (&image->guards);
  struct extent extent;
  int r = request_lookup (image, request, at, bytes, &extent);

  guard_leave (&image->guards, guard);
  if (r == 0) {
    *class = extent.class;
    *done = extent.bytes;
  }
  return r;
}

static int
extents_some (struct qed_image *image, struct qed_request *request)
{
  enum qed_extent kind;
  uint64_t done;
  int r = request_extent (image, request, request->offset + request->done,
                          request->count - request->done, &kind, &done);

  if (r != 0)
    return r;
  if (kind != request->kind) {
    r = pass_extent (request);
    if (r == 0 && request->done > 0 && (request->flags & QED_REQ_ONE)) {
      request->done = request->kind_start = request->count;
      return 0;
    }
    request->kind = kind;
    request->kind_start = request->done;
  }
  request->done += done;
  if (r == 0 && request->done == request->count)
    r = pass_extent (request);
  return r;
}

int
request_prefetch (struct qed_image *image, struct qed_request *request,
                  uint64_t at, uint64_t bytes, uint64_t *done)
{
  unsigned guard = guard_enter (&image->guards);
  struct extent extent;
  int r = request_lookup (image, request, at, bytes, &extent);

  if (r == 0 && extent.class == FORMAT_ALLOCATED)
    image->storage->ops->prefetch (image->storage, extent.offset,
                                   extent.bytes);
  else if (r == 0 && extent.class == FORMAT_UNALLOCATED && image->backing)
    r = backing_prefetch (image->backing, request, at, extent.bytes,
                          &extent.bytes);
  guard_leave (&image->guards, guard);
  *done = extent.bytes;
  return r;
}

static int
cache_some (struct qed_image *image, struct qed_request *request)
{
  uint64_t done;
  int r = request_prefetch (image, request, request->offset + request->done,
                            request->count - request->done, &done);

  if (r == 0)
    request->done += done;
  return r;
}

/* ---- All of them ---- */

static bool
is_change (const struct qed_request *request)
{
  return request->op == QED_OP_WRITE || request->op == QED_OP_TRIM ||
    request->op == QED_OP_ZERO || request->op == QED_OP_FORGET;
}

/* It would have to know what the backing file holds, which was skipped. */
static bool
lacks_backing (const struct qed_image *image,
               const struct qed_request *request)
{
  return image->backing_skipped && is_change (request) &&
    request->op != QED_OP_FORGET;
}

static int
run_some (struct qed_image *image, struct qed_request *request)
{
  switch (request->op) {
  case QED_OP_READ:
    return read_some (image, request);
  case QED_OP_EXTENTS:
    return extents_some (image, request);
  case QED_OP_CACHE:
    return cache_some (image, request);
  case QED_OP_AMEND:
    return amend_some (image, request);
  default:
    return change_some (image, request);
  }
}

/* The data is in place; what is left is to make it durable (O6). */
static int
finish (struct qed_image *image, struct qed_request *request, bool flushed)
{
  bool durable = request->op == QED_OP_FLUSH ||
    request->op == QED_OP_CLEAN ||
    (is_change (request) &&
     ((request->flags & QED_FUA) || request->unwritten));

  if (!durable || flushed || image->read_only)
    return 0;
  if (atomic_load (&image->failed))
    return -EIO;
  return request_wait_job (image, request->op == QED_OP_CLEAN
                           ? &image->want_make_clean : &image->want_flush,
                           request);
}

/* Over a backing file a part of a cluster may have to be copied. */
static bool
is_slow_zero (const struct qed_image *image,
              const struct qed_request *request)
{
  uint64_t in = image->geometry.cluster_size - 1;
  uint64_t end = request->offset + request->count;

  return (request->flags & QED_FAST) && image->backing &&
    ((request->offset & in) || ((end & in) && end != qed_size (image)));
}

static bool
is_within (const struct qed_image *image, const struct qed_request *request)
{
  if (request->op == QED_OP_FLUSH || request->op == QED_OP_CLEAN ||
      request->op == QED_OP_READY)
    return request->count == 0;
  return request->op == QED_OP_AMEND ||
    (request->count <= qed_size (image) &&
     request->offset <= qed_size (image) - request->count);
}

static int
run_request (struct qed_image *image, struct qed_request *request)
{
  bool served = request->phase != REQUEST_RUNS;
  int r = served ? request_job_result (image, request) : 0;

  if (r != 0)
    return r;
  wait_cancel (request);
  if (!is_within (image, request))
    return -EINVAL;
  if (request->op == QED_OP_READY)
    return atomic_load (&image->recovering)
      ? request_wait_scan (image, request, SCAN_DONE) : 0;
  if (request->done == request->count)
    return finish (image, request, served);

  if (lacks_backing (image, request) || is_slow_zero (image, request))
    return -EOPNOTSUPP;
  if (request->op == QED_OP_TRIM &&
      image->options.discard == QED_DISCARD_IGNORE)
    request->done = request->count;
  while (request->done < request->count) {
    r = run_some (image, request);
    if (r != 0 && r != REQUEST_AGAIN)
      return r;
  }
  return finish (image, request, false);
}

int
qed_request_run (struct qed_image *image, struct qed_request *request)
{
  int r;

  request_step (request, "run");
  r = run_request (image, request);
  if (r < 0)
    cow_abort (image, request);
  if (r != QED_WAIT)
    fetch_drop (request);
  return r;
}
