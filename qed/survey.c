/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "survey.h"

/* Tables take room in the file: more are only in a hostile, sparse one. */
#define TABLES_MAX ((size_t) 1 << 22)

/* Of tables that were set apart so many in one place are read. */
#define TWINS_MAX 16u

static struct survey *
survey_of (struct tablewalk *walk)
{
  return (struct survey *)
    ((char *) walk - offsetof (struct survey, walk));
}

/* What can't be read is told wherever it is: it isn't known to be wrong. */
void
survey_report (struct survey *survey, const struct qed_problem *problem)
{
  survey->whole = false;
  if (!survey->quiet || problem->code == QED_PROBLEM_TABLE_UNREADABLE)
    survey->found (survey, problem);
  else if (survey->suspect)
    survey->suspect (survey, problem);
}

/* ---- Where an entry belongs ---- */

struct walk_table *
survey_find_table (const struct format_geometry *g, struct walk_table *list,
                   size_t count, uint64_t place)
{
  size_t low = 0, high = count, middle;

  while (low < high) {
    middle = low + (high - low) / 2;
    if (list[middle].offset <= place)
      low = middle + 1;
    else
      high = middle;
  }
  return low > 0 && place - list[low - 1].offset < g->table_bytes
    ? &list[low - 1] : NULL;
}

uint64_t
survey_guest (const struct survey *survey, uint64_t l1_index, uint64_t index)
{
  const struct format_geometry *g = &survey->image->geometry;

  return ((l1_index << g->entries_bits) + index) << g->cluster_bits;
}

void
survey_set_guest (const struct format_geometry *g, struct qed_problem *problem,
                  uint64_t l1_index, uint64_t index, uint64_t entries)
{
  uint64_t clusters = ((g->image_size - 1) >> g->cluster_bits) + 1;
  uint64_t first = (l1_index << g->entries_bits) + index;

  problem->guest = first > UINT64_MAX >> g->cluster_bits
    ? UINT64_MAX : first << g->cluster_bits;
  problem->guest_bytes = 0;
  if (g->image_size == 0 || first >= clusters)
    return;
  problem->guest_bytes = g->image_size - problem->guest;
  if (entries < clusters - first)
    problem->guest_bytes = entries << g->cluster_bits;
}

/* ---- L1 ---- */

static int
add_table (struct survey_tables *tables, uint64_t offset, uint64_t l1_index)
{
  struct walk_table *list;
  size_t capacity;

  if (tables->count == TABLES_MAX)
    return -EFBIG;
  if (tables->count == tables->capacity) {
    capacity = tables->capacity ? tables->capacity * 2 : 64;
    list = realloc (tables->list, capacity * sizeof *list);
    if (list == NULL)
      return -ENOMEM;
    tables->list = list;
    tables->capacity = capacity;
  }
  tables->list[tables->count++] =
    (struct walk_table) { .offset = offset, .l1_index = l1_index };
  return 0;
}

static enum qed_problem_code
l1_problem (enum format_entry class, uint64_t entry, uint64_t length)
{
  switch (class) {
  case FORMAT_MISALIGNED:
    return QED_PROBLEM_L1_MISALIGNED;
  case FORMAT_INTO_HEADER:
    return QED_PROBLEM_L1_INTO_HEADER;
  case FORMAT_INTO_L1:
    return QED_PROBLEM_TABLE_OVERLAP;
  case FORMAT_PAST_END:
    return entry < length ? QED_PROBLEM_TABLE_TRUNCATED
      : QED_PROBLEM_L1_PAST_END;
  default:
    return QED_PROBLEM_L1_RESERVED_BITS;
  }
}

static void
report_l1 (struct survey *survey, enum qed_problem_code code, uint64_t index,
           uint64_t entry, uint64_t other)
{
  const struct format_geometry *g = &survey->image->geometry;
  struct qed_problem problem = {
    .code = code,
    .where = g->l1_offset + index * 8,
    .value = entry,
    .other = other,
  };
  uint64_t first = 0;

  if (code == QED_PROBLEM_TABLE_TRUNCATED)
    first = (space_table_reach (&survey->image->space, entry) - entry) / 8;
  survey_set_guest (g, &problem, index, first, g->entries - first);
  survey_report (survey, &problem);
}

