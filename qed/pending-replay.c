/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The pending log at open: what a process that died had acknowledged is
 * written to the image.
 *
 *   the header has a token -> find the log that has the same -> everything in
 *   it is validated -> sync -> L2 pages -> sync -> L1 pages -> sync
 *
 * The first sync is O3's: data that the dead process had written may be in the
 * page cache only.  The second is O4's.  If it fails, data may be lost that the
 * records lead to, so the log is thrown away, as it is when a server of ours
 * fails to sync.  The log and the token stay until all is done, so that it can
 * be done again after a kill; after a power cut the log is gone, and the image
 * is in a state in which a write-back might have left it.
 *
 * A table is found through the L1 entry that the log has of it, or else the
 * image: so no record leads anywhere but into a table.  Each entry is written
 * once, with the last of its values: those before may name clusters that have
 * been given to others since.  Plain calls, before the image has a loop.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "yield.h"

/* A record, and the place in the order of all. */
struct replayed {
  struct pending_record record;
  uint64_t order;
};

struct replay {
  struct qed_image *image;
  void *memory;                 /* a copy of the file */
  size_t size;
  struct replayed *list;        /* first those of L2, by page, then those of
                                 * L1, by entry; each in the order of time */
  size_t count, l2_count;
  uint64_t length;              /* of the image's file */
  const char *why;              /* it can't be used */
  bool thrown_away;
};

/* ---- Is it this image's log, and whole? ---- */

/* A log may be there and be good, but can't be read just now. */
static bool
may_pass (int error)
{
  return error == -ENOMEM || error == -EMFILE || error == -ENFILE ||
    error == -EIO;
}

/* NULL, or why it can't be used. */
static const char *
validate_head (const struct pending_head *head,
               const struct qed_file_id *id,
               const struct format_header *header,
               const unsigned char boot[PENDING_BOOT_BYTES])
{
  struct format_geometry g;

  format_geometry_init (&g, header);
  if (head->magic != PENDING_MAGIC || head->version != PENDING_VERSION ||
      head->record_bytes != sizeof (struct pending_record) ||
      head->records != PENDING_RECORDS ||
      head->checksum != pending_checksum (head))
    return "it is not whole, or of another version";
  if (memcmp (boot, head->boot, sizeof head->boot) != 0)
    return "the machine was started anew since: its data may not have "
      "arrived";
  if (head->device != id->device || head->inode != id->inode ||
      head->cluster_size != g.cluster_size ||
      head->table_bytes != g.table_bytes || head->l1_offset != g.l1_offset ||
      head->image_size != g.image_size)
    return "it is another image's";
  if (head->token != (header->autoclear_features & PENDING_TOKEN))
    return "another program opened the image since";
  return NULL;
}

static void
add (struct replay *replay, const struct pending_record *record)
{
  struct replayed *to = &replay->list[replay->count];

  memcpy (&to->record, record, sizeof to->record);
  to->order = replay->count++;
  replay->l2_count += !(record->where & PENDING_L1);
}

static size_t
records_of_half (const struct replay *replay)
{
  const struct pending_head *head = replay->memory;

  return head->parts * PENDING_RECORDS;
}

/* Take the complete records of a half.  A slot whose check word is of another
 * generation was not completed in this one.
 */
static bool
collect_half (struct replay *replay, unsigned half)
{
  const struct pending_head *head = (void *) replay->memory;
  const struct pending_record *record;
  uint64_t generation = head->generation[half], check, of;
  unsigned i;

  if (generation >> (64 - PENDING_CHECK_BITS))
    return false;
  for (i = 0; generation != 0 && i < records_of_half (replay); i++) {
    record = pending_slot (replay->memory, half, i);
    check = record->check;
    of = check >> PENDING_CHECK_BITS;
    if (of > generation ||
        (of == generation && check != pending_check (record, of, i)))
      return false;
    if (of == generation)
      add (replay, record);
  }
  return true;
}

