/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fault.h"

const char *const fault_names[FAULT_CALLS + 1] = {
  "read", "write", "sync", "resize", "punch", "seek", "lock", "open",
  "unlink", "space", "map", "thread", "alloc", "log", "short",
};

bool fault_trace;
void (*fault_before) (void);

#define SYNCS_MAX 4u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  bool armed;
  enum fault_call call;
  unsigned skip, times, hits;
  int error;
  uint64_t seed;
  struct stat syncs[SYNCS_MAX]; /* of the files whose sync failed */
  unsigned sync_count;
} fault;

static _Thread_local bool spared;

static void
arm (enum fault_call call, unsigned skip, unsigned times, int error,
     uint64_t seed)
{
  pthread_mutex_lock (&lock);
  fault.call = call;
  fault.skip = skip;
  fault.times = times;
  fault.hits = 0;
  fault.error = error;
  fault.seed = seed;
  fault.sync_count = 0;
  fault.armed = true;
  pthread_mutex_unlock (&lock);
}

void
fault_arm (enum fault_call call, unsigned skip, unsigned times, int error)
{
  arm (call, skip, times, error, 0);
}

void
fault_arm_short (uint64_t seed)
{
  arm (FAULT_SHORT, 0, FAULT_ALWAYS, 0, seed);
}

void
fault_disarm (void)
{
  pthread_mutex_lock (&lock);
  fault.armed = false;
  pthread_mutex_unlock (&lock);
}

void
fault_spare (bool spare)
{
  spared = spare;
}

unsigned
fault_hits (void)
{
  unsigned hits;

  pthread_mutex_lock (&lock);
  hits = fault.hits;
  pthread_mutex_unlock (&lock);
  return hits;
}

void
fault_add_hits (unsigned hits)
{
  pthread_mutex_lock (&lock);
  fault.hits += hits;
  pthread_mutex_unlock (&lock);
}

bool
fault_hit_sync_of (uint64_t device, uint64_t inode)
{
  bool hit = false;
  unsigned i;

  pthread_mutex_lock (&lock);
  for (i = 0; i < fault.sync_count; i++)
    hit |= fault.syncs[i].st_dev == device && fault.syncs[i].st_ino == inode;
  pthread_mutex_unlock (&lock);
  return hit;
}

/* With the lock held: whether this call is to fail. */
static bool
hit (enum fault_call call)
{
  if (!fault.armed || spared || fault.call != call || fault.times == 0)
    return false;
  if (fault.skip > 0) {
    fault.skip--;
    return false;
  }
  fault.times -= fault.times != FAULT_ALWAYS;
  fault.hits++;
  if (fault_trace)
    fprintf (stderr, "%s fails\n", fault_names[call]);
  return true;
}

bool
fault_hits_call (enum fault_call call)
{
  bool yes;
  int error;

  if (fault_before)
    fault_before ();
  pthread_mutex_lock (&lock);
  yes = hit (call);
  error = fault.error;
  pthread_mutex_unlock (&lock);
  if (yes)
    errno = error;
  return yes;
}

bool
fault_hits_sync (int fd)
{
  bool yes;
  int error;

  if (fault_before)
    fault_before ();
  pthread_mutex_lock (&lock);
  yes = hit (FAULT_SYNC);
  error = fault.error;
  if (yes && fault.sync_count < SYNCS_MAX &&
      fstat (fd, &fault.syncs[fault.sync_count]) == 0)
    fault.sync_count++;
  pthread_mutex_unlock (&lock);
  if (yes)
    errno = error;
  return yes;
}

uint64_t
fault_draw (uint64_t n)
{
  uint64_t r = 0;

  if (fault_before)
    fault_before ();
  pthread_mutex_lock (&lock);
  if (fault.armed && !spared && fault.call == FAULT_SHORT) {
    fault.seed = fault.seed * UINT64_C (6364136223846793005) + 1;
    r = (fault.seed >> 33) % n;
    fault.hits++;
  }
  pthread_mutex_unlock (&lock);
  return r;
}
