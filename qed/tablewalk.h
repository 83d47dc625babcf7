/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Reading all tables of an image: L1 first, then the L2 tables, several at a
 * time and in file order, their holes skipped.  What the entries mean is the
 * owner's business (survey.h).
 *
 * It is I/O of the owner's job: a step starts it and returns JOB_WAIT.  Loop
 * only, the callbacks too.
 */

#ifndef QED_TABLEWALK_H
#define QED_TABLEWALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "format.h"
#include "job.h"
#include "storage.h"

#define TABLEWALK_CHUNK_BYTES (256u << 10)

struct walk_table {
  uint64_t offset;              /* in the file */
  uint64_t l1_index;
  /* The owner's; 0 to start with. */
  uint64_t last;                /* the entry before */
  uint64_t valid, wrong;        /* entries, without those that are 0 */
  bool noise;                   /* a page has many wrong ones, and fewer
                                 * others */
  bool claimed;                 /* an entry names a cluster of it as data */
  bool claims;                  /* it names what only seems to be a table */
  bool told;                    /* that it is lost */
};

struct tablewalk {
  /* Filled in by the owner before tablewalk_init. */
  struct job *job;
  struct loop *loop;
  struct storage *storage;
  const struct format_geometry *geometry;
  unsigned width;               /* reads in flight */
  const struct qed_check_control *control;      /* pause, cancel, rate; or
                                                 * NULL */
  bool polite;                  /* others need the loop: half of its time is
                                 * left to them */

  /* n entries were read, from entry 'first' on, of L1 or of a table.  A
   * negative errno ends the walk.
   */
  int (*l1_entries) (struct tablewalk *walk, uint64_t first, unsigned char *buf,
                     size_t n);
  int (*l2_entries) (struct tablewalk *walk, struct walk_table *table,
                     uint64_t first, unsigned char *buf, size_t n);
  /* NULL, or: n entries from 'first' on were not read because the file has a
   * hole there.
   */
  int (*hole) (struct tablewalk *walk, struct walk_table *table,
               uint64_t first, uint64_t n);
  /* A page could not be read: 0 to go on behind it.  'table' is NULL for
   * L1.
   */
  int (*unreadable) (struct tablewalk *walk, const struct walk_table *table,
                     uint64_t offset, int error);
  /* Asked before each read: a negative errno ends the walk. */
  int (*may_go_on) (struct tablewalk *walk);

  /* The walk's. */
  struct walk_table *tables;
  size_t count, next;           /* of the list; the next one to be read */
  double due;                   /* when the next read may begin */
  uint64_t rate;                /* that this was reckoned with */
  struct walker *walkers;
};

int tablewalk_init (struct tablewalk *walk);
void tablewalk_destroy (struct tablewalk *walk);

/* Begin to read L1, or the tables of a list, which stays the owner's. */
void tablewalk_l1 (struct tablewalk *walk);
void tablewalk_l2 (struct tablewalk *walk, struct walk_table *tables,
                   size_t count);

#endif /* QED_TABLEWALK_H */
