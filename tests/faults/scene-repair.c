/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Check and repair, closed and while the image is served, and undo. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format.h"
#include "scene.h"

static unsigned char *original;         /* the image before the repair */
static size_t original_bytes;

static void
prepare_sound (void)
{
  make_image (IMAGE, GUEST_BYTES, NULL, false);
  fill (IMAGE, (struct op[]) {
      { QED_OP_WRITE, 0, 64 * KIB, 1, 0 },
      { QED_OP_WRITE, TABLE_SPAN, 8 * KIB, 2, 0 },
      { QED_OP_WRITE, 128 * KIB, 16 * KIB, 3, 0 },
      END });
}

static void
keep_original (void)
{
  free (original);
  original = load (IMAGE, &original_bytes);
}

/* Clusters that nothing refers to any more, before others. */
static void
plant_leaks (void)
{
  uint64_t l2 = peek64 (IMAGE, AT_L1);
  unsigned i;

  for (i = 2; i < 6; i++)
    poke64 (IMAGE, l2 + 8 * i, 0);
  guest_wrote (2 * CLUSTER, 4 * CLUSTER, 0, 0, true);
}

static void
prepare_leaks (void)
{
  prepare_sound ();
  plant_leaks ();
  keep_original ();
}

static void
make_image_with_tables (uint32_t clusters)
{
  struct qed_create_options options;

  qed_create_options_init (&options);
  options.path = IMAGE;
  options.size = GUEST_BYTES;
  options.cluster_size = CLUSTER;
  options.table_size = clusters;
  must (qed_create (&options) == 0, "create");
}

/* Tables of two clusters behind gaps of one, so that what fills the gaps has to
 * make room for tables.
 */
static void
prepare_tables (void)
{
  uint64_t l2, i;

  make_image_with_tables (2);
  fill (IMAGE, (struct op[]) {
      { QED_OP_WRITE, 0, 96 * KIB, 1, 0 },
      { QED_OP_WRITE, 2 * TABLE_SPAN, 8 * KIB, 2, 0 },
      { QED_OP_WRITE, 128 * KIB, 16 * KIB, 3, 0 },
      END });
  l2 = peek64 (IMAGE, AT_L1);
  for (i = 1; i < 24; i += 2) {
    poke64 (IMAGE, l2 + 8 * i, 0);
    guest_wrote (i * CLUSTER, CLUSTER, 0, 0, true);
  }
  keep_original ();
}

/* Past the end, misaligned, shared: entries of both kinds of tables. */
static void
prepare_damaged (void)
{
  uint64_t l2;

  prepare_sound ();
  plant_leaks ();
  l2 = peek64 (IMAGE, AT_L1);
  poke64 (IMAGE, l2 + 8 * 20, length_of (IMAGE) + 16 * CLUSTER);
  poke64 (IMAGE, l2 + 8 * 21, peek64 (IMAGE, l2) + 513);
  poke64 (IMAGE, l2 + 8 * 22, peek64 (IMAGE, l2));
  guest_wrote (22 * CLUSTER, CLUSTER, 1, 0, true);
  poke64 (IMAGE, AT_L1 + 8 * 2, peek64 (IMAGE, AT_L1 + 8));
  guest_wrote (2 * TABLE_SPAN, 8 * KIB, 2, 0, true);
  poke64 (IMAGE, AT_L1 + 8 * 3, length_of (IMAGE) + 64 * CLUSTER);
  keep_original ();
}

/* A table that is cut off names clusters so far from each other that the look
 * needs memory for each of them.
 */
static void
prepare_far (void)
{
  const uint64_t apart = 2048 * KIB, count = 120, end = (count + 8) * apart;
  uint64_t i;

  prepare_sound ();
  must (truncate (IMAGE, (off_t) (end + CLUSTER / 2)) == 0, IMAGE);
  for (i = 0; i < count; i++)
    poke64 (IMAGE, end + 8 * i, (i + 8) * apart);
  poke64 (IMAGE, AT_L1 + 8 * 3, end);
}

/* Nothing but a table that is cut off: it is the first thing that the repair
 * changes.  So with the others below.
 */
static void
prepare_cut (void)
{
  uint64_t l2, end;

  prepare_sound ();
  l2 = peek64 (IMAGE, AT_L1);
  end = length_of (IMAGE);
  must (truncate (IMAGE, (off_t) (end + CLUSTER / 2)) == 0, IMAGE);
  poke64 (IMAGE, end, peek64 (IMAGE, l2));
  poke64 (IMAGE, l2, 0);
  poke64 (IMAGE, AT_L1 + 8 * 3, end);
  guest_wrote (0, CLUSTER, 0, 0, true);
  guest_wrote (3 * TABLE_SPAN, CLUSTER, 1, 0, true);
  keep_original ();
}

/* An entry of it names what is beyond the end. */
static void
prepare_cut_past_end (void)
{
  prepare_cut ();
  poke64 (IMAGE, peek64 (IMAGE, AT_L1 + 8 * 3) + 8,
          length_of (IMAGE) + 16 * CLUSTER - CLUSTER / 2);
  keep_original ();
}

