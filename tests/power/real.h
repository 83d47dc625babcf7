/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The built programs on a state that a power cut left. */

#ifndef POWER_REAL_H
#define POWER_REAL_H

#include "disk.h"
#include "promise.h"
#include "walk.h"

struct real {
  const char *nbdkit;           /* the wrapper that runs the plugin */
  const char *path;             /* where the state's file is made; its backing
                                 * file lies beside it */
};

/* Serve the state with the plugin, which repairs it, compare all that was
 * written to with what the tables said and with what is promised for a crash
 * at 'time'; then stop the server, and let the judge, qedctl check and
 * qemu-img check look at the file.  A violation ends the program.
 */
void real_judge (const struct real *real, const struct disk *disk,
                 const struct walk *walk, const struct promise *promise,
                 uint64_t time);

#endif /* POWER_REAL_H */
