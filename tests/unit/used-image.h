/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image in a file, with data in its first tables, that four threads read and
 * write while a test damages and repairs it; each read is held against what
 * was written, and against what the test says may be lost.
 */

#ifndef USED_IMAGE_H
#define USED_IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "qed.h"

#define CLUSTER UINT64_C (8192)
#define PER_CLUSTER (CLUSTER / 8)       /* entries */
#define AT_HEADER_SIZE 12
#define AT_L1_OFFSET 40
#define L1 (2 * CLUSTER)        /* behind a header of two clusters */
#define TABLES 12u              /* of the disk */
#define FILLED 6u               /* tables with data to begin with */
#define PER_TABLE 8u            /* data clusters in each of them */
#define HURT 3u                 /* the table that most damage is about */
#define SPARE 9u                /* the one whose L1 entry was empty */
#define OWN 7u                  /* the table in which the threads write */
#define THREADS 4u
#define OWN_CLUSTERS 64u        /* each */
#define BASE_BYTE 0xba

extern char path[80];
extern struct qed_image *image;

/* What the threads hold to. */
enum phase { SOUND, DAMAGED, REPAIRED };
extern _Atomic int phase;
extern _Atomic unsigned failures, refused;
extern bool may_lose;           /* what HURT holds may go, or fail */
extern _Atomic bool may_fail;   /* HURT's first cluster, until the repair */
extern bool twin;               /* SPARE reads as HURT does */

/* For the group. */
int used_setup (void **state);
int used_teardown (void **state);

/* ---- The file ---- */

/* A new image, closed, whose first tables have data. */
void make_image (unsigned table_size, bool over_base);
void open_image (void);

void poke (uint64_t offset, uint64_t value, size_t bytes);
uint64_t peek (uint64_t offset);

/* n clusters at the end of the file, of zeros; where they begin. */
uint64_t append (uint64_t n);

/* A data cluster that no one refers to yet. */
uint64_t append_data (unsigned char byte);

uint64_t table_at (uint64_t l1_index);

/* Where a cluster of a table lies on the guest's disk, and what the first
 * PER_TABLE of the first tables hold.
 */
uint64_t guest (uint64_t table, uint64_t cluster);
unsigned char content (uint64_t table, uint64_t cluster);

/* ---- The threads ---- */

struct worker {
  pthread_t thread;
  uint64_t seed;
  unsigned char own[OWN_CLUSTERS];      /* what its clusters hold */
  uint64_t first;               /* of them, in the table OWN */
};

extern struct worker workers[THREADS];

void start_workers (void);
void stop_workers (void);       /* nothing has failed */
void read_own (struct worker *w, uint64_t n);

#endif /* USED_IMAGE_H */