/* A table of two clusters, whose second is the first of another. */
static void
prepare_overlap (void)
{
  uint64_t l2, end, data;

  make_image_with_tables (2);
  fill (IMAGE, (struct op[]) { { QED_OP_WRITE, 0, 64 * KIB, 1, 0 }, END });
  l2 = peek64 (IMAGE, AT_L1);
  end = length_of (IMAGE);
  data = peek64 (IMAGE, l2);
  must (truncate (IMAGE, (off_t) (end + 3 * CLUSTER)) == 0, IMAGE);
  poke64 (IMAGE, end + CLUSTER, data);
  poke64 (IMAGE, end + 8 * 3, peek64 (IMAGE, l2 + 8 * 3));
  poke64 (IMAGE, AT_L1, end);
  poke64 (IMAGE, AT_L1 + 8, end + CLUSTER);
  guest_wrote (0, 64 * KIB, 0, 0, true);
  guest_wrote (3 * CLUSTER, CLUSTER, 1, 0, true);
  guest_wrote (TABLE_SPAN, CLUSTER, 1, 0, true);
  guest_wrote (2 * TABLE_SPAN, CLUSTER, 1, 0, true);
  keep_original ();
}

/* Two L1 entries name a table. */
static void
prepare_twins (void)
{
  prepare_sound ();
  poke64 (IMAGE, AT_L1 + 8 * 2, peek64 (IMAGE, AT_L1 + 8));
  guest_wrote (2 * TABLE_SPAN, 8 * KIB, 2, 0, true);
  keep_original ();
}

/* Two entries name a cluster. */
static void
prepare_shared (void)
{
  uint64_t l2;

  prepare_sound ();
  l2 = peek64 (IMAGE, AT_L1);
  poke64 (IMAGE, l2 + 8 * 22, peek64 (IMAGE, l2));
  guest_wrote (22 * CLUSTER, CLUSTER, 1, 0, true);
  keep_original ();
}

/* An L1 entry names a cluster of data, which can't be a table. */
static void
prepare_noise (void)
{
  prepare_sound ();
  poke64 (IMAGE, AT_L1 + 8 * 3,
          peek64 (IMAGE, peek64 (IMAGE, AT_L1) + 8 * 32));
  keep_original ();
}

/* An entry names a table. */
static void
prepare_into_table (void)
{
  prepare_sound ();
  poke64 (IMAGE, peek64 (IMAGE, AT_L1) + 8 * 22, peek64 (IMAGE, AT_L1 + 8));
  keep_original ();
}

/* ---- A closed image ---- */

static void
act_check (void)
{
  struct qed_check_options check;
  struct qed_check_result result;
  struct qed_options options;
  int r;

  scene_options (&options, IMAGE);
  qed_check_options_init (&check);
  check.data = true;
  r = qed_check (&options, &check, &result);
  if (r < 0)
    note_error (NULL, "check", r);
  else if (fault_hits () == 0 && result.errors > 0)
    broken ("the check finds what can't be read, and nothing has failed");
}

/* An error that is not returned has been counted. */
static void
act_repair (void)
{
  struct qed_check_result result;
  int r = check_closed (IMAGE, QED_REPAIR_ALL, UNDO, &result);

  if (r < 0)
    note_error (NULL, "repair", r);
}

static void
finish_repair (void)
{
  struct qed_check_result result;

  must (check_closed (IMAGE, QED_REPAIR_ALL, NULL, &result) == 0, "repair");
  if (result.errors > 0)
    broken ("a second repair finds errors");
  if (check_closed (IMAGE, QED_REPAIR_LEAKS, NULL, &result) < 0)
    broken ("leaks can't be repaired in the end");
}

/* Whatever the first repair has done is taken back. */
static void
undo_repair (void)
{
  struct qed_options options;
  unsigned char *now;
  size_t bytes;

  scene_options (&options, IMAGE);
  if (access (UNDO, F_OK) == 0 && length_of (UNDO) > 0 &&
      qed_undo (UNDO, &options, NULL) < 0)
    broken ("the undo file can't be used");
  now = load (IMAGE, &bytes);
  if (bytes != original_bytes || memcmp (now, original, bytes) != 0)
    broken ("the undo file does not bring back what there was");
  free (now);
}

static void
finish_undone (void)
{
  undo_repair ();
  finish_repair ();
}

/* ---- Undo ---- */

static void
prepare_undo (void)
{
  struct qed_check_result result;

  prepare_damaged ();
  must (check_closed (IMAGE, QED_REPAIR_ALL, UNDO, &result) == 0, "repair");
}

static void
undo_with (const char *path)
{
  struct qed_options options;
  int r;

  scene_options (&options, IMAGE);
  r = qed_undo (path, &options, NULL);
  if ((r == -EINVAL || r == -EBADMSG) && run.call == FAULT_READ)
    return;                     /* what can't be read of it is damaged */
  if (r < 0)
    note_error (NULL, "undo", r);
}

