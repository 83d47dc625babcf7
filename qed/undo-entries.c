/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Undoing the repair at open (recover.c), in an image that was used since: that
 * repair has dropped entries beyond the end of the file, and nothing else.
 *
 * Its undo file has the pages of L1 in which anything was, and sectors of L2
 * tables.  An entry of them that named a place beyond the end was dropped.  It
 * is put back if it is 0 still, and names a place beyond the end still: what
 * was written since stays, and no place gets a second name.  All other entries
 * are left alone.  It is the image that the file was made for if L1 names all
 * tables that it did, in the same places; so each sector is one of the same
 * table still.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "format.h"
#include "image.h"
#include "log.h"
#include "undo-restore.h"

struct entries {
  struct undo_restore *restore;
  const struct format_geometry *geometry;
  uint64_t length;              /* of the image now */
  uint64_t *tables;             /* where L1 had them, and has them; sorted */
  size_t count, capacity;
  size_t dropped;               /* by the repair */
  size_t written, taken;        /* of them, that stay as they are */
};

/* ---- Records ---- */

/* Call 'each' for the sectors of a record, with what was saved and what the
 * image has.
 */
static int
walk_record (struct entries *e, const struct undo_record *record,
             int (*each) (struct entries *e, uint64_t at,
                          const unsigned char *saved, unsigned char *now))
{
  struct storage *s = e->restore->storage;
  unsigned char saved[FORMAT_SECTOR], now[FORMAT_SECTOR];
  uint64_t done;
  int r = 0;

  for (done = 0; done < record->count && r == 0; done += sizeof now) {
    r = file_read (e->restore->fd, saved, sizeof saved, record->at + done);
    if (r == 0)
      r = s->ops->pread (s, now, sizeof now, record->offset + done);
    if (r == 0)
      r = each (e, record->offset + done, saved, now);
  }
  return r;
}

static bool
is_of_l1 (const struct entries *e, uint64_t offset, uint64_t count)
{
  const struct format_geometry *g = e->geometry;

  return offset >= g->l1_offset && count <= g->table_bytes &&
    offset - g->l1_offset <= g->table_bytes - count;
}

static int
compare_offsets (const void *a, const void *b)
{
  const uint64_t *p = a, *q = b;

  return *p < *q ? -1 : *p > *q;
}

/* The tables may overlap only in a file that nobody of us has made. */
static bool
is_of_table (const struct entries *e, uint64_t offset, uint64_t count)
{
  const uint64_t bytes = e->geometry->table_bytes;
  size_t low = 0, high = e->count, middle;

  while (low < high) {          /* the first one behind */
    middle = low + (high - low) / 2;
    if (e->tables[middle] <= offset)
      low = middle + 1;
    else
      high = middle;
  }
  return low > 0 && count <= bytes &&
    offset - e->tables[low - 1] <= bytes - count;
}

/* Of one place, what was saved first comes first. */
static int
compare_records (const void *a, const void *b)
{
  const struct undo_record *p = a, *q = b;

  if (p->offset == q->offset)
    return p->at < q->at ? -1 : p->at > q->at;
  return p->offset < q->offset ? -1 : 1;
}

static bool
is_whole_sectors (const struct undo_record *record)
{
  return (record->offset | record->count) % FORMAT_SECTOR == 0;
}

/* Each place once; what can't be one of ours, or whose table was in a record
 * that is damaged, is damaged, too.
 */
static void
sort_records (struct entries *e)
{
  struct undo_restore *restore = e->restore;
  struct undo_record *list = restore->records;
  size_t i, kept = 0;

  if (restore->count > 0)
    qsort (list, restore->count, sizeof *list, compare_records);
  for (i = 0; i < restore->count; i++) {
    if (kept > 0 && list[i].offset == list[kept - 1].offset)
      continue;
    if (is_whole_sectors (&list[i]) &&
        (is_of_l1 (e, list[i].offset, list[i].count) ||
         is_of_table (e, list[i].offset, list[i].count)))
      list[kept++] = list[i];
    else
      undo_note_damage (restore, list[i].at - UNDO_RECORD_BYTES, 1);
  }
  restore->count = kept;
}

/* ---- Is it the image? ---- */

static int
add_table (struct entries *e, uint64_t offset)
{
  size_t capacity = e->capacity ? e->capacity * 2 : 64;
  uint64_t *tables;

  if (e->count == e->capacity) {
    tables = realloc (e->tables, capacity * sizeof *tables);
    if (tables == NULL)
      return -ENOMEM;
    e->tables = tables;
    e->capacity = capacity;
  }
  e->tables[e->count++] = offset;
  return 0;
}