/* The older half first. */
static bool
collect (struct replay *replay)
{
  const struct pending_head *head = (void *) replay->memory;
  unsigned first = head->generation[0] > head->generation[1];

  if (head->generation[0] == head->generation[1] && head->generation[0] != 0)
    return false;
  return collect_half (replay, first) && collect_half (replay, !first);
}

/* ---- Finding it ---- */

static void
end (struct replay *replay)
{
  free (replay->memory);
  free (replay->list);
  replay->memory = replay->list = NULL;
}

static bool
has_parts (const struct replay *replay)
{
  const struct pending_head *head = replay->memory;
  uint64_t parts = head->parts;

  return parts > 0 && parts <= PENDING_PARTS &&
    replay->size >= PENDING_HEAD_BYTES + parts * PENDING_PART_BYTES;
}

/* The one in the n-th directory was read: 1 if it is good; 0 if replay->why
 * says what is wrong with it; an error that may pass.
 */
static int
examine (struct replay *replay, const struct qed_file_id *id,
         const struct format_header *header)
{
  unsigned char boot[PENDING_BOOT_BYTES] = { 0 };       /* no log has this */
  int r = pending_file_boot_id (boot);

  if (may_pass (r))
    return r;
  replay->why = replay->size < PENDING_BYTES ? "it is cut off"
    : validate_head (replay->memory, id, header, boot);
  if (replay->why == NULL && !has_parts (replay))
    replay->why = "it is cut off";
  if (replay->why != NULL)
    return 0;
  replay->count = replay->l2_count = 0;
  replay->list = calloc (2 * records_of_half (replay), sizeof *replay->list);
  if (replay->list == NULL)
    return -ENOMEM;
  if (collect (replay))
    return 1;
  replay->why = "a record is damaged";
  return 0;
}

/* Look in all directories; replay->why says what was wrong with the last one
 * that was there.  1 if one is good; 0 if there is none; an error that may
 * pass.
 */
static int
find (struct replay *replay, const struct qed_options *options,
      const struct qed_file_id *id, const struct format_header *header)
{
  int r = 0, found;
  unsigned n;

  replay->why = "it is not there";
  for (n = 0; r == 0; n++) {
    end (replay);
    found = pending_file_read (options, id, n, PENDING_BYTES_MAX,
                               &replay->memory, &replay->size);
    if (found == -ERANGE)
      return 0;
    if (found == 0)
      r = examine (replay, id, header);
    else if (may_pass (found))
      r = found;
    else if (found != -ENOENT)
      replay->why = "it can't be read, or is too long";
  }
  return r;
}

/* ---- Is each record possible? ---- */

static uint64_t
sort_key (const struct pending_record *record)
{
  return record->where & PENDING_L1 ? record->where
    : record->where / PAGE_ENTRIES;
}

static int
compare (const void *a, const void *b)
{
  const struct replayed *p = a, *q = b;
  uint64_t k = sort_key (&p->record), l = sort_key (&q->record);

  return k != l ? (k < l ? -1 : 1) : p->order < q->order ? -1 : 1;
}

/* What the L1 entry will be. */
static int
effective_l1 (struct replay *replay, uint64_t index, uint64_t *entry)
{
  struct qed_image *image = replay->image;
  const uint64_t where = PENDING_L1 | index;
  size_t low = replay->l2_count, high = replay->count, middle;
  unsigned char buf[8];
  int r;

  while (low < high) {          /* the first one behind */
    middle = low + (high - low) / 2;
    if (replay->list[middle].record.where <= where)
      low = middle + 1;
    else
      high = middle;
  }
  if (low > replay->l2_count && replay->list[low - 1].record.where == where) {
    *entry = replay->list[low - 1].record.value;
    return 0;
  }
  r = image->storage->ops->pread (image->storage, buf, sizeof buf,
                                  image->geometry.l1_offset + index * 8);
  *entry = format_get64 (buf);
  return r;
}

/* Where an L2 page lies, 0 if its table is gone: a repair has dropped it.  1 if
 * what leads to it can't be.
 */
