/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a repair loses of the guest's: nothing but what wrong entries, tables
 * without a valid one, and the missing part of cut tables describe.  And the
 * rules by which a repair chooses what it does.
 */

#include <config.h>

#include "repair.h"

/* ---- What is what ---- */

/* Of a table with more that may be right than what can't be only a part was
 * overwritten.
 */
static bool
is_noise (const struct walk_table *table)
{
  return table->noise && table->wrong > table->valid;
}

/* Whether what an entry names as data, and L1 as a table, is data. */
static bool
is_data (const struct walk_table *table)
{
  return table->claimed && (is_noise (table) || table->valid == 0);
}

/* What is data has no entries: it waits to be unlinked, though there may be no
 * room to list the problem that says so.
 */
bool
repair_is_wrong_entry (const struct look *look,
                       const struct qed_problem *problem)
{
  const enum qed_problem_code code = problem->code;
  const struct walk_table *table;

  if (code >= QED_PROBLEM_L1_PAST_END && code <= QED_PROBLEM_L1_INTO_HEADER)
    return true;
  if (code < QED_PROBLEM_L2_PAST_END || code > QED_PROBLEM_ENTRY_INTO_TABLE)
    return false;
  table = look_table_at (look, problem->where);
  return table == NULL || !is_data (table);
}

/* Of two tables that overlap, the one that holds noise, if the other does
 * not.
 */
static const struct walk_table *
wrong_of_two (const struct look *look, const struct qed_problem *problem)
{
  const struct walk_table *first = look_table_at (look, problem->value);
  const struct walk_table *second = repair_set_apart (look, problem);

  if (first == NULL || second == NULL || is_noise (first) == is_noise (second))
    return NULL;
  return is_noise (first) ? first : second;
}

/* A cluster of data is a table too: of the two, the table is the wrong one if
 * no entry in it is valid, or it holds noise.
 */
const struct walk_table *
repair_wrong_table (const struct look *look,
                    const struct qed_problem *problem)
{
  const struct walk_table *table;

  if (problem->code == QED_PROBLEM_TABLE_OVERLAP)
    return wrong_of_two (look, problem);
  if (problem->code != QED_PROBLEM_ENTRY_INTO_TABLE)
    return NULL;
  table = look_table_at (look, problem->value);
  return table && is_data (table) ? table : NULL;
}

bool
repair_is_noise (const struct look *look, const struct qed_problem *problem)
{
  const struct walk_table *table = repair_wrong_table (look, problem);

  return table && is_noise (table);
}

/* When those are gone that hold noise: what seemed to be wrong with the others
 * may have been their doing.
 */
bool
repair_is_no_table (const struct look *look,
                    const struct qed_problem *problem)
{
  return repair_wrong_table (look, problem) != NULL;
}

bool
repair_is_of_table (const struct look *look,
                    const struct qed_problem *problem)
{
  (void) look;
  return problem->code >= QED_PROBLEM_TABLE_TRUNCATED &&
    problem->code <= QED_PROBLEM_TABLE_SHARED;
}

const struct walk_table *
repair_set_apart (const struct look *look, const struct qed_problem *problem)
{
  uint64_t l1_index =
    (problem->where - look->image->geometry.l1_offset) / 8;
  size_t low = 0, high = look->doubtful_count, middle;

  while (low < high) {
    middle = low + (high - low) / 2;
    if (look->doubtful[middle].l1_index < l1_index)
      low = middle + 1;
    else
      high = middle;
  }
  return low < look->doubtful_count && look->doubtful[low].l1_index == l1_index
    ? &look->doubtful[low] : NULL;
}

bool
repair_is_crowded (const struct look *look, const struct qed_problem *problem)
{
  return (problem->code == QED_PROBLEM_TABLE_TRUNCATED ||
          problem->code == QED_PROBLEM_TABLE_OVERLAP) &&
    repair_set_apart (look, problem) == NULL;
}

/* ---- What is lost ---- */

void
loss_tell (const struct look *look, uint64_t guest, uint64_t bytes,
           struct qed_check_result *result)
{
  if (bytes == 0 || look->losses_told)
    return;
  result->lost_bytes += bytes;
  if (look->options->lost)
    look->options->lost (look->options->opaque, guest, bytes);
}

void
loss_of_table (const struct look *look, const struct walk_table *table,
               struct qed_check_result *result)
{
  uint64_t guest, bytes;

  if (table->wrong == 0)
    return;
  look_table_range (look, table->l1_index, 0, &guest, &bytes);
  loss_tell (look, guest, bytes, result);
}

void
loss_of_crowded (const struct look *look, const struct qed_problem *problem,
                 struct qed_check_result *result)
{
  uint64_t l1 = look->image->geometry.l1_offset, guest, bytes;

  look_table_range (look, (problem->where - l1) / 8, 0, &guest, &bytes);
  loss_tell (look, guest, bytes, result);
}

void
loss_of_missing (const struct look *look, const struct walk_table *table,
                 struct qed_check_result *result)
{
  uint64_t guest, bytes;

