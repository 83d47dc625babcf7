/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Closing the gaps of an image: what lies behind its end of use, as it would
 * be without gaps, moves into them.
 *
 *   tables first: each needs so many clusters side by side, from which data
 *   moves to the end if need be; where there is no such place left beside the
 *   tables that are there, all tables are packed at the front;  then data
 *   clusters, one into each gap that is left
 *
 * A cluster that can't be read stays where it is, and others go around it.
 *
 * A move is: copy, publish the new place, and the old one is freed in the
 * order of O5.  Each batch is settled (everything durable, freed clusters
 * reclaimed) before the next one uses what it freed.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repair.h"

#define BATCH_TABLES 64u
#define STUCK_BYTES (UINT64_C (1) << 20) /* read at a time */

/* A table and the place that is free for it. */
struct table_move {
  const struct walk_table *table;
  uint64_t to;
};

struct compact {
  struct look *look;
  struct qed_image *image;
  unsigned bits;
  uint64_t table_clusters, l1;  /* clusters */
  bool pack;                    /* all tables go to the front */
  bool pack_next;               /* from the next batch on: within one, a place
                                 * would be given twice */
  struct bitmap stuck;          /* data clusters that can't be read */
  struct bitmap taken;          /* windows of this batch */
  struct bitmap evicted;        /* data clusters that have to leave them */
  struct bitmap evicted_tables; /* the first clusters of tables that have to */
  uint64_t cursor[2];           /* where to look for windows, by obstacle */
  struct table_move moves[BATCH_TABLES];
  unsigned move_count;
};

/* ---- Moves ---- */

static int
move_cluster (struct compact *c, const struct look_reference *ref,
              uint64_t to)
{
  const struct format_geometry *g = &c->image->geometry;
  struct amendment a = {
    .key = METADATA_KEY_L2 (ref->cluster / PAGE_ENTRIES),
    .page = ref->where & ~UINT64_C (4095),
    .index = ref->cluster % PAGE_ENTRIES,
    .old = ref->entry,
    .new = to << c->bits,
    .freed = 1,
  };
  int r = repair_copy (c->image, ref->entry, to << c->bits, g->cluster_size);

  return r < 0 ? r : repair_amend (c->image, &a);
}

/* Whether it is that a cluster can't be read that kept it from being moved:
 * then it is named, and 0.
 */
static int
leave_stuck (struct compact *c, const struct look_reference *ref, int error)
{
  uint64_t size = c->image->geometry.cluster_size, at, n;
  struct storage *s = c->image->storage;
  unsigned char *buf = malloc (STUCK_BYTES);
  int r = buf ? 0 : -ENOMEM;
  bool was;

  for (at = 0; at < size && r == 0; at += n) {
    n = size - at < STUCK_BYTES ? size - at : STUCK_BYTES;
    r = s->ops->pread (s, buf, n, ref->entry + at);
  }
  free (buf);
  if (r == 0 || r == -ENOMEM || r == -ENOTCONN)
    return error;
  log_warning (&c->image->options.log, "%s: the cluster at file offset 0x%"
               PRIx64 " (guest offset 0x%" PRIx64 ") cannot be read: %s: it "
               "stays where it is, and the file may not become as short as "
               "it could", c->image->path, ref->entry,
               ref->cluster << c->bits, strerror (-r));
  return bitmap_set (&c->stuck, ref->entry >> c->bits, &was);
}

static int
move_table (struct compact *c, const struct walk_table *table, uint64_t to)
{
  struct amendment a = {
    .key = METADATA_KEY_L1 (table->l1_index / PAGE_ENTRIES),
    .page = c->image->geometry.l1_offset +
      table->l1_index / PAGE_ENTRIES * PAGE_BYTES,
    .index = table->l1_index % PAGE_ENTRIES,
    .old = table->offset,
    .new = to << c->bits,
    .freed = c->table_clusters,
  };
  int r = repair_copy (c->image, table->offset, to << c->bits,
                       c->image->geometry.table_bytes);

  return r < 0 ? r : repair_amend (c->image, &a);
}

/* What could not be read just now may name clusters that seem to be free. */
static int
settle (struct compact *c)
{
  int r = repair_settle (c->look);

  if (r < 0 || c->look->sound)
    return r;
  log_error (&c->image->options.log, "%s: some tables can't be read any more: "
             "no more clusters are moved; copy the file to sound storage",
             c->image->path);
  return -EIO;
}

/* The clusters are in use from here on. */
static int
occupy (struct compact *c, uint64_t first, uint64_t n)
{
  struct space *space = &c->image->space;
  bool shared;
  int r;

  pthread_mutex_lock (&space->lock);
  r = space_enter (space, first, n, false, &shared);
  pthread_mutex_unlock (&space->lock);
  return r;
}

/* ---- Windows: where a table may go ---- */

/* Where use would end without gaps. */
static uint64_t
compact_end (const struct compact *c)
{
  return c->image->space.base + c->image->space.used.count;
}

