/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is left of a simulated file when the power fails or a process dies. */

#include <config.h>

#include <stdlib.h>

#include "disk-inside.h"
#include "sim.h"

bool (*disk_keeps) (unsigned op);

/* What became of an operation. */
enum fate { FATE_LOST, FATE_KEPT, FATE_TORN_512, FATE_TORN_4K };

/* In some crashes all of a kind is lost or kept, in others it's luck: the
 * worst cases are those where one kind arrives and the other doesn't.
 */
static void
draw_fates (const struct disk *disk, struct random *random, enum fate *fates)
{
  static const unsigned char chances[] = { 0, 0, 1, 4, 8, 12, 15, 16, 16 };
  unsigned chance[DISK_KINDS], torn = random_below (random, 3) * 3, i;

  for (i = 0; i < DISK_KINDS; i++)
    chance[i] = chances[random_below (random, sizeof chances)];
  for (i = 0; i < disk->op_count; i++) {
    fates[i] = random_below (random, 16) < chance[disk->ops[i].kind]
      ? FATE_KEPT : FATE_LOST;
    if (fates[i] == FATE_KEPT && random_below (random, 16) < torn)
      fates[i] = random_one_in (random, 2) ? FATE_TORN_512 : FATE_TORN_4K;
    if (disk->ops[i].covered && !disk->syncing)
      continue;                 /* it is durable */
    if (fates[i] != FATE_LOST &&
        (disk->ops[i].gone || (disk_keeps && !disk_keeps (i))))
      fates[i] = FATE_LOST;
    if (fates[i] != FATE_LOST)
      sim_trace ("operation %u survives%s", i, fates[i] == FATE_KEPT ? ""
                 : fates[i] == FATE_TORN_4K ? ", torn at 4 KiB"
                 : ", torn at 512 bytes");
  }
}

static bool
survives (const enum fate *fates, unsigned op, uint64_t sector, uint64_t salt)
{
  switch (fates[op]) {
  case FATE_LOST:
    return false;
  case FATE_KEPT:
    return true;
  case FATE_TORN_4K:
    sector /= BLOCK_SECTORS;
    break;
  case FATE_TORN_512:
    break;
  }
  return random_mix (salt ^ op ^ sector << 20) & 1;
}

static struct chunk *
surviving_chunk (const struct sector *s, const enum fate *fates,
                 uint64_t number, uint64_t salt)
{
  struct chunk *chunk = s->durable;
  const struct version *version;

  for (version = s->oldest; version; version = version->next)
    if (survives (fates, version->op, number, salt))
      chunk = version->chunk;
  return chunk;
}

static void
copy_block (const struct block *block, uint64_t number,
            const enum fate *fates, uint64_t salt, struct disk *to)
{
  struct block *copy = NULL;
  struct chunk *chunk;
  unsigned i;

  for (i = 0; i < BLOCK_SECTORS; i++) {
    chunk = surviving_chunk (&block->sectors[i], fates,
                             number * BLOCK_SECTORS + i, salt);
    if (chunk == NULL ||
        (number * BLOCK_SECTORS + i) * SECTOR >= to->length)
      continue;
    if (copy == NULL)
      copy = make_block (to, number);
    copy->sectors[i].durable = chunk_ref (chunk);
  }
}

static struct disk *
copy_disk (const struct disk *disk, const enum fate *fates, uint64_t salt)
{
  uint64_t length = disk->durable_length, limit, b;
  struct disk *to;
  unsigned i;

  for (i = 0; i < disk->change_count; i++)
    if (fates[disk->changes[i].op] != FATE_LOST)
      length = disk->changes[i].length;
  to = disk_create (disk->can_grow, length, disk->limit);
  limit = disk->leaf_count * LEAF_BLOCKS;
  for (b = disk_next_block (disk, 0, limit); b < limit;
       b = disk_next_block (disk, b + 1, limit))
    copy_block (find_block (disk, b), b, fates, salt, to);
  return to;
}

struct disk *
disk_crash (const struct disk *disk, struct random *random)
{
  enum fate *fates = checked (calloc (disk->op_count + 1, sizeof *fates));
  struct disk *to;

  draw_fates (disk, random, fates);
  to = copy_disk (disk, fates, random_next (random));
  free (fates);
  return to;
}

struct disk *
disk_kill (const struct disk *disk)
{
  enum fate *fates = checked (calloc (disk->op_count + 1, sizeof *fates));
  struct disk *to;
  unsigned i;

  for (i = 0; i < disk->op_count; i++)
    fates[i] = FATE_KEPT;
  to = copy_disk (disk, fates, 0);
  free (fates);
  return to;
}

static void
copy_versions (const struct block *block, uint64_t number, struct disk *to)
{
  struct block *copy = make_block (to, number);
  const struct version *version;
  unsigned i;

  for (i = 0; i < BLOCK_SECTORS; i++) {
    copy->sectors[i].durable = chunk_ref (block->sectors[i].durable);
    for (version = block->sectors[i].oldest; version; version = version->next)
      put_version (to, copy, i, chunk_ref (version->chunk), version->op);
  }
}

struct disk *
disk_survive (const struct disk *disk)
{
  struct disk *to = disk_create (disk->can_grow, disk->durable_length,
                                 disk->limit);
  uint64_t limit = disk->leaf_count * LEAF_BLOCKS, b;
  unsigned i;

  for (i = 0; i < disk->op_count; i++) {
    disk_begin (to, disk->ops[i].kind);
    to->ops[i] = disk->ops[i];
    to->ops[i].completed = true;
  }
  to->synced = disk->synced;
  for (i = 0; i < disk->change_count; i++)
    set_length (to, disk->changes[i].op, disk->changes[i].length);
  for (b = disk_next_block (disk, 0, limit); b < limit;
       b = disk_next_block (disk, b + 1, limit))
    copy_versions (find_block (disk, b), b, to);
  return to;
}