/* A table that ends behind the file, or reaches into L1, has a part that may
 * be valid.
 */
static int
l1_entry (struct survey *survey, uint64_t index, uint64_t entry)
{
  struct qed_image *image = survey->image;
  uint64_t length = space_table_reach (&image->space, entry);
  enum format_entry class =
    format_classify_l1 (&image->geometry, entry, length);
  enum qed_problem_code code;

  if (class == FORMAT_ALLOCATED)
    return add_table (&survey->tables, entry, index);
  code = l1_problem (class, entry, length);
  report_l1 (survey, code, index, entry,
             code == QED_PROBLEM_TABLE_OVERLAP ? UINT64_MAX : 0);
  if (code == QED_PROBLEM_TABLE_TRUNCATED ||
      code == QED_PROBLEM_TABLE_OVERLAP)
    return add_table (&survey->doubtful, entry, index);
  return 0;
}

/* A page that was changed, or is used, is in memory as it should be; one that
 * was not changed should be the same on disk.  It describes so many of the
 * guest's clusters, from 'cluster' on.
 */
static void
take_from_memory (struct survey *survey, uint64_t key, uint64_t where,
                  uint64_t cluster, uint64_t clusters, unsigned char *buf)
{
  struct metadata *md = &survey->image->metadata;
  struct page *page = metadata_lock_page (md, key);
  struct qed_problem problem = {
    .code = QED_PROBLEM_PAGE_DIFFERS,
    .where = where,
    .value = key,
  };
  unsigned char memory[PAGE_BYTES];
  bool clean;

  if (page == NULL)
    return;
  if (page->offset != where) {  /* two tables for one range */
    metadata_unlock_page (md, page);
    return;
  }
  page_copy (page, memory);
  clean = !page->dirty && !page->writing;
  metadata_unlock_page (md, page);
  if (clean && memcmp (memory, buf, PAGE_BYTES) != 0) {
    survey_set_guest (&survey->image->geometry, &problem, 0, cluster,
                      clusters);
    survey_report (survey, &problem);
  }
  memcpy (buf, memory, PAGE_BYTES);
}

static int
l1_entries (struct tablewalk *walk, uint64_t first, unsigned char *buf,
            size_t n)
{
  struct survey *survey = survey_of (walk);
  const struct format_geometry *g = &survey->image->geometry;
  uint64_t entry;
  size_t i;
  int r = 0;

  for (i = 0; survey->online && i < n; i += PAGE_ENTRIES)
    take_from_memory (survey, METADATA_KEY_L1 ((first + i) / PAGE_ENTRIES),
                      g->l1_offset + (first + i) * 8,
                      (first + i) << g->entries_bits,
                      (uint64_t) PAGE_ENTRIES << g->entries_bits,
                      buf + i * 8);
  for (i = 0; i < n && r == 0; i++) {
    entry = format_get64 (buf + i * 8);
    if (entry != 0)
      r = l1_entry (survey, first + i, entry);
  }
  return r;
}

/* ---- Which tables overlap ---- */

static int
compare_tables (const void *a, const void *b)
{
  const struct walk_table *s = a, *t = b;

  if (s->offset != t->offset)
    return s->offset < t->offset ? -1 : 1;
  return s->l1_index < t->l1_index ? -1 : s->l1_index > t->l1_index;
}

static int
enter_table (struct survey *survey, const struct walk_table *table)
{
  const struct format_geometry *g = &survey->image->geometry;
  struct space *space = survey->space;
  bool shared;
  int r;

  pthread_mutex_lock (&space->lock);
  r = space_enter (space, table->offset >> g->cluster_bits,
                   g->table_bytes >> g->cluster_bits, true, &shared);
  pthread_mutex_unlock (&space->lock);
  return r;
}

