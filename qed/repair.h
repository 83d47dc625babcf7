/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The repair of an image.  In rounds, each of which looks at all tables and
 * then mends one kind of problem:
 *
 *   1. tables that lie in clusters of data, and are none, are unlinked
 *   2. entries that can't be right lose their value
 *   3. tables that overlap, are shared or cut get a copy of what is valid
 *   4. each reference but one to a shared cluster gets a copy
 *   5. leaks: the last clusters move into the gaps, the file is cut
 *
 * All of it under NEED_CHECK and in the order of the write-back, so that a
 * crash leaves an image that another repair finishes.  Not on the loop.
 *
 * Either no one else uses the image; or it is being served, and clients read
 * while damage is known and their changes are refused (online.c).
 */

#ifndef QED_REPAIR_H
#define QED_REPAIR_H

#include "check.h"
#include "look.h"

/* Open the image for a check; for a repair with an undo file, what is changed
 * from here on is saved there.
 */
int repair_open (const struct qed_options *options,
                 const struct qed_check_options *check,
                 struct qed_image **image);

/* Mend what the look found, or tell what would be done.  Afterwards the look
 * is that of the last round.
 */
int repair_run (struct look *look, struct qed_check_result *result);

/* The first four kinds.  Where the image is served, after repair_settle. */
int repair_mend (struct look *look, struct qed_check_result *result);

/* Tell of an action. */
void repair_tell (const struct look *look, const struct qed_problem *problem,
                  const char *action);

/* Change an entry in the order of the write-back. */
int repair_amend (struct qed_image *image, const struct amendment *amendment);

/* Make all that was changed durable, forget what is cached, look again; of an
 * image that is served also what its space knows is brought up to date.
 */
int repair_settle (struct look *look);

/* Copy bytes of the file, not overlapping. */
int repair_copy (struct qed_image *image, uint64_t from, uint64_t to,
                 uint64_t count);

/* Mend one problem; -ESTALE if it is none any more. */
int repair_drop_entry (struct look *look, const struct qed_problem *problem,
                       struct qed_check_result *result);
int repair_copy_cluster (struct look *look,
                         const struct qed_problem *problem);

/* The table that is none, if a problem is that of two things in one place one
 * is a table, and it is clear that it is not; else NULL.
 */
const struct walk_table *repair_wrong_table (const struct look *look,
                                             const struct qed_problem *problem);

/* Reserve a cluster, or a table's clusters, which read as zeros; for a copy
 * also between what is in use, where the storage is full and it is known what
 * that is.
 */
int repair_reserve (struct qed_image *image, bool table,
                    struct space_run *run);
int repair_reserve_copy (const struct look *look, bool table,
                         struct space_run *run);

/* ---- check.c ---- */

/* The counts of the last look; and what is fewer now than at the first. */
void check_fill_result (const struct look *look,
                        struct qed_check_result *result);
void check_count_fixed (const struct qed_check_result *first,
                        struct qed_check_result *result);

/* ---- loss.c ---- */

/* An entry that can't be right, whatever the others say. */
bool repair_is_wrong_entry (const struct look *look,
                            const struct qed_problem *problem);

/* A cluster of data that is a table too, of which the table is wrong. */
bool repair_is_noise (const struct look *look,
                      const struct qed_problem *problem);
bool repair_is_no_table (const struct look *look,
                         const struct qed_problem *problem);

/* A table that overlaps another, is shared or cut. */
bool repair_is_of_table (const struct look *look,
                         const struct qed_problem *problem);

/* The table of such a problem, if it was set apart; or NULL. */
const struct walk_table *repair_set_apart (const struct look *look,
                                           const struct qed_problem *problem);

/* The other L1 entries that name the table there: n of them, side by side; NULL
 * if there is none.
 */
const struct look_twin *repair_twins (const struct look *look, uint64_t offset,
                                      size_t *n);

/* One that was not read, as so many L1 entries name its place: a copy for each
 * could be without end, whatever is in it.
 */
bool repair_is_crowded (const struct look *look,
                        const struct qed_problem *problem);

/* Tell of a range that is lost; of what a table without a valid entry
 * describes, which is nothing if it is empty; of what a crowded one does; of
 * what the missing part of a table describes; of an entry's cluster, in each
 * place where its table is linked.
 */
void loss_tell (const struct look *look, uint64_t guest, uint64_t bytes,
                struct qed_check_result *result);
void loss_of_table (const struct look *look, const struct walk_table *table,
                    struct qed_check_result *result);
void loss_of_crowded (const struct look *look,
                      const struct qed_problem *problem,
                      struct qed_check_result *result);
void loss_of_missing (const struct look *look, const struct walk_table *table,
                      struct qed_check_result *result);
void loss_of_entry (struct look *look, const struct qed_problem *problem,
                    struct qed_check_result *result);

/* Tell what a repair of what the look found would lose. */
void repair_tell_losses (struct look *look,
                         struct qed_check_result *result);

/* ---- repair-table.c ---- */

/* Unlink a table in which nothing is valid; nothing that it names is lost if
 * it is empty.
 */
bool repair_is_bare_table (const struct look *look,
                           const struct qed_problem *problem);
int repair_drop_table (struct look *look, const struct qed_problem *problem,
                       struct qed_check_result *result);

/* Copy what is valid of a table to clusters of its own. */
int repair_table (struct look *look, const struct qed_problem *problem,
                  struct qed_check_result *result);

/* ---- compact.c ---- */

/* Close the gaps of an image in which nothing but leaks is wrong: the last
 * clusters move into them.  The look is up to date
 * afterwards.
 */
int compact_run (struct look *look);

#endif /* QED_REPAIR_H */
