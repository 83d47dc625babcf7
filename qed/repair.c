/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repair.h"
#include "undo.h"

#define ROUNDS_MAX 32u
#define PIECE_BYTES (UINT64_C (1) << 20)

/* ---- What each step is made of ---- */

/* What a killed server had acknowledged is written while the image is opened,
 * and belongs to what the repair finds: saving begins behind that.
 */
static int
open_with_undo (const struct qed_options *options, const char *path,
                struct qed_image **image)
{
  struct storage *storage, *undo;
  int r = storage_open (options, &storage);

  if (r < 0)
    return r;
  r = storage_undo_open (storage, &options->log, &undo);
  if (r < 0) {
    storage->ops->close (storage);
    return r;
  }
  r = image_open_storage (options, undo, image);
  if (r < 0)
    return r;
  r = storage_undo_begin (undo, path);
  if (r < 0)
    qed_close (*image);
  return r;
}

int
repair_open (const struct qed_options *options,
             const struct qed_check_options *check, struct qed_image **image)
{
  if (check->undo == NULL || check->dry_run ||
      check->repair == QED_REPAIR_NONE)
    return qed_open (options, image);
  return open_with_undo (options, check->undo, image);
}

void
repair_tell (const struct look *look, const struct qed_problem *problem,
             const char *action)
{
  if (look->options->fixed)
    look->options->fixed (look->options->opaque, problem, action);
}

int
repair_amend (struct qed_image *image, const struct amendment *amendment)
{
  struct amendment copy = *amendment;

  return qed_request_sync (image, QED_OP_AMEND, &copy, 1, 0, 0);
}

int
repair_reserve (struct qed_image *image, bool table, struct space_run *run)
{
  struct storage *s = image->storage;
  unsigned bits = image->geometry.cluster_bits;
  uint64_t n = table ? image->geometry.table_bytes >> bits : 1;
  struct qed_request quiet;
  int r;

  qed_request_init (&quiet, QED_OP_FLUSH, NULL, 0, 0, 0);
  quiet.wake = amend_no_wake;
  for (;;) {
    r = table ? space_reserve_table (&image->space, n, run)
      : space_reserve (&image->space, n, run);
    if (r == -EBUSY)
      r = qed_request_sync (image, QED_OP_FLUSH, NULL, 0, 0, 0);
    else if (r == -EAGAIN)
      r = space_grow (&image->space, s, n, &quiet);
    else
      break;
    wait_cancel (&quiet);
    if (r < 0)
      return r;
  }
  if (r == 0 && run->used_before)
    r = s->ops->zero (s, run->first << bits, run->n << bits);
  return r;
}

int
repair_reserve_copy (const struct look *look, bool table,
                     struct space_run *run)
{
  struct qed_image *image = look->image;
  struct storage *s = image->storage;
  unsigned bits = image->geometry.cluster_bits;
  uint64_t n = table ? image->geometry.table_bytes >> bits : 1;
  int r = repair_reserve (image, table, run);

  if (r != -ENOSPC || look->orphans || !look->leaks_known)
    return r;
  r = space_reserve_gap (&image->space, n, table, run);
  return r == 0 ? s->ops->zero (s, run->first << bits, n << bits) : r;
}

static int
copy_data (struct storage *s, uint64_t from, uint64_t to, uint64_t count)
{
  uint64_t n, most = count < PIECE_BYTES ? count : PIECE_BYTES;
  unsigned char *buf = malloc (most);
  int r = buf ? 0 : -ENOMEM;

  for (; count > 0 && r == 0; count -= n, from += n, to += n) {
    n = count < most ? count : most;
    r = s->ops->pread (s, buf, n, from);
    if (r == 0)
      r = s->ops->pwrite (s, buf, n, to);
  }
  free (buf);
  return r;
}

/* Holes stay holes: a file that is mostly holes would grow without end. */
int
repair_copy (struct qed_image *image, uint64_t from, uint64_t to,
             uint64_t count)
{
  struct storage *s = image->storage;
  uint64_t done = 0, start, end;
  int r = 0;

  while (done < count && r == 0) {
    r = s->ops->next_data (s, from + done, &start, &end);
    if (r < 0)
      break;
    start = start < from + count ? start - from : count;
    end = end < from + count ? end - from : count;
    if (start > done)
      r = s->ops->zero (s, to + done, start - done);
    else
      start = done;
    if (r == 0 && start < count)
      r = copy_data (s, from + start, to + start, end - start);
    done = start < count ? end : count;
  }
  return r;
}

/* No request holds anything that was looked up before, or writes: what memory
 * has of tables is what the disk has.
 */
