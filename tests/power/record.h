/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a recorded session leaves in its directory.
 *
 *   begin      the image file as it was before the server started
 *   record     what the server did to it: record-fs wrote that, in order
 *   requests   what clients asked for: power-client wrote that
 *   counter    the number of the last event; record-fs and the clients map it
 *              and take their numbers from it, so that all that happened has
 *              one order
 *
 * The numbers are of this machine's byte order: nothing of it is meant to be
 * carried elsewhere.
 */

#ifndef POWER_RECORD_H
#define POWER_RECORD_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum record_kind {
  RECORD_WRITE,                 /* 'count' bytes follow */
  RECORD_ZERO,                  /* a punched hole; the length stays */
  RECORD_LENGTH,                /* it is 'offset' now */
  RECORD_SYNC,
  RECORD_END,                   /* of the operation that began as 'first' */
};

/* An event in 'record'.  An operation begins before it is passed on, and ends
 * after that; one that failed, or was still under way when the recorder ended,
 * has no end.
 */
struct record {
  uint64_t number, first;
  uint64_t offset, count;
  uint64_t kind;                /* enum record_kind */
};

enum request_kind {
  REQUEST_WRITE,
  REQUEST_ZERO,
  REQUEST_TRIM,                 /* whole clusters */
  REQUEST_HINT,                 /* a trim of a part of one */
  REQUEST_FLUSH,
};

#define REQUEST_FUA 1u

/* A request of a client, in 'requests', in the order in which they began.  All
 * but flushes are writes with a number, counted from the first one's
 * (power-client's option --first).
 */
struct request {
  uint64_t start, end;          /* UINT64_MAX: no success was heard of */
  uint64_t sector, count;       /* of 512 bytes */
  uint32_t kind;                /* enum request_kind */
  uint32_t flags;
};

/* Map the counter; NULL on failure. */
static inline _Atomic uint64_t *
record_map_counter (const char *path)
{
  int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void *p = MAP_FAILED;

  if (fd >= 0 && ftruncate (fd, sizeof (uint64_t)) == 0)
    p = mmap (NULL, sizeof (uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
              0);
  if (fd >= 0)
    close (fd);
  return p == MAP_FAILED ? NULL : p;
}

static inline uint64_t
record_next (_Atomic uint64_t *counter)
{
  return atomic_fetch_add (counter, 1) + 1;
}

#endif /* POWER_RECORD_H */
