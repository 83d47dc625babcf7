/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Trim, zero and forget: whole clusters lose their entry and are freed (O5),
 * parts of a cluster are made to read as zeros in place.
 *
 *   enter the gate (O1) -> publish "unallocated", or, over a backing file,
 *   "zero" -> hand the clusters to space.c -> leave the gate
 *
 * Runs in the request's thread.  Lock order: page -> space.
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "backing.h"
#include "image.h"
#include "yield.h"

/* What a cluster without a place must say so that it reads as zeros: over a
 * backing file, or where rebase will put one, "zero"; else, and behind the
 * backing file's end, nothing.  One that is forgotten says nothing anywhere.
 */
static uint64_t
empty_entry (const struct qed_image *image, enum qed_op op, uint64_t at)
{
  if (op == QED_OP_FORGET)
    return 0;
  if (image->backing && at < backing_size (image->backing))
    return FORMAT_ENTRY_ZERO;
  return image->new_backing && at < backing_size (image->new_backing)
    ? FORMAT_ENTRY_ZERO : 0;
}

/* What the i-th entry was when it was looked up. */
static uint64_t
looked_up (const struct qed_image *image, const struct extent *extent,
           unsigned i)
{
  return extent->class == FORMAT_ALLOCATED
    ? extent->offset + ((uint64_t) i << image->geometry.cluster_bits)
    : extent->class == FORMAT_ZERO ? FORMAT_ENTRY_ZERO : 0;
}

/* How many entries from the i-th on are still so, and become the same. */
static unsigned
count_same (const struct qed_image *image, const struct page *page,
            enum qed_op op, uint64_t at, const struct extent *extent,
            unsigned i, unsigned n)
{
  unsigned bits = image->geometry.cluster_bits, same = 0;
  unsigned index = image_l2_index (image, at);
  uint64_t empty = empty_entry (image, op, at + ((uint64_t) i << bits));

  while (i + same < n &&
         (page_get (page, index + i + same) & ~ENTRY_MARKS) ==
         looked_up (image, extent, i + same) &&
         empty_entry (image, op, at + ((uint64_t) (i + same) << bits)) ==
         empty)
    same++;
  return same;
}

/* So many entries from the i-th on lose their place, if they have one. */
static int
clear_same (struct qed_image *image, struct page *page, enum qed_op op,
            uint64_t at, const struct extent *extent, unsigned i, unsigned n)
{
  unsigned bits = image->geometry.cluster_bits, end = i + n;
  uint64_t empty = empty_entry (image, op, at + ((uint64_t) i << bits));
  int r = pending_publish (image, page, image_l2_index (image, at) + i, empty,
                           0, n, 0);

  if (r < 0)
    return r;
  if (extent->class != FORMAT_ALLOCATED)
    space_unpromise (&image->space, n);
  else
    for (; i < end; i++)
      space_freed (&image->space, looked_up (image, extent, i) >> bits);
  return 0;
}

/* The run's clusters lose their place, if they have one.  Entries that are not
 * as they were looked up were changed meanwhile by someone else.
 * REQUEST_AGAIN if he gave one a place: around his data there may be what
 * stands in the backing file, so that the caller must look up again.  -ENOBUFS:
 * a write-back has to come first; some may be done.  With the page locked.
 */
static int
clear_entries (struct qed_image *image, struct page *page, enum qed_op op,
               uint64_t at, const struct extent *extent, unsigned n)
{
  unsigned index = image_l2_index (image, at), i, same;
  uint64_t is;
  int r = 0;

  for (i = 0; i < n; i += same) {
    same = count_same (image, page, op, at, extent, i, n);
    if (same > 0 && clear_same (image, page, op, at, extent, i, same) < 0) {
      space_unpromise (&image->space, n - i);
      return -ENOBUFS;
    }
    if (same == 0) {
      is = page_get (page, index + i) & ~ENTRY_MARKS;
      if (is != 0 && is != FORMAT_ENTRY_ZERO)
        r = REQUEST_AGAIN;
      space_unpromise (&image->space, 1);
      same = 1;
    }
  }
  atomic_store_explicit (&image->last_change, loop_now (),
                         memory_order_relaxed);
  return r;
}

