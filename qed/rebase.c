/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Another backing file for an image (O9).
 *
 *   for each cluster that the image doesn't hold: if the old chain and the new
 *   one differ there, it gets what the old one has -> write-back -> the header
 *   names the new one
 *
 * Until then the old chain is read, so what was copied changes nothing; from
 * then on it hides what the new chain has otherwise.  Zero clusters stand for
 * zeros that only one of them has (discard.c knows of both).  Any thread but
 * the loop.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fetch.h"
#include "image.h"

/* Compared, and copied, at a time: so much, or a cluster. */
#define PIECE_BYTES (UINT64_C (1) << 20)

/* Made zero in one request. */
#define ZERO_BYTES (UINT64_C (1) << 30)

/* What is known of one side, up to 'end'. */
struct side {
  uint64_t end;
  bool zeros;                   /* it has nothing but zeros there */
  struct qed_request request;   /* for sync_extent */
};

struct rebasing {
  struct qed_image *image;
  struct backing *new_backing;  /* the image's, or NULL */
  uint64_t own_end;             /* up to here the image itself holds nothing */
  struct side old, new;
  uint64_t piece;               /* bytes that each of the two has room for */
  unsigned char *old_data, *new_data;
};

static uint64_t
min (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

/* ---- What is there ---- */

static void
init_side (const struct rebasing *rb, struct side *side)
{
  qed_request_init (&side->request, QED_OP_EXTENTS, NULL,
                    qed_size (rb->image), 0, 0);
}

/* 'backing' NULL: the image, and so what it is over. */
static int
look (struct rebasing *rb, struct side *side, struct backing *backing,
      uint64_t at)
{
  enum qed_extent kind;
  uint64_t n;
  int r;

  if (at < side->end)
    return 0;
  r = sync_extent (rb->image, backing, &side->request, at, &kind, &n);
  if (r == 0) {
    side->end = at + n;
    side->zeros = kind != QED_EXTENT_DATA;
  }
  return r;
}

static int
look_at_both (struct rebasing *rb, uint64_t at)
{
  int r = look (rb, &rb->old, NULL, at);

  if (rb->old.end > rb->own_end)
    rb->old.end = rb->own_end;
  if (r == 0 && rb->new_backing)
    return look (rb, &rb->new, rb->new_backing, at);
  rb->new.end = qed_size (rb->image);
  rb->new.zeros = true;
  return r;
}

/* ---- Piece by piece ---- */

/* Whole clusters in front of 'end', or all up to the hole's end; 0 if there
 * is less than one.
 */
static uint64_t
whole_clusters (const struct rebasing *rb, uint64_t at, uint64_t end)
{
  uint64_t size = rb->image->geometry.cluster_size;

  return end >= rb->own_end ? rb->own_end - at : (end - at) & -size;
}

static int
read_piece (struct rebasing *rb, uint64_t at, uint64_t bytes)
{
  int r = qed_request_sync (rb->image, QED_OP_READ, rb->old_data, bytes, at,
                            0);

  if (r < 0)
    return r;
  if (rb->new_backing == NULL)
    memset (rb->new_data, 0, bytes);
  else
    r = sync_backing_read (rb->new_backing, at, bytes, rb->new_data);
  if (r < 0)
    log_error (&rb->image->options.log, "%s: cannot read the new backing file "
               "at offset 0x%" PRIx64 ": %s", rb->image->path, at,
               strerror (-r));
  return r;
}

static bool
is_zero (const unsigned char *buf, uint64_t n)
{
  return buf[0] == 0 && memcmp (buf, buf + 1, n - 1) == 0;
}

enum what_to_do { LEAVE, MAKE_ZERO, COPY };

/* Of the cluster that begins in the buffers at 'from'; the last one may be
 * short.
 */
static enum what_to_do
compare_cluster (const struct rebasing *rb, uint64_t from, uint64_t bytes)
{
  uint64_t n = min (bytes - from, rb->image->geometry.cluster_size);

  if (memcmp (rb->old_data + from, rb->new_data + from, n) == 0)
    return LEAVE;
  return is_zero (rb->old_data + from, n) ? MAKE_ZERO : COPY;
}

/* Compare cluster by cluster; neighbours that need the same are one request. */
static int
compare_piece (struct rebasing *rb, uint64_t at, uint64_t bytes)
{
  uint64_t size = rb->image->geometry.cluster_size, from, end, n;
  enum what_to_do what;
  int r = read_piece (rb, at, bytes);

  for (from = 0; r == 0 && from < bytes; from = end) {
    what = compare_cluster (rb, from, bytes);
    for (end = from + size; end < bytes &&
           compare_cluster (rb, end, bytes) == what; end += size)
      ;
    n = min (end, bytes) - from;
    if (what != LEAVE)
      r = qed_request_sync (rb->image, what == COPY ? QED_OP_WRITE
                            : QED_OP_ZERO, rb->old_data + from, n, at + from,
                            0);
  }
  return r;
}

/* Do the first *bytes of what the image doesn't hold. */
static int
work_on_hole (struct rebasing *rb, uint64_t at, uint64_t *bytes)
{
  uint64_t size = rb->image->geometry.cluster_size, end, zeros;
  int r = look_at_both (rb, at);

  if (r < 0)
    return r;
  end = min (rb->old.end, rb->new.end);
  if (rb->old.zeros && rb->new.zeros) {
    *bytes = whole_clusters (rb, at, end);
    if (*bytes > 0)
      return 0;
  }
  end = min ((end + size - 1) & -size, rb->own_end);
  zeros = rb->old.zeros ? whole_clusters (rb, at, rb->old.end) : 0;
  if (zeros > 0) {              /* no matter what the new one has */
    *bytes = min (min (end - at, zeros), ZERO_BYTES);
    return qed_request_sync (rb->image, QED_OP_ZERO, NULL, *bytes, at, 0);
  }
  *bytes = min (end - at, rb->piece);
  return compare_piece (rb, at, *bytes);
}

static int
work_on_image (struct rebasing *rb, const struct qed_progress *progress)
{
  uint64_t size = qed_size (rb->image), at, n = 0;
  enum format_entry class;
  int r = 0;

  for (at = 0; r == 0 && at < size; at += n) {
    r = qed_progress_tell (progress, at, size);
    if (r < 0)
      break;
    if (at < rb->own_end) {
      r = work_on_hole (rb, at, &n);
      continue;
    }
    r = sync_own (rb->image, at, size - at, &class, &n);
    if (r == 0 && class == FORMAT_UNALLOCATED) {
      rb->own_end = at + n;
      n = 0;
    }
  }
  return r;
}

/* Make the image hold whatever the new chain has otherwise. */
static int
copy_differences (struct qed_image *image,
                  const struct qed_progress *progress)
{
  struct rebasing rb = { .image = image, .new_backing = image->new_backing };
  int r = -ENOMEM;

  rb.piece = PIECE_BYTES;
  if (rb.piece < image->geometry.cluster_size)
    rb.piece = image->geometry.cluster_size;
  rb.old_data = malloc (rb.piece);
  rb.new_data = malloc (rb.piece);
  init_side (&rb, &rb.old);
  init_side (&rb, &rb.new);
  if (rb.old_data && rb.new_data)
    r = work_on_image (&rb, progress);
  fetch_drop (&rb.old.request);
  fetch_drop (&rb.new.request);
  free (rb.old_data);
  free (rb.new_data);
  return r;
}

/* ---- The whole ---- */

static int
open_new (struct qed_image *image, const struct qed_rebase *rebase)
{
  const char *name = rebase->backing;
  int r;

  if (name && rebase->format == QED_REBASE_QED &&
      format_backing_kind (name) == FORMAT_BACKING_NBD) {
    log_error (&image->options.log, "%s: the backing file %s is on an NBD "
               "server, and what is there is always raw", image->path, name);
    return -EINVAL;
  }
  if (name == NULL || rebase->unsafe)
    return 0;
  r = backing_open_name (image, name, rebase->format == QED_REBASE_RAW,
                         &image->new_backing);
  if (r < 0)
    return r;
  if (rebase->format == QED_REBASE_QED &&
      backing_image (image->new_backing) == NULL) {
    log_error (&image->options.log, "%s: the backing file %s is not a QED "
               "image", image->path, name);
    return -EINVAL;
  }
  return 0;
}

/* What was compared as raw stays raw, whatever may come to stand there. */
static bool
is_raw (const struct qed_image *image, const struct qed_rebase *rebase)
{
  return rebase->format == QED_REBASE_RAW ||
    (rebase->backing &&
     format_backing_kind (rebase->backing) == FORMAT_BACKING_NBD) ||
    (image->new_backing && backing_image (image->new_backing) == NULL);
}

/* The same file that is read in the same way has no differences. */
static bool
is_same (const struct backing *a, const struct backing *b)
{
  struct qed_file_id s, t;

  if (a == NULL || b == NULL)
    return a == b;
  s = backing_identify (a);
  t = backing_identify (b);
  return s.inode != 0 && s.device == t.device && s.inode == t.inode &&
    (backing_image (a) == NULL) == (backing_image (b) == NULL);
}

int
rebase_image (struct qed_image *image, const struct qed_rebase *rebase,
              const struct qed_progress *progress)
{
  struct header_change change = {
    .what = HEADER_BACKING, .name = rebase->backing,
  };
  int r = header_find_place (image, &change);

  if (r == 0)
    r = open_new (image, rebase);
  if (r == 0 && rebase->backing)
    r = backing_check_name (image, rebase->backing);
  if (r == 0)
    r = qed_start (image);
  if (r == 0 && !rebase->unsafe &&
      !is_same (image->backing, image->new_backing))
    r = copy_differences (image, progress);
  change.raw = is_raw (image, rebase);
  if (r == 0)
    r = header_make_change (image, &change);
  if (r == -ECANCELED)
    log_error (&image->options.log, "%s: has the backing file and the content "
               "that it had; the command can be run again", image->path);
  return r;
}

int
qed_rebase (const struct qed_options *options,
            const struct qed_rebase *rebase,
            const struct qed_progress *progress)
{
  struct qed_options writable = *options;
  struct qed_image *image;
  int r, closed;

  writable.read_only = false;
  writable.need_write = true;
  writable.clean_after = 0;
  writable.skip_backing = rebase->unsafe;
  r = qed_open (&writable, &image);
  if (r < 0)
    return r;
  r = rebase_image (image, rebase, progress);
  closed = qed_close (image);
  return r < 0 ? r : closed;
}
