/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The simulated file.  See disk.h. */

#include <config.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "disk-inside.h"
#include "sim.h"

void *
checked (void *p)
{
  if (p == NULL)
    abort ();
  return p;
}

struct chunk *
chunk_ref (struct chunk *chunk)
{
  if (chunk)
    chunk->refs++;
  return chunk;
}

static void
chunk_unref (struct chunk *chunk)
{
  if (chunk && --chunk->refs == 0)
    free (chunk);
}

static struct chunk *
chunk_create (const unsigned char *data)
{
  static const unsigned char zeros[SECTOR];
  struct chunk *chunk;

  if (memcmp (data, zeros, SECTOR) == 0)
    return NULL;
  chunk = checked (malloc (sizeof *chunk));
  chunk->refs = 1;
  memcpy (chunk->data, data, SECTOR);
  return chunk;
}

/* ---- Life ---- */

struct disk *
disk_create (bool can_grow, uint64_t length, uint64_t limit)
{
  struct disk *disk = checked (calloc (1, sizeof *disk));

  disk->can_grow = can_grow;
  disk->limit = limit;
  disk->length = disk->durable_length = length;
  return disk;
}

static void
free_sector (struct sector *sector)
{
  struct version *version;

  chunk_unref (sector->durable);
  while ((version = sector->oldest) != NULL) {
    sector->oldest = version->next;
    chunk_unref (version->chunk);
    free (version);
  }
}

void
disk_destroy (struct disk *disk)
{
  struct block *block;
  uint64_t i;
  unsigned j, k;

  for (i = 0; i < disk->leaf_count; i++) {
    for (j = 0; disk->leaves[i] && j < LEAF_BLOCKS; j++) {
      block = disk->leaves[i]->blocks[j];
      for (k = 0; block && k < BLOCK_SECTORS; k++)
        free_sector (&block->sectors[k]);
      free (block);
    }
    free (disk->leaves[i]);
  }
  free (disk->leaves);
  free (disk->changes);
  free (disk->ops);
  free (disk);
}

bool
disk_can_grow (const struct disk *disk)
{
  return disk->can_grow;
}

uint64_t
disk_limit (const struct disk *disk)
{
  return disk->limit;
}

uint64_t
disk_length (const struct disk *disk)
{
  return disk->length;
}

/* ---- Looking ---- */

struct block *
find_block (const struct disk *disk, uint64_t block)
{
  uint64_t leaf = block / LEAF_BLOCKS;

  if (leaf >= disk->leaf_count || disk->leaves[leaf] == NULL)
    return NULL;
  return disk->leaves[leaf]->blocks[block % LEAF_BLOCKS];
}

bool
disk_has_block (const struct disk *disk, uint64_t block)
{
  return find_block (disk, block) != NULL;
}

uint64_t
disk_next_block (const struct disk *disk, uint64_t from, uint64_t limit)
{
  while (from < limit) {
    if (from / LEAF_BLOCKS >= disk->leaf_count)
      return limit;
    if (disk->leaves[from / LEAF_BLOCKS] == NULL)
      from = (from / LEAF_BLOCKS + 1) * LEAF_BLOCKS;
    else if (find_block (disk, from) == NULL)
      from++;
    else
      return from;
  }
  return limit;
}

static struct chunk *
chunk_now (const struct sector *sector)
{
  return sector->newest ? sector->newest->chunk : sector->durable;
}

const unsigned char *
disk_sector (const struct disk *disk, uint64_t sector)
{
  const struct block *block = find_block (disk, sector / BLOCK_SECTORS);
  const struct chunk *chunk;

  if (block == NULL || sector * SECTOR >= disk->length)
    return NULL;
  chunk = chunk_now (&block->sectors[sector % BLOCK_SECTORS]);
  return chunk ? chunk->data : NULL;
}

