/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A checker of its own, that shares no code with the engine: walks the tables
 * in a simulated file and says what is wrong, what refers to what, and what
 * the guest would read.
 */

#ifndef CRASH_WALK_H
#define CRASH_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "disk.h"
#include "stamp.h"

/* An L2 entry that isn't 0, in the order of the guest's addresses. */
struct walk_entry {
  uint64_t cluster;             /* the guest's */
  uint64_t offset;              /* in the file; 0 for a zero cluster */
  bool past_end;                /* debris: counts as unallocated */
};

/* A cluster of the file that something refers to. */
struct walk_use {
  uint64_t cluster;
  const char *what;             /* "the header", "L1", "an L2 table", "data" */
  uint64_t who;                 /* L1 index, or the guest's cluster */
};

struct walk {
  unsigned char header[BLOCK];  /* the first sectors */
  enum stamp_file backing;      /* what the header names */
  uint64_t name_offset, name_size;      /* where */
  uint64_t cluster_size, table_bytes, l1_offset, image_size;
  uint64_t features, autoclear_features;
  struct walk_entry *entries;
  size_t entry_count;
  uint64_t *debris;             /* where entries past the end lie */
  size_t debris_count;
  bool table_past_end;          /* one of them is of L1 */
  struct walk_use *uses;        /* sorted by cluster */
  size_t use_count;
  uint64_t end_of_use;          /* in bytes, of what lies inside the file */
  size_t beyond;                /* entries for what lies behind the end of the
                                 * guest's disk */
  char problem[256];            /* the first thing that is wrong, or "" */
};

#define WALK_BACKING 1u
#define WALK_NEED_CHECK 2u
#define WALK_BACKING_RAW 4u

/* What a real image calls the first backing file, or NULL. */
extern const char *walk_first_name;

void walk_image (const struct disk *disk, struct walk *walk);
void walk_destroy (struct walk *walk);

/* Whether a header is as it was before, but for the fields that an engine
 * changes, what held nothing, and the name.
 */
bool walk_same_header (const struct walk *walk, const struct walk *before);

bool walk_is_used (const struct walk *walk, uint64_t cluster);

/* What the guest finds in a sector; NULL for zeros. */
const unsigned char *walk_sector (const struct disk *disk,
                                  const struct walk *walk, uint64_t sector);

/* The entry of a guest's cluster, or NULL. */
const struct walk_entry *walk_find (const struct walk *walk,
                                    uint64_t cluster);

#endif /* CRASH_WALK_H */
