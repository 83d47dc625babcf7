/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* From a guest's address to what the tables say about it.
 *
 * Cached pages are looked up without a lock; a missing one is read by the
 * thread that misses it.  Every entry is range-checked before it is used: one
 * that names the header or a table is never followed.  Any thread, with a
 * guard held.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "image.h"

int
request_check_l1 (struct qed_image *image, uint64_t l1_index, uint64_t entry,
                  uint64_t *table)
{
  enum format_entry class = FORMAT_RESERVED_BITS;

  *table = entry & ~ENTRY_MARKS;
  if (entry & ENTRY_CHECKED || entry == 0)
    return 0;
  if (!(entry & ENTRY_DAMAGED))
    class = format_classify_l1 (&image->geometry, entry,
                                space_table_reach (&image->space, entry));
  if (class == FORMAT_ALLOCATED)
    return 0;
  image_damage (image, "L1 entry %" PRIu64 " (file offset 0x%" PRIx64
                ") is %s", l1_index, image->geometry.l1_offset + l1_index * 8,
                format_entry_to_text (class));
  return -EIO;
}

/* Whether an L2 entry that was not checked yet may be followed.  Not before
 * every table is known can it be marked as checked: until then reads, which
 * don't wait for the scan, go by the tables that it has seen.
 */
static int
check_l2 (struct qed_image *image, uint64_t at, uint64_t entry)
{
  bool tables_known = atomic_load (&image->scan_state) >= SCAN_READING_L2;
  enum format_entry class = FORMAT_RESERVED_BITS;
  const char *text;

  if (!(entry & ENTRY_DAMAGED))
    class = format_classify_l2 (&image->geometry, entry,
                                space_reach (&image->space));
  text = format_entry_to_text (class);
  if (class == FORMAT_ALLOCATED) {
    if (!space_is_table (&image->space, image_cluster (image, entry))) {
      if (tables_known)
        metadata_set_checked (&image->metadata, image_l2_key (image, at),
                              image_l2_index (image, at), entry);
      return 0;
    }
    text = "inside an L2 table";
  }
  image_damage (image, "the L2 entry for guest offset 0x%" PRIx64 " is %s",
                at & -(uint64_t) image->geometry.cluster_size, text);
  return -EIO;
}

/* What an entry says about the guest address 'at'. */
static int
read_entry (struct qed_image *image, uint64_t at, uint64_t entry,
            struct extent *extent)
{
  uint64_t in = at & (image->geometry.cluster_size - 1);
  int r;

  extent->bytes = image->geometry.cluster_size - in;
  extent->offset = 0;
  if (entry == 0)
    extent->class = FORMAT_UNALLOCATED;
  else if (entry == FORMAT_ENTRY_ZERO)
    extent->class = FORMAT_ZERO;
  else {
    if (!(entry & ENTRY_CHECKED)) {
      r = check_l2 (image, at, entry);
      if (r < 0)
        return r;
    }
    extent->class = FORMAT_ALLOCATED;
    extent->offset = (entry & ~ENTRY_MARKS) + in;
  }
  return 0;
}

/* Where the L1 entry for 'at' is cached or can be read. */
static int
get_l1 (struct qed_image *image, uint64_t at, uint64_t *entry)
{
  uint64_t index = image_l1_index (image, at);

  return metadata_get (&image->metadata,
                       METADATA_KEY_L1 (index / PAGE_ENTRIES),
                       index % PAGE_ENTRIES, entry) ? 0 : REQUEST_AGAIN;
}

/* Where in the file the page of the L2 table lies. */
static uint64_t
l2_page_offset (const struct qed_image *image, uint64_t at, uint64_t table)
{
  uint64_t entry = image_cluster (image, at) & (image->geometry.entries - 1);

  return table + entry / PAGE_ENTRIES * PAGE_BYTES;
}

