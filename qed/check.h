/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Check and repair.
 *
 * One checker with three callers: a closed image (qed_check), an image that
 * is being opened (scan.c), and one that is being served (qed_check_online).
 * It reads every table once, in file order and several at a time, and names
 * each problem by a code of the table in problem.c; counters, reports, the
 * manual page and the tests come from that one table.
 *
 * Offsets and sizes are bytes.  Errors: negative errno.
 */

#ifndef QED_CHECK_H
#define QED_CHECK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "qed.h"

/* ---- Problems ---------------------------------------------------------- */

/* In the order of the table in problem.c. */
enum qed_problem_code {
  QED_PROBLEM_NEED_CHECK,
  QED_PROBLEM_L1_PAST_END,
  QED_PROBLEM_L1_MISALIGNED,
  QED_PROBLEM_L1_RESERVED_BITS,
  QED_PROBLEM_L1_INTO_HEADER,
  QED_PROBLEM_TABLE_TRUNCATED,
  QED_PROBLEM_TABLE_OVERLAP,
  QED_PROBLEM_TABLE_SHARED,
  QED_PROBLEM_TABLE_UNREADABLE,
  QED_PROBLEM_L2_PAST_END,
  QED_PROBLEM_L2_MISALIGNED,
  QED_PROBLEM_L2_RESERVED_BITS,
  QED_PROBLEM_ENTRY_INTO_HEADER,
  QED_PROBLEM_ENTRY_INTO_TABLE,
  QED_PROBLEM_CLUSTER_SHARED,
  QED_PROBLEM_PAGE_DIFFERS,
  QED_PROBLEM_DATA_UNREADABLE,
  QED_PROBLEM_LEAK,
  QED_PROBLEM_FREE,
};
#define QED_PROBLEM_CODES 19u

enum qed_severity {
  QED_SEVERITY_NOTE,            /* nothing is wrong */
  QED_SEVERITY_LEAK,            /* space is lost, no data */
  QED_SEVERITY_CORRUPTION,
  QED_SEVERITY_ERROR,           /* the check could not see everything */
};

struct qed_problem_kind {
  const char *code;             /* stable: "l2-entry-past-end" */
  enum qed_severity severity;
  const char *summary;          /* a phrase: "an L2 entry names ..." */
  const char *explanation;      /* a paragraph: what it is, where it may come
                                 * from, what a repair does about it */
};

const struct qed_problem_kind *qed_problem_kind (enum qed_problem_code code);

/* By its name; false if there is none such. */
bool qed_problem_find (const char *name, enum qed_problem_code *code);

/* One that was found.  Fields that don't apply are 0, those that are unknown
 * UINT64_MAX.
 */
struct qed_problem {
  enum qed_problem_code code;
  uint64_t where;               /* in the file: the entry, or the leaked
                                 * clusters */
  uint64_t value;               /* what the entry says */
  uint64_t guest;               /* the guest's range that is concerned; of a
                                 * table that is cut, what the missing part
                                 * describes */
  uint64_t guest_bytes;
  uint64_t other;               /* shared: the guest offset, or the L1 index,
                                 * that keeps it */
  uint64_t bytes;               /* leak, free: how much of the file */
  int error;                    /* unreadable: the negative errno */
};

/* One line about it, into 'text'. */
#define QED_PROBLEM_TEXT_SIZE 256
void qed_problem_to_text (const struct qed_problem *problem,
                          char text[QED_PROBLEM_TEXT_SIZE]);

/* ---- Running a check --------------------------------------------------- */

enum qed_repair {
  QED_REPAIR_NONE,              /* nothing is written */
  QED_REPAIR_LEAKS,             /* leaks alone */
  QED_REPAIR_ALL,
};

/* Steering a check that runs, from any thread. */
struct qed_check_control {
  _Atomic bool pause;
  _Atomic bool cancel;
  _Atomic uint64_t rate;        /* bytes a second; 0: no limit */
};

struct qed_check_options {
  enum qed_repair repair;
  bool dry_run;                 /* tell what a repair would do */
  bool data;                    /* read every allocated cluster too */
  bool raw_image;               /* of an export: see struct qed_options */
  const char *undo;             /* NULL, or a file to be made that gets all
                                 * that a repair overwrites */
  struct qed_check_control *control;    /* or NULL */
  struct qed_progress progress;

  /* The image could be opened: what is wrong will be told.  Of qed_check alone.
   * May be NULL.
   */
  void (*opened) (void *opaque);

  /* Each problem of the first look, each action of a repair ("fixed": what
   * was done, or would be), and each range of the guest's that a repair has
   * lost, or would lose; ranges may be told twice.  From the caller's thread.
   * May be NULL.
   */
  void (*found) (void *opaque, const struct qed_problem *problem);
  void (*fixed) (void *opaque, const struct qed_problem *problem,
                 const char *action);
  void (*lost) (void *opaque, uint64_t guest, uint64_t bytes);
  void *opaque;
};

void qed_check_options_init (struct qed_check_options *options);

/* What is so after the repair, if there was one; *_fixed: what it did. */
struct qed_check_result {
  uint64_t counts[QED_PROBLEM_CODES];   /* of the first look, by code; leak
                                         * and free: clusters */
  uint64_t corruptions, corruptions_fixed;
  uint64_t leaks, leaks_fixed;  /* clusters */
  uint64_t free;                /* unreferenced clusters that are holes */
  uint64_t errors;              /* what could not be read */
  uint64_t allocated_clusters, fragmented_clusters, total_clusters;
  uint64_t tables;              /* L2 tables */
  uint64_t image_end;           /* where use ends in the file */
  uint64_t lost_bytes;          /* the sum of the ranges that are lost, or
                                 * would be */
  bool need_check;              /* the header says so, at the end */
};

/* The exit code of qemu-img check: 0 clean, 1 the check failed, 2 corruptions
 * are left, 3 leaks are left.  'r' is what the check returned.
 */
int qed_check_exit_code (int r, const struct qed_check_result *result);

/* Check an image that no one else has open, and repair it if asked to.  The
 * path, lock and log of 'options' count.  One on an NBD server is repaired only
 * with raw_image, and that no one else uses it is the caller's business: there
 * are no locks.  0 if the check ran to its end, whatever it found.
 */
int qed_check (const struct qed_options *options,
               const struct qed_check_options *check,
               struct qed_check_result *result);

/* Check an image that is open and started, while requests go on, and repair
 * it if asked to (no undo file, no dry run; leaks become free space that is
 * used next).  While damage is known changes are refused; they go on when it is
 * repaired.  Where the disk differs from what memory has of it nothing is
 * repaired.  What is found is looked up again before it is told, so that
 * what changes meanwhile is no problem.  Waits; not on the loop; a request
 * thread of its own.  -EBUSY if a check of this image runs already.
 */
int qed_check_online (struct qed_image *image,
                      const struct qed_check_options *check,
                      struct qed_check_result *result);

/* Put back what a repair overwrote; on a server with options->raw_image.  The
 * path, lock, log and pending_directories of 'options' count.  What was written
 * since stays: after the repair of a closed image nothing is done then
 * (-EINVAL), after that of a server at open -ESTALE says that some entries were
 * not put back.
 */
int qed_undo (const char *undo, const struct qed_options *options,
              const struct qed_progress *progress);

#endif /* QED_CHECK_H */
