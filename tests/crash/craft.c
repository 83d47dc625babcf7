/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "craft.h"
#include "format.h"
#include "pending.h"
#include "sim-storage.h"
#include "stamp.h"

const char *const geometry_names[GEOMETRIES] = { "4K/1", "4K/2", "64K/1",
                                                 "1M/1" };

static const struct {
  uint64_t cluster_size, table_size;
  unsigned few, many;           /* tables that the image needs, at most */
} geometries[GEOMETRIES] = {
  { 4096, 1, 6, 512 },
  { 4096, 2, 4, 1024 },
  { 65536, 1, 4, 2000 },
  { 1048576, 1, 3, 2000 },
};

/* ---- The shape ---- */

static void
draw_window (struct shape *shape, struct window *window, uint64_t table,
             struct random *random)
{
  uint64_t per_table = shape->table_size * shape->cluster_size / 8;
  uint64_t clusters = (shape->image_size + shape->cluster_size - 1) /
    shape->cluster_size;
  uint64_t n = random_between (random, 1, shape->cluster_size > 65536 ? 2
                               : shape->cluster_size == 4096 &&
                               random_one_in (random, 4) ? 30 : 5);
  uint64_t first = table * per_table + random_below (random, per_table), end;

  if (random_one_in (random, 4) && table > 0)
    first = table * per_table - 1;      /* across two tables */
  else if (random_one_in (random, 4) && clusters > n)
    first = clusters - n;
  if (shape->one_set)           /* 512 entries a page, 4 sets */
    first -= first / 512 % 4 * 512;
  if (first >= clusters)
    first = clusters - 1;
  window->sector = first * (shape->cluster_size / SECTOR);
  end = (first + n) * (shape->cluster_size / SECTOR);
  if (end > shape->image_size / SECTOR)
    end = shape->image_size / SECTOR;
  window->count = end - window->sector;
}

/* A backing file ends within a window, or where the image does, or behind
 * that.
 */
static uint64_t
draw_backing (const struct shape *shape, struct random *random)
{
  const struct window *w = &shape->windows[random_below
                                           (random, shape->window_count)];

  switch (random_below (random, 4)) {
  case 0:
    return w->sector + random_between (random, 1, w->count);
  case 1:
    return shape->image_size / SECTOR + random_below (random, 64);
  default:
    return shape->image_size / SECTOR;
  }
}

static void
add_range (uint64_t cluster_size, uint64_t from, uint64_t count)
{
  uint64_t in = cluster_size / SECTOR - 1;
  unsigned i = stamp_backing.range_count++;

  stamp_backing.ranges[i].from = from & ~in;
  stamp_backing.ranges[i].to = (from + count + in) & ~in;
}

/* From here on the backing files are this image's.  They have something in its
 * windows, and behind its end.
 */
static void
set_backing (struct shape *shape, int backing, struct random *random)
{
  bool drawn = random_one_in (random, 3);
  unsigned i;

  memset (&stamp_backing, 0, sizeof stamp_backing);
  for (i = 0; i < shape->window_count; i++)
    add_range (shape->cluster_size, shape->windows[i].sector,
               shape->windows[i].count);
  add_range (shape->cluster_size, shape->image_size / SECTOR, 64);
  shape->backing_sectors = draw_backing (shape, random);
  if (backing < 0 ? !drawn : !backing)
    shape->backing_sectors = 0;
  stamp_backing.sectors = shape->backing_sectors;
  stamp_backing.second_sectors = draw_backing (shape, random);
  stamp_backing.one_in = shape->cluster_size > 65536 ? 16
    : random_between (random, 1, 3);
}

void
craft_shape (struct shape *shape, unsigned geometry, int backing,
             struct random *random)
{
  uint64_t tables;
  unsigned i;

  shape->scattered = random_one_in (random, 3);
  shape->one_set = shape->scattered && random_one_in (random, 2);
  tables = shape->scattered || random_one_in (random, 2)
    ? random_between (random, 1, geometries[geometry].many)
    : random_between (random, 1, geometries[geometry].few);
  shape->cluster_size = geometries[geometry].cluster_size;
  shape->table_size = geometries[geometry].table_size;
  shape->image_size = tables * (shape->table_size * shape->cluster_size / 8) *
    shape->cluster_size;
  if (random_one_in (random, 2))        /* a last cluster that isn't whole */
    shape->image_size -= random_below (random, 3 * shape->cluster_size /
                                       SECTOR) * SECTOR;
  shape->window_count = shape->scattered ? WINDOWS_MAX
    : (unsigned) random_between (random, 2, 6);
  for (i = 0; i < shape->window_count; i++)
    draw_window (shape, &shape->windows[i], shape->scattered
                 ? i * tables / WINDOWS_MAX : random_below (random, tables),
                 random);
  set_backing (shape, backing, random);
}