  if (look->length - table->offset >= look->image->geometry.table_bytes)
    return;
  look_table_range (look, table->l1_index, (look->length - table->offset) / 8,
                    &guest, &bytes);
  loss_tell (look, guest, bytes, result);
}

const struct look_twin *
repair_twins (const struct look *look, uint64_t offset, size_t *n)
{
  size_t low = 0, high = look->twin_count, middle;

  while (low < high) {
    middle = low + (high - low) / 2;
    if (look->twins[middle].offset < offset)
      low = middle + 1;
    else
      high = middle;
  }
  *n = 0;
  while (low + *n < look->twin_count && look->twins[low + *n].offset == offset)
    (*n)++;
  return *n > 0 ? &look->twins[low] : NULL;
}

/* What the other places lose in which a table is linked, as 'table' does. */
static void
loss_of_twins (const struct look *look, const struct walk_table *table,
               struct qed_check_result *result)
{
  struct walk_table twin = *table;
  const struct look_twin *twins;
  size_t i, n;

  twins = repair_twins (look, table->offset, &n);
  for (i = 0; i < n; i++) {
    twin.l1_index = twins[i].l1_index;
    loss_of_table (look, &twin, result);
  }
}

/* True once: many problems may be about the same table. */
static bool
is_new_loss (struct look *look, const struct walk_table *table)
{
  if (table->told)
    return false;
  if (look_table_at (look, table->offset) == table)
    look->tables[table - look->tables].told = true;
  return true;
}

/* More are not told of one by one, but with all of their table: a few MiB of a
 * file can describe billions.
 */
#define LOSSES_MAX (UINT64_C (1) << 20)

void
loss_of_entry (struct look *look, const struct qed_problem *problem,
               struct qed_check_result *result)
{
  const struct walk_table *table = look_table_at (look, problem->where);
  uint64_t guest, bytes = look->image->geometry.cluster_size, all;
  const struct look_twin *twins;
  size_t i, n;

  loss_tell (look, problem->guest, problem->guest_bytes, result);
  if (table == NULL || look->losses_told)
    return;
  twins = repair_twins (look, table->offset, &n);
  if (n > 0 && table->wrong > LOSSES_MAX / n) {
    if (is_new_loss (look, table))
      loss_of_twins (look, table, result);
    return;
  }
  for (i = 0; i < n; i++) {
    look_table_range (look, twins[i].l1_index,
                      (problem->where - table->offset) / 8, &guest, &all);
    loss_tell (look, guest, all < bytes ? all : bytes, result);
  }
}

/* A table that is none will be unlinked wherever it is linked. */
static void
loss_of_no_table (struct look *look, const struct walk_table *table,
                  struct qed_check_result *result)
{
  if (!is_new_loss (look, table))
    return;
  loss_of_table (look, table, result);
  loss_of_twins (look, table, result);
}

/* By the same rules as the mendings. */
static void
tell_loss (struct look *look, const struct qed_problem *problem,
           struct qed_check_result *result)
{
  const struct walk_table *table;

  if (repair_is_no_table (look, problem))
    loss_of_no_table (look, repair_wrong_table (look, problem), result);
  else if (repair_is_wrong_entry (look, problem))
    loss_of_entry (look, problem, result);
  else if (repair_is_crowded (look, problem))
    loss_of_crowded (look, problem, result);
  else if (repair_is_of_table (look, problem) &&
           (table = repair_set_apart (look, problem)) != NULL) {
    if (table->valid == 0 && !table->claims)
      loss_of_table (look, table, result);
    loss_of_missing (look, table, result);
  }
}

/* What is wrong with a table that was set apart, and no longer will be when
 * another table is unlinked, which is none.
 */
static void
tell_suspect (struct look *look, const struct qed_problem *suspect,
              struct qed_check_result *result)
{
  if (repair_is_no_table (look, suspect))
    tell_loss (look, suspect, result);
  else
    loss_tell (look, suspect->guest, suspect->guest_bytes, result);
}

/* Those that have such entries. */
static void
note_claims (struct look *look)
{
  const struct format_geometry *g = &look->image->geometry;
  struct qed_problem of_l1 = { 0 };
  const struct walk_table *table;
  size_t i;

  for (i = 0; i < look->suspect_count; i++) {
    if (!repair_is_no_table (look, &look->suspects[i]))
      continue;
    of_l1.where = g->l1_offset +
      (look->suspects[i].guest >> (g->cluster_bits + g->entries_bits)) * 8;
    table = repair_set_apart (look, &of_l1);
    if (table)
      look->doubtful[table - look->doubtful].claims = true;
  }
}

/* The first look sees in which places an entry is wrong; a repair that drops
 * it in one has dropped it in all.  If there was no room for all problems, each
 * loss is told when it comes about.
 */
void
repair_tell_losses (struct look *look, struct qed_check_result *result)
{
  const struct qed_check_options *options = look->options;
  size_t i;

  if (look->more && options->repair == QED_REPAIR_ALL && !options->dry_run)
    return;
  note_claims (look);
  for (i = 0; i < look->count; i++)
    tell_loss (look, &look->problems[i], result);
  for (i = 0; i < look->suspect_count; i++)
    tell_suspect (look, &look->suspects[i], result);
  look->losses_told = !look->more;
}
