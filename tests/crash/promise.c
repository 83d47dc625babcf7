/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "promise.h"
#include "random.h"
#include "sim.h"
#include "stamp.h"

static void *
grown (void *p, size_t count, size_t step, size_t size)
{
  if (count % step != 0)
    return p;
  p = realloc (p, (count + step) * size);
  if (p == NULL)
    abort ();
  return p;
}

void
promise_init (struct promise *promise)
{
  memset (promise, 0, sizeof *promise);
  promise->writes = grown (NULL, 0, 256, sizeof *promise->writes);
  promise->count = 1;
  promise->below_end = UINT64_MAX;
}

void
promise_destroy (struct promise *promise)
{
  size_t i;

  for (i = 0; i < promise->record_count; i++)
    free (promise->records[i].writes);
  free (promise->records);
  free (promise->writes);
  free (promise->slots);
}

/* ---- Records ---- */

/* What is in a sector that was never written to. */
static uint32_t
below (const struct promise *promise, uint64_t sector)
{
  return sector < promise->below_end ? stamp_below (sector) : STAMP_ZEROS;
}

static size_t
slot_of (const struct promise *promise, uint64_t sector)
{
  size_t slot = random_mix (sector) & (promise->slot_count - 1);

  while (promise->slots[slot] != 0 &&
         promise->records[promise->slots[slot] - 1].sector != sector)
    slot = (slot + 1) & (promise->slot_count - 1);
  return slot;
}

static const struct sector_record *
find (const struct promise *promise, uint64_t sector)
{
  uint32_t n;

  if (promise->slot_count == 0)
    return NULL;
  n = promise->slots[slot_of (promise, sector)];
  return n ? &promise->records[n - 1] : NULL;
}

static void
rehash (struct promise *promise)
{
  size_t i;

  promise->slot_count = promise->slot_count ? promise->slot_count * 2 : 1024;
  free (promise->slots);
  promise->slots = calloc (promise->slot_count, sizeof *promise->slots);
  if (promise->slots == NULL)
    abort ();
  for (i = 0; i < promise->record_count; i++)
    promise->slots[slot_of (promise, promise->records[i].sector)] =
      (uint32_t) i + 1;
}

static struct sector_record *
make (struct promise *promise, uint64_t sector)
{
  struct sector_record *record;
  size_t slot;

  if (promise->record_count * 2 >= promise->slot_count)
    rehash (promise);
  slot = slot_of (promise, sector);
  if (promise->slots[slot] == 0) {
    promise->records = grown (promise->records, promise->record_count, 256,
                              sizeof *promise->records);
    record = &promise->records[promise->record_count++];
    memset (record, 0, sizeof *record);
    record->sector = sector;
    record->base = below (promise, sector);
    promise->slots[slot] = (uint32_t) promise->record_count;
  }
  return &promise->records[promise->slots[slot] - 1];
}

/* ---- What happens ---- */

static uint32_t
new_write (struct promise *promise, enum write_kind kind, uint64_t start,
           uint64_t end)
{
  struct write *write;

  promise->writes = grown (promise->writes, promise->count, 256,
                           sizeof *promise->writes);
  write = &promise->writes[promise->count];
  write->kind = kind;
  write->start = start;
  write->end = end;
  write->flushed = end;
  return promise->count++;
}

uint32_t
promise_write (struct promise *promise, enum write_kind kind,
               uint64_t sector, uint64_t n)
{
  uint32_t number = new_write (promise, kind, sim_ticks (), NEVER);
  struct sector_record *record;
  uint64_t i;

  for (i = sector; i < sector + n; i++) {
    record = make (promise, i);
    record->writes = grown (record->writes, record->count, 8,
                            sizeof *record->writes);
    record->writes[record->count++] = number;
  }
  return number;
}

void
promise_written (struct promise *promise, uint32_t number, bool durable)
{
  promise->writes[number].end = sim_ticks ();
  if (durable)
    promise->writes[number].flushed = promise->writes[number].end;
}