void
craft_fit_windows (struct shape *shape, uint64_t image_size,
                   struct random *random)
{
  uint64_t sectors = image_size / SECTOR, cluster, table;
  struct window *w = shape->windows;
  unsigned i;

  cluster = shape->cluster_size / SECTOR;
  table = shape->table_size * shape->cluster_size / 8 * cluster;
  shape->image_size = image_size;
  for (i = 0; i < shape->window_count; i++) {
    if (w[i].sector >= sectors)
      draw_window (shape, &w[i], random_below (random, sectors / table + 1),
                   random);
    else if (w[i].count > sectors - w[i].sector)
      w[i].count = sectors - w[i].sector;
  }
  if (!shape->one_set && random_one_in (random, 2)) {
    w[0].sector = (sectors - 1) / cluster * cluster;
    if (w[0].sector > 0)
      w[0].sector -= cluster;
    w[0].count = sectors - w[0].sector;
  }
}

/* ---- The file ---- */

/* What is to be placed: a table, or the data of a guest's cluster. */
struct item {
  bool table;
  uint64_t number;              /* of the table, or the guest's cluster */
  uint64_t offset;              /* where it came to lie */
};

struct draft {
  const struct shape *shape;
  struct promise *promise;
  struct random *random;
  struct disk *disk;
  uint64_t l1_offset;
  uint64_t end;                 /* where the next thing is placed */
  struct item items[WINDOWS_MAX * 32 * 2];
  unsigned count;
};

static void
poke64 (struct disk *disk, uint64_t offset, uint64_t value)
{
  const unsigned char *old = disk_sector (disk, offset / SECTOR);
  unsigned char buf[SECTOR] = { 0 };

  if (old)
    memcpy (buf, old, SECTOR);
  format_put64 (buf + offset % SECTOR, value);
  disk_poke (disk, offset / SECTOR, buf);
}

static void
extend (struct draft *draft, uint64_t bytes)
{
  draft->end += bytes;
  if (disk_length (draft->disk) < draft->end)
    disk_poke_length (draft->disk, draft->end);
}

/* Space that was used before: all of a small cluster, some of a large one. */
static void
add_garbage (struct draft *draft, uint64_t clusters)
{
  uint64_t bytes = clusters * draft->shape->cluster_size, s, first;
  uint64_t one_in = draft->shape->cluster_size / BLOCK;
  unsigned char buf[SECTOR];

  first = draft->end / SECTOR;
  extend (draft, bytes);
  for (s = first; s < first + bytes / SECTOR; s++)
    if (s == first || s == first + bytes / SECTOR - 1 ||
        random_one_in (draft->random, one_in)) {
      stamp_garbage (buf, draft->random,
                     (uint32_t) draft->shape->cluster_size);
      disk_poke (draft->disk, s, buf);
    }
}

static struct item *
find_table (struct draft *draft, uint64_t number)
{
  unsigned i;

  for (i = 0; i < draft->count; i++)
    if (draft->items[i].table && draft->items[i].number == number)
      return &draft->items[i];
  return NULL;
}

static bool
has_item (const struct draft *draft, bool table, uint64_t number)
{
  unsigned i;

  for (i = 0; i < draft->count; i++)
    if (draft->items[i].table == table && draft->items[i].number == number)
      return true;
  return false;
}

static void
add_item (struct draft *draft, bool table, uint64_t number)
{
  if (!has_item (draft, table, number))
    draft->items[draft->count++] = (struct item) { table, number, 0 };
}

/* Some of what the windows touch exists already. */
static void
draw_items (struct draft *draft)
{
  const struct shape *shape = draft->shape;
  uint64_t per_cluster = shape->cluster_size / SECTOR, c;
  uint64_t per_table = shape->table_size * shape->cluster_size / 8;
  unsigned i;

  for (i = 0; i < shape->window_count; i++) {
    const struct window *w = &shape->windows[i];

    if (random_one_in (draft->random, 3))
      continue;
    for (c = w->sector / per_cluster;
         c <= (w->sector + w->count - 1) / per_cluster; c++) {
      add_item (draft, true, c / per_table);
      if (random_one_in (draft->random, 2))
        add_item (draft, false, c);
    }
  }
}

