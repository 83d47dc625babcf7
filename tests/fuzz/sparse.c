/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See sparse.h. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "one-thread.h"
#include "sparse.h"

/* A range at once: it takes no memory, but the time to read it. */
#define STALE_MAX (UINT64_C (4) << 20)

struct handle {
  struct storage storage;
  struct sparse *disk;
};

void
sparse_init (struct sparse *disk, uint64_t length)
{
  memset (disk, 0, sizeof *disk);
  disk->length = length;
}

void
sparse_destroy (struct sparse *disk)
{
  size_t i;

  for (i = 0; i < disk->page_count; i++)
    free (disk->pages[i].data);
  free (disk->pages);
  free (disk->kept);
}

/* ---- Pages ---- */

/* Where it is, or where it would have to be. */
static size_t
find_page (const struct sparse *disk, uint64_t number)
{
  size_t low = 0, high = disk->page_count, middle;

  while (low < high) {
    middle = low + (high - low) / 2;
    if (disk->pages[middle].number < number)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

const struct sparse_page *
sparse_next_page (const struct sparse *disk, uint64_t number)
{
  size_t i = find_page (disk, number);

  return i < disk->page_count ? &disk->pages[i] : NULL;
}

static bool
is_stale (const struct sparse *disk, uint64_t page)
{
  unsigned i;

  for (i = 0; i < disk->stale_count; i++)
    if (page + SPARSE_PAGE > disk->stale[i].start &&
        page < disk->stale[i].end)
      return true;
  return false;
}

/* Its first word says where it is; as an entry it would have reserved bits. */
static void
make_up (const struct sparse *disk, uint64_t number,
         unsigned char page[SPARSE_PAGE])
{
  memset (page, 0, SPARSE_PAGE);
  if (is_stale (disk, number * SPARSE_PAGE))
    format_put64 (page, UINT64_C (0xdead) << 48 | number << 12 | 0xbad);
}

/* The stored page, made if it isn't there; NULL if no space is left. */
static unsigned char *
make_page (struct sparse *disk, uint64_t number)
{
  size_t i = find_page (disk, number);
  struct sparse_page *pages;

  if (i < disk->page_count && disk->pages[i].number == number)
    return disk->pages[i].data;
  if (disk->page_count == SPARSE_PAGES) {
    disk->full = true;
    return NULL;
  }
  if (disk->page_count == disk->page_capacity) {
    disk->page_capacity = disk->page_capacity ? 2 * disk->page_capacity : 16;
    pages = realloc (disk->pages, disk->page_capacity * sizeof *pages);
    if (pages == NULL)
      abort ();
    disk->pages = pages;
  }
  memmove (&disk->pages[i + 1], &disk->pages[i],
           (disk->page_count++ - i) * sizeof *disk->pages);
  disk->pages[i].number = number;
  disk->pages[i].data = malloc (SPARSE_PAGE);
  if (disk->pages[i].data == NULL)
    abort ();
  make_up (disk, number, disk->pages[i].data);
  return disk->pages[i].data;
}

/* Forget those from 'first' to 'end' - 1. */
static void
drop_pages (struct sparse *disk, uint64_t first, uint64_t end)
{
  size_t from = find_page (disk, first), to = find_page (disk, end), i;

  if (from >= to)
    return;
  for (i = from; i < to; i++)
    free (disk->pages[i].data);
  memmove (&disk->pages[from], &disk->pages[to],
           (disk->page_count - to) * sizeof *disk->pages);
  disk->page_count -= to - from;
}

void
sparse_add_stale (struct sparse *disk, uint64_t offset, uint64_t bytes)
{
  if (bytes > STALE_MAX)
    bytes = STALE_MAX;
  if (disk->stale_count < SPARSE_RANGES && bytes > 0 &&
      offset <= INT64_MAX - bytes)
    disk->stale[disk->stale_count++] =
      (struct sparse_range) { offset, offset + bytes };
}

/* Take a range out of those; false if there is no room for a part. */
static bool
drop_stale (struct sparse *disk, uint64_t start, uint64_t end)
{
  struct sparse_range *range;
  unsigned i;

  for (i = 0; i < disk->stale_count; i++) {
    range = &disk->stale[i];
    if (range->end <= start || range->start >= end)
      continue;
    if (range->start < start && range->end > end) {
      if (disk->stale_count == SPARSE_RANGES)
        return false;
      disk->stale[disk->stale_count++] =
        (struct sparse_range) { end, range->end };
      range->end = start;
    }
    else if (range->start < start)
      range->end = start;
    else if (range->end > end)
      range->start = end;
    else
      disk->stale[i--] = disk->stale[--disk->stale_count];
  }
  return true;
}

/* ---- Content ---- */

void
sparse_read (const struct sparse *disk, void *buf, size_t count,
             uint64_t offset)
{
  unsigned char made_up[SPARSE_PAGE];
  const unsigned char *page;
  uint64_t number, in, n;
  size_t i;

  for (; count > 0; count -= n, offset += n, buf = (char *) buf + n) {
    number = offset / SPARSE_PAGE;
    in = offset % SPARSE_PAGE;
    n = count < SPARSE_PAGE - in ? count : SPARSE_PAGE - in;
    i = find_page (disk, number);
    page = i < disk->page_count && disk->pages[i].number == number
      ? disk->pages[i].data : NULL;
    if (page == NULL) {
      make_up (disk, number, made_up);
      page = made_up;
    }
    memcpy (buf, page + in, n);
  }
}

static bool
is_zero (const unsigned char *buf, uint64_t n)
{
  return n == 0 || (buf[0] == 0 && memcmp (buf, buf + 1, n - 1) == 0);
}

/* Zeros take no page where there are zeros: whole clusters of 64 MiB come. */
static bool
changes_nothing (const struct sparse *disk, const unsigned char *buf,
                 uint64_t n, uint64_t offset)
{
  const struct sparse_page *next =
    sparse_next_page (disk, offset / SPARSE_PAGE);
  unsigned i;

  if (!is_zero (buf, n) ||
      (next && next->number == offset / SPARSE_PAGE))
    return false;
  for (i = 0; i < disk->stale_count; i++)
    if (disk->stale[i].start < offset + n && disk->stale[i].end > offset)
      return false;
  return true;
}

int
sparse_write (struct sparse *disk, const void *buf, size_t count,
              uint64_t offset)
{
  unsigned char *page;
  uint64_t in, n;

  for (; count > 0; count -= n, offset += n, buf = (const char *) buf + n) {
    in = offset % SPARSE_PAGE;
    n = count < SPARSE_PAGE - in ? count : SPARSE_PAGE - in;
    if (changes_nothing (disk, buf, n, offset))
      continue;
    page = make_page (disk, offset / SPARSE_PAGE);
    if (page == NULL)
      return -ENOSPC;
    memcpy (page + in, buf, n);
  }
  return 0;
}

static int
write_zeros (struct sparse *disk, uint64_t offset, uint64_t count)
{
  static const unsigned char zeros[SPARSE_PAGE];
  uint64_t n;
  int r = 0;

  for (; count > 0 && r == 0; count -= n, offset += n) {
    n = SPARSE_PAGE - offset % SPARSE_PAGE;
    if (n > count)
      n = count;
    r = sparse_write (disk, zeros, n, offset);
  }
  return r;
}

/* A range becomes a hole. */
static int
punch (struct sparse *disk, uint64_t offset, uint64_t count)
{
  uint64_t end = offset + count;
  uint64_t first = (offset + SPARSE_PAGE - 1) / SPARSE_PAGE;
  uint64_t last = end / SPARSE_PAGE;
  int r;

  if (first >= last)
    return write_zeros (disk, offset, count);
  r = write_zeros (disk, offset, first * SPARSE_PAGE - offset);
  if (r == 0)
    r = write_zeros (disk, last * SPARSE_PAGE, end - last * SPARSE_PAGE);
  if (r == 0 && !drop_stale (disk, first * SPARSE_PAGE, last * SPARSE_PAGE)) {
    disk->full = true;
    r = -ENOSPC;
  }
  if (r == 0)
    drop_pages (disk, first, last);
  return r;
}

/* ---- What is watched ---- */

static void
keep (struct sparse *disk, uint64_t start, uint64_t bytes)
{
  if (disk->kept_count == disk->kept_capacity) {
    disk->kept_capacity = disk->kept_capacity ? 2 * disk->kept_capacity : 16;
    disk->kept = realloc (disk->kept,
                          disk->kept_capacity * sizeof *disk->kept);
    if (disk->kept == NULL)
      abort ();
  }
  disk->kept[disk->kept_count++] =
    (struct sparse_range) { start, start + bytes };
}

void
sparse_keep_tables (struct sparse *disk,
                    const struct format_geometry *geometry)
{
  uint64_t end = geometry->l1_offset + geometry->table_bytes, at, entry;
  const struct sparse_page *page;
  uint64_t number = geometry->l1_offset / SPARSE_PAGE;

  disk->kept_count = 0;
  keep (disk, 0, geometry->header_bytes);
  keep (disk, geometry->l1_offset, geometry->table_bytes);
  for (; (page = sparse_next_page (disk, number)) != NULL &&
         page->number * SPARSE_PAGE < end; number = page->number + 1)
    for (at = 0; at < SPARSE_PAGE; at += 8) {
      entry = format_get64 (page->data + at);
      if (entry != 0 && entry % geometry->cluster_size == 0 &&
          entry < disk->length)
        keep (disk, entry, geometry->table_bytes);
    }
}

/* The last cluster that can be addressed ends a byte behind any file. */
static void
check_place (const struct handle *h, const char *what, uint64_t offset,
             uint64_t count)
{
  if (offset > INT64_MAX || count > INT64_MAX - offset + 1)
    fuzz_fail ("%s 0x%" PRIx64 "+0x%" PRIx64 ": no file has bytes there",
               what, offset, count);
  (void) h;
}

static void
check_change (const struct handle *h, const char *what, uint64_t offset,
              uint64_t count)
{
  const struct sparse *disk = h->disk;
  uint64_t end = disk->length;
  size_t i;

  check_place (h, what, offset, count);
  if (h->storage.read_only)
    fuzz_fail ("%s 0x%" PRIx64 "+0x%" PRIx64 ": it was opened for reading",
               what, offset, count);
  if (!disk->device && disk->cluster > 0 && end % disk->cluster > 0)
    end += disk->cluster - end % disk->cluster;
  if (offset + count > end)
    fuzz_fail ("%s 0x%" PRIx64 "+0x%" PRIx64 ": behind the end, 0x%" PRIx64,
               what, offset, count, disk->length);
  for (i = 0; disk->guest && !one_thread_in_loop () && i < disk->kept_count;
       i++)
    if (offset < disk->kept[i].end && disk->kept[i].start < offset + count)
      fuzz_fail ("%s 0x%" PRIx64 "+0x%" PRIx64 ": a guest's request changes "
                 "the header or table at 0x%" PRIx64, what, offset, count,
                 disk->kept[i].start);
}

/* ---- The storage ---- */

static struct handle *
handle_of (struct storage *s)
{
  return (struct handle *) s;
}

static int
disk_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  const struct sparse *disk = handle_of (s)->disk;
  uint64_t inside = offset < disk->length ? disk->length - offset : 0;
  size_t n = count < inside ? count : (size_t) inside;

  check_place (handle_of (s), "read", offset, count);
  sparse_read (disk, buf, n, offset);
  memset ((char *) buf + n, 0, count - n);
  return 0;
}

static int
disk_pwrite (struct storage *s, const void *buf, size_t count,
             uint64_t offset)
{
  struct sparse *disk = handle_of (s)->disk;
  int r;

  check_change (handle_of (s), "write", offset, count);
  r = sparse_write (disk, buf, count, offset);
  if (r == 0 && disk->length < offset + count)
    disk->length = offset + count;
  return r;
}

static int
disk_pwritev (struct storage *s, const struct iovec *iov, int n,
              uint64_t offset)
{
  int i, r = 0;

  for (i = 0; i < n && r == 0; i++) {
    r = disk_pwrite (s, iov[i].iov_base, iov[i].iov_len, offset);
    offset += iov[i].iov_len;
  }
  return r;
}

static int
disk_punch (struct storage *s, uint64_t offset, uint64_t count)
{
  struct sparse *disk = handle_of (s)->disk;
  uint64_t end = offset + count < disk->length ? offset + count
    : disk->length;

  check_change (handle_of (s), "punch", offset, count);
  if (disk->device)
    return -EOPNOTSUPP;
  return offset < end ? punch (disk, offset, end - offset) : 0;
}

static int
disk_zero (struct storage *s, uint64_t offset, uint64_t count)
{
  int r = disk_punch (s, offset, count);

  return r == -EOPNOTSUPP
    ? write_zeros (handle_of (s)->disk, offset, count) : r;
}

static void
disk_prefetch (struct storage *s, uint64_t offset, uint64_t count)
{
  check_place (handle_of (s), "prefetch", offset, count);
}

static int
disk_resize (struct storage *s, uint64_t length)
{
  struct sparse *disk = handle_of (s)->disk;
  uint64_t was = disk->length;
  int r = 0;

  if (s->read_only || disk->device)
    fuzz_fail ("resize 0x%" PRIx64 ": of what has one length", length);
  if (length > INT64_MAX) {
    disk->full = true;
    return -EFBIG;
  }
  if (length < was)
    r = punch (disk, length, was - length);
  if (r == 0)
    disk->length = length;
  return r;
}

static int
disk_length (struct storage *s, uint64_t *length)
{
  *length = handle_of (s)->disk->length;
  return 0;
}

static int
disk_sync (struct storage *s)
{
  if (s->read_only)
    fuzz_fail ("sync: it was opened for reading");
  return 0;
}

/* The first data at or after 'offset', and where that piece of it ends. */
static int
disk_next_data (struct storage *s, uint64_t offset, uint64_t *start,
                uint64_t *end)
{
  const struct sparse *disk = handle_of (s)->disk;
  const struct sparse_page *page;
  uint64_t at, until;
  unsigned i;

  *start = *end = UINT64_MAX;
  page = sparse_next_page (disk, offset / SPARSE_PAGE);
  if (page) {
    *start = page->number * SPARSE_PAGE;
    *end = *start + SPARSE_PAGE;
  }
  for (i = 0; i < disk->stale_count; i++) {
    at = disk->stale[i].start & -SPARSE_PAGE;
    until = (disk->stale[i].end + SPARSE_PAGE - 1) & -SPARSE_PAGE;
    if (until > offset && at < *start) {
      *start = at;
      *end = until;
    }
  }
  if (disk->device) {
    *start = offset;
    *end = disk->length;
  }
  if (*start != UINT64_MAX && *start < offset)
    *start = offset;
  if (*end > disk->length)
    *end = disk->length;
  if (*start >= disk->length)
    *start = *end = UINT64_MAX;
  return 0;
}

static int
disk_downgrade (struct storage *s)
{
  s->read_only = true;
  s->can_grow = false;
  return 0;
}

static void
disk_close (struct storage *s)
{
  free (s);
}

static const struct storage_ops disk_ops = {
  .pread = disk_pread,
  .pwrite = disk_pwrite,
  .pwritev = disk_pwritev,
  .zero = disk_zero,
  .punch = disk_punch,
  .prefetch = disk_prefetch,
  .resize = disk_resize,
  .length = disk_length,
  .sync = disk_sync,
  .next_data = disk_next_data,
  .downgrade = disk_downgrade,
  .close = disk_close,
};

struct storage *
sparse_open (struct sparse *disk, bool read_only)
{
  struct handle *h = calloc (1, sizeof *h);

  if (h == NULL)
    abort ();
  h->storage.ops = &disk_ops;
  h->storage.read_only = read_only;
  h->storage.can_grow = !disk->device && !read_only;
  h->storage.fixed = disk->device;
  h->storage.device = h->storage.inode = 1;
  h->disk = disk;
  return &h->storage;
}