/* With the gate held. */
static int
clear_in_gate (struct qed_image *image, struct qed_request *request,
               uint64_t at, const struct extent *extent, unsigned n)
{
  struct page *page;
  int r = allocate_table (image, request, at);

  if (r == 0)
    r = space_promise (&image->space, n);
  if (r == -EBUSY)
    return allocate_wait_reclaim (image, request);
  if (r != 0)
    return r;
  yield_point ("publish");
  page = metadata_lock_page (&image->metadata, image_l2_key (image, at));
  if (page == NULL) {
    space_unpromise (&image->space, n);
    return change_load (image, request, at);
  }
  r = clear_entries (image, page, request->op, at, extent, n);
  metadata_unlock_page (&image->metadata, page);
  return r == -ENOBUFS
    ? request_wait_job (image, &image->want_flush, request) : r;
}

/* Whole clusters, at most one page of them; *bytes says how much of the
 * guest's range that was.
 */
static int
clear_extent (struct qed_image *image, struct qed_request *request,
              uint64_t at, const struct extent *extent, uint64_t *bytes)
{
  unsigned bits = image->geometry.cluster_bits;
  unsigned room = PAGE_ENTRIES - image_l2_index (image, at);
  uint64_t n = (extent->bytes + image->geometry.cluster_size - 1) >> bits;
  int r = change_begin (image, request);

  if (r != 0)
    return r;
  if (n > room)
    n = room;
  r = clear_in_gate (image, request, at, extent, (unsigned) n);
  change_end (image);
  *bytes = n << bits;
  return r;
}

/* A part of a cluster that has a place: its content changes, nothing else. */
static int
zero_part (struct qed_image *image, const struct qed_request *request,
           const struct extent *extent)
{
  const struct storage_ops *ops = image->storage->ops;
  bool fast = (request->flags & QED_FAST) != 0;
  int r = (fast ? ops->punch : ops->zero) (image->storage, extent->offset,
                                           extent->bytes);

  if (r < 0 && r != -EOPNOTSUPP)
    image_report (image, "zeroing a part of a cluster at file offset",
                  extent->offset, r);
  return r;
}

/* How much of the bytes at 'at' is whole clusters; the image's last one may
 * be cut short by its end.
 */
static uint64_t
whole_clusters (const struct qed_image *image, uint64_t at, uint64_t bytes)
{
  uint64_t in = at & (image->geometry.cluster_size - 1);

  if (in != 0)
    return 0;
  return at + bytes == qed_size (image) ? bytes
    : bytes & -(uint64_t) image->geometry.cluster_size;
}

/* Whether there is nothing to be done: it reads as zeros, or it is a trim,
 * which need not write anything over a backing file, or there is nothing to
 * forget.
 */
static bool
is_done (const struct qed_image *image, enum qed_op op, uint64_t at,
         const struct extent *extent, bool whole)
{
  if (op == QED_OP_FORGET)
    return !whole || extent->class == FORMAT_UNALLOCATED;
  if (extent->class == FORMAT_ALLOCATED)
    return op == QED_OP_TRIM && image->backing && !whole;
  if (extent->class == FORMAT_ZERO)
    return true;
  return op == QED_OP_TRIM || empty_entry (image, op, at) == 0;
}

int
discard_some (struct qed_image *image, struct qed_request *request,
              enum qed_op op, uint64_t at, uint64_t bytes, uint64_t *done)
{
  uint64_t size = image->geometry.cluster_size;
  uint64_t in = at & (size - 1), whole, cleared;
  struct extent extent;
  int r = request_lookup (image, request, at, bytes, &extent);

  if (r != 0)
    return r;
  whole = whole_clusters (image, at, extent.bytes);
  if (whole > 0)
    extent.bytes = whole;
  else if (extent.bytes > size - in)
    extent.bytes = size - in;
  *done = extent.bytes;
  if (is_done (image, op, at, &extent, whole > 0))
    return 0;
  if (whole > 0) {
    r = clear_extent (image, request, at, &extent, &cleared);
    if (r == 0 && cleared < extent.bytes)
      *done = cleared;
    return r;
  }
  if (extent.class == FORMAT_ALLOCATED)
    return zero_part (image, request, &extent);
  return cow_extent (image, request, at, &extent, NULL, done);
}
