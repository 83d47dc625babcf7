/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the tables say: a walk over all of them that enters what is referenced
 * into a space, and names what is wrong (check.h).
 *
 * L1 entries come first; then the tables that they name are sorted, and those
 * that overlap are set apart; then the entries of the others; at last the
 * valid entries of those set apart, whose clusters are in use all the same.
 * The opening scan and every check are made of this.  Loop only.
 */

#ifndef QED_SURVEY_H
#define QED_SURVEY_H

#include <stdbool.h>
#include <stdint.h>

#include "bitmap.h"
#include "check.h"
#include "image.h"
#include "space.h"
#include "tablewalk.h"

struct survey_tables {
  struct walk_table *list;
  size_t count, capacity;
};

struct survey {
  /* Filled in by the owner before survey_init. */
  struct qed_image *image;
  struct space *space;          /* where references are entered */
  struct job *job;              /* whose I/O the walk is */
  unsigned width;               /* reads in flight */
  const struct qed_check_control *control;      /* or NULL */
  bool online;                  /* what memory holds goes before the disk */
  /* NULL, or: each reference to a cluster of survey_name's set; shared ones
   * are not reported when they're found, then.
   */
  int (*shared_entry) (struct survey *survey, uint64_t where, uint64_t entry,
                       uint64_t cluster);       /* of the guest */
  /* With the space locked, for most of them. */
  void (*found) (struct survey *survey, const struct qed_problem *problem);
  /* NULL, or: wrong entries of tables that were set apart. */
  void (*suspect) (struct survey *survey, const struct qed_problem *problem);
  int (*may_go_on) (struct survey *survey);

  /* The results. */
  bool whole;                   /* every table was read, and nothing was
                                 * wrong */
  uint64_t allocated, fragmented;       /* clusters */
  struct bitmap shared;         /* data clusters with more than one
                                 * reference, or in tables that were set
                                 * apart */
  uint64_t clashes;             /* references to them but the first ones */
  _Atomic uint64_t tables_read, tables_known;   /* for the progress */

  /* The survey's. */
  struct tablewalk walk;
  struct survey_tables tables;
  struct survey_tables doubtful;        /* those that were set apart */
  bool quiet;                   /* in the tables that were set apart */
  const struct bitmap *wanted;  /* naming: who refers to these clusters */
};

/* The table of a list in order of offsets that a place in the file belongs to;
 * or NULL.
 */
struct walk_table *survey_find_table (const struct format_geometry *g,
                                      struct walk_table *list, size_t count,
                                      uint64_t place);

int survey_init (struct survey *survey);
void survey_destroy (struct survey *survey);

/* The steps, in their order; all but the second begin I/O of the job, or have
 * nothing to do.
 */
void survey_l1 (struct survey *survey);
int survey_sort_tables (struct survey *survey);
void survey_l2 (struct survey *survey);
void survey_doubtful (struct survey *survey);
void survey_name (struct survey *survey, const struct bitmap *wanted);

/* The guest's address that an entry of a table describes. */
uint64_t survey_guest (const struct survey *survey, uint64_t l1_index,
                       uint64_t index);

/* Fill in the guest's range of so many entries, as far as the image goes;
 * problem->guest is UINT64_MAX where no address reaches.
 */
void survey_set_guest (const struct format_geometry *g,
                       struct qed_problem *problem, uint64_t l1_index,
                       uint64_t index, uint64_t entries);

/* Tell of a problem. */
void survey_report (struct survey *survey, const struct qed_problem *problem);

/* ---- survey-l2.c ---- */

/* n entries of a table, from 'first' on: enter what they name, with the space
 * locked; or look only for those that are wanted.
 */
int survey_l2_chunk (struct survey *survey, struct walk_table *table,
                     uint64_t first, const unsigned char *buf, size_t n);
int survey_name_chunk (struct survey *survey, const struct walk_table *table,
                       uint64_t first, const unsigned char *buf, size_t n);

#endif /* QED_SURVEY_H */
