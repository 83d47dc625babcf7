/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim-storage.h"
#include "stamp.h"
#include "walk.h"

static uint64_t
get (const unsigned char *p, unsigned bytes)
{
  uint64_t v = 0;

  while (bytes-- > 0)
    v = v << 8 | p[bytes];
  return v;
}

static void __attribute__ ((format (printf, 2, 3)))
problem (struct walk *walk, const char *fmt, ...)
{
  va_list args;

  if (walk->problem[0])
    return;
  va_start (args, fmt);
  vsnprintf (walk->problem, sizeof walk->problem, fmt, args);
  va_end (args);
}

static void *
grown (void *p, size_t count, size_t size)
{
  if (count % 256 != 0)
    return p;
  p = realloc (p, (count + 256) * size);
  if (p == NULL)
    abort ();
  return p;
}

static void
use (struct walk *walk, uint64_t offset, uint64_t bytes, const char *what,
     uint64_t who)
{
  uint64_t cluster = offset / walk->cluster_size, n;

  for (n = bytes / walk->cluster_size; n > 0; n--, cluster++) {
    walk->uses = grown (walk->uses, walk->use_count, sizeof *walk->uses);
    walk->uses[walk->use_count++] =
      (struct walk_use) { .cluster = cluster, .what = what, .who = who };
  }
}

static void
used_up_to (struct walk *walk, uint64_t end)
{
  if (walk->end_of_use < end)
    walk->end_of_use = end;
}

static void
debris (struct walk *walk, uint64_t at)
{
  walk->debris = grown (walk->debris, walk->debris_count,
                        sizeof *walk->debris);
  walk->debris[walk->debris_count++] = at;
}

/* ---- Tables ---- */

/* Call 'each' for the entries of a table that aren't 0. */
static void
walk_table (const struct disk *disk, struct walk *walk, uint64_t offset,
            uint64_t who,
            void (*each) (const struct disk *disk, struct walk *walk,
                          uint64_t at, uint64_t who, uint64_t index,
                          uint64_t value))
{
  uint64_t limit = (offset + walk->table_bytes) / BLOCK, b, s, i, value;
  const unsigned char *data;

  for (b = disk_next_block (disk, offset / BLOCK, limit); b < limit;
       b = disk_next_block (disk, b + 1, limit))
    for (s = b * BLOCK_SECTORS; s < (b + 1) * BLOCK_SECTORS; s++) {
      data = disk_sector (disk, s);
      for (i = 0; data && i < SECTOR; i += 8) {
        value = get (data + i, 8);
        if (value != 0)
          each (disk, walk, s * SECTOR + i, who,
                (s * SECTOR + i - offset) / 8, value);
      }
    }
}

static void
l2_entry (const struct disk *disk, struct walk *walk, uint64_t at,
          uint64_t who, uint64_t index, uint64_t value)
{
  uint64_t guest = who * (walk->table_bytes / 8) + index;
  struct walk_entry *entry;

  if (guest >= (walk->image_size + walk->cluster_size - 1) /
      walk->cluster_size)
    walk->beyond++;
  if (value != 1 && value % walk->cluster_size != 0) {
    problem (walk, "the L2 entry at 0x%" PRIx64 " (0x%" PRIx64 "), guest "
             "cluster 0x%" PRIx64 ", is misaligned", at, value, guest);
    return;
  }
  walk->entries = grown (walk->entries, walk->entry_count,
                         sizeof *walk->entries);
  entry = &walk->entries[walk->entry_count++];
  entry->cluster = guest;
  entry->offset = value == 1 ? 0 : value;
  entry->past_end = value != 1 && value >= disk_length (disk);
  if (value == 1)
    return;
  use (walk, value, walk->cluster_size, "data", guest);
  if (entry->past_end)
    debris (walk, at);
  else
    used_up_to (walk, value + walk->cluster_size);
}

static void
l1_entry (const struct disk *disk, struct walk *walk, uint64_t at,
          uint64_t who, uint64_t index, uint64_t value)
{
  (void) who;
  if (value % walk->cluster_size != 0) {
    problem (walk, "L1 entry %" PRIu64 " (0x%" PRIx64 ") is misaligned",
             index, value);
    return;
  }
  use (walk, value, walk->table_bytes, "an L2 table", index);
  if (value > disk_length (disk) ||
      walk->table_bytes > disk_length (disk) - value) {
    debris (walk, at);
    walk->table_past_end = true;
    return;
  }
  used_up_to (walk, value + walk->table_bytes);
  walk_table (disk, walk, value, index, l2_entry);
}

/* ---- All of it ---- */

static int
compare_uses (const void *a, const void *b)
{
  const struct walk_use *u = a, *v = b;

  if (u->cluster != v->cluster)
    return u->cluster < v->cluster ? -1 : 1;
  return u->who < v->who ? -1 : u->who > v->who;
}

/* A cluster is referenced once and only once. */
static void
find_shared (struct walk *walk)
{
  const struct walk_use *u = walk->uses;
  size_t i;

  qsort (walk->uses, walk->use_count, sizeof *walk->uses, compare_uses);
  for (i = 1; i < walk->use_count; i++)
    if (u[i - 1].cluster == u[i].cluster)
      problem (walk, "cluster 0x%" PRIx64 " of the file is %s (0x%" PRIx64
               ") and %s (0x%" PRIx64 ")", u[i].cluster, u[i - 1].what,
               u[i - 1].who, u[i].what, u[i].who);
}

