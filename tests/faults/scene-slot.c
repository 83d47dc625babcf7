/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image that goes from one server to another, and comes back. */

#include <config.h>

#include <errno.h>
#include <unistd.h>

#include "handover.h"
#include "scene.h"

static const struct op before[] = {
  { QED_OP_WRITE, 0, 16 * KIB, 1, 0 },
  END
};

static void
prepare_slot (void)
{
  make_image (IMAGE, GUEST_BYTES, NULL, false);
  fill (IMAGE, before);
}

/* 0, or -ENOENT if it has no image. */
static int
use_slot (struct qed_slot *slot, const struct op *ops)
{
  struct qed_image *image = qed_slot_enter (slot);

  if (image == NULL)
    return -ENOENT;
  do_ops (image, ops);
  qed_slot_leave (slot);
  return 0;
}

/* A release leaves nothing behind that was acknowledged. */
static void
release (struct qed_slot *slot)
{
  int r = qed_slot_release (slot);

  if (r == -EALREADY)
    return;
  if (r == 0)
    guest_flushed ();
  else if (fault_hits () == 0)
    broken ("release: an error, though nothing has failed");
  else
    guest_reopened ();
  if (qed_slot_state (slot) != QED_SLOT_RELEASED)
    broken ("release: it is not released");
}

static void
close_slot (struct qed_slot *slot)
{
  bool active = qed_slot_is_active (slot);

  if (qed_slot_close (slot) == 0 && active)
    guest_flushed ();
}

static void
act_slot (void)
{
  static const struct op first[] = {
    { QED_OP_WRITE, 32 * KIB, 8 * KIB, 2, 0 },
    END
  };
  static const struct op second[] = {
    { QED_OP_WRITE, TABLE_SPAN, 8 * KIB, 3, QED_FUA },
    { QED_OP_WRITE, 0, KIB, 4, 0 },
    END
  };
  struct qed_slot_options options;
  struct qed_slot *slot;
  int r;

  qed_slot_options_init (&options);
  scene_options (&options.image, IMAGE);
  r = qed_slot_new (&options, &slot);
  if (r < 0) {
    note_error (NULL, "a slot", r);
    return;
  }
  r = qed_slot_start (slot);
  if (r < 0)
    note_error (NULL, "start of a slot", r);
  else {
    use_slot (slot, first);
    release (slot);
    r = qed_slot_activate (slot);
    if (r < 0)
      note_error (NULL, "activate", r);
    else if (use_slot (slot, second) < 0)
      broken ("activate: it is not active");
  }
  close_slot (slot);
}

/* It may be awake before it is active. */
static bool
becomes_active (struct qed_slot *slot)
{
  unsigned i;

  for (i = 0; i < 40 && qed_slot_state (slot) != QED_SLOT_FAILED; i++)
    if (qed_slot_wait (slot, 50))
      return true;
  return false;
}

/* It looks for the lock, and nobody has it. */
static void
act_standby (void)
{
  struct qed_slot_options options;
  struct qed_slot *slot;
  int r;

  qed_slot_options_init (&options);
  scene_options (&options.image, IMAGE);
  options.standby = true;
  r = qed_slot_new (&options, &slot);
  if (r < 0) {
    note_error (NULL, "a standby", r);
    return;
  }
  r = qed_slot_start (slot);
  if (r < 0)
    note_error (NULL, "start of a standby", r);
  else if (becomes_active (slot)) {
    use_slot (slot, before);
    release (slot);
  }
  else if (fault_hits () == 0)
    broken ("a standby does not take an image that is free");
  close_slot (slot);
}

const struct scene slot_scenes[] = {
  { "slot", prepare_slot, act_slot, NULL, false },
  { "standby", prepare_slot, act_standby, NULL, false },
  { NULL, NULL, NULL, NULL, false }
};
