/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What each sector of the guest's disk may read as: now, and from the disk
 * when the image is opened again.  A write that succeeded leaves one byte; one
 * that failed adds one to those that were possible; and what was not flushed
 * may be there or not.  Offsets and counts are bytes, multiples of
 * GUEST_SECTOR.  One thread.
 */

#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>

#define GUEST_SECTOR 512u
#define GUEST_BYTES (UINT64_C (8) << 20)

/* All zeros. */
void guest_reset (void);

/* A write (or, with byte 0, a trim or zero) has returned 'r'. */
void guest_wrote (uint64_t at, uint64_t count, unsigned char byte, int r,
                  bool durable);

/* All that was acknowledged is durable. */
void guest_flushed (void);

/* What is possible on the disk is all that counts from now on. */
void guest_reopened (void);

/* Whether a range may read as this; if not, *wrong is the first byte that may
 * not.
 */
bool guest_allows (const unsigned char *buf, uint64_t at, uint64_t count,
                   uint64_t *wrong);

#endif /* GUEST_H */