/* Each a few times at most, whatever number of entries name it: else a file of
 * little size could have tables without end.
 */
static void
sort_doubtful (struct survey_tables *tables)
{
  size_t i, kept = 0, same = 0;

  if (tables->count > 0)
    qsort (tables->list, tables->count, sizeof *tables->list, compare_tables);
  for (i = 0; i < tables->count; i++) {
    same = i > 0 && tables->list[i].offset == tables->list[kept - 1].offset
      ? same + 1 : 0;
    if (same < TWINS_MAX)
      tables->list[kept++] = tables->list[i];
  }
  tables->count = kept;
}

/* The tables that L1 can't have named, also where they reach beyond the file:
 * what a copy makes the file grow by is no one's yet.
 */
static int
enter_doubtful (struct survey *survey)
{
  const struct format_geometry *g = &survey->image->geometry;
  uint64_t base = g->header_bytes >> g->cluster_bits;
  uint64_t n = g->table_bytes >> g->cluster_bits;
  struct space *space = survey->space;
  const struct walk_table *table;
  uint64_t first;
  bool shared;
  size_t i;
  int r = 0;

  sort_doubtful (&survey->doubtful);
  pthread_mutex_lock (&space->lock);
  for (i = 0; i < survey->doubtful.count && r == 0; i++) {
    table = &survey->doubtful.list[i];
    first = table->offset >> g->cluster_bits;
    if (first >= base)
      r = space_enter (space, first, n, false, &shared);
  }
  pthread_mutex_unlock (&space->lock);
  return r;
}

/* The first of those that overlap stays in the list; the clusters of all of
 * them are in use.
 */
int
survey_sort_tables (struct survey *survey)
{
  const uint64_t bytes = survey->image->geometry.table_bytes;
  struct survey_tables *tables = &survey->tables;
  struct walk_table *last = NULL, *table;
  size_t i, kept = 0, same = 0;
  int r = enter_doubtful (survey);

  if (tables->count > 0)
    qsort (tables->list, tables->count, sizeof *tables->list, compare_tables);
  for (i = 0; i < tables->count && r == 0; i++) {
    table = &tables->list[i];
    r = enter_table (survey, table);
    if (last && table->offset < last->offset + bytes) {
      report_l1 (survey, table->offset == last->offset
                 ? QED_PROBLEM_TABLE_SHARED : QED_PROBLEM_TABLE_OVERLAP,
                 table->l1_index, table->offset,
                 survey_guest (survey, last->l1_index, 0));
      same = table->offset == table[-1].offset ? same + 1 : 0;
      if (table->offset != last->offset && same < TWINS_MAX && r == 0)
        r = add_table (&survey->doubtful, table->offset, table->l1_index);
      continue;
    }
    tables->list[kept] = *table;
    last = &tables->list[kept++];
  }
  tables->count = kept;
  atomic_store (&survey->tables_known, kept);
  return r;
}

/* ---- L2 ---- */

static int
l2_entries (struct tablewalk *walk, struct walk_table *table, uint64_t first,
            unsigned char *buf, size_t n)
{
  struct survey *survey = survey_of (walk);
  unsigned bits = survey->image->geometry.entries_bits;
  uint64_t cluster = (table->l1_index << bits) + first;
  size_t i;
  int r;

  for (i = 0; survey->online && i < n; i += PAGE_ENTRIES)
    take_from_memory (survey, METADATA_KEY_L2 ((cluster + i) / PAGE_ENTRIES),
                      table->offset + (first + i) * 8, cluster + i,
                      PAGE_ENTRIES, buf + i * 8);
  if (survey->wanted)
    return survey_name_chunk (survey, table, first, buf, n);
  pthread_mutex_lock (&survey->space->lock);
  r = survey_l2_chunk (survey, table, first, buf, n);
  pthread_mutex_unlock (&survey->space->lock);
  return r;
}

/* ---- The walk ---- */

/* A new table is a hole of the file until it is written back: what it says is
 * in memory.
 */
