/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Tables that overlap others, are shared or are cut: a copy of what is valid,
 * for each L1 entry that needs one.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "repair.h"

#define PIECE_BYTES (UINT64_C (1) << 20)

/* Of a table that is copied: the valid entries. */
struct filter {
  const struct look *look;
  struct qed_check_result *result;
  const struct walk_table *table;
};

/* Whether an entry can't be right.  What the file has grown by since the look
 * was not there to be named.
 */
static bool
is_wrong_value (const struct filter *filter, uint64_t entry)
{
  const struct look *look = filter->look;
  const struct format_geometry *g = &look->image->geometry;
  enum format_entry class =
    format_classify_l2 (g, entry, look->length);

  if (class == FORMAT_UNALLOCATED || class == FORMAT_ZERO)
    return false;
  return class != FORMAT_ALLOCATED ||
    entry - filter->table->offset < g->table_bytes ||
    bitmap_test (&look->space->tables, entry >> g->cluster_bits);
}

/* n entries from 'first' on; what is left out is named. */
static void
filter_entries (const struct filter *filter, uint64_t first,
                unsigned char *buf, size_t n)
{
  const struct format_geometry *g = &filter->look->image->geometry;
  uint64_t guest, bytes;
  size_t i;

  for (i = 0; i < n; i++) {
    if (!is_wrong_value (filter, format_get64 (buf + i * 8)))
      continue;
    format_put64 (buf + i * 8, 0);
    look_table_range (filter->look, filter->table->l1_index, first + i,
                      &guest, &bytes);
    loss_tell (filter->look, guest, bytes < g->cluster_size ? bytes
          : g->cluster_size, filter->result);
  }
}

static int
copy_entries (const struct filter *filter, uint64_t from, uint64_t to,
              uint64_t count)
{
  struct storage *s = filter->look->image->storage;
  uint64_t done, n, most = count < PIECE_BYTES ? count : PIECE_BYTES;
  unsigned char *buf = malloc (most);
  int r = buf ? 0 : -ENOMEM;

  for (done = 0; done < count && r == 0; done += n) {
    n = count - done < most ? count - done : most;
    r = s->ops->pread (s, buf, n, from + done);
    if (r == 0)
      filter_entries (filter, (from - filter->table->offset + done) / 8, buf,
                      n / 8);
    if (r == 0)
      r = s->ops->pwrite (s, buf, n, to + done);
  }
  free (buf);
  return r;
}

/* Copy what is valid of a table, as far as it is in the file.  What is a hole
 * of it need not be copied: the new place reads as zeros.
 */
static int
copy_table (const struct filter *filter, uint64_t to)
{
  const struct look *look = filter->look;
  struct storage *s = look->image->storage;
  uint64_t from = filter->table->offset, at = from, start, end;
  uint64_t limit = look->image->geometry.table_bytes;
  int r = 0;

  if (limit > look->length - from)
    limit = (look->length - from) & ~UINT64_C (7);
  limit += from;
  while (at < limit && r == 0) {
    r = s->ops->next_data (s, at, &start, &end);
    if (r < 0 || start >= limit)
      break;
    if (start > at)
      at = start & ~UINT64_C (7);
    end = end < limit ? (end + 7) & ~UINT64_C (7) : limit;
    r = copy_entries (filter, at, to + (at - from), end - at);
    at = end;
  }
  return r;
}

/* A table to be copied: of those set apart its entry in that list; of one that
 * is shared this is a copy of the entry of the first.  Of one that was not read
 * as others in its place were, nothing is known to be valid.
 */
static struct walk_table
table_of (const struct look *look, const struct qed_problem *problem)
{
  const struct walk_table *table = problem->code == QED_PROBLEM_TABLE_SHARED
    ? look_table_at (look, problem->value) : repair_set_apart (look, problem);
  struct walk_table copy = { .offset = problem->value };

  if (table)
    copy = *table;
  copy.l1_index = (problem->where - look->image->geometry.l1_offset) / 8;
  return copy;
}

static const char *
why_unlinked (const struct look *look, const struct qed_problem *problem,
              const struct walk_table *table)
{
  if (repair_is_crowded (look, problem))
    return "unlinked: too many L1 entries name this place";
  return table->wrong ? "unlinked: nothing in it is valid"
    : "unlinked: it names nothing";
}

bool
repair_is_bare_table (const struct look *look,
                      const struct qed_problem *problem)
{
  return repair_is_of_table (look, problem) &&
    table_of (look, problem).valid == 0;
}

int
repair_drop_table (struct look *look, const struct qed_problem *problem,
                   struct qed_check_result *result)
{
  const struct walk_table table = table_of (look, problem);
  struct amendment a = amend_problem (look->image, problem, 0);
  int r = repair_amend (look->image, &a);

  if (r < 0)
    return r;
  repair_tell (look, problem, why_unlinked (look, problem, &table));
  if (repair_is_crowded (look, problem)) {
    loss_of_crowded (look, problem, result);
    return 0;
  }
  loss_of_table (look, &table, result);
  loss_of_missing (look, &table, result);
  return 0;
}

int
repair_table (struct look *look, const struct qed_problem *problem,
              struct qed_check_result *result)
{
  const struct format_geometry *g = &look->image->geometry;
  const struct walk_table table = table_of (look, problem);
  struct filter filter = { look, result, &table };
  struct space_run run;
  struct amendment a = amend_problem (look->image, problem, problem->value);
  int r = repair_amend (look->image, &a);       /* NEED_CHECK, before it grows */

  if (r == 0)
    r = repair_reserve_copy (look, true, &run);
  if (r == 0)
    r = copy_table (&filter, run.first << g->cluster_bits);
  if (r < 0)
    return r;
  a = amend_problem (look->image, problem, run.first << g->cluster_bits);
  r = repair_amend (look->image, &a);
  if (r == -ESTALE)
    space_release (&look->image->space, &run);
  if (r < 0)
    return r;
  repair_tell (look, problem, "what is valid was copied to a table of its "
               "own");
  loss_of_missing (look, &table, result);
  return 0;
}