static void
act_undo (void)
{
  undo_with (UNDO);
}

/* ---- Undo of a repair at open ---- */

static uint64_t planted[3];     /* an entry of L1, two of a table */

static void
prepare_recovered (void)
{
  uint64_t l2, end;

  prepare_sound ();
  l2 = peek64 (IMAGE, AT_L1);
  end = length_of (IMAGE);
  planted[0] = end + 64 * CLUSTER;
  planted[1] = end + 16 * CLUSTER;
  planted[2] = end + 17 * CLUSTER;
  poke64 (IMAGE, AT_L1 + 8 * 3, planted[0]);
  poke64 (IMAGE, l2 + 8 * 20, planted[1]);
  poke64 (IMAGE, l2 + 8 * 21, planted[2]);
  poke64 (IMAGE, FORMAT_AT_FEATURES, QED_F_NEED_CHECK);
  fill (IMAGE, (struct op[]) { END });
  must (access (UNDO_AT_OPEN, F_OK) == 0, "the undo file");
}

static void
act_undo_recovered (void)
{
  undo_with (UNDO_AT_OPEN);
}

/* A second time, whatever became of the first. */
static void
finish_undo_recovered (void)
{
  struct qed_options options;
  uint64_t l2 = peek64 (IMAGE, AT_L1);

  scene_options (&options, IMAGE);
  if (qed_undo (UNDO_AT_OPEN, &options, NULL) < 0)
    broken ("what the repair at open dropped can't be put back");
  if (peek64 (IMAGE, AT_L1 + 8 * 3) != planted[0] ||
      peek64 (IMAGE, l2 + 8 * 20) != planted[1] ||
      peek64 (IMAGE, l2 + 8 * 21) != planted[2])
    broken ("what the repair at open dropped is not back");
  finish_repair ();
}

/* ---- While it is served ---- */

static void
act_online (void)
{
  struct qed_image *image = start (IMAGE);
  struct qed_check_options check;
  struct qed_check_result result;
  int r;

  if (image == NULL)
    return;
  qed_check_options_init (&check);
  check.repair = QED_REPAIR_ALL;
  r = qed_check_online (image, &check, &result);
  if (r < 0)
    note_error (image, "online repair", r);
  if (qed_writable (image))
    do_ops (image, (struct op[]) {
        { QED_OP_WRITE, 2 * CLUSTER, 8 * KIB, 5, 0 },
        FLUSH,
        END });
  else if (fault_hits () == 0)
    broken ("repaired, and not writable");
  finish_image (image, IMAGE);
}

static void
count_found (void *opaque, const struct qed_problem *problem)
{
  unsigned *count = opaque;

  (void) problem;
  ++*count;
}

/* Looks, and changes nothing; clients go on. */
static void
act_look_online (void)
{
  struct qed_image *image = start (IMAGE);
  struct qed_check_options check;
  struct qed_check_result result;
  unsigned found = 0;
  int r;

  if (image == NULL)
    return;
  qed_check_options_init (&check);
  check.data = true;
  check.found = count_found;
  check.opaque = &found;
  r = qed_check_online (image, &check, &result);
  if (r < 0)
    note_error (image, "online check", r);
  else if (result.corruptions > 0 && found == 0)
    broken ("what the check counts it does not tell");
  finish_image (image, IMAGE);
}

#define CLOSED_AND_SERVED(damage, prepare) \
  { "repair-" damage, prepare, act_repair, finish_repair, false }, \
  { "online-" damage, prepare, act_online, finish_repair, false }, \
  { "undone-" damage, prepare, act_repair, finish_undone, false }

const struct scene repair_scenes[] = {
  { "check", prepare_damaged, act_check, finish_repair, false },
  { "check-far", prepare_far, act_check, finish_repair, false },
  { "compact", prepare_leaks, act_repair, finish_repair, false },
  { "compact-tables", prepare_tables, act_repair, finish_repair, false },
  { "repair", prepare_damaged, act_repair, finish_repair, false },
  CLOSED_AND_SERVED ("cut", prepare_cut),
  CLOSED_AND_SERVED ("cut-past-end", prepare_cut_past_end),
  CLOSED_AND_SERVED ("overlap", prepare_overlap),
  CLOSED_AND_SERVED ("twins", prepare_twins),
  CLOSED_AND_SERVED ("shared", prepare_shared),
  CLOSED_AND_SERVED ("noise", prepare_noise),
  CLOSED_AND_SERVED ("into-table", prepare_into_table),
  { "repair-undone", prepare_damaged, act_repair, finish_undone, false },
  { "undo", prepare_undo, act_undo, finish_undone, false },
  { "undo-recovered", prepare_recovered, act_undo_recovered,
    finish_undo_recovered, false },
  { "online-leaks", prepare_leaks, act_online, finish_repair, false },
  { "online", prepare_damaged, act_online, finish_repair, false },
  { "look-online", prepare_damaged, act_look_online, finish_repair, false },
  { NULL, NULL, NULL, NULL, false }
};