static int
hole (struct tablewalk *walk, struct walk_table *table, uint64_t first,
      uint64_t n)
{
  struct survey *survey = survey_of (walk);
  struct metadata *md = &survey->image->metadata;
  uint64_t cluster = table == NULL ? first
    : (table->l1_index << survey->image->geometry.entries_bits) + first;
  uint64_t key = table == NULL ? METADATA_KEY_L1 (cluster / PAGE_ENTRIES)
    : METADATA_KEY_L2 (cluster / PAGE_ENTRIES), at;
  uint64_t end = key + (n + PAGE_ENTRIES - 1) / PAGE_ENTRIES, i;
  unsigned char buf[PAGE_BYTES];
  struct page *page;
  int r = 0;

  for (at = key; r == 0 &&
         (at = metadata_next_cached (md, at, end - at)) < end; at++) {
    page = metadata_lock_page (md, at);
    if (page == NULL)
      continue;
    metadata_unlock_page (md, page);
    memset (buf, 0, sizeof buf);
    i = first + (at - key) * PAGE_ENTRIES;
    r = table == NULL ? l1_entries (walk, i, buf, PAGE_ENTRIES)
      : l2_entries (walk, table, i, buf, PAGE_ENTRIES);
  }
  return r;
}

static int
unreadable (struct tablewalk *walk, const struct walk_table *table,
            uint64_t offset, int error)
{
  struct survey *survey = survey_of (walk);
  const struct format_geometry *g = &survey->image->geometry;
  struct qed_problem problem = {
    .code = QED_PROBLEM_TABLE_UNREADABLE,
    .where = offset,
    .error = error,
  };
  uint64_t index;

  if (table) {
    index = (offset - table->offset) / 8;
    survey_set_guest (g, &problem, table->l1_index, index, PAGE_ENTRIES);
  }
  else {
    index = (offset - g->l1_offset) / 8;
    survey_set_guest (g, &problem, index, 0,
                      (uint64_t) PAGE_ENTRIES << g->entries_bits);
  }
  survey_report (survey, &problem);
  return 0;
}

static int
may_go_on (struct tablewalk *walk)
{
  struct survey *survey = survey_of (walk);

  atomic_store (&survey->tables_read, walk->next);
  return survey->may_go_on (survey);
}

int
survey_init (struct survey *survey)
{
  struct qed_image *image = survey->image;

  survey->whole = true;
  bitmap_init (&survey->shared);
  survey->walk = (struct tablewalk) {
    .job = survey->job,
    .loop = image_top (image)->loop,
    .storage = image->storage,
    .geometry = &image->geometry,
    .width = survey->width,
    .polite = survey->online,
    .control = survey->control,
    .l1_entries = l1_entries,
    .l2_entries = l2_entries,
    .hole = survey->online ? hole : NULL,
    .unreadable = unreadable,
    .may_go_on = may_go_on,
  };
  return tablewalk_init (&survey->walk);
}

void
survey_destroy (struct survey *survey)
{
  tablewalk_destroy (&survey->walk);
  bitmap_destroy (&survey->shared);
  free (survey->tables.list);
  free (survey->doubtful.list);
}

void
survey_l1 (struct survey *survey)
{
  tablewalk_l1 (&survey->walk);
}

void
survey_l2 (struct survey *survey)
{
  tablewalk_l2 (&survey->walk, survey->tables.list, survey->tables.count);
}

/* Their clusters are no leaks; what else is wrong with them follows from what
 * was reported.
 */
void
survey_doubtful (struct survey *survey)
{
  survey->quiet = true;
  tablewalk_l2 (&survey->walk, survey->doubtful.list, survey->doubtful.count);
}

void
survey_name (struct survey *survey, const struct bitmap *wanted)
{
  if (survey->shared_entry == NULL || wanted->count == 0)
    return;
  survey->wanted = wanted;
  tablewalk_l2 (&survey->walk, survey->tables.list, survey->tables.count);
}
