/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* System calls and allocations of the engine that fail when asked to.
 *
 * The linker leads the engine's calls here (--wrap in Makefile.am), and only
 * those: what libc, libev or libnbd call for themselves is left alone, as are
 * all calls while nothing is armed.  Any thread calls; arming and disarming
 * are for the one that runs the test.
 */

#ifndef FAULT_H
#define FAULT_H

#include <stdbool.h>
#include <stdint.h>

enum fault_call {
  FAULT_READ,                   /* pread, read */
  FAULT_WRITE,                  /* pwrite, pwritev */
  FAULT_SYNC,                   /* fdatasync, fsync */
  FAULT_RESIZE,                 /* ftruncate */
  FAULT_PUNCH,                  /* fallocate */
  FAULT_SEEK,                   /* lseek */
  FAULT_LOCK,                   /* fcntl: locks */
  FAULT_OPEN,                   /* open, openat, fopen */
  FAULT_UNLINK,                 /* unlink, unlinkat */
  FAULT_SPACE,                  /* posix_fallocate */
  FAULT_MAP,                    /* mmap */
  FAULT_THREAD,                 /* pthread_create */
  FAULT_ALLOC,                  /* malloc, calloc, realloc, aligned_alloc,
                                 * strdup, asprintf */
  FAULT_LOG,                    /* vasprintf: only messages need it */
  FAULT_CALLS,
  FAULT_SHORT = FAULT_CALLS,    /* nothing fails: transfers are short, and
                                 * what may return EINTR does so at random */
};

extern const char *const fault_names[FAULT_CALLS + 1];

#define FAULT_ALWAYS UINT32_MAX

/* From now on 'skip' calls pass, then 'times' fail with 'error', an errno. */
void fault_arm (enum fault_call call, unsigned skip, unsigned times,
                int error);

/* With FAULT_SHORT: what is short, by how much, follows from a seed. */
void fault_arm_short (uint64_t seed);

void fault_disarm (void);

/* The test's own calls, on this thread, pass from now on, or no more. */
void fault_spare (bool spare);

/* Whether all that fails is told, to stderr. */
extern bool fault_trace;

/* Since it was armed: how many calls failed (or were short). */
unsigned fault_hits (void);

/* Another process, a copy of this one, has had so many. */
void fault_add_hits (unsigned hits);

/* Whether a sync of this file failed. */
bool fault_hit_sync_of (uint64_t device, uint64_t inode);

/* ---- For the calls themselves ---- */

/* Called before each of them, or NULL. */
extern void (*fault_before) (void);

/* Whether this one is to fail: then errno is set. */
bool fault_hits_call (enum fault_call call);
bool fault_hits_sync (int fd);

/* A number below 'n'; 0 unless something is to be short. */
uint64_t fault_draw (uint64_t n);

#endif /* FAULT_H */
