/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the guest may rely on, sector by sector.
 *
 * A read returns what the last write left that had ended before the read
 * began, or what one left that overlapped with that write, or with the read
 * itself.  After a crash at time T a sector holds what the last write left
 * that a completed flush covers, or anything written since, finished or not,
 * never anything older; what the backing file holds, or zeros without one,
 * where no write is covered by a flush.
 *
 * What comes to lie behind the image's end is gone; what grows is zeros.
 *
 * A zero request is a write of zeros.  So is a trim of whole clusters, except
 * that what the backing file holds may stay where the image holds nothing; a
 * trim of a part of a cluster leaves what was there, or zeros.  What is
 * forgotten is what the backing file holds.
 *
 * Times are sim_ticks().
 */

#ifndef CRASH_PROMISE_H
#define CRASH_PROMISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stamp.h"

#define NEVER UINT64_MAX

enum write_kind {
  WRITE_DATA,
  WRITE_ZEROS,
  WRITE_TRIM,                   /* whole clusters */
  WRITE_HINT,                   /* a trim of parts: nothing need happen */
  WRITE_FORGET,                 /* whole clusters */
};

struct write {
  enum write_kind kind;
  uint64_t start, end;          /* NEVER if it didn't end, or failed */
  uint64_t flushed;             /* when a flush that covers it ended */
};

/* A sector that was written to. */
struct sector_record {
  uint64_t sector;
  uint32_t base;                /* what it held when the session began */
  uint32_t *writes;             /* since then; numbers */
  uint32_t count;
};

struct promise {
  struct write *writes;         /* by number; 0 isn't one */
  uint32_t count;
  struct sector_record *records;
  size_t record_count;
  enum stamp_file backing;      /* of the image, in this session */
  uint64_t below_end;           /* from this sector on the backing file never
                                 * shows: the image ended there once */
  uint32_t *slots;              /* hash of record number + 1; 0 empty */
  size_t slot_count;
};

void promise_init (struct promise *promise);
void promise_destroy (struct promise *promise);

/* A write begins: its number. */
uint32_t promise_write (struct promise *promise, enum write_kind kind,
                        uint64_t sector, uint64_t n);
void promise_written (struct promise *promise, uint32_t number, bool durable);

/* A flush that began at 'start' has completed. */
void promise_flushed (struct promise *promise, uint64_t start);

/* Whether a read that began at 'start' and ended at 'end' may find 'found':
 * what stamp_read says.
 */
bool promise_allows_read (const struct promise *promise, uint64_t sector,
                          uint32_t found, uint64_t start, uint64_t end);

/* Whether it may be there after a crash at 'time'. */
bool promise_allows_crash (const struct promise *promise, uint64_t sector,
                           uint32_t found, uint64_t time);

/* A new session: the sector holds that, and nothing else any more. */
void promise_rebase (struct sector_record *record, uint32_t found);

/* The image ends here, in sectors: when it has grown again there are zeros. */
void promise_cut (struct promise *promise, uint64_t end);

/* Have a record of a sector, so that it is judged. */
void promise_touch (struct promise *promise, uint64_t sector);

/* A sector that holds what a write left before the first session. */
uint32_t promise_initial (struct promise *promise, uint64_t sector);

/* Or zeros, whatever the backing file holds. */
void promise_initial_zeros (struct promise *promise, uint64_t sector);

#endif /* CRASH_PROMISE_H */