static int
find_page (struct replay *replay, uint64_t page, uint64_t *offset)
{
  const struct format_geometry *g = &replay->image->geometry;
  uint64_t cluster = page * PAGE_ENTRIES, table;
  int r = effective_l1 (replay, cluster >> g->entries_bits, &table);

  *offset = 0;
  if (r < 0 || table == 0)
    return r;
  *offset = table + (cluster & (g->entries - 1)) * 8;
  return format_classify_l1 (g, table, replay->length) != FORMAT_ALLOCATED;
}

static uint64_t
nth_value (const struct qed_image *image, const struct pending_record *record,
           uint64_t i)
{
  return record->value > FORMAT_ENTRY_ZERO
    ? record->value + (i << image->geometry.cluster_bits) : record->value;
}

static bool
is_possible (const struct replay *replay, const struct pending_record *record)
{
  const struct format_geometry *g = &replay->image->geometry;
  const uint64_t index = record->where & ~PENDING_L1;
  const uint64_t clusters = (g->image_size + g->cluster_size - 1)
    >> g->cluster_bits;
  const uint64_t limit = (clusters + PAGE_ENTRIES - 1) / PAGE_ENTRIES *
    PAGE_ENTRIES;               /* a repair drops what lies behind the disk */
  enum format_entry class;
  uint64_t i;

  if (record->where & PENDING_L1)
    return index < g->entries && record->count == 1 &&
      (record->value == 0 || format_classify_l1 (g, record->value,
                                                 replay->length) ==
       FORMAT_ALLOCATED);
  if (record->count == 0 || record->count > PAGE_ENTRIES ||
      index >= limit ||
      index % PAGE_ENTRIES + record->count > PAGE_ENTRIES)
    return false;
  for (i = 0; i < record->count; i++) {
    class = format_classify_l2 (g, nth_value (replay->image, record, i),
                                replay->length);
    if (class != FORMAT_ALLOCATED && class != FORMAT_ZERO &&
        class != FORMAT_UNALLOCATED)
      return false;
  }
  return true;
}

/* 0; 1 if the log can't be used; an error. */
static int
validate (struct replay *replay)
{
  uint64_t page, offset, last = UINT64_MAX;
  size_t i;
  int r;

  for (i = 0; i < replay->count; i++) {
    if (!is_possible (replay, &replay->list[i].record))
      return 1;
    page = replay->list[i].record.where / PAGE_ENTRIES;
    if (i >= replay->l2_count || page == last)
      continue;
    last = page;
    r = find_page (replay, page, &offset);
    if (r != 0)
      return r;
  }
  return 0;
}

/* ---- Carrying it out ---- */

static void
apply (const struct qed_image *image, const struct pending_record *record,
       unsigned char *page)
{
  unsigned index = record->where % PAGE_ENTRIES;
  uint64_t i;

  for (i = 0; i < record->count; i++)
    format_put64 (page + (index + i) * 8, nth_value (image, record, i));
}

/* All records of the page that the i-th is of; *n says how many. */
static int
write_page (struct replay *replay, size_t i, size_t limit, size_t *n)
{
  struct storage *s = replay->image->storage;
  uint64_t page = replay->list[i].record.where / PAGE_ENTRIES, offset;
  unsigned char buf[PAGE_BYTES] = { 0 };
  int r = 0;

  if (i < replay->l2_count)
    r = find_page (replay, page, &offset);
  else
    offset = replay->image->geometry.l1_offset +
      (page & ~(PENDING_L1 / PAGE_ENTRIES)) * PAGE_BYTES;
  if (r == 0 && offset != 0)
    r = s->ops->pread (s, buf, sizeof buf, offset);
  for (*n = 0; i + *n < limit &&
         replay->list[i + *n].record.where / PAGE_ENTRIES == page; ++*n)
    apply (replay->image, &replay->list[i + *n].record, buf);
  return r == 0 && offset != 0
    ? s->ops->pwrite (s, buf, sizeof buf, offset) : r;
}

static int
write_pages (struct replay *replay, size_t from, size_t limit)
{
  size_t n;
  int r = 0;

  for (; r == 0 && from < limit; from += n)
    r = write_page (replay, from, limit, &n);
  return r;
}