struct block *
make_block (struct disk *disk, uint64_t block)
{
  uint64_t leaf = block / LEAF_BLOCKS;
  struct block **p;

  if (leaf >= disk->leaf_count) {
    disk->leaves = checked (realloc (disk->leaves,
                                     (leaf + 1) * sizeof *disk->leaves));
    while (disk->leaf_count <= leaf)
      disk->leaves[disk->leaf_count++] = NULL;
  }
  if (disk->leaves[leaf] == NULL)
    disk->leaves[leaf] = checked (calloc (1, sizeof (struct leaf)));
  p = &disk->leaves[leaf]->blocks[block % LEAF_BLOCKS];
  if (*p == NULL)
    *p = checked (calloc (1, sizeof **p));
  return *p;
}

/* ---- Operations ---- */

unsigned
disk_begin (struct disk *disk, enum disk_op_kind kind)
{
  struct op *op;

  if (disk->op_count % 256 == 0)
    disk->ops = checked (realloc (disk->ops, (disk->op_count + 256) *
                                  sizeof *disk->ops));
  op = &disk->ops[disk->op_count];
  op->kind = kind;
  op->completed = op->covered = op->gone = false;
  if (kind == DISK_TABLES)
    disk->exposed = disk->op_count + 1;
  return disk->op_count++;
}

void
put_version (struct disk *disk, struct block *block, unsigned index,
             struct chunk *chunk, unsigned op)
{
  struct sector *sector = &block->sectors[index];
  struct version *version = checked (malloc (sizeof *version));

  version->next = NULL;
  version->chunk = chunk;
  version->op = op;
  if (sector->newest)
    sector->newest->next = version;
  else
    sector->oldest = version;
  sector->newest = version;
  if (!block->is_unsynced) {
    block->is_unsynced = true;
    block->next_unsynced = disk->unsynced;
    disk->unsynced = block;
  }
}

void
set_length (struct disk *disk, unsigned op, uint64_t length)
{
  if (disk->change_count % 16 == 0)
    disk->changes = checked (realloc (disk->changes,
                                      (disk->change_count + 16) *
                                      sizeof *disk->changes));
  disk->changes[disk->change_count].length = length;
  disk->changes[disk->change_count++].op = op;
  disk->length = length;
}

void
disk_write (struct disk *disk, unsigned op, uint64_t sector, uint64_t n,
            const unsigned char *data)
{
  struct block *block;
  uint64_t i;

  if ((sector + n) * SECTOR > disk->length) {
    assert (disk->can_grow);
    set_length (disk, op, (sector + n) * SECTOR);
  }
  for (i = sector; i < sector + n; i++) {
    block = make_block (disk, i / BLOCK_SECTORS);
    put_version (disk, block, i % BLOCK_SECTORS,
                 chunk_create (data + (i - sector) * SECTOR), op);
  }
}

void
disk_zero (struct disk *disk, unsigned op, uint64_t sector, uint64_t n)
{
  uint64_t limit = (sector + n + BLOCK_SECTORS - 1) / BLOCK_SECTORS, b, s;
  struct block *block;
  unsigned i;

  for (b = disk_next_block (disk, sector / BLOCK_SECTORS, limit); b < limit;
       b = disk_next_block (disk, b + 1, limit)) {
    block = find_block (disk, b);
    for (i = 0; i < BLOCK_SECTORS; i++) {
      s = b * BLOCK_SECTORS + i;
      if (s >= sector && s < sector + n &&
          (block->sectors[i].durable || block->sectors[i].newest))
        put_version (disk, block, i, NULL, op);
    }
  }
}

/* What is cut off reads as zeros when the file grows again. */
void
disk_resize (struct disk *disk, unsigned op, uint64_t length)
{
  if (length < disk->length)
    disk_zero (disk, op, length / SECTOR,
               (disk->length - length) / SECTOR);
  set_length (disk, op, length);
}

void
disk_complete (struct disk *disk, unsigned op)
{
  disk->ops[op].completed = true;
}

/* ---- Sync ---- */