static void
place_items (struct draft *draft)
{
  struct item swap;
  unsigned i, j;

  for (i = draft->count; i > 1; i--) {
    j = (unsigned) random_below (draft->random, i);
    swap = draft->items[i - 1];
    draft->items[i - 1] = draft->items[j];
    draft->items[j] = swap;
  }
  for (i = 0; i < draft->count; i++) {
    if (random_one_in (draft->random, 3))
      add_garbage (draft, random_between (draft->random, 1, 2));
    draft->items[i].offset = draft->end;
    extend (draft, draft->items[i].table
            ? draft->shape->table_size * draft->shape->cluster_size
            : draft->shape->cluster_size);
  }
}

/* Some sectors were written; the others of the cluster are as the backing
 * file has them, or zeros.
 */
static void
fill_data (struct draft *draft, const struct item *item)
{
  uint64_t per_cluster = draft->shape->cluster_size / SECTOR;
  const unsigned char *below;
  unsigned char buf[SECTOR];
  uint64_t sector;
  unsigned i;

  for (i = 0; i < 6; i++) {
    sector = item->number * per_cluster +
      random_below (draft->random, per_cluster);
    if (disk_sector (draft->disk, item->offset / SECTOR +
                     sector % per_cluster) ||
        (sector + 1) * SECTOR > draft->shape->image_size)
      continue;
    stamp_fill (buf, sector, promise_initial (draft->promise, sector));
    disk_poke (draft->disk, item->offset / SECTOR + sector % per_cluster,
               buf);
  }
  for (i = 0; i < per_cluster; i++) {
    sector = item->number * per_cluster + i;
    below = stamp_file_data (STAMP_FIRST_FILE, sector);
    if (sector * SECTOR >= draft->shape->image_size) {
      stamp_garbage (buf, draft->random,
                     (uint32_t) draft->shape->cluster_size);
      below = buf;              /* behind the end may be anything */
    }
    if (below && disk_sector (draft->disk, item->offset / SECTOR + i) == NULL)
      disk_poke (draft->disk, item->offset / SECTOR + i, below);
  }
}

/* A zero cluster; its place is leaked. */
static void
link_zeros (struct draft *draft, const struct item *item, uint64_t at)
{
  uint64_t per_cluster = draft->shape->cluster_size / SECTOR, s;

  poke64 (draft->disk, at, FORMAT_ENTRY_ZERO);
  for (s = item->number * per_cluster; s < (item->number + 1) * per_cluster;
       s++)
    if (stamp_below (s) != STAMP_ZEROS &&
        s * SECTOR < draft->shape->image_size)
      promise_initial_zeros (draft->promise, s);
}

static void
link_items (struct draft *draft)
{
  uint64_t per_table = draft->shape->table_size *
    draft->shape->cluster_size / 8;
  const struct item *item, *table;
  unsigned i;

  for (i = 0; i < draft->count; i++) {
    item = &draft->items[i];
    if (item->table) {
      poke64 (draft->disk, draft->l1_offset + item->number * 8, item->offset);
      continue;
    }
    table = find_table (draft, item->number / per_table);
    if (random_one_in (draft->random, 8)) {
      link_zeros (draft, item, table->offset + item->number % per_table * 8);
      continue;
    }
    poke64 (draft->disk, table->offset + item->number % per_table * 8,
            item->offset);
    fill_data (draft, item);
  }
}

static void
poke_bytes (struct disk *disk, uint64_t offset, const char *bytes, size_t n)
{
  unsigned char buf[SECTOR];
  const unsigned char *old;
  size_t i;

  for (i = 0; i < n; i++, offset++) {
    old = disk_sector (disk, offset / SECTOR);
    memset (buf, 0, SECTOR);
    if (old)
      memcpy (buf, old, SECTOR);
    buf[offset % SECTOR] = (unsigned char) bytes[i];
    disk_poke (disk, offset / SECTOR, buf);
  }
}

/* The header, with bytes of others' in its cluster. */
static void
make_header (struct draft *draft, uint32_t header_size)
{
  const struct shape *shape = draft->shape;
  struct format_header header = {
    .cluster_size = (uint32_t) shape->cluster_size,
    .table_size = (uint32_t) shape->table_size,
    .header_size = header_size,
    .compat_features = random_one_in (draft->random, 3)
      ? random_below (draft->random, 4) : 0,
    .autoclear_features = random_below (draft->random, 4),
    .l1_table_offset = draft->l1_offset,
    .image_size = shape->image_size,
  };
  unsigned char buf[SECTOR];
  unsigned i;

  for (i = (unsigned) random_below (draft->random, 4); i > 0; i--) {
    stamp_garbage (buf, draft->random, (uint32_t) shape->cluster_size);
    disk_poke (draft->disk, random_between (draft->random, 1,
                                            BLOCK_SECTORS - 1), buf);
  }
  for (i = 0; i < SECTOR; i++)
    buf[i] = (unsigned char) random_next (draft->random);
  if (shape->backing_sectors > 0) {
    header.features = QED_F_BACKING_FILE;
    if (random_one_in (draft->random, 2) && !stamp_backing.is_qed)
      header.features |= QED_F_BACKING_FORMAT_NO_PROBE;
    header.backing_filename_size = strlen (SIM_STORAGE_BACKING);
    header.backing_filename_offset = (uint32_t)
      random_between (draft->random, FORMAT_HEADER_BYTES,
                      BLOCK - header.backing_filename_size);
  }
  format_encode_header (&header, buf);
  disk_poke (draft->disk, 0, buf);
  poke_bytes (draft->disk, header.backing_filename_offset,
              SIM_STORAGE_BACKING, header.backing_filename_size);
}

