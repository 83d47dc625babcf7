/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage driver for a simulated file: each call is a few yield points,
 * and takes its effect, or part of it, between them.
 */

#ifndef CRASH_SIM_STORAGE_H
#define CRASH_SIM_STORAGE_H

#include "disk.h"
#include "random.h"
#include "storage.h"

/* A handle; closing it leaves the disk to its owner. */
struct storage *sim_storage_open (struct disk *disk, struct random *random);

/* Files that exist, to be named as the backing file, the first one and the
 * second: what is found there is what stamp.h says of them, read-only.
 */
#define SIM_STORAGE_DIR "/proc/self/"
#define SIM_STORAGE_BACKING SIM_STORAGE_DIR "exe"
#define SIM_STORAGE_SECOND SIM_STORAGE_DIR "status"

/* What qed_open finds under the first one's path, if it is to be written to;
 * and under any other path.
 */
extern struct disk *sim_storage_backing_disk;
extern struct disk *sim_storage_disk;

/* The QED image that the first one is as a backing file; NULL: it is raw. */
extern struct disk *sim_storage_below_disk;

/* How many freed clusters, or neighbours of them, were written to again. */
extern uint64_t sim_storage_reused;

/* Of the syncs of sim_storage_disk from now on this one fails; 0: none.  When
 * it has, the other is set.
 */
extern unsigned sim_storage_sync_fails;
extern bool sim_storage_sync_failed;

#endif /* CRASH_SIM_STORAGE_H */