const char *walk_first_name;

/* A name of a file of the simulation, which may be padded with "./". */
static enum stamp_file
read_name (const char *name)
{
  size_t n = strlen (SIM_STORAGE_DIR);

  if (walk_first_name && strcmp (name, walk_first_name) == 0)
    return STAMP_FIRST_FILE;
  if (strncmp (name, SIM_STORAGE_DIR, n) != 0)
    return STAMP_NO_FILE;
  while (strncmp (name + n, "./", 2) == 0)
    n += 2;
  return strcmp (name + n, "exe") == 0 ? STAMP_FIRST_FILE
    : strcmp (name + n, "status") == 0 ? STAMP_SECOND_FILE : STAMP_NO_FILE;
}

static void
find_backing (const struct disk *disk, struct walk *walk)
{
  uint64_t offset = get (walk->header + 56, 4);
  uint64_t size = get (walk->header + 60, 4), i;
  const unsigned char *data;
  char name[BLOCK];

  if (!(walk->features & WALK_BACKING))
    return;
  if (offset < 64 || size >= sizeof name ||
      offset + size > get (walk->header + 12, 4) * walk->cluster_size) {
    problem (walk, "the backing file name is at 0x%" PRIx64 ", %" PRIu64
             " bytes", offset, size);
    return;
  }
  walk->name_offset = offset;
  walk->name_size = size;
  for (i = 0; i < size; i++) {
    data = disk_sector (disk, (offset + i) / SECTOR);
    name[i] = data ? (char) data[(offset + i) % SECTOR] : 0;
  }
  name[size] = 0;
  walk->backing = read_name (name);
  if (walk->backing == STAMP_NO_FILE || strlen (name) != size)
    problem (walk, "the backing file name is torn: '%s', %" PRIu64 " bytes",
             name, size);
}

static void
read_header (const struct disk *disk, struct walk *walk)
{
  const unsigned char *header = walk->header, *data;
  unsigned i;

  for (i = 0; i < BLOCK_SECTORS; i++) {
    data = disk_sector (disk, i);
    if (data)
      memcpy (walk->header + i * SECTOR, data, SECTOR);
  }
  walk->cluster_size = get (header + 4, 4);
  walk->table_bytes = get (header + 8, 4) * walk->cluster_size;
  walk->features = get (header + 16, 8);
  walk->autoclear_features = get (header + 32, 8);
  walk->l1_offset = get (header + 40, 8);
  walk->image_size = get (header + 48, 8);
  use (walk, 0, get (header + 12, 4) * walk->cluster_size, "the header", 0);
}

void
walk_image (const struct disk *disk, struct walk *walk)
{
  const unsigned char *header = disk_sector (disk, 0);

  memset (walk, 0, sizeof *walk);
  if (header == NULL || get (header, 4) != 0x444551 ||
      get (header + 4, 4) == 0) {
    problem (walk, "the header is gone");
    return;
  }
  read_header (disk, walk);
  find_backing (disk, walk);
  if (walk->features & ~(uint64_t) (WALK_NEED_CHECK | WALK_BACKING |
                                    WALK_BACKING_RAW))
    problem (walk, "the features are 0x%" PRIx64, walk->features);
  use (walk, walk->l1_offset, walk->table_bytes, "L1", 0);
  used_up_to (walk, walk->l1_offset + walk->table_bytes);
  walk_table (disk, walk, walk->l1_offset, 0, l1_entry);
  find_shared (walk);
}

void
walk_destroy (struct walk *walk)
{
  free (walk->entries);
  free (walk->debris);
  free (walk->uses);
}

/* Where the features are, the autoclear features, the image's size, the place
 * of the name.
 */
static bool
is_field (unsigned i)
{
  return (i >= 16 && i < 24) || (i >= 32 && i < 40) || (i >= 48 && i < 64);
}

bool
walk_same_header (const struct walk *walk, const struct walk *before)
{
  bool named;
  unsigned i;

  for (i = 0; i < BLOCK; i++) {
    named = i >= before->name_offset &&
      i < before->name_offset + before->name_size;
    if (walk->header[i] != before->header[i] && !is_field (i) && !named &&
        before->header[i] != 0)
      return false;
  }
  return true;
}

bool
walk_is_used (const struct walk *walk, uint64_t cluster)
{
  size_t low = 0, high = walk->use_count, i;

  while (low < high) {
    i = low + (high - low) / 2;
    if (walk->uses[i].cluster == cluster)
      return true;
    if (walk->uses[i].cluster < cluster)
      low = i + 1;
    else
      high = i;
  }
  return false;
}

const struct walk_entry *
walk_find (const struct walk *walk, uint64_t cluster)
{
  size_t low = 0, high = walk->entry_count, i;

  while (low < high) {
    i = low + (high - low) / 2;
    if (walk->entries[i].cluster == cluster)
      return &walk->entries[i];
    if (walk->entries[i].cluster < cluster)
      low = i + 1;
    else
      high = i;
  }
  return NULL;
}

const unsigned char *
walk_sector (const struct disk *disk, const struct walk *walk,
             uint64_t sector)
{
  uint64_t per_cluster = walk->cluster_size / SECTOR;
  const struct walk_entry *entry = walk_find (walk, sector / per_cluster);

  if (entry == NULL || entry->past_end)
    return stamp_file_data (walk->backing, sector);
  if (entry->offset == 0)
    return NULL;
  return disk_sector (disk, entry->offset / SECTOR + sector % per_cluster);
}