static bool
in_l1 (const struct compact *c, uint64_t cluster)
{
  return cluster >= c->l1 && cluster < c->l1 + c->table_clusters;
}

enum obstacle { NOTHING, DATA, TABLE };

static enum obstacle
obstacle_at (struct compact *c, uint64_t cluster)
{
  struct space *space = &c->image->space;

  if (in_l1 (c, cluster) || bitmap_test (&space->tables, cluster) ||
      bitmap_test (&c->taken, cluster) || bitmap_test (&c->stuck, cluster))
    return TABLE;
  return bitmap_test (&space->used, cluster) ? DATA : NOTHING;
}

/* The first window below 'limit' in which there is nothing worse than
 * 'allowed'; or UINT64_MAX.
 */
static uint64_t
find_window (struct compact *c, uint64_t limit, enum obstacle allowed)
{
  uint64_t first = c->cursor[allowed], n = 0;

  while (first + n < limit && n < c->table_clusters) {
    if (obstacle_at (c, first + n) > allowed) {
      first += n + 1;
      n = 0;
    }
    else
      n++;
  }
  c->cursor[allowed] = first;
  return n == c->table_clusters ? first : UINT64_MAX;
}

/* Note who has to leave a window; true if it is free already. */
static int
claim_window (struct compact *c, uint64_t first, bool *free)
{
  const struct walk_table *tables = c->look->tables;
  struct space *space = &c->image->space;
  uint64_t i, start;
  bool was;
  size_t t;
  int r = 0;

  *free = true;
  for (i = first; i < first + c->table_clusters && r == 0; i++) {
    r = bitmap_set (&c->taken, i, &was);
    if (r < 0 || !bitmap_test (&space->used, i))
      continue;
    *free = false;
    if (!bitmap_test (&space->tables, i))
      r = bitmap_set (&c->evicted, i, &was);
  }
  for (t = 0; t < c->look->table_count && c->pack && r == 0; t++) {
    start = tables[t].offset >> c->bits;
    if (start < first + c->table_clusters && first < start +
        c->table_clusters)
      r = bitmap_set (&c->evicted_tables, start, &was);
  }
  return r;
}

/* ---- Tables ---- */

static int
compare_l1_index (const void *a, const void *b)
{
  const struct walk_table *s = a, *t = b;

  return s->l1_index < t->l1_index ? -1 : s->l1_index > t->l1_index;
}

/* Where the next table is packed; never over L1, or what can't be moved. */
static uint64_t
next_packed (struct compact *c, uint64_t at)
{
  uint64_t stuck, end;

  for (;;) {
    end = at + c->table_clusters;
    stuck = bitmap_next_set (&c->stuck, at, end);
    if (at < c->l1 + c->table_clusters && c->l1 < end)
      at = c->l1 + c->table_clusters;
    else if (stuck < end)
      at = stuck + 1;
    else
      return at;
  }
}

/* Where a table should be: UINT64_MAX if it may stay. */
static uint64_t
choose_place (struct compact *c, const struct walk_table *table,
              uint64_t *packed)
{
  uint64_t first = table->offset >> c->bits, end = compact_end (c), at;

  if (c->pack) {
    at = *packed = next_packed (c, *packed);
    *packed += c->table_clusters;
    return at == first ? UINT64_MAX : at;
  }
  if (first + c->table_clusters <= end)
    return UINT64_MAX;
  at = find_window (c, end, NOTHING);
  if (at == UINT64_MAX)
    at = find_window (c, end, DATA);
  if (at == UINT64_MAX)
    c->pack_next = true;
  return at;
}

static int
evict_data (struct compact *c)
{
  struct look *look = c->look;
  struct space_run run;
  size_t i;
  int r = look_references (look, &c->evicted);

  for (i = 0; i < look->reference_count && r == 0; i++) {
    r = repair_reserve (c->image, false, &run);
    if (r < 0)
      break;
    r = move_cluster (c, &look->references[i], run.first);
    if (r < 0) {
      r = leave_stuck (c, &look->references[i], r);
      space_release (&c->image->space, &run);
    }
  }
  return r;
}

static int
evict_tables (struct compact *c)
{
  struct look *look = c->look;
  struct space_run run;
  size_t i;
  int r = 0;

  for (i = 0; i < look->table_count && r == 0; i++) {
    if (!bitmap_test (&c->evicted_tables, look->tables[i].offset >> c->bits))
      continue;
    r = repair_reserve (c->image, true, &run);
    if (r == 0)
      r = move_table (c, &look->tables[i], run.first);
  }
  return r;
}

static int
move_into_place (struct compact *c)
{
  struct storage *s = c->image->storage;
  const struct table_move *move;
  unsigned i;
  int r = 0;

  for (i = 0; i < c->move_count && r == 0; i++) {
    move = &c->moves[i];
    r = occupy (c, move->to, c->table_clusters);
    if (r == 0)
      r = s->ops->zero (s, move->to << c->bits, c->table_clusters << c->bits);
    if (r == 0)
      r = move_table (c, move->table, move->to);
  }
  return r;
}

