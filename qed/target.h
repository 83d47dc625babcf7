/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The backing file of an overlay as something to be written to: raw or QED, a
 * file or a block device.  It is found and opened under the overlay's policy,
 * and for this process alone: with QEMU's writer lock, which is taken before
 * anything of it is read and kept to the end.
 *
 * Plain calls, one thread.  Offsets and sizes are the guest's bytes.  Errors
 * are negative errno; opening and growing say in words what is wrong.
 */

#ifndef QED_TARGET_H
#define QED_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "qed.h"

struct target;

/* Nothing is written yet.  'overlay' must remain until this returns. */
int target_open (struct qed_image *overlay, struct target **target);

/* Nothing is durable before a sync. */
int target_close (struct target *target);

const char *target_path (const struct target *target);
uint64_t target_size (const struct target *target);

/* Whether its size is given, as a device's is. */
bool target_is_fixed (const struct target *target);

/* Get ready to be written to; damage is found before that.  What is smaller
 * than 'size' and isn't fixed grows, with zeros, whatever lies below it.
 */
int target_start (struct target *target, uint64_t size,
                  const struct qed_progress *progress);

/* Both within the size. */
int target_write (struct target *target, void *buf, uint64_t bytes,
                  uint64_t offset);
int target_zero (struct target *target, uint64_t bytes, uint64_t offset);

/* All that was written is durable, and whatever is needed to reach it; of a
 * QED file NEED_CHECK is cleared.
 */
int target_sync (struct target *target);

#endif /* QED_TARGET_H */
