/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Allocating writes: clusters and L2 tables get a place and are linked.
 *
 *   enter the gate (O1) -> table -> reserve -> [make it read as zeros] ->
 *   publish -> leave the gate;  the caller then writes its data in place
 *
 * Fresh clusters read as zeros, so nothing is filled: the entry may reach the
 * disk before the data does, and whoever reads meanwhile gets zeros.  A
 * cluster that was used before is made to read as zeros before its entry is
 * published, and the write-back syncs that before it writes the entry (O3).
 * Different clusters never wait for each other, but for a table that both need;
 * of two requests for the same cluster the second finds it allocated and writes
 * in place.
 *
 * Runs in the request's thread.  Lock order: page -> space.  No I/O under
 * either.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "image.h"
#include "yield.h"

/* Of a table that is larger only the start has its space reserved: it would
 * take more of the disk than it is worth.
 */
#define RESERVE_MAX (UINT64_C (1) << 20)

/* ---- The gate ---- */

/* Enter the change gate, or wait until that is possible. */
int
change_begin (struct qed_image *image, struct qed_request *request)
{
  int r = request_wait_scan (image, request, SCAN_DONE);

  if (r == 0)
    r = request_refused (image, request);
  if (r != 0)
    return r;
  if (metadata_pressed (&image->metadata) || pending_full (&image->pending))
    return request_wait_job (image, &image->want_flush, request);
  if (gate_enter (&image->gate))
    return 0;
  return request_wait_job (image, &image->want_mark, request);
}

void
change_end (struct qed_image *image)
{
  gate_leave (&image->gate);
}

/* ---- Publishing ---- */

/* The page is locked; what O3 asks of the clusters is noted before, so that no
 * write-back can see the entries and not the note.  -ENOBUFS: a write-back has
 * to come first.
 */
static int
publish (struct qed_image *image, struct page *page, unsigned index,
         const struct space_run *run, unsigned step)
{
  unsigned bits = image->geometry.cluster_bits;
  int r;

  if (run->used_before || image->backing)
    atomic_store (&image->sync_data_first, true);
  r = pending_publish (image, page, index, run->first << bits,
                       (uint64_t) step << bits, (unsigned) (run->n / step),
                       ENTRY_CHECKED);
  if (r == 0)
    atomic_store_explicit (&image->last_change, loop_now (),
                           memory_order_relaxed);
  return r;
}

/* If the cache has no room for the page, a write-back makes some. */
int
change_load (struct qed_image *image, struct qed_request *request,
                 uint64_t at)
{
  int r = request_load (image, request, at);

  return r == -ENOBUFS
    ? request_wait_job (image, &image->want_flush, request) : r;
}

/* What was used before must not be seen. */
static int
zero_run (struct qed_image *image, const struct space_run *run)
{
  uint64_t offset = run->first << image->geometry.cluster_bits;
  int r;

  if (sim_skips ("allocate", "zero-run"))
    return 0;
  r = image->storage->ops->zero (image->storage, offset,
                                 run->n << image->geometry.cluster_bits);
  if (r < 0)
    image_report (image, "zeroing reused clusters at file offset", offset, r);
  return r;
}

/* A bad spot would fail every request after this one.  That the storage was
 * full says nothing about the clusters.
 */
bool
allocate_may_reuse (int r)
{
  return r == REQUEST_AGAIN || r == -ENOBUFS || r == -ENOSPC || r == -EDQUOT;
}

/* There is no free cluster, but some were freed: a write-back, and then their
 * reclaim, come first (O5).
 */
static int
wait_for_space (struct qed_image *image, struct qed_request *request)
{
  int r = space_wait (&image->space, request);

  if (r == -EAGAIN)
    return request_wait_job (image, &image->want_flush, request);
  return r == 0 ? REQUEST_AGAIN : r;
}

int
allocate_wait_reclaim (struct qed_image *image, struct qed_request *request)
{
  int r = space_wait_reclaim (&image->space, request);

  if (r == -EAGAIN)
    return request_wait_job (image, &image->want_flush, request);
  return r == 0 ? REQUEST_AGAIN : r;
}

/* There is no room at all, but for what a check holds back: it has to do
 * without; or for what a slow reader does.
 */
static int
take_held (struct qed_image *image, struct qed_request *request)
{
  if (space_any_coming (&image->space))
    return allocate_wait_reclaim (image, request);
  return space_break_hold (&image->space)
    ? request_wait_job (image, &image->want_flush, request) : -ENOSPC;
}

