/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image that is served. */

#include <config.h>

#include <unistd.h>

#include "format.h"
#include "scene.h"

static void
play (const struct op *ops)
{
  struct qed_image *image = start (IMAGE);

  if (image == NULL)
    return;
  do_ops (image, ops);
  finish_image (image, IMAGE);
}

/* ---- Allocation ---- */

static void
act_allocate (void)
{
  static const struct op ops[] = {
    { QED_OP_WRITE, 4 * KIB, 512, 3, 0 },               /* in place */
    { QED_OP_WRITE, 32 * KIB, 8 * KIB, 4, 0 },
    { QED_OP_WRITE, 2 * TABLE_SPAN - 512, KIB, 5, 0 },  /* and a new table */
    FLUSH,
    { QED_OP_WRITE, 3 * TABLE_SPAN, 512, 6, QED_FUA },  /* another */
    { QED_OP_WRITE, 512, 512, 7, QED_FUA },
    CLEAN,
    { QED_OP_WRITE, 64 * KIB, 512, 8, 0 },
    END
  };

  play (ops);
}

/* ---- Trim, zero, reuse ---- */

static void
act_trim (void)
{
  static const struct op ops[] = {
    { QED_OP_TRIM, 4 * KIB, 8 * KIB, 0, 0 },
    { QED_OP_ZERO, TABLE_SPAN, 4 * KIB, 0, QED_FUA },
    FLUSH,
    { QED_OP_WRITE, 256 * KIB, 12 * KIB, 9, 0 },        /* into freed ones */
    { QED_OP_ZERO, TABLE_SPAN + 6 * KIB, 4 * KIB, 0, 0 },
    { QED_OP_WRITE, TABLE_SPAN, 512, 10, 0 },           /* a zero cluster */
    FLUSH,
    { QED_OP_TRIM, 0, 16 * KIB, 0, QED_FUA },
    CLEAN,
    { QED_OP_WRITE, 0, 512, 11, QED_FUA },
    END
  };

  play (ops);
}

/* ---- Copy on write ---- */

static const struct op overlay[] = {
  { QED_OP_WRITE, 0, 8 * KIB, 1, 0 },
  { QED_OP_ZERO, 16 * KIB, 8 * KIB, 0, 0 },
  END
};

static void
prepare_over_raw (void)
{
  make_raw (BASE, GUEST_BYTES / 2, 0xba);
  guest_wrote (0, GUEST_BYTES / 2, 0xba, 0, true);
  make_image (IMAGE, GUEST_BYTES, BASE, true);
  fill (IMAGE, overlay);
}

/* Beneath it a raw file. */
static void
prepare_over_qed (void)
{
  make_raw (BASE, GUEST_BYTES / 4, 0xba);
  guest_wrote (0, GUEST_BYTES / 4, 0xba, 0, true);
  make_image (BASE_QED, GUEST_BYTES / 2, BASE, true);
  fill (BASE_QED, (struct op[]) {
      { QED_OP_WRITE, 24 * KIB, 512, 0xbb, 0 },
      { QED_OP_WRITE, GUEST_BYTES / 2 - KIB, KIB, 0xbc, 0 },
      END });
  make_image (IMAGE, GUEST_BYTES, BASE_QED, false);
  fill (IMAGE, overlay);
}

static void
act_cow (void)
{
  static const struct op ops[] = {
    { QED_OP_WRITE, 512, 512, 3, 0 },
    { QED_OP_WRITE, 24 * KIB, 512, 4, 0 },
    { QED_OP_WRITE, TABLE_SPAN + KIB, 8 * KIB, 5, 0 },
    { QED_OP_WRITE, GUEST_BYTES / 2 - 512, KIB, 6, QED_FUA },
    { QED_OP_ZERO, 32 * KIB, 6 * KIB, 0, 0 },
    { QED_OP_WRITE, 16 * KIB + 512, 512, 7, 0 },        /* a zero cluster */
    FLUSH,
    { QED_OP_TRIM, 0, 4 * KIB, 0, 0 },
    FLUSH,
    { QED_OP_WRITE, 48 * KIB, KIB, 8, QED_FUA },        /* used before */
    END
  };

  play (ops);
}

/* ---- Repair at open ---- */

static void
prepare_dirty (void)
{
  uint64_t l2;

  scene_prepare_plain ();
  l2 = peek64 (IMAGE, AT_L1);
  poke64 (IMAGE, l2 + 8 * 20, length_of (IMAGE) + 16 * CLUSTER);
  poke64 (IMAGE, l2 + 8 * 21, length_of (IMAGE) + 17 * CLUSTER);
  poke64 (IMAGE, l2 + 8 * 2, 0);        /* a leak */
  guest_wrote (8 * KIB, 4 * KIB, 0, 0, true);
  poke64 (IMAGE, AT_L1 + 8 * 3, length_of (IMAGE) + 64 * CLUSTER);
  poke64 (IMAGE, FORMAT_AT_FEATURES, QED_F_NEED_CHECK);
}

/* Where a table was dropped, what leaks stays. */
static void
finish_leaks (void)
{
  struct qed_check_result result;

  fill (IMAGE, (struct op[]) { END });
  must (check_closed (IMAGE, QED_REPAIR_LEAKS, NULL, &result) == 0, "repair");
}

/* No table is dropped, so that leaks are punched. */
static void
prepare_dirty_leaks (void)
{
  prepare_dirty ();
  poke64 (IMAGE, AT_L1 + 8 * 3, 0);
}

static void
act_recover (void)
{
  static const struct op ops[] = {
    { QED_OP_WRITE, 8 * KIB, 512, 3, 0 },
    { QED_OP_WRITE, 80 * KIB, 512, 4, QED_FUA },
    END
  };

  play (ops);
}

/* ---- The clean timer ---- */

static void
act_clean_timer (void)
{
  struct qed_image *image = start (IMAGE);
  unsigned i;

  if (image == NULL)
    return;
  do_ops (image, (struct op[]) {
      { QED_OP_WRITE, 32 * KIB, 8 * KIB, 3, 0 },
      { QED_OP_TRIM, 0, 4 * KIB, 0, 0 },
      END });
  for (i = 0; i < 20 && need_check (IMAGE); i++)
    usleep (100000);
  do_ops (image, (struct op[]) {
      { QED_OP_WRITE, 0, 512, 4, 0 },
      END });
  finish_image (image, IMAGE);
}

const struct scene live_scenes[] = {
  { "allocate", scene_prepare_plain, act_allocate, NULL, false },
  { "trim", scene_prepare_plain, act_trim, NULL, false },
  { "cow-raw", prepare_over_raw, act_cow, NULL, false },
  { "cow-qed", prepare_over_qed, act_cow, NULL, false },
  { "recover", prepare_dirty, act_recover, finish_leaks, false },
  { "recover-leaks", prepare_dirty_leaks, act_recover, NULL, false },
  { "clean-timer", scene_prepare_plain, act_clean_timer, NULL, true },
  { NULL, NULL, NULL, NULL, false }
};