static int
sync (struct replay *replay, const char *step)
{
  struct qed_image *image = replay->image;
  int r;

  (void) step;                  /* the crash tests' */
  if (sim_skips ("replay", step))
    return 0;
  r = image->storage->ops->sync (image->storage);
  if (r < 0 && r != -ENOTCONN) {
    pending_forget (image);
    replay->thrown_away = true;
  }
  return r;
}

static int
carry_out (struct replay *replay)
{
  int r = sync (replay, "sync-data");

  if (r == 0)
    r = write_pages (replay, 0, replay->l2_count);
  if (r == 0)
    r = sync (replay, "sync-l2");
  if (r == 0)
    r = write_pages (replay, replay->l2_count, replay->count);
  return r == 0 ? sync (replay, "sync") : r;
}

/* ---- The calls ---- */

static struct qed_file_id
id_of (const struct qed_image *image)
{
  return (struct qed_file_id) { image->device, image->inode };
}

static bool
speaks_of_log (const struct format_header *header)
{
  return header->autoclear_features & PENDING_IN_USE &&
    header->features & QED_F_NEED_CHECK;
}

static int
replay_found (struct replay *replay)
{
  struct qed_image *image = replay->image;
  int r = image->storage->ops->length (image->storage, &replay->length);

  qsort (replay->list, replay->count, sizeof *replay->list, compare);
  if (r == 0)
    r = validate (replay);
  if (r > 0)
    replay->why = "a record names what can't be";
  if (r == 0 && replay->count > 0)
    r = carry_out (replay);
  if (r == 0 && replay->count > 0)
    log_warning (&image->options.log, "%s: %zu acknowledged changes that a "
                 "killed server had not written were found in its pending "
                 "log, and are written", image->path, replay->count);
  return r;
}

static void
say_failed (const struct replay *replay, int r)
{
  const struct qed_image *image = replay->image;
  const struct qed_log *log = &image->options.log;

  if (replay->thrown_away)
    log_error (log, "%s: a sync failed: %s: written data may be lost, so the "
               "pending log of the last server is thrown away: what it had "
               "acknowledged since its last write-back, and no flush covers, "
               "may be missing. The image is not opened for writing: check "
               "the storage, then open it again", image->path, strerror (-r));
  else
    log_error (log, "%s: the pending log of the last server can't be read, or "
               "not be written to the image: %s: the image is not opened for "
               "writing, and the log stays: %s, then open it again",
               image->path, strerror (-r),
               r == -ENOSPC || r == -EDQUOT ? "make room"
               : r == -ENOMEM || r == -EMFILE || r == -ENFILE
               ? "see to memory and open files" : "see to the storage");
}

int
pending_replay (struct qed_image *image)
{
  const struct qed_log *log = &image->options.log;
  struct qed_file_id id = id_of (image);
  struct replay replay = { .image = image };
  int r;

  if (image->overlay || !speaks_of_log (&image->header))
    return 0;
  r = find (&replay, &image->options, &id, &image->header);
  if (r > 0 && !image->storage->read_only)
    r = replay_found (&replay);
  else if (r > 0 && replay.count > 0)
    log_warning (log, "%s: %zu acknowledged changes wait in a pending log: "
                 "they are not seen until the image is opened for writing",
                 image->path, replay.count);
  if (r < 0)
    say_failed (&replay, r);
  else if (replay.why)
    log_warning (log, "%s: the pending log of a killed server is not used "
                 "(%s): what it had acknowledged since its last write-back, "
                 "and no flush covers, may be missing", image->path,
                 replay.why);
  end (&replay);
  return r < 0 ? r : 0;
}

void
pending_forget (struct qed_image *image)
{
  struct qed_file_id id = id_of (image);

  if (image->overlay == NULL && id.inode != 0)
    pending_file_remove (&image->options, &id);
}

uint64_t
pending_waiting (const struct qed_options *options,
                 const struct qed_file_id *id,
                 const struct format_header *header)
{
  struct replay replay = { .image = NULL };
  uint64_t count = 0;

  if (speaks_of_log (header) && find (&replay, options, id, header) > 0)
    count = replay.count;
  end (&replay);
  return count;
}
