/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image as a whole: create, resize, rebase, commit, look at. */

#include <config.h>

#include <errno.h>
#include <unistd.h>

#include "format.h"
#include "scene.h"

#define SMALLER (GUEST_BYTES / 2 + 512)

static const struct op some[] = {
  { QED_OP_WRITE, 0, 16 * KIB, 1, 0 },
  { QED_OP_WRITE, TABLE_SPAN + 512, 8 * KIB, 2, 0 },
  { QED_OP_TRIM, 4 * KIB, 4 * KIB, 0, 0 },
  END
};

/* ---- Create ---- */

static void
prepare_nothing (void)
{
  make_raw (BASE, GUEST_BYTES / 2, 0xba);
}

static int
create (bool force)
{
  struct qed_options options;
  struct qed_create_options create;

  scene_options (&options, IMAGE);
  qed_create_options_init (&create);
  create.path = IMAGE;
  create.size = GUEST_BYTES;
  create.cluster_size = CLUSTER;
  create.table_size = 1;
  create.backing = BASE;
  create.backing_raw = true;
  create.force = force;
  create.log = options.log;
  return qed_create (&create);
}

static void
created (int r)
{
  if (r < 0)
    note_error (NULL, "create", r);
}

static void
act_create (void)
{
  int r = create (false);

  created (r);
  if (r < 0 && access (IMAGE, F_OK) == 0)
    broken ("create: failed, and left a file");
}

/* An image that can be opened has all of its header. */
static void
finish_create (void)
{
  must (access (IMAGE, F_OK) == 0 || create (false) == 0, "create again");
  guest_wrote (0, GUEST_BYTES / 2, 0xba, 0, true);
}

static void
prepare_other (void)
{
  prepare_nothing ();
  make_image (IMAGE, GUEST_BYTES, NULL, false);
  fill (IMAGE, some);
  guest_reset ();
}

static void
act_create_over (void)
{
  created (create (true));
}

static void
finish_create_over (void)
{
  must (create (true) == 0, "create again");
  guest_wrote (0, GUEST_BYTES / 2, 0xba, 0, true);
}

/* ---- Resize ---- */

/* The backing file is longer than the image: zeros have to be written. */
static void
prepare_small (void)
{
  make_raw (BASE, GUEST_BYTES * 3 / 4, 0xba);
  guest_wrote (0, SMALLER, 0xba, 0, true);
  make_image (IMAGE, SMALLER, BASE, true);
  fill (IMAGE, some);
}

static void
prepare_large (void)
{
  make_image (IMAGE, GUEST_BYTES, NULL, false);
  fill (IMAGE, some);
  fill (IMAGE, (struct op[]) {
      { QED_OP_WRITE, SMALLER - 512, 8 * KIB, 3, 0 },
      { QED_OP_WRITE, 3 * TABLE_SPAN, 8 * KIB, 4, 0 },
      END });
}

static int
resize_to (uint64_t size)
{
  struct qed_resize resize = {
    .how = QED_RESIZE_TO, .size = size, .shrink = true, .force = true,
  };
  struct qed_options options;

  scene_options (&options, IMAGE);
  return qed_resize (&options, &resize, NULL);
}

static void
act_grow (void)
{
  int r = resize_to (GUEST_BYTES);

  if (r < 0)
    note_error (NULL, "resize", r);
}

static void
act_shrink (void)
{
  int r = resize_to (SMALLER);

  if (r < 0)
    note_error (NULL, "resize", r);
}

/* The data behind the new end: in the cluster that is cut in two, there are
 * zeros only; behind it there is something, or not.
 */
static void
prepare_rest (void)
{
  make_image (IMAGE, GUEST_BYTES, NULL, false);
  fill (IMAGE, (struct op[]) {
      { QED_OP_WRITE, SMALLER / CLUSTER * CLUSTER, 512, 9, 0 },
      { QED_OP_WRITE, 0, 16 * CLUSTER, 1, 0 },
      END });
}

static void
prepare_in_the_way (void)
{
  prepare_rest ();
  fill (IMAGE, (struct op[]) {
      { QED_OP_WRITE, GUEST_BYTES - CLUSTER, CLUSTER, 2, 0 },
      END });
}

static int
shrink_if_empty (void)
{
  struct qed_resize resize = {
    .how = QED_RESIZE_TO, .size = SMALLER, .shrink = true,
  };
  struct qed_options options;

  scene_options (&options, IMAGE);
  return qed_resize (&options, &resize, NULL);
}

static void
act_shrink_empty (void)
{
  int r = shrink_if_empty ();

  if (r < 0)
    note_error (NULL, "resize", r);
}

static void
act_shrink_refused (void)
{
  int r = shrink_if_empty ();

  if (r == 0)
    broken ("an image is cut, and with it data");
  if (r != -ENOTEMPTY)
    note_error (NULL, "resize", r);
}