/* Space ran out within the file. */
static int
grow (struct qed_image *image, struct qed_request *request, uint64_t n)
{
  int r = space_grow (&image->space, image->storage, n, request);

  if (r == -ENOSPC)
    r = take_held (image, request);
  if (r < 0)
    image_report (image, "growing the file from",
                  atomic_load (&image->space.length_bytes), r);
  return r == 0 ? REQUEST_AGAIN : r;
}

int
allocate_publish (struct qed_image *image, struct page *page, unsigned index,
                  const struct space_run *run)
{
  return publish (image, page, index, run, 1);
}

int
allocate_reserve (struct qed_image *image, struct qed_request *request,
                  uint64_t want, struct space_run *run)
{
  int r = space_reserve (&image->space, want, run);

  if (r == -EBUSY)
    return wait_for_space (image, request);
  if (r == -ENOSPC)
    return take_held (image, request);
  return r == -EAGAIN ? grow (image, request, want) : r;
}

/* ---- L2 tables ---- */

/* A write-back can do nothing about a disk that is full, so the request that
 * needs the table is the one that fails.  'where' is the L1 page.
 */
static int
have_space (struct qed_image *image, const struct space_run *run,
            uint64_t where)
{
  const struct storage_ops *ops = image->storage->ops;
  uint64_t bytes = image->geometry.table_bytes, offset = where;
  int r;

  if (ops->reserve == NULL)
    return 0;
  if (bytes > RESERVE_MAX)
    bytes = RESERVE_MAX;
  r = ops->reserve (image->storage, offset, PAGE_BYTES);
  if (r == 0) {
    offset = run->first << image->geometry.cluster_bits;
    r = ops->reserve (image->storage, offset, bytes);
  }
  if (r == -EOPNOTSUPP)
    return 0;
  if (r < 0)
    image_report (image, "reserving space for a table at file offset", offset,
                  r);
  return r;
}

/* With the page unlocked meanwhile, as this is I/O; *page is locked again, or
 * NULL.
 */
static int
prepare_table (struct qed_image *image, const struct space_run *run,
               struct page **page)
{
  uint64_t key = (*page)->key, where = (*page)->offset;
  int r = 0;

  metadata_unlock_page (&image->metadata, *page);
  *page = NULL;
  if (run->used_before)
    r = zero_run (image, run);
  if (r == 0)
    r = have_space (image, run, where);
  if (r == 0)
    *page = metadata_lock_page (&image->metadata, key);
  return r == 0 && *page == NULL ? REQUEST_AGAIN : r;
}

/* Make a table whose clusters read as zeros.  'page' is locked on entry and
 * not on return.  No one else links one there: this one is claimed.
 */
static int
make_table (struct qed_image *image, struct page *page, unsigned index)
{
  uint64_t n = image->geometry.table_bytes >> image->geometry.cluster_bits;
  struct space_run run;
  int r = space_reserve_table (&image->space, n, &run);

  if (r == 0) {
    if (run.used_before || image->storage->ops->reserve)
      r = prepare_table (image, &run, &page);
    if (r == 0)
      r = publish (image, page, index, &run, (unsigned) n);
    if (allocate_may_reuse (r))
      space_release (&image->space, &run);
  }
  if (page)
    metadata_unlock_page (&image->metadata, page);
  return r;
}

/* Of the requests that need the same table one claims it, and makes it: what
 * others made for nothing, and gave back, would be a gap in the file.
 */
static _Atomic bool *
table_claim (struct qed_image *image, uint64_t l1_index)
{
  return &image->making_table[l1_index % TABLE_CLAIMS];
}

/* Make the table that was claimed; 'page' as for make_table. */
static int
new_table (struct qed_image *image, struct qed_request *request,
           struct page *page, uint64_t l1_index)
{
  int r;

  request_step (request, image->table_made.step);
  r = make_table (image, page, l1_index % PAGE_ENTRIES);
  atomic_store (table_claim (image, l1_index), false);
  wait_wake_all (&image->table_made);
  if (r == -EAGAIN)
    return grow (image, request,
                 image->geometry.table_bytes >> image->geometry.cluster_bits);
  if (r == -ENOSPC)
    return take_held (image, request);
  if (r == -EBUSY)
    return allocate_wait_reclaim (image, request);
  if (r == -ENOBUFS)
    return request_wait_job (image, &image->want_flush, request);
  return r == 0 ? REQUEST_AGAIN : r;
}

static int
wait_for_table (struct qed_image *image, struct qed_request *request,
                uint64_t l1_index)
{
  wait_add (&image->table_made, request);
  if (atomic_load (table_claim (image, l1_index)))
    return QED_WAIT;
  return wait_not_needed (request) == 0 ? REQUEST_AGAIN : QED_WAIT;
}

