/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image file in memory: as long as a file can be, with whatever is in it
 * described in few bytes.  It is the storage of the engine in one-thread.h,
 * and watches what the engine does to it:
 *
 *   - nothing is read or written where no file can have bytes, nor written
 *     behind the end, but for the rest of the last cluster;
 *   - nothing is written where it was opened for reading;
 *   - a request of the guest's writes nothing into the header or a table.
 *
 * It holds SPARSE_PAGES pages, then there is no space left.
 */

#ifndef FUZZ_SPARSE_H
#define FUZZ_SPARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "storage.h"

#define SPARSE_PAGE UINT64_C (4096)
#define SPARSE_PAGES 16384u
#define SPARSE_RANGES 64u

struct sparse_page {
  uint64_t number;
  unsigned char *data;
};

struct sparse_range {
  uint64_t start, end;          /* bytes */
};

struct sparse {
  uint64_t length;
  bool device;                  /* a block device: no holes, one length */
  uint64_t cluster;             /* how far a write may reach over the end */

  struct sparse_page *pages;    /* by number */
  size_t page_count, page_capacity;
  struct sparse_range stale[SPARSE_RANGES];     /* data that was never read
                                 * nor written; made up where it is read */
  unsigned stale_count;

  struct sparse_range *kept;    /* what a guest's request must not write to */
  size_t kept_count, kept_capacity;
  bool guest;                   /* such a request is under way */
  bool full;                    /* no space was left, or a file can't be
                                 * longer */
};

void sparse_init (struct sparse *disk, uint64_t length);
void sparse_destroy (struct sparse *disk);

/* Beside the engine; beyond the end too. */
void sparse_read (const struct sparse *disk, void *buf, size_t count,
                  uint64_t offset);
int sparse_write (struct sparse *disk, const void *buf, size_t count,
                  uint64_t offset);

/* Data of so many bytes, without storing them. */
void sparse_add_stale (struct sparse *disk, uint64_t offset, uint64_t bytes);

/* The first page at or after 'number' that is stored, or NULL. */
const struct sparse_page *sparse_next_page (const struct sparse *disk,
                                            uint64_t number);

/* Note where the header and the tables are, as the file says now. */
void sparse_keep_tables (struct sparse *disk,
                         const struct format_geometry *geometry);

/* Open it as a storage of the engine; any number of times. */
struct storage *sparse_open (struct sparse *disk, bool read_only);

#endif /* FUZZ_SPARSE_H */
