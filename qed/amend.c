/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A repair's change of one entry: from the value that was found to another,
 * unless it has changed meanwhile.
 *
 *   enter the gate (O1) -> lock the page -> compare -> publish -> [free the
 *   cluster that it named (O5)] -> leave the gate
 *
 * The content of what the new value names was written before; the write-back
 * syncs that first (O3, O4).  Also where damage makes the image refuse other
 * changes.  Runs in the request's thread.
 */

#include <config.h>

#include <errno.h>

#include "check.h"
#include "image.h"
#include "yield.h"

/* An entry as the disk has it. */
static uint64_t
disk_value (const struct page *page, unsigned index)
{
  uint64_t entry = page_get (page, index);

  return entry & ENTRY_DAMAGED ? page->raw[index] : entry & ~ENTRY_MARKS;
}

/* With the page locked. */
static int
publish (struct qed_image *image, struct page *page,
         const struct amendment *amendment)
{
  uint64_t i;
  int r;

  if (disk_value (page, amendment->index) != amendment->old)
    return -ESTALE;
  if (amendment->new == amendment->old)
    return 0;
  if (amendment->new > FORMAT_ENTRY_ZERO)
    atomic_store (&image->sync_data_first, true);
  r = pending_publish (image, page, amendment->index, amendment->new, 0, 1, 0);
  if (r < 0)
    return r;
  for (i = 0; i < amendment->freed; i++)
    space_freed (&image->space, (amendment->old >>
                                 image->geometry.cluster_bits) + i);
  atomic_store_explicit (&image->last_change, loop_now (),
                         memory_order_relaxed);
  return 0;
}

int
amend_try (struct qed_image *image, struct qed_request *request)
{
  const struct amendment *amendment = request->buf;
  struct page *page;
  int r = space_promise (&image->space, amendment->freed);

  if (r != 0)
    return r;
  yield_point ("publish");
  page = metadata_lock_page (&image->metadata, amendment->key);
  if (page == NULL) {
    r = metadata_load (&image->metadata, amendment->key, amendment->page,
                       request);
    if (r == 0)
      r = REQUEST_AGAIN;
  }
  else {
    r = publish (image, page, amendment);
    metadata_unlock_page (&image->metadata, page);
  }
  if (r != 0)
    space_unpromise (&image->space, amendment->freed);
  return r;
}

int
amend_some (struct qed_image *image, struct qed_request *request)
{
  int r = change_begin (image, request);

  if (r != 0)
    return r;
  r = amend_try (image, request);
  change_end (image);
  if (r == -EBUSY)
    return allocate_wait_reclaim (image, request);
  if (r == -ENOBUFS)
    return request_wait_job (image, &image->want_flush, request);
  if (r == 0)
    request->done = request->count;
  return r;
}

void
amend_no_wake (struct qed_request *request)
{
  (void) request;
}

/* A page by which the guest's addresses are looked up is cached under that
 * key, also for the entries behind the end of the disk.
 */
static uint64_t
l2_key (const struct format_geometry *g, const struct qed_problem *problem)
{
  uint64_t page = (problem->guest >> g->cluster_bits) / PAGE_ENTRIES;

  return problem->guest != UINT64_MAX && g->image_size > 0 &&
    page <= ((g->image_size - 1) >> g->cluster_bits) / PAGE_ENTRIES
    ? METADATA_KEY_L2 (page)
    : METADATA_KEY_PLACE (problem->where / PAGE_BYTES);
}

struct amendment
amend_problem (const struct qed_image *image,
               const struct qed_problem *problem, uint64_t new)
{
  const struct format_geometry *g = &image->geometry;
  struct amendment a = { .old = problem->value, .new = new };
  uint64_t index = (problem->where - g->l1_offset) / 8;

  if (problem->where >= g->l1_offset && index < g->entries)
    a.key = METADATA_KEY_L1 (index / PAGE_ENTRIES);
  else {
    index = problem->where % PAGE_BYTES / 8;
    a.key = l2_key (g, problem);
  }
  a.index = index % PAGE_ENTRIES;
  a.page = problem->where - a.index * 8;
  return a;
}
