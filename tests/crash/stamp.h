/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is in a sector of the guest: all of it says where it belongs and which
 * write put it there.
 */

#ifndef CRASH_STAMP_H
#define CRASH_STAMP_H

#include <stddef.h>
#include <stdint.h>

#include "random.h"

/* Write number 0 stands for zeros. */
#define STAMP_ZEROS 0u
#define STAMP_ALIEN UINT32_MAX  /* neither zeros nor a stamp of that sector */
#define STAMP_BACKING (UINT32_MAX - 1) /* what the backing file holds */

void stamp_fill (unsigned char *buf, uint64_t sector, uint32_t write);

/* Who wrote a sector; 'data' NULL: zeros. */
uint32_t stamp_read (const unsigned char *data, uint64_t sector);

/* The backing file of the image under way: how long it is (0: none), and that
 * one in so many blocks of it isn't zeros.
 */
struct stamp_backing {
  uint64_t sectors, one_in;
};

extern struct stamp_backing stamp_backing;

/* STAMP_BACKING or STAMP_ZEROS: what a sector reads as that the image doesn't
 * hold; and its content, in static memory, or NULL for zeros.
 */
uint32_t stamp_below (uint64_t sector);
const unsigned char *stamp_below_data (uint64_t sector);

/* What it is in words, for messages; in static memory. */
const char *stamp_to_text (const unsigned char *data);

/* What may be found in space that was used before: old data of other places,
 * old tables, noise.
 */
void stamp_garbage (unsigned char *buf, struct random *random,
                    uint32_t cluster_size);

#endif /* CRASH_STAMP_H */
