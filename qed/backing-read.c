/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A backing file in use: what it holds, and how long.  Any thread, with a
 * guard held, reads; the loop starts and stops.
 */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "backing-file.h"
#include "backing.h"
#include "fetch.h"
#include "image.h"

/* ---- Life ---- */

int
backing_start (struct backing *backing, struct loop *loop,
               void (*stopped) (void *opaque), void *opaque)
{
  return backing->remote
    ? backing->raw->ops->start (backing->raw, loop, stopped, opaque) : 0;
}

bool
backing_stop (struct backing *backing)
{
  return !backing->remote || backing->raw->ops->stop (backing->raw);
}

void
backing_close (struct backing *backing)
{
  if (backing == NULL)
    return;
  if (backing->qed)
    qed_close (backing->qed);
  else
    backing->raw->ops->close (backing->raw);
  free (backing->path);
  free (backing);
}

bool
backing_is_remote (const struct backing *backing)
{
  for (; backing->qed; backing = backing->qed->backing)
    if (backing->qed->backing == NULL)
      return false;
  return backing->remote;
}

uint64_t
backing_size (const struct backing *backing)
{
  return backing->size;
}

const char *
backing_path (const struct backing *backing)
{
  return backing->path;
}

struct qed_file_id
backing_identify (const struct backing *backing)
{
  return backing->qed ? qed_identify (backing->qed)
    : (struct qed_file_id) { backing->raw->device, backing->raw->inode };
}

struct qed_image *
backing_image (const struct backing *backing)
{
  return backing->qed;
}

/* ---- Reading ---- */

/* Cut the range at the end of the backing file; true if it starts behind. */
static bool
beyond_end (const struct backing *backing, uint64_t at, uint64_t *bytes)
{
  if (at >= backing->size)
    return true;
  if (*bytes > backing->size - at)
    *bytes = backing->size - at;
  return false;
}

int
backing_read (struct backing *backing, struct qed_request *request,
              uint64_t at, uint64_t bytes, void *buf, uint64_t *done)
{
  bool beyond = beyond_end (backing, at, &bytes);

  *done = bytes;
  if (beyond) {
    memset (buf, 0, bytes);
    return 0;
  }
  if (backing->qed)
    return request_read (backing->qed, request, at, bytes, buf, done);
  if (backing->remote)
    return fetch_read (backing->raw, request, at, bytes, buf, done);
  request_step (request, "read-backing");
  return backing->raw->ops->pread (backing->raw, buf, bytes, at);
}

/* All that the request wants to know, if it has a range, is asked at once. */
static int
remote_extent (struct backing *backing, struct qed_request *request,
               uint64_t at, uint64_t bytes, enum qed_extent *kind,
               uint64_t *done)
{
  uint64_t end = request->offset + request->count;
  uint64_t ahead = end > at ? end - at : 0;

  if (ahead > backing->size - at)
    ahead = backing->size - at;
  return fetch_extent (backing->raw, request, at, bytes, ahead, kind, done);
}

int
backing_extent (struct backing *backing, struct qed_request *request,
                uint64_t at, uint64_t bytes, enum qed_extent *kind,
                uint64_t *done)
{
  uint64_t start, end;
  int r;

  *done = bytes;
  *kind = QED_EXTENT_HOLE;
  if (beyond_end (backing, at, &bytes))
    return 0;
  if (backing->qed)
    return request_extent (backing->qed, request, at, bytes, kind, done);
  if (backing->remote)
    return remote_extent (backing, request, at, bytes, kind, done);
  r = backing->raw->ops->next_data (backing->raw, at, &start, &end);
  if (r < 0)
    return r;
  *kind = start <= at ? QED_EXTENT_DATA : QED_EXTENT_HOLE;
  if (start <= at)
    start = end;
  *done = start - at < bytes ? start - at : bytes;
  return 0;
}

int
backing_prefetch (struct backing *backing, struct qed_request *request,
                  uint64_t at, uint64_t bytes, uint64_t *done)
{
  bool beyond = beyond_end (backing, at, &bytes);

  *done = bytes;
  if (beyond)
    return 0;
  if (backing->qed)
    return request_prefetch (backing->qed, request, at, bytes, done);
  if (backing->remote)
    fetch_prefetch (backing->raw, at, bytes);
  else
    backing->raw->ops->prefetch (backing->raw, at, bytes);
  return 0;
}