static int
settle_served (struct qed_image *image)
{
  int r;

  guard_wait (&image->guards);
  r = qed_request_sync (image, QED_OP_FLUSH, NULL, 0, 0, 0);
  guard_wait (&image->guards);
  return r;
}

/* What reads and the repair itself go by from here on. */
static int
adopt_look (struct look *look)
{
  if (!look->leaks_known && !look->orphans)
    look_keep_tail (look);
  return space_adopt (&look->image->space, look->space, !look->orphans);
}

/* Write back what was changed and wait for the freed clusters; what the tables
 * are is then read anew.  NEED_CHECK stays.
 */
int
repair_settle (struct look *look)
{
  struct qed_image *image = look->image;
  int r;

  atomic_store (&image->damaged, true);
  r = look->online ? settle_served (image)
    : qed_request_sync (image, QED_OP_CLEAN, NULL, 0, 0, 0);
  if (r == 0)
    r = metadata_forget (&image->metadata);
  if (r == 0)
    r = look_run (look);
  return r == 0 && look->online ? adopt_look (look) : r;
}

/* ---- 1. Tables that are none ---- */

static int
unlink_link (struct look *look, const struct qed_problem *problem,
             const struct walk_table *table, struct qed_check_result *result)
{
  const struct format_geometry *g = &look->image->geometry;
  struct qed_problem culprit = {
    .code = QED_PROBLEM_TABLE_OVERLAP,
    .where = g->l1_offset + table->l1_index * 8,
    .value = table->offset,
    .other = problem->guest,
  };
  struct amendment a = amend_problem (look->image, &culprit, 0);
  int r;

  if (table->valid > 0 && !look->orphans)       /* it may name what is lost */
    look_keep_tail (look);
  r = repair_amend (look->image, &a);
  if (r == 0) {
    look_table_range (look, table->l1_index, 0, &culprit.guest,
                      &culprit.guest_bytes);
    repair_tell (look, &culprit, "unlinked: it is data, not a table");
    loss_of_table (look, table, result);
  }
  return r;
}

/* Wherever it is linked. */
static int
unlink_table (struct look *look, const struct qed_problem *problem,
              struct qed_check_result *result)
{
  struct walk_table table = *repair_wrong_table (look, problem);
  const struct look_twin *twins;
  size_t i, n;
  int r = unlink_link (look, problem, &table, result);

  twins = repair_twins (look, table.offset, &n);
  for (i = 0; i < n && r == 0; i++) {
    table.l1_index = twins[i].l1_index;
    r = unlink_link (look, problem, &table, result);
  }
  return r;
}

/* ---- 2. Entries that can't be right ---- */

int
repair_drop_entry (struct look *look, const struct qed_problem *problem,
                   struct qed_check_result *result)
{
  struct amendment a = amend_problem (look->image, problem, 0);
  int r = repair_amend (look->image, &a);

  if (r == 0) {
    repair_tell (look, problem, "set to unallocated");
    loss_of_entry (look, problem, result);
  }
  return r;
}

/* ---- 4. Shared clusters ---- */

int
repair_copy_cluster (struct look *look, const struct qed_problem *problem)
{
  struct qed_image *image = look->image;
  const struct format_geometry *g = &image->geometry;
  struct space_run run;
  struct amendment a;
  int r = repair_reserve_copy (look, false, &run);

  if (r == 0)
    r = repair_copy (image, problem->value, run.first << g->cluster_bits,
                     g->cluster_size);
  if (r < 0)
    return r;
  a = amend_problem (image, problem, run.first << g->cluster_bits);
  r = repair_amend (image, &a);
  if (r == 0)
    repair_tell (look, problem, "copied to a cluster of its own");
  else if (r == -ESTALE)
    space_release (&image->space, &run);
  return r;
}

static int
copy_cluster (struct look *look, const struct qed_problem *problem,
              struct qed_check_result *result)
{
  (void) result;
  return repair_copy_cluster (look, problem);
}

static bool
is_shared_cluster (const struct look *look, const struct qed_problem *problem)
{
  (void) look;
  return problem->code == QED_PROBLEM_CLUSTER_SHARED;
}

/* An entry beyond the end, of a table that waits to be copied; but what may be
 * data is left out of the copy only.
 */
static bool
is_past_end (const struct look *look, const struct qed_problem *suspect)
{
  (void) look;
  return suspect->code == QED_PROBLEM_L2_PAST_END &&
    suspect->other != UINT64_MAX;
}

