/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Hand-over between servers: the place of an image in a server, which is there
 * also while another server has the image.
 *
 *         a server starts                     one with standby=on starts
 *              |                                          |
 *              v           release                        v
 *    +----> ACTIVE -----------------> RELEASING        STANDBY <-------+
 *    |                                    |               | the lock   | the
 *    |                                    v     release   | is free;   | lock
 *    |                                 RELEASED <---------+ activate   | is
 *    |                                    | activate      |            | not
 *    |                                    v               v            | free
 *    +-------------------------------- ACTIVATING <-------+------------+
 *                                         | the same for RELEASED and FAILED
 *                                         v
 *                                      FAILED (from STANDBY; else as before)
 *
 *   ACTIVE      We hold the lock and have the image open.
 *   RELEASING   Nobody gets at the image any more; when all who use it have
 *               left, it is closed as at the end of the server: written back,
 *               NEED_CHECK cleared, synced, the lock dropped, in this order.
 *               One that has failed is closed with nothing written.
 *   RELEASED    Only an administrator makes us active again.
 *   STANDBY     A thread looks for the lock, and takes over when it is free.
 *   ACTIVATING  The image is being opened, as if for the first time: by its
 *               path, the lock first, then the header and all tables.
 *   FAILED      We got the lock and could not open the image; the lock is
 *               dropped.  An administrator may try again.
 *
 * Who moves it: RELEASING and ACTIVATING belong to the thread that brought
 * them about (a caller's, or the standby's own), which works without the lock
 * and moves on; all others wait until it has.  No state is moved by a loop: an
 * image's loop lives only as long as the image is open.
 *
 * What a request does: in ACTIVE it is carried out.  In any other state there
 * is no image to be had: it waits, or fails, as whoever brought it likes.  One
 * that is under way when RELEASING begins goes on; if it waits for something
 * else than the end of a job it should be withdrawn and start over later
 * (qed_slot_is_active).
 *
 * H1. The image is there in ACTIVE and RELEASING, and at no other time.  So
 *     nothing that was read without the lock can be used with it: there is
 *     nothing that would remember it.
 * H2. In STANDBY, RELEASED and FAILED nothing of the file is read, and no
 *     descriptor is open for longer than a test of its lock takes.
 * H3. Only STANDBY is left by itself.
 */

#ifndef QED_HANDOVER_H
#define QED_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "qed.h"

struct qed_slot;

enum qed_slot_state {
  QED_SLOT_STANDBY,
  QED_SLOT_ACTIVATING,
  QED_SLOT_ACTIVE,
  QED_SLOT_RELEASING,
  QED_SLOT_RELEASED,
  QED_SLOT_FAILED,
};

struct qed_slot_options {
  struct qed_options image;     /* what it points at outlives the slot */
  bool standby;                 /* begin as one; with image.lock only */

  /* The image was opened and started; from now on it is used.  On the thread
   * that activates.  Or NULL.
   */
  void (*taken) (void *opaque, struct qed_image *image);

  /* Those who use the image should let go of it.  Again and again while a
   * release waits for them, on its thread.  Or NULL.
   */
  void (*draining) (void *opaque, struct qed_image *image);
  void *opaque;

  /* qed_open, and storage_file_test_lock, unless a test has its own. */
  int (*open) (const struct qed_options *options, struct qed_image **image);
  int (*test_lock) (const struct qed_options *options);
};

void qed_slot_options_init (struct qed_slot_options *options);

/* Plain calls, no thread.  Opens the image; on a standby it is only seen
 * whether there is such a file, and whether its lock can be tested.  Returns 0
 * or a negative errno with the reason logged.
 */
int qed_slot_new (const struct qed_slot_options *options,
                  struct qed_slot **slot);

/* Start the image, or the standby's thread.  Once, after any fork. */
int qed_slot_start (struct qed_slot *slot);

/* Close the image, if it is there, end the thread, free the slot.  Nobody uses
 * the image or waits here.  Returns what qed_close says.
 */
int qed_slot_close (struct qed_slot *slot);

/* ---- Using the image (any thread) -------------------------------------- */

/* The image, or NULL unless the state is ACTIVE.  It stays until
 * qed_slot_leave, which may be called on another thread.
 */
struct qed_image *qed_slot_enter (struct qed_slot *slot);
void qed_slot_leave (struct qed_slot *slot);

/* For those who have entered. */
struct qed_image *qed_slot_image (const struct qed_slot *slot);

enum qed_slot_state qed_slot_state (const struct qed_slot *slot);
bool qed_slot_is_active (const struct qed_slot *slot);

/* Wait until it is active, for so long at most.  Returns whether it is. */
bool qed_slot_wait (struct qed_slot *slot, unsigned milliseconds);

/* How often the image was opened; and which of these first had the size and
 * the backing files that it has now.  For those who have entered.
 */
uint64_t qed_slot_generation (const struct qed_slot *slot);
uint64_t qed_slot_same_since (const struct qed_slot *slot);

/* ---- Handing it over (any thread but a loop) --------------------------- */

/* Let go of the image.  Takes as long as those who use it do.  A standby is
 * released as well: it takes over no more.  -EALREADY: it was released before.
 * Another negative errno: not everything could be written, NEED_CHECK stays
 * set; the lock is dropped in any case.
 */
int qed_slot_release (struct qed_slot *slot);

/* Take the image.  -EALREADY: it was active before.  -EAGAIN: another has it.
 * Another negative errno: it can't be opened.  The reason is logged.
 */
int qed_slot_activate (struct qed_slot *slot);

#endif /* QED_HANDOVER_H */
