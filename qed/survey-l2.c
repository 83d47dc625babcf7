/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the entries of an L2 table say. */

#include <config.h>

#include <errno.h>

#include "survey.h"

/* So many wrong entries in a page are more than a few accidents. */
#define NOISE_MIN 16u

static enum qed_problem_code
l2_problem (enum format_entry class)
{
  switch (class) {
  case FORMAT_MISALIGNED:
    return QED_PROBLEM_L2_MISALIGNED;
  case FORMAT_INTO_HEADER:
    return QED_PROBLEM_ENTRY_INTO_HEADER;
  case FORMAT_INTO_L1:
    return QED_PROBLEM_ENTRY_INTO_TABLE;
  case FORMAT_PAST_END:
    return QED_PROBLEM_L2_PAST_END;
  default:
    return QED_PROBLEM_L2_RESERVED_BITS;
  }
}

static void
report_l2 (struct survey *survey, struct walk_table *table,
           enum qed_problem_code code, uint64_t index, uint64_t entry)
{
  struct qed_problem problem = {
    .code = code,
    .where = table->offset + index * 8,
    .value = entry,
    .other = code == QED_PROBLEM_CLUSTER_SHARED ? UINT64_MAX : 0,
  };

  table->wrong += code != QED_PROBLEM_CLUSTER_SHARED;
  survey_set_guest (&survey->image->geometry, &problem, table->l1_index,
                    index, 1);
  survey_report (survey, &problem);
}

/* What seems to be a table there may be data. */
static void
claim_table (struct survey *survey, uint64_t entry)
{
  struct walk_table *table =
    survey_find_table (&survey->image->geometry, survey->tables.list,
                       survey->tables.count, entry);

  if (table)
    table->claimed = true;
}

/* An entry that names a cluster that is in use already. */
static int
clash (struct survey *survey, struct walk_table *table, uint64_t index,
       uint64_t entry)
{
  uint64_t cluster = entry >> survey->image->geometry.cluster_bits;
  enum qed_problem_code code = QED_PROBLEM_CLUSTER_SHARED;
  bool was;

  if (bitmap_test (&survey->space->tables, cluster)) {
    code = QED_PROBLEM_ENTRY_INTO_TABLE;
    table->valid--;
    claim_table (survey, entry);
  }
  else {
    survey->clashes += !survey->quiet;
    if (bitmap_set (&survey->shared, cluster, &was) < 0)
      return -ENOMEM;
  }
  if (code == QED_PROBLEM_CLUSTER_SHARED && survey->shared_entry)
    survey->whole = false;
  else
    report_l2 (survey, table, code, index, entry);
  return 0;
}

/* n entries from 'index' on, each of which names the cluster behind the one
 * before.
 */
struct run {
  uint64_t index, entry, n;
};

static int
enter_run (struct survey *survey, struct walk_table *table,
           const struct run *run)
{
  unsigned bits = survey->image->geometry.cluster_bits;
  struct space *space = survey->space;
  uint64_t first = run->entry >> bits, done = 0, added;
  int r = 0;

  if (run->n == 1 && first < space->end &&
      bitmap_add_quickly (&space->used, first))
    return 0;
  while (done < run->n && r == 0) {
    r = space_enter_run (space, first + done, run->n - done, &added);
    if (r == 0 && done + added < run->n) {
      r = clash (survey, table, run->index + done + added,
                 (first + done + added) << bits);
      added++;
    }
    done += added;
  }
  return r;
}

/* Whether an entry that is neither 0 nor 1 may name a cluster: what
 * format_classify_l2 says at length.
 */
static inline bool
is_plausible (const struct format_geometry *g, uint64_t entry,
              uint64_t length)
{
  return (entry & (g->cluster_size - 1)) == 0 && entry < length &&
    entry >= g->header_bytes && entry - g->l1_offset >= g->table_bytes;
}