int
request_load (struct qed_image *image, struct qed_request *request,
              uint64_t at)
{
  uint64_t index = image_l1_index (image, at), entry, table;
  uint64_t page = index / PAGE_ENTRIES;
  int r;

  if (get_l1 (image, at, &entry) != 0)
    r = metadata_load (&image->metadata, METADATA_KEY_L1 (page),
                       image->geometry.l1_offset + page * PAGE_BYTES,
                       request);
  else {
    r = request_check_l1 (image, index, entry, &table);
    if (r < 0)
      return r;                 /* and it was named */
    if (table != 0)
      r = metadata_load (&image->metadata, image_l2_key (image, at),
                         l2_page_offset (image, at, table), request);
  }
  if (r < 0 && r != -ENOBUFS)
    image_report (image, "reading the table for guest offset", at, r);
  return r == 0 ? REQUEST_AGAIN : r;
}

/* The cache is full of pages that can't go: read the entries themselves. */
static int
lookup_uncached (struct qed_image *image, uint64_t at, struct extent *extent)
{
  uint64_t index = image_l1_index (image, at), entry, table;
  int r = 0;

  if (get_l1 (image, at, &entry) != 0)
    r = metadata_read_entry (&image->metadata, image->geometry.l1_offset +
                             index / PAGE_ENTRIES * PAGE_BYTES,
                             index % PAGE_ENTRIES, &entry);
  if (r == 0)
    r = request_check_l1 (image, index, entry, &table);
  if (r < 0)
    return r;
  entry = 0;
  if (table != 0)
    r = metadata_read_entry (&image->metadata,
                             l2_page_offset (image, at, table),
                             image_l2_index (image, at), &entry);
  return r < 0 ? r : read_entry (image, at, entry, extent);
}

/* No table: nothing is allocated as far as the table would reach. */
static bool
lookup_no_table (struct qed_image *image, uint64_t at, struct extent *extent)
{
  unsigned reach = image->geometry.entries_bits +
    image->geometry.cluster_bits;       /* 53 at most */
  uint64_t entry;

  if (get_l1 (image, at, &entry) != 0 || entry != 0)
    return false;
  extent->class = FORMAT_UNALLOCATED;
  extent->offset = 0;
  extent->bytes = (UINT64_C (1) << reach) -
    (at & ((UINT64_C (1) << reach) - 1));
  return true;
}

/* Look up one cluster, or more where there's no table. */
static int
lookup_first (struct qed_image *image, struct qed_request *request,
              uint64_t at, struct extent *extent)
{
  uint64_t entry;
  int r;

  if (metadata_get (&image->metadata, image_l2_key (image, at),
                    image_l2_index (image, at), &entry))
    return read_entry (image, at, entry, extent);
  if (lookup_no_table (image, at, extent))
    return 0;
  r = request_load (image, request, at);
  if (r != -ENOBUFS)
    return r;
  r = lookup_uncached (image, at, extent);
  if (r < 0)
    image_report (image, "reading the table entry for guest offset", at, r);
  return r;
}

/* Whether an entry, if it is valid, goes on where the extent ends.  What can't
 * is not looked at yet: were it damaged, it would be named now and again.
 */
static bool
may_continue (const struct extent *extent, uint64_t entry)
{
  if (extent->class == FORMAT_UNALLOCATED)
    return entry == 0;
  if (extent->class == FORMAT_ZERO)
    return entry == FORMAT_ENTRY_ZERO;
  return (entry & ~ENTRY_MARKS) == extent->offset + extent->bytes;
}

int
request_lookup (struct qed_image *image, struct qed_request *request,
                uint64_t at, uint64_t bytes, struct extent *extent)
{
  struct extent next;
  uint64_t entry;
  int r = lookup_first (image, request, at, extent);

  if (r != 0)
    return r;
  while (extent->bytes < bytes &&
         image_l2_index (image, at + extent->bytes) != 0) {
    if (!metadata_get (&image->metadata,
                       image_l2_key (image, at + extent->bytes),
                       image_l2_index (image, at + extent->bytes), &entry) ||
        !may_continue (extent, entry) ||
        read_entry (image, at + extent->bytes, entry, &next) < 0)
      break;
    extent->bytes += next.bytes;
  }
  if (extent->bytes > bytes)
    extent->bytes = bytes;
  return 0;
}
