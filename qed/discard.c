/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Trim and zero: whole clusters lose their entry and are freed (O5), parts of
 * a cluster are made to read as zeros in place.
 *
 *   enter the gate (O1) -> publish "unallocated" -> hand the clusters to
 *   space.c -> leave the gate
 *
 * Runs in the request's thread.  Lock order: page -> space.
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "image.h"
#include "yield.h"

/* Entries that still name the run are cleared; others were changed meanwhile
 * by someone else, whose change then is the later one.  With the page locked.
 */
static void
unlink_clusters (struct qed_image *image, struct page *page, unsigned index,
                 uint64_t first, unsigned n)
{
  unsigned bits = image->geometry.cluster_bits, i;

  for (i = 0; i < n; i++) {
    if ((page_get (page, index + i) & ~ENTRY_MARKS) != (first + i) << bits) {
      space_unpromise (&image->space, 1);
      continue;
    }
    page_publish (&image->metadata, page, index + i, 0);
    space_freed (&image->space, first + i);
  }
  atomic_store_explicit (&image->last_change, loop_now (),
                         memory_order_relaxed);
}

/* With the gate held. */
static int
free_in_gate (struct qed_image *image, struct qed_request *request,
              uint64_t at, uint64_t first, unsigned n)
{
  struct page *page;
  int r = space_promise (&image->space, n);

  if (r == -EBUSY)
    return request_wait_job (image, &image->want_flush, request);
  if (r < 0)
    return r;
  yield_point ("publish");
  page = metadata_lock_page (&image->metadata, image_l2_key (image, at));
  if (page == NULL) {
    space_unpromise (&image->space, n);
    return change_load (image, request, at);
  }
  unlink_clusters (image, page, image_l2_index (image, at), first, n);
  metadata_unlock_page (&image->metadata, page);
  return 0;
}

/* Free the whole clusters that an extent starts with; *bytes says how much of
 * the guest's range that was.
 */
static int
free_extent (struct qed_image *image, struct qed_request *request,
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
  r = free_in_gate (image, request, at, extent->offset >> bits,
                    (unsigned) n);
  change_end (image);
  *bytes = n << bits;
  return r;
}

/* Part of a cluster: nothing but its content changes. */
static int
zero_part (struct qed_image *image, const struct extent *extent)
{
  int r = image->storage->ops->zero (image->storage, extent->offset,
                                     extent->bytes);

  if (r < 0)
    image_report (image, "zeroing a part of a cluster at file offset", extent->offset, r);
  return r;
}

/* The whole clusters of an extent at 'at'; the image's last one may be cut
 * short by its end.
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

int
discard_some (struct qed_image *image, struct qed_request *request,
              uint64_t at, uint64_t bytes, uint64_t *done)
{
  uint64_t in = at & (image->geometry.cluster_size - 1), whole;
  struct extent extent;
  int r;

  r = request_lookup (image, request, at, bytes, &extent);
  if (r != 0)
    return r;
  if (extent.class == FORMAT_ALLOCATED) {
    whole = whole_clusters (image, at, extent.bytes);
    if (whole > 0) {
      extent.bytes = whole;
      r = free_extent (image, request, at, &extent, &whole);
      if (whole < extent.bytes)
        extent.bytes = whole;
    }
    else {
      if (extent.bytes > image->geometry.cluster_size - in)
        extent.bytes = image->geometry.cluster_size - in;
      r = zero_part (image, &extent);
    }
  }
  *done = extent.bytes;
  return r;
}