/* It would name something as soon as the file grows. */
static int
drop_suspect (struct look *look, const struct qed_problem *suspect,
              struct qed_check_result *result)
{
  struct amendment a = amend_problem (look->image, suspect, 0);
  int r = repair_amend (look->image, &a);

  if (r == 0)
    loss_tell (look, suspect->guest, suspect->guest_bytes, result);
  return r;
}

/* ---- Rounds ---- */

/* In the order of what depends on what.  What makes the file grow comes when
 * no entry beyond its end is left: an interrupted repair would have made it
 * valid.
 */
static const struct mending {
  bool (*concerns) (const struct look *look,
                    const struct qed_problem *problem);
  int (*mend) (struct look *look, const struct qed_problem *problem,
               struct qed_check_result *result);
  const char *would;            /* of a dry run */
  bool of_suspects;             /* they are not told of */
} mendings[] = {
  { repair_is_noise,    unlink_table,   "the table would be unlinked", false },
  { repair_is_no_table, unlink_table,   "the table would be unlinked", false },
  { repair_is_no_table, unlink_table,   NULL,                          true },
  { repair_is_wrong_entry, repair_drop_entry, "would be set to unallocated",
                                                                       false },
  { repair_is_bare_table, repair_drop_table, "would be unlinked",      false },
  { is_past_end,        drop_suspect,   NULL,                          true },
  { repair_is_of_table, repair_table,   "what is valid would be copied to a "
                                        "table of its own",            false },
  { is_shared_cluster,  copy_cluster,   "would be copied to a cluster of its "
                                        "own",                         false },
};
#define MENDINGS (sizeof mendings / sizeof mendings[0])

/* What it goes through. */
static const struct qed_problem *
list_of (const struct look *look, const struct mending *mending, size_t *n)
{
  *n = mending->of_suspects ? look->suspect_count : look->count;
  return mending->of_suspects ? look->suspects : look->problems;
}

static const struct mending *
choose_mending (const struct look *look)
{
  const struct qed_problem *list;
  size_t m, i, n;

  for (m = 0; m < MENDINGS; m++) {
    list = list_of (look, &mendings[m], &n);
    for (i = 0; i < n; i++)
      if (mendings[m].concerns (look, &list[i]))
        return &mendings[m];
  }
  return NULL;
}

/* A file on a server, as nothing else, has an end that can't be moved. */
static bool
has_fixed_length (const struct look *look)
{
  const struct storage *s = look->image->storage;

  return !s->can_grow && !s->fixed;
}

/* There the gaps are the only room, besides what lies behind the end of use;
 * they are free if all that names clusters was seen.
 */
static void
open_gaps (struct look *look)
{
  if (has_fixed_length (look) && look->leaks_known && look->floor == 0)
    space_complete (&look->image->space);
}

/* Clients read meanwhile.  While tables are copied, wrong entries of those that
 * were not copied yet are still there: the file's growth must not make them
 * valid.
 */
static void
freeze (struct look *look, const struct mending *mending)
{
  _Atomic uint64_t *frozen = &look->image->space.frozen_bytes;

  if (look->online && mending->mend == repair_table)
    atomic_store (frozen, look->length);
  else if (mending->mend == copy_cluster)
    atomic_store (frozen, UINT64_MAX);
}

/* Mend all of one kind, then look again. */
static int
mend_all (struct look *look, const struct mending *mending,
          struct qed_check_result *result)
{
  const struct qed_problem *list;
  size_t i, n;
  int r = 0;

  open_gaps (look);
  freeze (look, mending);
  list = list_of (look, mending, &n);
  for (i = 0; i < n && r == 0; i++) {
    if (!mending->concerns (look, &list[i]))
      continue;
    r = mending->mend (look, &list[i], result);
    if (r == -ESTALE)           /* mended along with another */
      r = 0;
    if (r == 0)
      r = qed_progress_tell (&look->options->progress, i, n);
  }
  return r == 0 ? repair_settle (look) : r;
}

/* What isn't known can't be minded. */
static int
all_known (const struct look *look, int r)
{
  if (r < 0)
    return r;
  if (look->starved) {
    log_error (&look->image->options.log, "%s: there is too little memory to "
               "list what is wrong, so nothing more is repaired: run it again "
               "where there is more", look->image->path);
    return -ENOMEM;
  }
  if (look->counts[QED_PROBLEM_TABLE_UNREADABLE] == 0)
    return 0;
  log_error (&look->image->options.log, "%s: some tables can't be read, so "
             "nothing is repaired: copy the file to sound storage first",
             look->image->path);
  return -EIO;
}