/* The end of the file: cut in the middle of a cluster, or a tail that no one
 * uses, or a limit beyond which it can't grow.
 */
static void
make_end (struct draft *draft, bool can_grow)
{
  uint64_t cluster_size = draft->shape->cluster_size;

  if (!can_grow)
    add_garbage (draft, random_between (draft->random, 5, 60));
  else if (random_one_in (draft->random, 2))
    add_garbage (draft, random_between (draft->random, 1, 8));
  else if (!random_one_in (draft->random, 4) ||
           draft->shape->backing_sectors > 0)
    return;                     /* zeros in place of the fill */
  if (random_one_in (draft->random, 3) && draft->count > 0)
    disk_poke_length (draft->disk, disk_length (draft->disk) -
                      random_below (draft->random, cluster_size / SECTOR) *
                      SECTOR);
}

/* A table at the end that the file doesn't hold wholly would be damage, and
 * so would data beyond the end.
 */
static void
keep_whole (struct draft *draft)
{
  const struct walk_use *use;
  struct walk walk;
  size_t i;

  walk_image (draft->disk, &walk);
  if (walk.debris_count > 0)
    disk_poke_length (draft->disk, draft->end);
  for (i = 0; i < walk.use_count; i++) {
    use = &walk.uses[i];
    if (use->what[0] != 'd' && disk_length (draft->disk) <
        (use->cluster + 1) * draft->shape->cluster_size)
      disk_poke_length (draft->disk, draft->end);
  }
  walk_destroy (&walk);
}

/* As if a cut had crashed: what lies behind the new end is still there. */
static void
cut_header (struct draft *draft)
{
  const struct shape *shape = draft->shape;
  const struct window *w = &shape->windows[random_below
                                           (draft->random,
                                            shape->window_count)];
  uint64_t end = w->sector + random_below (draft->random, w->count);

  if (random_one_in (draft->random, 6) && end > 0)
    poke64 (draft->disk, FORMAT_AT_IMAGE_SIZE, end * SECTOR);
}

struct disk *
craft_image (const struct shape *shape, struct promise *promise,
             struct random *random)
{
  struct draft draft = { .shape = shape, .promise = promise,
                         .random = random };
  uint32_t header_size = (uint32_t) random_between (random, 1, 2);
  bool can_grow = !random_one_in (random, 5);
  uint64_t limit = UINT64_MAX;
  struct walk walk;

  if (can_grow && random_one_in (random, 6))
    limit = shape->cluster_size * random_between (random, 10, 60);
  draft.disk = disk_create (can_grow, 0, limit);
  extend (&draft, header_size * shape->cluster_size);
  if (random_one_in (random, 4))
    add_garbage (&draft, 1);
  draft.l1_offset = draft.end;
  extend (&draft, shape->table_size * shape->cluster_size);
  make_header (&draft, header_size);
  if (!random_one_in (random, 3)) {
    draw_items (&draft);
    place_items (&draft);
    link_items (&draft);
    make_end (&draft, can_grow);
    keep_whole (&draft);
    cut_header (&draft);
  }
  else if (!can_grow)
    make_end (&draft, false);
  walk_image (draft.disk, &walk);
  if (walk.problem[0] || walk.debris_count > 0)
    abort ();                   /* it was to be a good image */
  walk_destroy (&walk);
  return draft.disk;
}

void
craft_repair (struct disk *disk, const struct walk *walk)
{
  size_t i;

  for (i = 0; i < walk->debris_count; i++)
    poke64 (disk, walk->debris[i], 0);
  poke64 (disk, FORMAT_AT_FEATURES,
          walk->features & ~(uint64_t) WALK_NEED_CHECK);
  if (walk->autoclear_features & PENDING_TOKEN) /* as any program does */
    poke64 (disk, FORMAT_AT_AUTOCLEAR, 0);
}
