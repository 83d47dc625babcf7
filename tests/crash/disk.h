/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A simulated file: for each sector of 512 bytes what is durable, and what
 * was written since, in order.
 *
 * Each operation (a write, a zero, a change of the length) has a number.  A
 * sync makes durable all that had completed before it began, and perhaps some
 * of what was under way.  When the power fails each other operation
 * survives, or doesn't, or in part, whatever became of those before it.
 * Memory grows with what isn't zero.
 */

#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "random.h"

#define SECTOR 512u
#define BLOCK 4096u             /* what is looked up, and may tear */
#define BLOCK_SECTORS (BLOCK / SECTOR)

enum disk_op_kind {
  DISK_DATA,            /* written by a request's own thread */
  DISK_TABLES,          /* written by the loop */
  DISK_HEADER,
  DISK_ZERO,
  DISK_PUNCH,           /* of what was freed */
  DISK_LENGTH,
  DISK_KINDS
};

struct disk;

/* A file, or (can_grow false) a device whose length is fixed.  'limit' is the
 * length at which there's no space left.
 */
struct disk *disk_create (bool can_grow, uint64_t length, uint64_t limit);
void disk_destroy (struct disk *disk);

bool disk_can_grow (const struct disk *disk);
uint64_t disk_limit (const struct disk *disk);
uint64_t disk_length (const struct disk *disk);

/* What a read sees: SECTOR bytes, or NULL for zeros. */
const unsigned char *disk_sector (const struct disk *disk, uint64_t sector);

/* Whether anything else than zeros may be in a block; and the first such
 * block in from..limit-1, or limit.
 */
bool disk_has_block (const struct disk *disk, uint64_t block);
uint64_t disk_next_block (const struct disk *disk, uint64_t from,
                          uint64_t limit);

/* ---- Operations ---- */

unsigned disk_begin (struct disk *disk, enum disk_op_kind kind);

/* Carry out all of an operation, or a piece; seen by reads at once. */
void disk_write (struct disk *disk, unsigned op, uint64_t sector, uint64_t n,
                 const unsigned char *data);
void disk_zero (struct disk *disk, unsigned op, uint64_t sector, uint64_t n);
void disk_resize (struct disk *disk, unsigned op, uint64_t length);

void disk_complete (struct disk *disk, unsigned op);

/* Whether tables were written since the last sync began. */
bool disk_is_exposed (const struct disk *disk);

/* One at a time. */
void disk_sync_begin (struct disk *disk, struct random *random);
void disk_sync_end (struct disk *disk);

/* The same, but it failed: what it was to make durable may be gone, though
 * reads see it still; later syncs don't bring it back.
 */
void disk_sync_fail (struct disk *disk, struct random *random);

/* ---- After a crash ---- */

/* What is left, all of it durable, when the power fails now.  The disk itself
 * goes on.
 */
struct disk *disk_crash (const struct disk *disk, struct random *random);

/* Unless it is NULL it may forbid that an operation survives disk_crash; asked
 * of those that do without it.
 */
extern bool (*disk_keeps) (unsigned op);

/* What is left when only the process dies: everything. */
struct disk *disk_kill (const struct disk *disk);

/* The same as it is for whoever opens it next: power may still fail. */
struct disk *disk_survive (const struct disk *disk);

/* Change what is there without any ceremony. */
void disk_poke (struct disk *disk, uint64_t sector, const unsigned char *data);
void disk_poke_length (struct disk *disk, uint64_t length);

#endif /* CRASH_DISK_H */
