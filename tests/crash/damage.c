/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <stdio.h>
#include <string.h>

#include "craft.h"
#include "damage.h"
#include "reduce.h"
#include "stamp.h"

#define DAMAGES_MAX 8u

static const struct damaging *damaging;         /* one image at a time */

static void
poke64 (struct disk *disk, uint64_t offset, uint64_t value)
{
  const unsigned char *old = disk_sector (disk, offset / SECTOR);
  unsigned char buf[SECTOR] = { 0 };
  unsigned i;

  if (old)
    memcpy (buf, old, SECTOR);
  for (i = 0; i < 8; i++)
    buf[offset % SECTOR + i] = (unsigned char) (value >> 8 * i);
  disk_poke (disk, offset / SECTOR, buf);
}

static uint64_t
peek64 (const struct disk *disk, uint64_t offset)
{
  const unsigned char *data = disk_sector (disk, offset / SECTOR);
  uint64_t value = 0;
  unsigned i;

  for (i = 8; data && i > 0; i--)
    value = value << 8 | data[offset % SECTOR + i - 1];
  return value;
}

static uint64_t
per_table (void)
{
  return damaging->walk->table_bytes / 8;
}

/* An L1 index within the image that names a table, which was there before the
 * damage, or none; UINT64_MAX.
 */
static uint64_t
draw_table (const struct disk *disk, bool used)
{
  uint64_t tables = damaging->walk->image_size / damaging->walk->cluster_size /
    per_table (), i, n;

  for (n = 0; n < 64 && tables > 0; n++) {
    i = random_below (damaging->random, tables);
    if ((peek64 (used ? damaging->before : disk, damaging->walk->l1_offset + i * 8) !=
         0) == used)
      return i;
  }
  return UINT64_MAX;
}

/* Where an entry of a table lies that says nothing, and for which cluster. */
static uint64_t
draw_entry (const struct disk *disk, uint64_t *cluster)
{
  uint64_t index = draw_table (disk, true), table, i, n;

  if (index == UINT64_MAX)
    return 0;
  table = peek64 (disk, damaging->walk->l1_offset + index * 8);
  for (n = 0; n < 64; n++) {
    i = random_below (damaging->random, per_table ());
    *cluster = index * per_table () + i;
    if (peek64 (disk, table + i * 8) == 0)
      return table + i * 8;
  }
  return 0;
}

static const struct walk_entry *
draw_data (void)
{
  const struct walk_entry *entry;
  unsigned n;

  for (n = 0; n < 64 && damaging->walk->entry_count > 0; n++) {
    entry = &damaging->walk->entries[random_below (damaging->random,
                                             damaging->walk->entry_count)];
    if (entry->offset != 0)
      return entry;
  }
  return NULL;
}

static bool
plant_shared (struct disk *disk)
{
  const struct walk_entry *entry = draw_data ();
  uint64_t cluster, at = draw_entry (disk, &cluster);

  if (entry == NULL || at == 0)
    return false;
  poke64 (disk, at, entry->offset);
  damaging->expect (cluster, entry->cluster);
  return true;
}

static bool
plant_wrong (struct disk *disk)
{
  uint64_t cluster, at = draw_entry (disk, &cluster);
  const uint64_t values[] = {
    12345, 2, damaging->walk->cluster_size * 3 + 512, disk_length (disk) * 2 &
    -damaging->walk->cluster_size, UINT64_C (1) << 50, damaging->walk->l1_offset,
    at & -damaging->walk->cluster_size,
  };

  if (at == 0)
    return false;
  poke64 (disk, at, values[random_below (damaging->random, sizeof values /
                                         sizeof values[0])]);
  return true;
}

/* Both read as the one did. */
static bool
plant_shared_table (struct disk *disk)
{
  uint64_t from = draw_table (disk, true), to = draw_table (disk, false);
  const struct walk_entry *entry;
  size_t i;

  if (from == UINT64_MAX || to == UINT64_MAX)
    return false;
  poke64 (disk, damaging->walk->l1_offset + to * 8,
          peek64 (disk, damaging->walk->l1_offset + from * 8));
  for (i = 0; i < damaging->walk->entry_count; i++) {
    entry = &damaging->walk->entries[i];
    if (entry->cluster / per_table () == from)
      damaging->expect (to * per_table () + entry->cluster % per_table (),
              entry->cluster);
  }
  return true;
}

/* What it holds besides is anything. */
static bool
plant_overlap (struct disk *disk)
{
  uint64_t from = draw_table (disk, true), to = draw_table (disk, false);

  if (from == UINT64_MAX || to == UINT64_MAX ||
      damaging->walk->table_bytes == damaging->walk->cluster_size)
    return false;
  from = peek64 (disk, damaging->walk->l1_offset + from * 8);
  from += random_one_in (damaging->random, 2) ? damaging->walk->cluster_size
    : -damaging->walk->cluster_size;
  if (from + damaging->walk->table_bytes > disk_length (disk) ||
      from < damaging->walk->l1_offset + damaging->walk->table_bytes)
    return false;
  poke64 (disk, damaging->walk->l1_offset + to * 8, from);
  return true;
}