void
promise_flushed (struct promise *promise, uint64_t start)
{
  uint64_t end = sim_ticks ();
  uint32_t i;

  for (i = 1; i < promise->count; i++)
    if (promise->writes[i].end < start && promise->writes[i].flushed == NEVER)
      promise->writes[i].flushed = end;
}

uint32_t
promise_initial (struct promise *promise, uint64_t sector)
{
  uint32_t number = new_write (promise, WRITE_DATA, 0, 0);

  make (promise, sector)->base = number;
  return number;
}

void
promise_initial_zeros (struct promise *promise, uint64_t sector)
{
  make (promise, sector)->base = STAMP_ZEROS;
}

void
promise_touch (struct promise *promise, uint64_t sector)
{
  make (promise, sector);
}

void
promise_cut (struct promise *promise, uint64_t end)
{
  size_t i;

  if (promise->below_end > end)
    promise->below_end = end;
  for (i = 0; i < promise->record_count; i++)
    if (promise->records[i].sector >= end)
      promise_rebase (&promise->records[i], STAMP_ZEROS);
}

void
promise_rebase (struct sector_record *record, uint32_t found)
{
  free (record->writes);
  record->writes = NULL;
  record->count = 0;
  record->base = found;
}

/* ---- What may be ---- */

/* What shows where the image holds nothing. */
static uint32_t
shows (const struct promise *promise, uint64_t sector)
{
  return stamp_read (stamp_file_data (promise->backing, sector), sector);
}

/* What a read finds where the write was the last one. */
static uint32_t
content (const struct promise *promise, uint64_t sector, uint32_t number)
{
  switch (promise->writes[number].kind) {
  case WRITE_DATA:
    return number;
  case WRITE_FORGET:
    return shows (promise, sector);
  default:
    return STAMP_ZEROS;
  }
}

/* Whether 'later' takes away from a sector what was written before it. */
static bool
replaces (const struct promise *promise, const struct write *later,
          uint64_t sector, uint32_t found)
{
  return later->kind != WRITE_HINT &&
    !(later->kind == WRITE_TRIM && found == shows (promise, sector));
}

/* Whether what 'written' says when it was written may still be found at
 * 'time': in a crash what flushes cover counts, else what has ended.
 */
static bool
may_remain (const struct promise *promise, const struct sector_record *record,
            uint32_t found, uint64_t written, uint64_t time, bool crash)
{
  const struct write *later;
  uint32_t i;

  for (i = 0; i < record->count; i++) {
    later = &promise->writes[record->writes[i]];
    if ((crash ? later->flushed : later->end) < time &&
        later->start > written &&
        replaces (promise, later, record->sector, found))
      return false;
  }
  return true;
}

/* The same content may have been written several times, zeros above all; what
 * began after 'until' doesn't count.
 */
static bool
allows (const struct promise *promise, uint64_t sector, uint32_t found,
        uint64_t time, uint64_t until, bool crash)
{
  const struct sector_record *record = find (promise, sector);
  const struct write *write;
  uint32_t i;

  if (record == NULL)
    return found == below (promise, sector);
  if (found == record->base &&
      may_remain (promise, record, found, 0, time, crash))
    return true;
  for (i = 0; i < record->count; i++) {
    write = &promise->writes[record->writes[i]];
    if (content (promise, sector, record->writes[i]) == found &&
        write->start < until &&
        may_remain (promise, record, found, write->end, time, crash))
      return true;
  }
  return false;
}

bool
promise_allows_read (const struct promise *promise, uint64_t sector,
                     uint32_t found, uint64_t start, uint64_t end)
{
  return allows (promise, sector, found, start, end, false);
}

bool
promise_allows_crash (const struct promise *promise, uint64_t sector,
                      uint32_t found, uint64_t time)
{
  return allows (promise, sector, found, time, time, true);
}