bool
disk_is_exposed (const struct disk *disk)
{
  return disk->exposed > disk->synced;
}

void
disk_sync_begin (struct disk *disk, struct random *random)
{
  unsigned i;

  assert (!disk->syncing);
  disk->syncing = true;
  disk->sync_start = disk->op_count;
  for (i = 0; i < disk->op_count; i++)
    if (!disk->ops[i].gone &&
        (disk->ops[i].completed || random_one_in (random, 2)))
      disk->ops[i].covered = true;
}

void
disk_sync_fail (struct disk *disk, struct random *random)
{
  unsigned i;

  for (i = disk->synced; i < disk->sync_start; i++)
    disk->ops[i].gone |= random_one_in (random, 2);
  for (i = 0; i < disk->op_count; i++)
    disk->ops[i].covered &= i < disk->synced;
  disk->syncing = false;
}

/* The newest version that is covered becomes durable. */
static void
sync_sector (struct disk *disk, struct sector *sector)
{
  struct version *version, *last = NULL;

  for (version = sector->oldest; version; version = version->next)
    if (disk->ops[version->op].covered)
      last = version;
  while (last) {
    version = sector->oldest;
    sector->oldest = version->next;
    chunk_unref (sector->durable);
    sector->durable = version->chunk;
    if (version == last)
      last = NULL;
    free (version);
  }
  if (sector->oldest == NULL)
    sector->newest = NULL;
}

static void
sync_length (struct disk *disk)
{
  unsigned i, n = 0;

  for (i = 0; i < disk->change_count; i++)
    if (disk->ops[disk->changes[i].op].covered)
      n = i + 1;
  if (n == 0)
    return;
  disk->durable_length = disk->changes[n - 1].length;
  for (i = n; i < disk->change_count; i++)
    disk->changes[i - n] = disk->changes[i];
  disk->change_count -= n;
  disk->changes = checked (realloc (disk->changes,
                                    (disk->change_count / 16 + 1) * 16 *
                                    sizeof *disk->changes));
}

void
disk_sync_end (struct disk *disk)
{
  struct block *block, *next;
  unsigned i;
  bool left;

  assert (disk->syncing);
  disk->syncing = false;
  disk->synced = disk->sync_start;
  block = disk->unsynced;
  disk->unsynced = NULL;
  for (; block; block = next) {
    next = block->next_unsynced;
    left = false;
    for (i = 0; i < BLOCK_SECTORS; i++) {
      sync_sector (disk, &block->sectors[i]);
      left |= block->sectors[i].newest != NULL;
    }
    block->is_unsynced = left;
    if (left) {
      block->next_unsynced = disk->unsynced;
      disk->unsynced = block;
    }
  }
  sync_length (disk);
}

/* ---- Without ceremony ---- */

void
disk_poke (struct disk *disk, uint64_t sector, const unsigned char *data)
{
  struct block *block = make_block (disk, sector / BLOCK_SECTORS);
  struct sector *s = &block->sectors[sector % BLOCK_SECTORS];

  assert (s->newest == NULL && sector * SECTOR < disk->length);
  chunk_unref (s->durable);
  s->durable = chunk_create (data);
}

void
disk_poke_length (struct disk *disk, uint64_t length)
{
  uint64_t limit = disk->leaf_count * LEAF_BLOCKS, b;
  struct block *block;
  unsigned i;

  assert (disk->change_count == 0 && disk->unsynced == NULL);
  for (b = disk_next_block (disk, length / BLOCK, limit); b < limit;
       b = disk_next_block (disk, b + 1, limit)) {
    block = find_block (disk, b);
    for (i = 0; i < BLOCK_SECTORS; i++)
      if ((b * BLOCK_SECTORS + i) * SECTOR >= length) {
        chunk_unref (block->sectors[i].durable);
        block->sectors[i].durable = NULL;
      }
  }
  disk->length = disk->durable_length = length;
}
