/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Where model-test aims, and how much it takes: sizes from a byte to a few
 * MiB, places at the boundaries of clusters and tables, at the end of the
 * image, and where something was changed lately.  All of it follows from the
 * seed, the options, and the order of the calls.
 */

#ifndef MODEL_WORK_H
#define MODEL_WORK_H

#include <stdint.h>

/* First of all.  Offsets and counts are multiples of 'block_size'. */
void work_begin (uint64_t seed, uint64_t block_size);

/* A number below 'limit'. */
uint64_t work_random (uint64_t limit);

/* How much the next request takes, and where in the image. */
uint64_t work_count (void);
uint64_t work_offset (uint64_t count);

/* This was changed: a place to come back to. */
void work_done (uint64_t offset, uint64_t count);

#endif /* MODEL_WORK_H */