/* Make sure that there is an L2 table for 'at'. */
int
allocate_table (struct qed_image *image, struct qed_request *request,
                uint64_t at)
{
  uint64_t l1_index = image_l1_index (image, at), entry, table;
  struct page *page =
    metadata_lock_page (&image->metadata,
                        METADATA_KEY_L1 (l1_index / PAGE_ENTRIES));

  if (page == NULL)
    return change_load (image, request, at);
  entry = page_get (page, l1_index % PAGE_ENTRIES);
  if (entry == 0 && !atomic_exchange (table_claim (image, l1_index), true))
    return new_table (image, request, page, l1_index);
  metadata_unlock_page (&image->metadata, page);
  if (entry == 0)
    return wait_for_table (image, request, l1_index);
  return request_check_l1 (image, l1_index, entry, &table);
}

/* ---- Data clusters ---- */

static bool
is_unallocated (uint64_t entry)
{
  return entry == 0 || entry == FORMAT_ENTRY_ZERO;
}

/* How many clusters from index on have no place yet, within the page. */
static uint64_t
count_unallocated (const struct page *page, unsigned index, uint64_t most)
{
  uint64_t n = 0;

  while (n < most && index + n < PAGE_ENTRIES &&
         is_unallocated (page_get (page, index + (unsigned) n)))
    n++;
  return n;
}

/* Publish a run if none of its entries was published meanwhile. */
static int
link_clusters (struct qed_image *image, struct page *page, unsigned index,
               const struct space_run *run)
{
  if (count_unallocated (page, index, run->n) < run->n)
    return REQUEST_AGAIN;
  return publish (image, page, index, run, 1);
}

/* Reserve and publish up to 'want' clusters from 'at' on.  'page' is locked
 * on entry and not on return.
 */
static int
new_clusters (struct qed_image *image, struct qed_request *request,
              struct page *page, unsigned index, uint64_t want,
              struct space_run *run)
{
  uint64_t n = count_unallocated (page, index, want), key = page->key;
  int r = n > 0 ? space_reserve (&image->space, n, run) : REQUEST_AGAIN;

  if (r == 0 && !run->used_before) {
    r = link_clusters (image, page, index, run);
    if (r != 0)
      space_release (&image->space, run);
  }
  else if (r == 0) {
    metadata_unlock_page (&image->metadata, page);
    r = zero_run (image, run);
    page = r == 0 ? metadata_lock_page (&image->metadata, key) : NULL;
    if (r == 0 && page)
      r = link_clusters (image, page, index, run);
    else if (r == 0)
      r = REQUEST_AGAIN;
    if (allocate_may_reuse (r))
      space_release (&image->space, run);
  }
  if (page)
    metadata_unlock_page (&image->metadata, page);
  if (r == -EBUSY)
    return wait_for_space (image, request);
  if (r == -ENOBUFS)
    return request_wait_job (image, &image->want_flush, request);
  if (r == -ENOSPC)
    return take_held (image, request);
  return r == -EAGAIN ? grow (image, request, n) : r;
}

/* With the gate held. */
static int
allocate_in_gate (struct qed_image *image, struct qed_request *request,
                  uint64_t at, uint64_t bytes, struct extent *extent)
{
  unsigned bits = image->geometry.cluster_bits;
  uint64_t in = at & (image->geometry.cluster_size - 1);
  uint64_t want = (in + bytes + image->geometry.cluster_size - 1) >> bits;
  unsigned index = image_l2_index (image, at);
  struct space_run run;
  struct page *page;
  int r = allocate_table (image, request, at);

  if (r != 0)
    return r;
  yield_point ("publish");
  page = metadata_lock_page (&image->metadata, image_l2_key (image, at));
  if (page == NULL)
    return change_load (image, request, at);
  r = new_clusters (image, request, page, index, want, &run);
  if (r != 0)
    return r;
  extent->class = FORMAT_ALLOCATED;
  extent->offset = (run.first << bits) + in;
  extent->bytes = (run.n << bits) - in;
  if (extent->bytes > bytes)
    extent->bytes = bytes;
  return 0;
}

int
allocate_extent (struct qed_image *image, struct qed_request *request,
                 uint64_t at, uint64_t bytes, struct extent *extent)
{
  int r = change_begin (image, request);

  if (r != 0)
    return r;
  r = allocate_in_gate (image, request, at, bytes, extent);
  change_end (image);
  return r;
}