/* If it is smaller, what was cut off is gone for good. */
static void
finish_resize (void)
{
  struct qed_image *image = start (IMAGE);
  bool small;

  must (image != NULL, "open");
  small = qed_size (image) == SMALLER;
  must (small || qed_size (image) == GUEST_BYTES, "the size");
  read_all (image);
  must (qed_close (image) == 0, "close");
  if (small)
    guest_wrote (SMALLER, GUEST_BYTES - SMALLER, 0, 0, true);
  must (resize_to (GUEST_BYTES) == 0, "resize");
}

/* ---- Rebase ---- */

static void
prepare_overlay (void)
{
  make_raw (BASE, GUEST_BYTES / 4, 0xba);
  guest_wrote (0, GUEST_BYTES / 4, 0xba, 0, true);
  make_image (IMAGE, GUEST_BYTES / 2, BASE, true);
  fill (IMAGE, some);
  make_raw ("base-with-a-name-of-another-length", GUEST_BYTES / 8, 0xbb);
}

static int
rebase (const char *backing)
{
  struct qed_rebase rebase = { .backing = backing, .format = QED_REBASE_RAW };
  struct qed_options options;

  scene_options (&options, IMAGE);
  return qed_rebase (&options, &rebase, NULL);
}

static void
act_rebase (void)
{
  int r = rebase ("base-with-a-name-of-another-length");

  if (r < 0)
    note_error (NULL, "rebase", r);
}

static void
act_flatten (void)
{
  int r = rebase (NULL);

  if (r < 0)
    note_error (NULL, "rebase", r);
}

static void
finish_rebase (void)
{
  struct qed_check_result result;

  if (need_check (IMAGE))
    must (check_closed (IMAGE, QED_REPAIR_ALL, NULL, &result) == 0, "repair");
  must (rebase (NULL) == 0, "rebase again");
}

/* ---- Commit ---- */

static void
prepare_over_qed (void)
{
  make_image (BASE_QED, GUEST_BYTES / 4, NULL, false);
  fill (BASE_QED, (struct op[]) {
      { QED_OP_WRITE, 0, 8 * KIB, 0xbb, 0 },
      END });
  make_image (IMAGE, GUEST_BYTES / 2, BASE_QED, false);
  fill (IMAGE, some);
}

static int
commit (unsigned flags)
{
  struct qed_options options;

  scene_options (&options, IMAGE);
  return qed_commit (&options, flags, NULL);
}

static void
act_commit (void)
{
  int r = commit (0);

  if (r < 0)
    note_error (NULL, "commit", r);
}

/* What is read through the overlay never changes. */
static void
repair_and_read (void)
{
  struct qed_check_result result;
  struct qed_image *image;

  if (need_check (IMAGE))
    must (check_closed (IMAGE, QED_REPAIR_ALL, NULL, &result) == 0, "repair");
  image = start (IMAGE);
  must (image != NULL, "open");
  read_all (image);
  must (qed_close (image) == 0, "close");
}

static void
finish_commit (void)
{
  repair_and_read ();
  must (commit (0) == 0, "commit again");
}

static void
finish_commit_qed (void)
{
  struct qed_check_result result;

  if (need_check (BASE_QED))
    must (check_closed (BASE_QED, QED_REPAIR_ALL, NULL, &result) == 0,
          "repair of the backing file");
  finish_commit ();
  must (check_closed (BASE_QED, QED_REPAIR_NONE, NULL, &result) == 0 &&
        qed_check_exit_code (0, &result) == 0, "check of the backing file");
}

/* ---- Looking ---- */

static int
ignore_extent (void *opaque, const struct qed_map_extent *extent)
{
  (void) opaque;
  (void) extent;
  return 0;
}

static void
act_look (void)
{
  struct qed_map_request map = {
    .length = GUEST_BYTES / 2, .extent = ignore_extent,
  };
  struct qed_options options;
  struct qed_image *image;
  struct qed_info info;
  int r;

  scene_options (&options, IMAGE);
  options.read_only = true;
  r = qed_info_read (IMAGE, &options.log, &info);
  if (r < 0)
    note_error (NULL, "info", r);
  else
    qed_info_free (&info);
  r = qed_open (&options, &image);
  if (r < 0) {
    note_error (NULL, "open", r);
    return;
  }
  r = qed_map (image, &map);
  if (r < 0 && r != -EIO)       /* which stands for the reason that was told */
    note_error (NULL, "map", r);
  (void) qed_close (image);
}

const struct scene shape_scenes[] = {
  { "create", prepare_nothing, act_create, finish_create, false },
  { "create-over", prepare_other, act_create_over, finish_create_over,
    false },
  { "grow", prepare_small, act_grow, finish_resize, false },
  { "shrink", prepare_large, act_shrink, finish_resize, false },
  { "shrink-empty", prepare_rest, act_shrink_empty, finish_resize, false },
  { "shrink-refused", prepare_in_the_way, act_shrink_refused, finish_resize,
    false },
  { "rebase", prepare_overlay, act_rebase, finish_rebase, false },
  { "flatten", prepare_overlay, act_flatten, finish_rebase, false },
  { "commit-raw", prepare_overlay, act_commit, finish_commit, false },
  { "commit-qed", prepare_over_qed, act_commit, finish_commit_qed, false },
  { "look", prepare_over_qed, act_look, NULL, false },
  { NULL, NULL, NULL, NULL, false }
};
