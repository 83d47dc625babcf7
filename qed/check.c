/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The check of a closed image: one look at all tables; then, if asked to, the
 * repair (repair.c), and a last look that judges it.
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "look.h"
#include "repair.h"

void
qed_check_options_init (struct qed_check_options *options)
{
  memset (options, 0, sizeof *options);
}

int
qed_check_exit_code (int r, const struct qed_check_result *result)
{
  if (r < 0 || result->errors > 0)
    return 1;
  return result->corruptions > 0 ? 2 : result->leaks > 0 ? 3 : 0;
}

/* ---- Results ---- */

static uint64_t
count_severity (const struct look *look, enum qed_severity severity)
{
  uint64_t n = 0;
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++)
    if (qed_problem_kind ((enum qed_problem_code) i)->severity == severity)
      n += look->counts[i];
  return n;
}

void
check_fill_result (const struct look *look, struct qed_check_result *result)
{
  const struct qed_image *image = look->image;
  const struct format_geometry *g = &image->geometry;

  result->corruptions = count_severity (look, QED_SEVERITY_CORRUPTION);
  result->errors = count_severity (look, QED_SEVERITY_ERROR);
  result->leaks = look->counts[QED_PROBLEM_LEAK];
  result->free = look->counts[QED_PROBLEM_FREE];
  result->allocated_clusters = look->allocated;
  result->fragmented_clusters = look->fragmented;
  result->total_clusters = (g->image_size >> g->cluster_bits) +
    (g->image_size % g->cluster_size > 0);
  result->tables = look->table_count;
  result->image_end = look->space->end << g->cluster_bits;
}

static uint64_t
fewer (uint64_t before, uint64_t now)
{
  return before > now ? before - now : 0;
}

void
check_count_fixed (const struct qed_check_result *first,
                   struct qed_check_result *result)
{
  result->corruptions_fixed = fewer (first->corruptions, result->corruptions);
  result->leaks_fixed = fewer (first->leaks, result->leaks);
}

/* ---- What was found first ---- */

static void
tell_leak (struct look *look, const struct qed_problem *problem)
{
  if (look->options->found)
    look->options->found (look->options->opaque, problem);
}

static void
tell_problems (const struct look *look, size_t from)
{
  size_t i;

  for (i = from; look->options->found && i < look->count; i++)
    look->options->found (look->options->opaque, &look->problems[i]);
}

static void
tell_need_check (struct look *look)
{
  struct qed_problem problem = {
    .code = QED_PROBLEM_NEED_CHECK,
    .where = FORMAT_AT_FEATURES,
    .value = look->image->header.features,
  };

  if (!(look->image->header.features & QED_F_NEED_CHECK))
    return;
  look->counts[QED_PROBLEM_NEED_CHECK] = 1;
  tell_leak (look, &problem);
}

static int
first_look (struct look *look, struct qed_check_result *result)
{
  size_t tables;
  int r = look_run (look);

  if (r < 0)
    return r;
  tell_need_check (look);
  tell_problems (look, 0);
  if (look->options->repair != QED_REPAIR_LEAKS)
    repair_tell_losses (look, result);
  tables = look->count;
  if (look->options->data) {
    r = look_data (look);
    tell_problems (look, tables);
  }
  if (r == 0)
    r = look_leaks (look, tell_leak);
  memcpy (result->counts, look->counts, sizeof result->counts);
  check_fill_result (look, result);
  return r;
}

/* ---- The whole ---- */

/* What is free is data still where the server can't tell holes from data, and
 * at the end of a file that ends within a block of its file system.
 */
static void
tell_what_stays (const struct look *look,
                 const struct qed_check_result *first)
{
  const struct storage *s = look->image->storage;

  if (first->leaks > 0 && look->sound && !s->can_grow && !s->fixed &&
      look->counts[QED_PROBLEM_LEAK] > 0)
    log_warning (&look->image->options.log, "%s: the file can't be cut from "
                 "here, nor can what is free become a hole everywhere: that "
                 "counts as leaked until the file is cut where it lies "
                 "(qedctl check --repair=leaks)", look->image->path);
}

/* What the repair reached is judged by another look. */
static int
last_look (struct look *look, struct qed_check_result *result)
{
  struct qed_check_result first = *result;
  uint64_t unreadable = look->counts[QED_PROBLEM_DATA_UNREADABLE];
  int r = look_run (look);

  if (r == 0)
    r = look_leaks (look, NULL);
  if (r < 0)
    return r;
  look->counts[QED_PROBLEM_DATA_UNREADABLE] = unreadable;
  check_fill_result (look, result);
  check_count_fixed (&first, result);
  tell_what_stays (look, &first);
  return 0;
}

static bool
wants_repair (const struct qed_check_options *check)
{
  return check->repair != QED_REPAIR_NONE && !check->dry_run;
}

/* An image in which anything is left but leaks stays marked. */
static int
close_image (struct look *look, int r, struct qed_check_result *result)
{
  struct qed_image *image = look->image;
  bool was_marked = (image->header.features & QED_F_NEED_CHECK) != 0;
  int r2;

  if (r < 0 || result->corruptions > 0 || result->errors > 0 ||
      !wants_repair (look->options))
    atomic_store (&image->damaged, was_marked);
  result->need_check = image->read_only ? was_marked
    : atomic_load (&image->damaged);
  r2 = qed_close (image);
  return r < 0 ? r : r2;
}

static int
check_image (struct look *look, struct qed_check_result *result)
{
  int r = first_look (look, result);

  if (r < 0 || look->options->repair == QED_REPAIR_NONE)
    return r;
  r = repair_run (look, result);
  return r < 0 || look->options->dry_run ? r : last_look (look, result);
}

int
qed_check (const struct qed_options *options,
           const struct qed_check_options *check,
           struct qed_check_result *result)
{
  struct qed_options examine = *options;
  struct look look = { .options = check };
  int r;

  memset (result, 0, sizeof *result);
  examine.examine = true;
  examine.skip_backing = true;
  examine.read_only = !wants_repair (check);
  examine.clean_after = 0;
  examine.raw_image = check->raw_image;
  r = repair_open (&examine, check, &look.image);
  if (r < 0)
    return r;
  look.space = &look.image->space;
  if (check->opened)
    check->opened (check->opaque);
  r = qed_start (look.image);
  if (r == 0)
    r = check_image (&look, result);
  r = close_image (&look, r, result);
  look_free (&look);
  return r;
}
