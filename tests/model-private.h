/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What model.c and model-store.c share: the model's parts. */

#ifndef MODEL_PRIVATE_H
#define MODEL_PRIVATE_H

#include "model.h"

#define SECTOR UINT64_C (512)
#define SECTORS (MODEL_CHUNK / SECTOR)          /* in a chunk */
#define BUCKETS 4096u

struct record {
  uint64_t offset, count;
  uint64_t issued;
  uint64_t completed;           /* 0: not answered */
  uint32_t kind;                /* enum model_kind */
  uint8_t failed;               /* answered with an error */
  uint8_t fua;                  /* durable since it completed */
  uint16_t unused;
};

struct sector {
  uint32_t *list;               /* record numbers, ascending */
  uint32_t n;
  unsigned char *settled;       /* the bytes that must be here, or NULL */
  unsigned char *base;          /* what a crash left here, before the list;
                                 * NULL: what was there at first */
};

struct chunk {
  uint64_t index;               /* offset / MODEL_CHUNK */
  struct chunk *next;           /* in the bucket */
  struct sector sectors[SECTORS];
};

struct model {
  uint64_t size, key;
  uint64_t now;                 /* the logical clock */
  uint64_t flushed;             /* all completed before this is durable */
  uint64_t horizon;             /* no older read is under way */
  struct record *records;       /* [0] is not used */
  uint32_t n, allocated;
  const unsigned char *initial; /* mapped: what was there at first, or NULL */
  uint64_t initial_bytes;       /* behind them, zeros */
  struct chunk *buckets[BUCKETS];
};

/* Exits with status 2 if 'p' is NULL. */
void *model_must (void *p);

/* The sector at 'offset', which is made if it isn't there; NULL if nothing
 * touched its chunk.
 */
struct sector *model_get_sector (struct model *m, uint64_t offset);
const struct sector *model_find_sector (const struct model *m,
                                        uint64_t offset);

/* What was there at first, even before a crash. */
void model_initial (const struct model *m, uint64_t offset, uint64_t count,
                    unsigned char *buf);

/* What the last record left of a whole sector.  Returns false if it did not
 * change all of it.
 */
bool model_newest (const struct model *m, const struct sector *s,
                   uint64_t sector, unsigned char *buf);

/* What a sector holds that was read since its last change: exits with status 2
 * if it wasn't.
 */
void model_content (const struct model *m, const struct sector *s,
                    uint64_t sector, unsigned char *buf);

#endif /* MODEL_PRIVATE_H */
