/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Commit: what an overlay holds goes into its backing file.
 *
 * O9: the backing file is synced before overlay entries go.  Until then the
 * overlay hides whatever was written below it; from then on it makes no
 * difference whether an entry is still there.  So what is read through the
 * overlay never changes, wherever this ends, and it can begin anew.
 *
 * Both files are locked for writing from before they are looked at to the
 * end.  The overlay is opened without its backing file, which would be locked
 * by ourselves: what it doesn't hold is a hole then.  The caller's thread.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "target.h"
#include "yield.h"

/* What is done between two looks at whether to go on: of data, and of what
 * takes none (a multiple of all cluster sizes).
 */
#ifndef QED_SIM
#define PIECE (UINT64_C (2) << 20)
#define EMPTY_PIECE (UINT64_C (256) << 20)
#else
#define PIECE (UINT64_C (16) << 10)
#define EMPTY_PIECE (UINT64_C (1) << 20)        /* of those there are */
#endif

struct commit {
  struct qed_options options;
  const struct qed_log *log;
  unsigned flags;
  const struct qed_progress *progress;
  struct qed_image *overlay;
  struct target *target;
  unsigned char *buf;           /* a piece */
  uint64_t total, done;         /* bytes of data in the overlay; written */
  uint64_t data_end;            /* behind the last of them */
};

static int open_overlay (struct commit *c);
static int open_backing (struct commit *c);
static int survey (struct commit *c);
static int start_backing (struct commit *c);
static int copy (struct commit *c);
static int sync_backing (struct commit *c);
static int empty_overlay (struct commit *c);
static int close_overlay (struct commit *c);
static int close_backing (struct commit *c);

static const struct commit_step {
  const char *name;
  int (*run) (struct commit *c);
} steps[] = {
  { "open-overlay",     open_overlay },
  { "open-backing",     open_backing },
  { "survey",           survey },       /* the last one that changes nothing */
  { "start-backing",    start_backing },
  { "copy",             copy },
  { "sync-backing",     sync_backing }, /* O9 */
  { "empty-overlay",    empty_overlay },
  { "close-overlay",    close_overlay },
  { "close-backing",    close_backing },
  { NULL, NULL }
};

/* ---- What the overlay holds ---- */

typedef int extent_fn (struct commit *c, uint64_t offset, uint64_t bytes,
                       enum qed_extent kind);

/* Call 'extent' for all that isn't a hole. */
static int
walk (struct commit *c, extent_fn *extent)
{
  uint64_t size = qed_size (c->overlay), at, bytes = 0;
  enum qed_extent kind;
  int r = 0;

  for (at = 0; r == 0 && at < size; at += bytes) {
    r = qed_extent_sync (c->overlay, at, size - at, &kind, &bytes);
    if (r == 0 && kind != QED_EXTENT_HOLE)
      r = extent (c, at, bytes, kind);
  }
  return r;
}

/* Cut at multiples of 'most', where the backing file's clusters begin. */
static uint64_t
piece (uint64_t offset, uint64_t bytes, uint64_t most)
{
  uint64_t n = most - offset % most;

  return bytes < n ? bytes : n;
}

static int
tell (const struct commit *c)
{
  return qed_progress_tell (c->progress, c->done, c->total);
}

/* ---- Before anything changes ---- */

static int
open_overlay (struct commit *c)
{
  int r;

  c->options.read_only = false;
  c->options.need_write = true;
  c->options.skip_backing = true;
  c->options.grow_to = 0;
  c->options.discard = QED_DISCARD_UNMAP;
  c->options.detect_zeroes = false;
  c->options.clean_after = 0;
  r = qed_open (&c->options, &c->overlay);
  if (r < 0)
    return r;
  if (!(c->overlay->header.features & QED_F_BACKING_FILE)) {
    log_error (c->log, "%s: has no backing file that it could be committed "
               "into", c->options.path);
    return -EINVAL;
  }
  return qed_start (c->overlay);
}

static int
open_backing (struct commit *c)
{
  return target_open (c->overlay, &c->target);
}

static int
count_extent (struct commit *c, uint64_t offset, uint64_t bytes,
              enum qed_extent kind)
{
  if (kind == QED_EXTENT_DATA) {
    c->total += bytes;
    c->data_end = offset + bytes;
  }
  return tell (c);
}

static int
survey (struct commit *c)
{
  uint64_t size;
  int r = qed_wait_scanned (c->overlay);

  if (r == 0)
    r = walk (c, count_extent);
  if (r == -ECANCELED)
    return r;
  if (r < 0) {
    log_error (c->log, "%s: is damaged or can't be read: nothing was "
               "committed", c->options.path);
    return r;
  }
  size = target_size (c->target);
  if (target_is_fixed (c->target) && c->data_end > size) {
    log_error (c->log, "%s: holds data up to %" PRIu64 " bytes, and the "
               "backing file %s is a device of %" PRIu64 " bytes: nothing "
               "was committed", c->options.path, c->data_end,
               target_path (c->target), size);
    return -ENOSPC;
  }
  return 0;
}

