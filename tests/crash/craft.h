/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Images to begin with: a geometry, the places where the guest will write,
 * and a file that may have a past: tables, data, leaked clusters between
 * them and a tail behind, full of old content.
 */

#ifndef CRASH_CRAFT_H
#define CRASH_CRAFT_H

#include <stdint.h>

#include "disk.h"
#include "promise.h"
#include "random.h"
#include "walk.h"

#define WINDOWS_MAX 24u

/* Guest sectors that lie together. */
struct window {
  uint64_t sector, count;
};

struct shape {
  uint64_t cluster_size, table_size, image_size;
  struct window windows[WINDOWS_MAX];
  unsigned window_count;
  bool scattered;               /* over more table pages than a small cache
                                 * holds */
  bool one_set;                 /* and they meet in one set of it */
  uint64_t backing_sectors;     /* 0: no backing file */
};

#define GEOMETRIES 4u

/* "4K/1" and so on: cluster size and table size. */
extern const char *const geometry_names[GEOMETRIES];

/* 'backing': whether there is a backing file; -1: that's drawn. */
void craft_shape (struct shape *shape, unsigned geometry, int backing,
                  struct random *random);

/* The image has this size now: what windows lie behind its end move, and some
 * to its end.
 */
void craft_fit_windows (struct shape *shape, uint64_t image_size,
                        struct random *random);

/* What the image holds is entered as written before the first session. */
struct disk *craft_image (const struct shape *shape, struct promise *promise,
                          struct random *random);

/* What a repair will do with an image that has NEED_CHECK set: entries past
 * the end go, NEED_CHECK is cleared.
 */
void craft_repair (struct disk *disk, const struct walk *walk);

#endif /* CRASH_CRAFT_H */