/* Of old tables some entries would seem to be right. */
static bool
has_stamps_only (const struct disk *disk, uint64_t cluster)
{
  const unsigned char *data;
  uint64_t s;

  for (s = 0; s < damaging->walk->cluster_size / SECTOR; s++) {
    data = disk_sector (disk, cluster / SECTOR + s);
    if (data && !stamp_is_one (data))
      return false;
  }
  return true;
}

/* L1 names data as a table, which it can't be. */
static bool
plant_data_table (struct disk *disk)
{
  const struct walk *walk = damaging->walk;
  const struct walk_entry *entry = draw_data ();
  uint64_t to = draw_table (disk, false), i;

  if (entry == NULL || to == UINT64_MAX ||
      walk->table_bytes > walk->cluster_size ||
      entry->offset + walk->cluster_size > disk_length (disk) ||
      !has_stamps_only (disk, entry->offset))
    return false;
  poke64 (disk, walk->l1_offset + to * 8, entry->offset);
  for (i = 0; i < per_table (); i += per_table () / 64 + 1)
    damaging->expect (to * per_table () + i, to * per_table () + i);
  return true;
}

static bool
plant_leak (struct disk *disk)
{
  uint64_t length = disk_length (disk), s;
  unsigned char buf[SECTOR];

  if (!disk_can_grow (disk))
    return false;
  length = (length + damaging->walk->cluster_size - 1) & -damaging->walk->cluster_size;
  disk_poke_length (disk, length + damaging->walk->cluster_size);
  for (s = length / SECTOR; s < length / SECTOR + 8; s++) {
    stamp_garbage (buf, damaging->random, (uint32_t) damaging->walk->cluster_size);
    disk_poke (disk, s, buf);
  }
  return true;
}

/* What a cut table is to read as: its first entry as another cluster, all else
 * of it is unallocated.
 */
static void
expect_cut_table (uint64_t to, const struct walk_entry *first)
{
  uint64_t i;

  if (first)
    damaging->expect (to * per_table (), first->cluster);
  for (i = 1; i < per_table (); i += per_table () / 64 + 1)
    damaging->expect (to * per_table () + i, to * per_table () + i);
}

/* At the end of the file, which ends within it: it names a cluster that another
 * one has, and one that the file will have when it has grown.  Nothing else
 * that makes the file longer may come after that.
 */
static bool
plant_cut_table (struct disk *disk)
{
  const struct walk *walk = damaging->walk;
  uint64_t at = (disk_length (disk) + walk->cluster_size - 1) &
    -walk->cluster_size;
  uint64_t to = draw_table (disk, false), other = draw_table (disk, false);
  const struct walk_entry *entry = draw_data ();

  if (to == UINT64_MAX || !disk_can_grow (disk))
    return false;
  disk_poke_length (disk, at + SECTOR *
                    (1 + random_below (damaging->random, walk->table_bytes /
                                       SECTOR - 1)));
  if (entry)
    poke64 (disk, at, entry->offset);
  poke64 (disk, at + 8, ((disk_length (disk) + walk->cluster_size - 1) &
                         -walk->cluster_size) +
          walk->cluster_size * random_below (damaging->random, 24));
  poke64 (disk, walk->l1_offset + to * 8, at);
  expect_cut_table (to, entry);
  if (other != to && random_one_in (damaging->random, 2)) {
    poke64 (disk, walk->l1_offset + other * 8, at);
    expect_cut_table (other, entry);
  }
  return true;
}

static const struct {
  const char *name;
  bool (*plant) (struct disk *disk);
} damages[] = {
  { "shared", plant_shared }, { "wrong", plant_wrong },
  { "shared-table", plant_shared_table }, { "overlap", plant_overlap },
  { "data-table", plant_data_table }, { "leak", plant_leak },
};

void
damage_plant (struct disk *disk, const struct damaging *how, char *names,
              size_t size)
{
  unsigned n = (unsigned) random_below (how->random, DAMAGES_MAX + 1);
  size_t i, used;

  damaging = how;
  if (random_one_in (how->random, 2))
    poke64 (disk, 16, how->walk->features | WALK_NEED_CHECK);
  while (n-- > 0) {
    i = random_below (how->random, sizeof damages / sizeof damages[0]);
    used = strlen (names);
    if (!reduce_has (REDUCE_REQUEST, 0, 0, n))
      continue;
    if (damages[i].plant (disk))
      snprintf (names + used, size - used, " %s", damages[i].name);
  }
  used = strlen (names);
  if (random_one_in (how->random, 3) &&
      reduce_has (REDUCE_REQUEST, 0, 0, DAMAGES_MAX) &&
      plant_cut_table (disk))
    snprintf (names + used, size - used, " cut-table");
}