/* ---- Into the backing file ---- */

/* As large as the overlay; a device that isn't lacks zeros at most. */
static int
start_backing (struct commit *c)
{
  return target_start (c->target, qed_size (c->overlay), c->progress);
}

static int
cannot (const struct commit *c, const char *what, uint64_t offset, int error)
{
  log_error (c->log, "%s: cannot %s %s at offset %" PRIu64 ": %s: the "
             "overlay still holds everything: commit it again when that is "
             "mended", c->options.path, what, target_path (c->target), offset,
             strerror (-error));
  return error;
}

static int
copy_piece (struct commit *c, uint64_t offset, uint64_t bytes)
{
  int r = qed_request_sync (c->overlay, QED_OP_READ, c->buf, bytes, offset, 0);

  if (r < 0)
    return cannot (c, "read what goes into", offset, r);
  r = target_write (c->target, c->buf, bytes, offset);
  if (r < 0)
    return cannot (c, "write to the backing file", offset, r);
  c->done += bytes;
  return 0;
}

static int
zero_piece (struct commit *c, uint64_t offset, uint64_t bytes)
{
  uint64_t size = target_size (c->target);
  int r;

  if (offset >= size)
    return 0;
  if (bytes > size - offset)
    bytes = size - offset;
  r = target_zero (c->target, bytes, offset);
  return r < 0 ? cannot (c, "zero the backing file", offset, r) : 0;
}

static int
copy_extent (struct commit *c, uint64_t offset, uint64_t bytes,
             enum qed_extent kind)
{
  bool zero = kind == QED_EXTENT_ZERO;
  uint64_t end = offset + bytes, n;
  int r = 0;

  for (; r == 0 && offset < end; offset += n) {
    n = piece (offset, end - offset, zero ? EMPTY_PIECE : PIECE);
    r = zero ? zero_piece (c, offset, n) : copy_piece (c, offset, n);
    if (r == 0)
      r = tell (c);
  }
  return r;
}

static int
copy (struct commit *c)
{
  c->buf = malloc (PIECE);
  if (c->buf == NULL)
    return -ENOMEM;
  return walk (c, copy_extent);
}

static int
sync_backing (struct commit *c)
{
  int r = target_sync (c->target);

  if (r < 0)
    log_error (c->log, "%s: cannot make the backing file %s durable: %s: the "
               "overlay still holds everything", c->options.path,
               target_path (c->target), strerror (-r));
  return r;
}

/* ---- Out of the overlay ---- */

static int
forget_extent (struct commit *c, uint64_t offset, uint64_t bytes,
               enum qed_extent kind)
{
  uint64_t end = offset + bytes, n;
  int r = 0;

  (void) kind;
  for (; r == 0 && offset < end; offset += n) {
    n = piece (offset, end - offset, EMPTY_PIECE);
    r = qed_request_sync (c->overlay, QED_OP_FORGET, NULL, n, offset, 0);
    if (r < 0)
      log_error (c->log, "%s: everything is committed, but it cannot be "
                 "emptied at offset %" PRIu64 ": %s: commit it again when "
                 "that is mended", c->options.path, offset, strerror (-r));
    else
      r = tell (c);
  }
  return r;
}

/* Tables that name nothing any more would keep the file long. */
static int
empty_overlay (struct commit *c)
{
  int r;

  if (c->flags & QED_COMMIT_KEEP)
    return 0;
  r = walk (c, forget_extent);
  c->overlay->drop_tables = r == 0;
  return r;
}

/* ---- The end ---- */

/* The overlay first: its entries' way to the disk ends here. */
static int
close_overlay (struct commit *c)
{
  struct qed_image *overlay = c->overlay;

  c->overlay = NULL;
  return overlay ? qed_close (overlay) : 0;
}

static int
close_backing (struct commit *c)
{
  struct target *target = c->target;

  c->target = NULL;
  return target ? target_close (target) : 0;
}

int
qed_commit (const struct qed_options *options, unsigned flags,
            const struct qed_progress *progress)
{
  struct commit c = {
    .options = *options, .log = &options->log, .flags = flags,
    .progress = progress,
  };
  const struct commit_step *step;
  int r = 0;

  for (step = steps; r == 0 && step->name; step++) {
    log_trace (c.log, "%s: commit: %s", options->path, step->name);
    if (!sim_skips ("commit", step->name))
      r = step->run (&c);
    if (r < 0)
      log_trace (c.log, "%s: commit: %s: %s", options->path, step->name,
                 strerror (-r));
  }
  if (r == -ENOMEM)
    log_error (c.log, "%s: out of memory", options->path);
  (void) close_overlay (&c);
  (void) close_backing (&c);
  free (c.buf);
  return r;
}