int
repair_mend (struct look *look, struct qed_check_result *result)
{
  const struct mending *mending;
  unsigned round = 0;
  int r = 0;

  while ((r = all_known (look, r)) == 0 &&
         (mending = choose_mending (look)) != NULL) {
    if (round++ == ROUNDS_MAX) {
      log_error (&look->image->options.log, "%s: after %u rounds of repair "
                 "there still are problems: run it again", look->image->path,
                 ROUNDS_MAX);
      return -EIO;
    }
    r = mend_all (look, mending, result);
  }
  return r;
}

static void
tell_what_would_be (const struct look *look)
{
  size_t i, m;

  for (i = 0; i < look->count; i++)
    for (m = 0; m < MENDINGS; m++)
      if (!mendings[m].of_suspects &&
          mendings[m].concerns (look, &look->problems[i])) {
        repair_tell (look, &look->problems[i], mendings[m].would);
        break;
      }
}

/* ---- 5. Leaks ---- */

/* Where damage stays, clusters can't be moved: what leaks becomes holes, and
 * so does a gap that no move closes, as before L1.  An export can't be cut:
 * holes are as good there as a move, and no data crosses the wire for them.
 */
static void
punch_leak (struct look *look, const struct qed_problem *problem)
{
  struct storage *s = look->image->storage;

  if (s->ops->punch (s, problem->where, problem->bytes) == 0)
    repair_tell (look, problem, "given back to the file system");
}

static int
mend_leaks (struct look *look)
{
  int r = 0;

  if (look->sound && !look->image->storage->holes_known)
    r = compact_run (look);
  if (r == -ENOSPC && has_fixed_length (look))  /* some gaps stay */
    r = repair_settle (look);
  return r == 0 ? look_leaks (look, punch_leak) : r;
}

/* ---- The whole ---- */

/* A last cluster that the file cuts short is made whole: QEMU takes it for one
 * beyond the end.
 */
static int
complete_last_cluster (struct qed_image *image)
{
  struct storage *s = image->storage;
  uint64_t end = image->space.end << image->geometry.cluster_bits;

  if (atomic_load (&image->space.length_bytes) >= end)
    return 0;
  return s->ops->resize (s, end);
}

/* The file grows in large steps: cut what of them nothing is in. */
static int
cut_growth (struct look *look)
{
  struct space *space = &look->image->space;
  struct storage *s = look->image->storage;
  uint64_t end = space->end;

  if (end > look->floor)
    end = bitmap_end (&space->used, look->floor, end);
  return s->ops->resize (s, end << look->image->geometry.cluster_bits);
}

/* Write everything back, cut the file, and clear NEED_CHECK if nothing is
 * wrong any more.
 */
static int
finish (struct look *look)
{
  struct qed_image *image = look->image;
  int r = 0;

  if (look->sound && image->storage->can_grow)
    r = look->floor > 0 ? cut_growth (look) : complete_last_cluster (image);
  if (r < 0)
    return r;
  atomic_store (&image->damaged, !look->sound);
  if (look->sound && look->floor == 0)
    space_complete (&image->space);
  return qed_request_sync (image, QED_OP_CLEAN, NULL, 0, 0, 0);
}

/* Where L1 or a table was wrong, the clusters that nothing refers to may be
 * what it should have named: they stay until another repair, when someone has
 * seen what this one did.
 */
static int
repair (struct look *look, struct qed_check_result *result)
{
  int r = 0;

  if (!look->leaks_known)
    look_keep_tail (look);
  if (look->options->repair == QED_REPAIR_ALL)
    r = repair_mend (look, result);
  if (r == 0 && !look->orphans)
    r = mend_leaks (look);
  if (r == 0)
    r = finish (look);
  look->floor = 0;
  return r;
}

int
repair_run (struct look *look, struct qed_check_result *result)
{
  int r;

  if (look->options->dry_run) {
    if (look->options->repair == QED_REPAIR_ALL)
      tell_what_would_be (look);
    return 0;
  }
  if (look->image->read_only) {
    log_error (&look->image->options.log, "%s: cannot be written to: nothing "
               "is repaired", look->image->path);
    return -EROFS;
  }
  r = repair (look, result);
  if (r == -ECANCELED)
    log_warning (&look->image->options.log, "%s: the repair was stopped: run "
                 "it again to finish it", look->image->path);
  else if (r == -ENOSPC && has_fixed_length (look))
    log_error (&look->image->options.log, "%s: no room is left for copies: "
               "make the file longer where it lies (truncate --size=+1G "
               "FILE), start its server again, then run this again",
               look->image->path);
  return r;
}
