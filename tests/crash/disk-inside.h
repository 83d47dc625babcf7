/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a simulated file (disk.h) is made of, for what copies it. */

#ifndef CRASH_DISK_INSIDE_H
#define CRASH_DISK_INSIDE_H

#include "disk.h"

#define LEAF_BLOCKS 256u

/* The content of a sector: never changed, shared by disks and versions. */
struct chunk {
  unsigned refs;
  unsigned char data[SECTOR];
};

/* A version that isn't durable yet; chunk NULL: zeros. */
struct version {
  struct version *next;         /* the newer one */
  struct chunk *chunk;
  unsigned op;
};

struct sector {
  struct chunk *durable;
  struct version *oldest, *newest;
};

struct block {
  struct sector sectors[BLOCK_SECTORS];
  struct block *next_unsynced;  /* in disk->unsynced */
  bool is_unsynced;
};

struct leaf {
  struct block *blocks[LEAF_BLOCKS];
};

struct op {
  enum disk_op_kind kind;
  bool completed;
  bool covered;                 /* by the sync under way, or an earlier one */
  bool gone;                    /* a sync failed */
};

/* A change of the length that isn't durable yet. */
struct length_change {
  uint64_t length;
  unsigned op;
};

struct disk {
  bool can_grow;
  uint64_t limit;
  uint64_t durable_length, length;
  struct length_change *changes;
  unsigned change_count;
  struct leaf **leaves;
  uint64_t leaf_count;
  struct block *unsynced;       /* those with versions */
  struct op *ops;
  unsigned op_count;
  unsigned exposed;             /* behind the last op on tables */
  unsigned sync_start, synced;  /* op_count when a sync began */
  bool syncing;
};

/* There is memory, or no test. */
void *checked (void *p);

/* One more owner; of NULL, too. */
struct chunk *chunk_ref (struct chunk *chunk);

/* The block, or NULL; the same, made if it isn't there. */
struct block *find_block (const struct disk *disk, uint64_t block);
struct block *make_block (struct disk *disk, uint64_t block);

/* 'chunk' becomes the sector's. */
void put_version (struct disk *disk, struct block *block, unsigned index,
                  struct chunk *chunk, unsigned op);

void set_length (struct disk *disk, unsigned op, uint64_t length);

#endif /* CRASH_DISK_INSIDE_H */
