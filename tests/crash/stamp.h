/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is in a sector of the guest: all of it says where it belongs and which
 * write put it there.
 */

#ifndef CRASH_STAMP_H
#define CRASH_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "random.h"

/* Write number 0 stands for zeros. */
#define STAMP_ZEROS 0u
#define STAMP_ALIEN UINT32_MAX  /* neither zeros nor a stamp of that sector */
#define STAMP_BACKING (UINT32_MAX - 1) /* what the backing file holds */
#define STAMP_SECOND (UINT32_MAX - 2)   /* what only the second one holds */

void stamp_fill (unsigned char *buf, uint64_t sector, uint32_t write);

/* Who wrote a sector; 'data' NULL: zeros. */
uint32_t stamp_read (const unsigned char *data, uint64_t sector);

/* Whether it is a stamp, of any sector. */
bool stamp_is_one (const unsigned char *data);

/* The two files that may back the image under way: the one that it began with
 * (whose content the guest sees for good where the image holds nothing), and
 * one that has the same in many places, and else something of its own.
 */
enum stamp_file { STAMP_NO_FILE, STAMP_FIRST_FILE, STAMP_SECOND_FILE };

#define STAMP_RANGES_MAX 32u

struct stamp_backing {
  uint64_t sectors;             /* the first one's length; 0: there was none */
  uint64_t second_sectors;
  bool is_qed;                  /* the first one: see beneath.h */
  uint64_t one_in;              /* one in so many blocks isn't zeros, */
  struct {
    uint64_t from, to;          /* sectors */
  } ranges[STAMP_RANGES_MAX];   /* of those that lie here */
  unsigned range_count;
};

extern struct stamp_backing stamp_backing;

/* STAMP_BACKING or STAMP_ZEROS: what a sector of the first file reads as. */
uint32_t stamp_below (uint64_t sector);

/* The content of a sector, in static memory, or NULL for zeros. */
const unsigned char *stamp_file_data (enum stamp_file file, uint64_t sector);

/* The first block in 'from'..UINT64_MAX that isn't zeros, or UINT64_MAX. */
uint64_t stamp_next_block (enum stamp_file file, uint64_t from);

/* What it is in words, for messages; in static memory. */
const char *stamp_to_text (const unsigned char *data);

/* What may be found in space that was used before: old data of other places,
 * old tables, noise.
 */
void stamp_garbage (unsigned char *buf, struct random *random,
                    uint32_t cluster_size);

#endif /* CRASH_STAMP_H */
