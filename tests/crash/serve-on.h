/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A repaired image is served on: damage that a look at it doesn't find would
 * harm what is written next, or be harmed by it.
 */

#ifndef CRASH_SERVE_ON_H
#define CRASH_SERVE_ON_H

#include "craft.h"

#define SERVED_MAX 32u

/* What is written, the last write to each sector. */
struct served {
  struct { uint64_t sector; uint32_t number; } writes[SERVED_MAX];
  unsigned count;
};

/* Open the image, write to sectors of its windows, flush, close. */
void serve_on (struct disk *disk, const struct shape *shape,
               struct random *random, struct served *served);

/* The number of the write that the sector must hold, or 0. */
uint32_t served_find (const struct served *served, uint64_t sector);

#endif /* CRASH_SERVE_ON_H */
