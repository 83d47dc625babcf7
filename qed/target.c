/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backing.h"
#include "image.h"
#include "target.h"

struct target {
  struct qed_image *overlay;
  struct qed_options options;   /* to open it with; what they point at: */
  char *path;
  char *beneath, *directory;    /* or NULL */
  struct storage *raw;          /* one of the two */
  struct qed_image *qed;
  uint64_t size;
};

/* ---- Opening ---- */

/* 'storage' becomes the target's, also on failure.  It is not started yet. */
static int
open_qed (struct target *target, struct storage *storage)
{
  int r = image_open_storage (&target->options, storage, &target->qed);

  if (r == 0)
    target->size = qed_size (target->qed);
  return r;
}

/* A length that isn't one of whole sectors is a raw file's own affair. */
static int
open_raw (struct target *target, struct storage *storage)
{
  int r = storage->ops->length (storage, &target->size);

  if (r < 0) {
    log_error (&target->options.log, "%s: cannot find out how long it is: %s",
               target->path, strerror (-r));
    storage->ops->close (storage);
    return r;
  }
  target->raw = storage;
  return 0;
}

/* First the lock, then what the file says. */
static int
open_locked (struct target *target)
{
  struct storage *storage;
  bool is_qed;
  int r = storage_file_open (&target->options, &storage);

  if (r < 0)
    return r;
  r = backing_recognise (target->overlay, storage, target->path, &is_qed);
  if (r < 0) {
    storage->ops->close (storage);
    return r;
  }
  return is_qed ? open_qed (target, storage) : open_raw (target, storage);
}

static void
free_target (struct target *target)
{
  free (target->path);
  free (target->beneath);
  free (target->directory);
  free (target);
}

/* A copy of a string, or of NULL; false if there's no memory. */
static bool
copy_string (char **copy, const char *string)
{
  *copy = string ? strdup (string) : NULL;
  return *copy || string == NULL;
}

/* The policy is that of the image on top, for the whole chain. */
static int
set_options (struct target *target)
{
  const struct qed_options *above = &target->overlay->options;
  const char *beneath;
  int r = backing_find (target->overlay, &target->path, &beneath);

  if (r < 0)
    return r;
  if (!copy_string (&target->beneath, beneath) ||
      !copy_string (&target->directory, above->backing_directory))
    return -ENOMEM;
  target->options = *above;
  target->options.path = target->path;
  target->options.beneath = target->beneath;
  target->options.backing_directory = target->directory;
  target->options.skip_backing = false;
  return 0;
}

int
target_open (struct qed_image *overlay, struct target **result)
{
  struct target *target = calloc (1, sizeof *target);
  int r;

  if (target == NULL)
    return -ENOMEM;
  target->overlay = overlay;
  r = set_options (target);
  if (r == 0)
    r = open_locked (target);
  if (r < 0)
    free_target (target);
  else
    *result = target;
  return r;
}

static int
close_file (struct target *target)
{
  int r = 0;

  if (target->qed)
    r = qed_close (target->qed);
  else if (target->raw)
    target->raw->ops->close (target->raw);
  target->qed = NULL;
  target->raw = NULL;
  return r;
}

int
target_close (struct target *target)
{
  int r = close_file (target);

  free_target (target);
  return r;
}

/* ---- Its size ---- */

const char *
target_path (const struct target *target)
{
  return target->path;
}

uint64_t
target_size (const struct target *target)
{
  return target->size;
}

bool
target_is_fixed (const struct target *target)
{
  return target->raw && target->raw->fixed;
}

static int
grow_raw (struct target *target, uint64_t size)
{
  int r = target->raw->ops->resize (target->raw, size);

  if (r < 0)
    log_error (&target->options.log, "%s: cannot grow from %" PRIu64 " to %"
               PRIu64 " bytes: %s", target->path, target->size, size,
               strerror (-r));
  else
    target->size = size;
  return r;
}

/* It stays open and locked all the time. */
static int
start_qed (struct target *target, uint64_t size,
           const struct qed_progress *progress)
{
  struct qed_resize resize = { .how = QED_RESIZE_TO, .size = size };
  int r = size > target->size
    ? resize_image (target->qed, &resize, progress)
    : qed_start (target->qed);

  if (r == 0)
    r = qed_wait_scanned (target->qed);
  if (r == 0)
    target->size = qed_size (target->qed);
  return r;
}

int
target_start (struct target *target, uint64_t size,
              const struct qed_progress *progress)
{
  if (target->qed)
    return start_qed (target, size, progress);
  if (size > target->size && !target_is_fixed (target))
    return grow_raw (target, size);
  return 0;
}

/* ---- Its content ---- */

int
target_write (struct target *target, void *buf, uint64_t bytes,
              uint64_t offset)
{
  if (target->qed)
    return qed_request_sync (target->qed, QED_OP_WRITE, buf, bytes, offset, 0);
  return target->raw->ops->pwrite (target->raw, buf, bytes, offset);
}

int
target_zero (struct target *target, uint64_t bytes, uint64_t offset)
{
  if (target->qed)
    return qed_request_sync (target->qed, QED_OP_ZERO, NULL, bytes, offset, 0);
  return target->raw->ops->zero (target->raw, offset, bytes);
}

int
target_sync (struct target *target)
{
  if (target->qed)
    return qed_request_sync (target->qed, QED_OP_CLEAN, NULL, 0, 0, 0);
  return target->raw->ops->sync (target->raw);
}
