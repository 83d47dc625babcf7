/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* One look at all tables as a plain call: what a check and each round of a
 * repair begin with.
 *
 * Either no one else uses the image, which was opened with options.examine and
 * started; or it is being served, and what was seen may have changed since.
 * Not on the loop.
 */

#ifndef QED_LOOK_H
#define QED_LOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "image.h"
#include "tablewalk.h"

/* A reference to a data cluster. */
struct look_reference {
  uint64_t entry;               /* what it says: a place in the file */
  uint64_t cluster, where;      /* of the guest; the entry's place */
};

/* An L1 entry that names a table which another one names, too. */
struct look_twin {
  uint64_t offset, l1_index;
};

struct look {
  /* Filled in by the caller. */
  struct qed_image *image;
  const struct qed_check_options *options;
  struct space *space;          /* where what is referenced is entered: the
                                 * image's own, or another that was cleared */
  bool online;                  /* others use the image: what memory holds
                                 * goes before the disk */

  /* What was seen: the problems but leaks, by their place in the file. */
  struct qed_problem *problems;
  size_t count, capacity;
  bool more;                    /* than there is room for */
  bool starved;                 /* and that is because memory is short */
  bool losses_told;             /* all that a repair loses was told */
  uint64_t counts[QED_PROBLEM_CODES];
  uint64_t length;              /* of the file, then, or of what counts of
                                 * it: space_reach */
  bool orphans;                 /* L1 or a table was wrong, so that what is
                                 * not entered may be what it named */
  uint64_t floor;               /* nothing below this cluster is handed out,
                                 * in use or not */
  bool sound;                   /* nothing at all was wrong */
  bool leaks_known;             /* every L2 table was read, so that what is
                                 * not entered is not in use */
  uint64_t allocated, fragmented;
  struct walk_table *tables;    /* those that are right, by their place */
  size_t table_count;
  struct walk_table *doubtful;  /* those that overlap or are cut, by their L1
                                 * index */
  size_t doubtful_count;
  struct qed_problem *suspects; /* wrong entries of these; 'other' is
                                 * UINT64_MAX where they may be data */
  size_t suspect_count, suspect_capacity;
  struct look_twin *twins;      /* by their place */
  size_t twin_count;

  /* Of look_data: when the rate lets it read again, and that rate. */
  double due;
  uint64_t rate;

  /* Of look_references. */
  struct look_reference *references;
  size_t reference_count, reference_capacity;
  uint64_t reference_limit;     /* all to clusters below it are there */
};

/* Read all tables.  look->space has what is referenced, afterwards. */
int look_run (struct look *look);
void look_free (struct look *look);

/* Note one that was found, or only count it if there is no room. */
void look_add_problem (struct look *look, const struct qed_problem *problem);

/* There are orphans: from now on nothing is written to what lies behind the
 * end of use, as far as the file goes; or, if it can't grow, the data in it.
 */
void look_keep_tail (struct look *look);

/* The table that lies at a place of the file, or NULL. */
const struct walk_table *look_table_at (const struct look *look,
                                        uint64_t place);

/* The guest's range that an L1 entry describes, from one of its table's
 * entries on.
 */
void look_table_range (const struct look *look, uint64_t l1_index,
                       uint64_t first, uint64_t *guest, uint64_t *bytes);

/* Find who refers to the clusters of a set.  If there are too many for one
 * call: to the first clusters of it, and reference_limit isn't UINT64_MAX.
 * -EIO if some tables can't be read now.
 */
int look_references (struct look *look, const struct bitmap *wanted);

/* ---- look-data.c ---- */

/* Find the leaks, by the last look: 'leak' (may be NULL) for each run of
 * them.  Adds to the counts of leaked and free clusters.
 */
int look_leaks (struct look *look,
                void (*leak) (struct look *look,
                              const struct qed_problem *problem));

/* Where they end at the latest, in clusters. */
uint64_t look_leaks_end (const struct look *look);

/* Read all that is allocated; what can't be read goes into the problems. */
int look_data (struct look *look);

#endif /* QED_LOOK_H */
