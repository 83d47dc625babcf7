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
    promise->slots[slot] = (uint32_t) promise->record_count;
  }
  return &promise->records[promise->slots[slot] - 1];
}

/* ---- What happens ---- */

static uint32_t
new_write (struct promise *promise, uint64_t start, uint64_t end)
{
  struct write *write;

  promise->writes = grown (promise->writes, promise->count, 256,
                           sizeof *promise->writes);
  write = &promise->writes[promise->count];
  write->start = start;
  write->end = end;
  write->flushed = end;
  return promise->count++;
}

uint32_t
promise_write (struct promise *promise, uint64_t sector, uint64_t n)
{
  uint32_t number = new_write (promise, sim_ticks (), NEVER);
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
  uint32_t number = new_write (promise, 0, 0);

  make (promise, sector)->base = number;
  return number;
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

/* When what is found was written: false if it never was (by 'until'). */
static bool
write_end (const struct promise *promise, const struct sector_record *record,
           uint32_t found, uint64_t until, uint64_t *end)
{
  uint32_t i;

  *end = 0;
  if (record == NULL)
    return found == STAMP_ZEROS;
  if (found == record->base)
    return true;
  for (i = 0; i < record->count; i++)
    if (record->writes[i] == found && promise->writes[found].start < until) {
      *end = promise->writes[found].end;
      return true;
    }
  return false;
}

bool
promise_allows_read (const struct promise *promise, uint64_t sector,
                     uint32_t found, uint64_t start, uint64_t end)
{
  const struct sector_record *record = find (promise, sector);
  const struct write *later;
  uint64_t written;
  uint32_t i;

  if (!write_end (promise, record, found, end, &written))
    return false;
  for (i = 0; record && i < record->count; i++) {
    later = &promise->writes[record->writes[i]];
    if (later->end < start && later->start > written)
      return false;
  }
  return true;
}

bool
promise_allows_crash (const struct promise *promise, uint64_t sector,
                      uint32_t found, uint64_t time)
{
  const struct sector_record *record = find (promise, sector);
  const struct write *later;
  uint64_t written;
  uint32_t i;

  if (!write_end (promise, record, found, time, &written))
    return false;
  for (i = 0; record && i < record->count; i++) {
    later = &promise->writes[record->writes[i]];
    if (later->flushed < time && later->start > written)
      return false;
  }
  return true;
}
