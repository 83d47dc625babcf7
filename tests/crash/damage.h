/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Damage for repairs: references to what another one has, entries that can't be
 * right, tables that overlap, that the file cuts or that are data, leaks.  It takes nothing
 * from what was there.
 */

#ifndef CRASH_DAMAGE_H
#define CRASH_DAMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "disk.h"
#include "random.h"
#include "walk.h"

struct damaging {
  const struct disk *before;    /* without damage */
  const struct walk *walk;      /* of it */
  struct random *random;

  /* A cluster of the guest's disk will read as another one did. */
  void (*expect) (uint64_t cluster, uint64_t source);
};

/* Plant some.  Their names are added to 'names', which has room for 'size'
 * bytes.
 */
void damage_plant (struct disk *disk, const struct damaging *how, char *names,
                   size_t size);

#endif /* CRASH_DAMAGE_H */
