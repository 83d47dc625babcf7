/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Another size for an image (O9).
 *
 *   grow:    behind the old end all is made to read as zeros -> write-back ->
 *            the header says the new size
 *   shrink:  the header says the new size -> what lies behind it is forgotten
 *
 * What a crash leaves of a shrink, and what others left behind the end, is
 * thus gone before a later growth shows it.  Any thread but the loop.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fetch.h"
#include "image.h"
#include "yield.h"

/* Made zero in one request, and read in one. */
#define ZERO_BYTES (UINT64_C (1) << 30)
#define READ_BYTES 65536u

struct resizing {
  struct qed_image *image;
  const struct qed_progress *progress;
  uint64_t old, new;            /* bytes of the guest's disk */
  uint64_t in_the_way, first;   /* what a cut would lose: bytes; where */
};

/* Where the cluster ends that 'at' lies in, if it lies within one. */
static uint64_t
round_up (const struct qed_image *image, uint64_t at)
{
  uint64_t in = image->geometry.cluster_size - 1;

  return (at + in) & ~in;
}

static uint64_t
min (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

static int
change_size (const struct resizing *rs)
{
  struct header_change change = {
    .what = HEADER_IMAGE_SIZE, .image_size = rs->new,
  };

  return header_make_change (rs->image, &change);
}

/* Clusters from 'at' to 'end' that the image holds something for lose it. */
static int
forget (const struct resizing *rs, uint64_t at, uint64_t end, bool may_stop)
{
  uint64_t total = end - at, n = 0, left;
  enum format_entry class;
  int r = 0;

  for (left = total; r == 0 && left > 0; left -= n) {
    r = qed_progress_tell (rs->progress, total - left, total);
    if (!may_stop)
      r = 0;
    if (r == 0)
      r = sync_own (rs->image, end - left, left, &class, &n);
    if (r == 0 && class != FORMAT_UNALLOCATED)
      r = qed_request_sync (rs->image, QED_OP_FORGET, NULL, n, end - left, 0);
  }
  return r;
}

/* ---- Growing ---- */

/* Whole clusters of zeros need nothing; else make zero clusters as far as the
 * extent reaches.
 */
static int
hide_extent (struct qed_image *image, uint64_t at, uint64_t end,
             enum qed_extent kind, uint64_t *bytes)
{
  uint64_t stop = at + *bytes, size = image->geometry.cluster_size;

  if (kind != QED_EXTENT_DATA && (stop == end || *bytes >= size)) {
    *bytes = (stop == end ? end : stop & -size) - at;
    return 0;
  }
  *bytes = min (min (round_up (image, stop), end) - at, ZERO_BYTES);
  return qed_request_sync (image, QED_OP_ZERO, NULL, *bytes, at, 0);
}

/* Zero clusters hide what the backing file has behind the old end. */
static int
hide_backing (const struct resizing *rs, uint64_t at)
{
  struct qed_image *image = rs->image;
  struct qed_request request;
  uint64_t end = 0, n = 0;
  enum qed_extent kind;
  int r = 0;

  if (image->backing)
    end = min (rs->new, round_up (image, backing_size (image->backing)));
  qed_request_init (&request, QED_OP_EXTENTS, NULL, end, 0, 0);
  for (; r == 0 && at < end; at += n) {
    r = qed_progress_tell (rs->progress, at - rs->old, end - rs->old);
    if (r == 0)
      r = sync_extent (image, image->backing, &request, at, &kind, &n);
    if (r == 0)
      r = hide_extent (image, at, end, kind, &n);
  }
  fetch_drop (&request);
  return r;
}

static int
grow (struct resizing *rs)
{
  struct qed_image *image = rs->image;
  uint64_t whole = min (round_up (image, rs->old), rs->new);
  int r;

  image_reach (image, rs->new);
  r = qed_start (image);
  /* The rest of the last cluster: it may hold anything. */
  if (r == 0 && whole > rs->old && !sim_skips ("grow", "zero-rest"))
    r = qed_request_sync (image, QED_OP_ZERO, NULL, whole - rs->old, rs->old,
                          0);
  if (r == 0 && !sim_skips ("grow", "forget"))
    r = forget (rs, whole, rs->new, true);
  if (r == 0 && !sim_skips ("grow", "hide-backing"))
    r = hide_backing (rs, whole);
  return r == 0 ? change_size (rs) : r;
}

/* ---- Shrinking ---- */

static void
note_in_the_way (struct resizing *rs, uint64_t at, uint64_t bytes)
{
  if (rs->in_the_way == 0)
    rs->first = at;
  rs->in_the_way += bytes;
}

/* Of a cluster that is cut in two, zeros don't count. */
static int
look_at_rest (struct resizing *rs, uint64_t end)
{
  unsigned char *buf = malloc (READ_BYTES);
  uint64_t at, n = 0, i;
  int r = buf ? 0 : -ENOMEM;

  for (at = rs->new; r == 0 && at < end && rs->in_the_way == 0; at += n) {
    n = min (end - at, READ_BYTES);
    r = qed_request_sync (rs->image, QED_OP_READ, buf, n, at, 0);
    for (i = 0; r == 0 && i < n && rs->in_the_way == 0; i++)
      if (buf[i] != 0)
        note_in_the_way (rs, at + i, end - at - i);
  }
  free (buf);
  return r;
}

/* Whether the image itself has a place for the rest of the last cluster. */
static int
holds_rest (const struct resizing *rs, uint64_t end, bool *holds)
{
  enum format_entry class = FORMAT_UNALLOCATED;
  uint64_t n;
  int r = end > rs->new
    ? sync_own (rs->image, rs->new, end - rs->new, &class, &n) : 0;

  *holds = class == FORMAT_ALLOCATED;
  return r;
}

/* What the backing file has there stays where it is. */
static int
look_behind (struct resizing *rs, uint64_t whole)
{
  enum format_entry class;
  uint64_t at, n = 0;
  bool holds;
  int r = holds_rest (rs, whole, &holds);

  if (r == 0 && holds)
    r = look_at_rest (rs, whole);
  for (at = whole; r == 0 && at < rs->old; at += n) {
    r = qed_progress_tell (rs->progress, at - rs->new, rs->old - rs->new);
    if (r == 0)
      r = sync_own (rs->image, at, rs->old - at, &class, &n);
    if (r == 0 && class == FORMAT_ALLOCATED)
      note_in_the_way (rs, at, n);
  }
  if (r < 0 || rs->in_the_way == 0)
    return r;
  log_error (&rs->image->options.log, "%s: cannot be cut to %" PRIu64
             " bytes: %" PRIu64 " bytes of data are in the way, the first at "
             "guest offset 0x%" PRIx64 ": move them, or lose them with "
             "--force", rs->image->path, rs->new, rs->in_the_way, rs->first);
  return -ENOTEMPTY;
}

/* The image is smaller already; nothing stops this but an error. */
static int
clear_behind (const struct resizing *rs, uint64_t whole)
{
  bool holds;
  int r = holds_rest (rs, whole, &holds);

  if (r == 0 && holds)
    r = qed_request_sync (rs->image, QED_OP_ZERO, NULL, whole - rs->new,
                          rs->new, 0);
  if (r == 0)
    r = forget (rs, whole, rs->old, false);
  if (r < 0)
    log_error (&rs->image->options.log, "%s: has %" PRIu64 " bytes now, but "
               "the file still holds what was cut off: %s", rs->image->path,
               rs->new, strerror (-r));
  return r;
}

/* Requests still reach what is cut off. */
static int
shrink (struct resizing *rs, bool force)
{
  uint64_t whole = min (round_up (rs->image, rs->new), rs->old);
  int r = qed_start (rs->image);

  if (r == 0 && !force)
    r = look_behind (rs, whole);
  if (r == 0)
    r = change_size (rs);
  return r == 0 ? clear_behind (rs, whole) : r;
}

/* ---- Both ---- */

static int
new_size (struct qed_image *image, const struct qed_resize *resize,
          uint64_t *size)
{
  const struct qed_log *log = &image->options.log;
  const struct format_header *h = &image->header;
  uint64_t old = h->image_size, max;

  max = format_max_image_size (h->cluster_size, h->table_size);
  *size = resize->how == QED_RESIZE_BY_LESS ? old - resize->size
    : resize->how == QED_RESIZE_BY_MORE ? old + resize->size : resize->size;
  if (resize->how == QED_RESIZE_BY_LESS && resize->size > old) {
    log_error (log, "%s: has %" PRIu64 " bytes: %" PRIu64 " fewer are not "
               "possible", image->path, old, resize->size);
    return -EINVAL;
  }
  if (resize->size > max || *size > max) {
    log_error (log, "%s: with its clusters of %" PRIu32 " bytes and tables of "
               "%" PRIu32 " clusters the image can have %" PRIu64 " bytes at "
               "most: copy it into one with larger clusters", image->path,
               h->cluster_size, h->table_size, max);
    return -EFBIG;
  }
  if (*size % FORMAT_SECTOR != 0) {
    log_error (log, "%s: size %" PRIu64 " is not a multiple of %u: the next "
               "one is %" PRIu64, image->path, *size, FORMAT_SECTOR,
               *size - *size % FORMAT_SECTOR + FORMAT_SECTOR);
    return -EINVAL;
  }
  if (*size < old && !resize->shrink) {
    log_error (log, "%s: %" PRIu64 " bytes are fewer than its %" PRIu64
               ": give --shrink to make it smaller", image->path, *size, old);
    return -EINVAL;
  }
  return 0;
}

int
resize_image (struct qed_image *image, struct qed_resize *resize,
              const struct qed_progress *progress)
{
  struct resizing rs = {
    .image = image, .progress = progress, .old = image->header.image_size,
  };
  int r = new_size (image, resize, &rs.new);

  resize->was = resize->is = rs.old;
  if (r < 0 || rs.new == rs.old)
    return r;
  r = rs.new > rs.old ? grow (&rs) : shrink (&rs, resize->force);
  resize->is = image->header.image_size;
  if (r == -ECANCELED)
    log_error (&image->options.log, "%s: its size is %" PRIu64 " bytes as "
               "before; the command can be run again", image->path, rs.old);
  return r;
}

int
qed_resize (const struct qed_options *options, struct qed_resize *resize,
            const struct qed_progress *progress)
{
  struct qed_options writable = *options;
  struct qed_image *image;
  int r, closed;

  writable.read_only = false;
  writable.need_write = true;
  writable.clean_after = 0;
  r = qed_open (&writable, &image);
  if (r < 0)
    return r;
  r = resize_image (image, resize, progress);
  closed = qed_close (image);
  return r < 0 ? r : closed;
}