/* How many entries go on as the first of them does. */
static uint64_t
run_length (const struct survey *survey, const struct walk_table *table,
            const unsigned char *buf, size_t n, uint64_t length)
{
  const struct format_geometry *g = &survey->image->geometry;
  uint64_t entry = format_get64 (buf);
  size_t i;

  for (i = 1; i < n; i++) {
    entry += g->cluster_size;
    if (format_get64 (buf + i * 8) != entry || entry >= length ||
        entry == g->l1_offset || entry == table->offset)
      break;
  }
  return i;
}

/* Which of the pages hold more that can't be right than what may be.  With the
 * space locked.
 */
static void
judge_pages (struct survey *survey, struct walk_table *table,
             const unsigned char *buf, size_t n)
{
  const struct format_geometry *g = &survey->image->geometry;
  const uint64_t length = space_reach (&survey->image->space);
  unsigned right = 0, wrong = 0;
  uint64_t entry;
  size_t i;

  for (i = 0; i < n; i++) {
    entry = format_get64 (buf + i * 8);
    if (entry > FORMAT_ENTRY_ZERO &&
        (!is_plausible (g, entry, length) ||
         bitmap_test (&survey->space->tables, entry >> g->cluster_bits)))
      wrong++;
    else if (entry != 0)
      right++;
    if ((i + 1) % PAGE_ENTRIES == 0 || i + 1 == n) {
      table->noise |= wrong > right && wrong >= NOISE_MIN;
      right = wrong = 0;
    }
  }
}

/* A table that was set apart is no table to others, but to itself. */
static bool
is_own (const struct survey *survey, const struct walk_table *table,
        uint64_t entry)
{
  return survey->quiet &&
    entry - table->offset < survey->image->geometry.table_bytes;
}

int
survey_l2_chunk (struct survey *survey, struct walk_table *table,
                 uint64_t first, const unsigned char *buf, size_t n)
{
  const struct format_geometry *g = &survey->image->geometry;
  const uint64_t length = space_reach (&survey->image->space);
  uint64_t entry, wrong = table->wrong;
  struct run run;
  size_t i;
  int r = 0;

  for (i = 0; i < n && r == 0; i += run.n) {
    entry = format_get64 (buf + i * 8);
    run = (struct run) { first + i, entry, 1 };
    if (entry <= FORMAT_ENTRY_ZERO) {
      table->valid += entry;
      continue;
    }
    if (!is_plausible (g, entry, length)) {
      report_l2 (survey, table,
                 l2_problem (format_classify_l2 (g, entry, length)),
                 run.index, entry);
      continue;
    }
    if (is_own (survey, table, entry)) {
      report_l2 (survey, table, QED_PROBLEM_ENTRY_INTO_TABLE, run.index,
                 entry);
      continue;
    }
    run.n = run_length (survey, table, buf + i * 8, n - i, length);
    table->valid += run.n;
    survey->allocated += run.n;
    survey->fragmented += table->last != 0 &&
      table->last + g->cluster_size != entry;
    table->last = entry + ((run.n - 1) << g->cluster_bits);
    r = enter_run (survey, table, &run);
  }
  if (table->wrong > wrong)
    judge_pages (survey, table, buf, n);
  return r == 0 ? space_check_sparse (survey->space) : r;
}

int
survey_name_chunk (struct survey *survey, const struct walk_table *table,
                   uint64_t first, const unsigned char *buf, size_t n)
{
  unsigned bits = survey->image->geometry.cluster_bits;
  unsigned table_bits = survey->image->geometry.entries_bits;
  uint64_t entry;
  size_t i;
  int r = 0;

  for (i = 0; i < n && r == 0; i++) {
    entry = format_get64 (buf + i * 8);
    if (entry > FORMAT_ENTRY_ZERO &&
        (entry & (survey->image->geometry.cluster_size - 1)) == 0 &&
        bitmap_test ((struct bitmap *) survey->wanted, entry >> bits))
      r = survey->shared_entry (survey, table->offset + (first + i) * 8, entry,
                                (table->l1_index << table_bits) + first + i);
  }
  return r;
}