/* 1 if a table is not where it was. */
static int
find_tables (struct entries *e, uint64_t at, const unsigned char *saved,
             unsigned char *now)
{
  const struct format_geometry *g = e->geometry;
  uint64_t value;
  size_t i;
  int r = 0;

  (void) at;
  for (i = 0; i < FORMAT_SECTOR && r == 0; i += 8) {
    value = format_get64 (saved + i);
    if (format_classify_l1 (g, value, e->restore->length) != FORMAT_ALLOCATED)
      continue;
    r = format_get64 (now + i) == value &&
      format_classify_l1 (g, value, e->length) == FORMAT_ALLOCATED
      ? add_table (e, value) : 1;
  }
  return r;
}

static int
check_tables (struct entries *e)
{
  struct undo_restore *restore = e->restore;
  const struct undo_record *record;
  size_t i;
  int r = restore->storage->ops->length (restore->storage, &e->length);

  for (i = 0; i < restore->count && r == 0; i++) {
    record = &restore->records[i];
    if (is_whole_sectors (record) &&
        is_of_l1 (e, record->offset, record->count))
      r = walk_record (e, record, find_tables);
  }
  if (r < 0)
    return undo_cannot_tell (restore, r);
  if (r > 0)
    return undo_other_image (restore, "a table that it had is not where it "
                             "was");
  if (e->count > 0)
    qsort (e->tables, e->count, sizeof *e->tables, compare_offsets);
  return 0;
}

/* ---- Putting back ---- */

static bool
was_dropped (const struct entries *e, uint64_t at, uint64_t value)
{
  const struct format_geometry *g = e->geometry;
  const uint64_t length = e->restore->length;

  return value >= length &&
    (is_of_l1 (e, at, 8) ? format_classify_l1 (g, value, length)
     : format_classify_l2 (g, value, length)) == FORMAT_PAST_END;
}

/* Whether the entry is to be written. */
static bool
take_entry (struct entries *e, uint64_t value, uint64_t now)
{
  e->dropped++;
  if (now == value)             /* by a run before */
    return false;
  if (now != 0)
    e->written++;
  else if (value < e->length)
    e->taken++;
  return now == 0 && value >= e->length;
}

static int
put_sector (struct entries *e, uint64_t at, const unsigned char *saved,
            unsigned char *now)
{
  struct storage *s = e->restore->storage;
  bool changed = false;
  uint64_t value;
  size_t i;

  for (i = 0; i < FORMAT_SECTOR; i += 8) {
    value = format_get64 (saved + i);
    if (was_dropped (e, at + i, value) &&
        take_entry (e, value, format_get64 (now + i))) {
      format_put64 (now + i, value);
      changed = true;
    }
  }
  return changed ? s->ops->pwrite (s, now, FORMAT_SECTOR, at) : 0;
}

static int
put_entries (struct entries *e, const struct qed_progress *progress)
{
  struct undo_restore *restore = e->restore;
  struct storage *s = restore->storage;
  size_t i;
  int r = 0;

  for (i = 0; i < restore->count && r == 0; i++) {
    r = walk_record (e, &restore->records[i], put_sector);
    if (r == 0)
      r = qed_progress_tell (progress, i + 1, restore->count);
  }
  if (r == 0)
    r = s->ops->sync (s);
  return r < 0 ? undo_half_done (restore, r) : 0;
}

static int
judge_entries (const struct entries *e)
{
  const struct undo_restore *restore = e->restore;

  if (e->written + e->taken == 0)
    return 0;
  log_error (&restore->options->log, "%s: %zu of %zu entries that the repair "
             "had dropped are not put back: written since, and kept: %zu; of "
             "places that lie within the file by now, where others may have "
             "them: %zu", restore->options->path, e->written + e->taken,
             e->dropped, e->written, e->taken);
  return -ESTALE;
}

int
undo_entries (struct undo_restore *restore,
              const struct qed_progress *progress)
{
  struct entries e = {
    .restore = restore, .geometry = &restore->image->geometry,
  };
  int r = check_tables (&e);

  if (r == 0) {
    sort_records (&e);
    r = put_entries (&e, progress);
  }
  if (r == 0)
    r = judge_entries (&e);
  free (e.tables);
  return r;
}