/* Choose places for as many tables as a batch has room for; *left says for how
 * many.
 */
static int
plan (struct compact *c, unsigned *left)
{
  struct look *look = c->look;
  uint64_t packed = c->image->space.base, at;
  bool free;
  size_t i;
  int r = 0;

  *left = c->move_count = 0;
  c->cursor[NOTHING] = c->cursor[DATA] = packed;
  if (c->pack)
    qsort (look->tables, look->table_count, sizeof *look->tables,
           compare_l1_index);
  for (i = 0; i < look->table_count && r == 0 && *left < BATCH_TABLES; i++) {
    at = choose_place (c, &look->tables[i], &packed);
    if (at == UINT64_MAX)
      continue;
    ++*left;
    r = claim_window (c, at, &free);
    if (r == 0 && free)
      c->moves[c->move_count++] =
        (struct table_move) { &look->tables[i], at };
  }
  return r;
}

/* One batch.  A table is copied as it is on disk, so nothing else may change
 * in the same batch: who is in the way leaves first, data before tables.
 */
static int
place_tables (struct compact *c, unsigned *left)
{
  int r;

  bitmap_init (&c->taken);
  bitmap_init (&c->evicted);
  bitmap_init (&c->evicted_tables);
  r = plan (c, left);
  if (r == 0 && c->evicted.count > 0)
    r = evict_data (c);
  else if (r == 0 && c->evicted_tables.count > 0)
    r = evict_tables (c);
  else if (r == 0)
    r = move_into_place (c);
  bitmap_destroy (&c->taken);
  bitmap_destroy (&c->evicted);
  bitmap_destroy (&c->evicted_tables);
  return r;
}

static int
move_tables (struct compact *c)
{
  bool packing;
  unsigned left;
  int r;

  do {
    packing = c->pack = c->pack_next;
    r = place_tables (c, &left);
    if (r == 0 && left > 0)
      r = settle (c);
    if (r == 0)
      r = qed_progress_tell (&c->look->options->progress,
                             c->look->table_count - left,
                             c->look->table_count);
  } while (r == 0 && (left > 0 || packing != c->pack_next));
  return r;
}

/* ---- Data ---- */

/* Data clusters at or behind 'end'. */
static int
find_high (struct compact *c, uint64_t end, struct bitmap *high)
{
  struct space *space = &c->image->space;
  uint64_t i = end;
  bool was;
  int r = 0;

  while ((i = bitmap_next_set (&space->used, i, space->end)) < space->end &&
         r == 0) {
    if (!bitmap_test (&space->tables, i) && !in_l1 (c, i) &&
        !bitmap_test (&c->stuck, i))
      r = bitmap_set (high, i, &was);
    i++;
  }
  return r;
}

static int
fill_gaps (struct compact *c, uint64_t end)
{
  struct look *look = c->look;
  uint64_t gap = c->image->space.base;
  size_t i;
  int r = 0;

  for (i = 0; i < look->reference_count && r == 0; i++) {
    gap = bitmap_next_clear (&c->image->space.used, gap, end);
    if (gap == end)
      break;
    r = occupy (c, gap, 1);
    if (r == 0)
      r = move_cluster (c, &look->references[i], gap);
    if (r < 0) {
      r = leave_stuck (c, &look->references[i], r);
      bitmap_clear (&c->image->space.used, gap);
    }
    if (r == 0)
      r = qed_progress_tell (&look->options->progress, i,
                             look->reference_count);
  }
  return r;
}

static int
move_data (struct compact *c, bool *any)
{
  uint64_t end = compact_end (c);
  struct bitmap high;
  int r;

  bitmap_init (&high);
  r = find_high (c, end, &high);
  *any = high.count > 0;
  if (r == 0 && *any)
    r = look_references (c->look, &high);
  if (r == 0 && *any)
    r = fill_gaps (c, end);
  bitmap_destroy (&high);
  return r == 0 && *any ? settle (c) : r;
}

/* Only where there is a gap is there anything to do; the tail is cut when the
 * image is made clean.
 */
int
compact_run (struct look *look)
{
  struct qed_image *image = look->image;
  const struct format_geometry *g = &image->geometry;
  struct compact c = {
    .look = look,
    .image = image,
    .bits = g->cluster_bits,
    .table_clusters = g->table_bytes >> g->cluster_bits,
    .l1 = g->l1_offset >> g->cluster_bits,
  };
  uint64_t gaps_before = UINT64_MAX, gaps;
  bool any = true;
  int r = 0;

  if (image->space.end == compact_end (&c))
    return 0;
  bitmap_init (&c.stuck);
  r = move_tables (&c);
  while (r == 0 && any) {
    gaps = image->space.end - compact_end (&c);
    if (gaps == 0 || gaps == gaps_before)
      break;
    gaps_before = gaps;
    r = move_data (&c, &any);
  }
  bitmap_destroy (&c.stuck);
  return r;
}
