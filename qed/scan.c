/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The opening scan: which clusters are referenced, where their use ends, what
 * is free.
 *
 * The file's length is not to be trusted as the end of use: a host that lost
 * power can leave an image marked clean whose entries name offsets beyond it,
 * and the next cluster allocated there would show up in two places.  So the
 * tables are read once after a writable open: L1 first (after that every L2
 * table is known and in-place writes go on), then the L2 tables.  Changes wait
 * for the end.  Of a read-only image only L1 is walked.
 *
 * What is wrong, or can't be read, is named, and the image takes no more
 * writes; only if every table was read and nothing was wrong may free clusters
 * be reused and the tail be cut.  An image that was not closed cleanly goes on
 * to its repair (recover.c).  Loop only.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "survey.h"

#define WALKERS 4u              /* reads in flight */

/* Seconds until the log is told of a long scan, and then again. */
#define TELL_SECONDS 5.

struct scan {
  struct job job;
  struct survey survey;
  double told;                  /* loop_now () of that, or of the start */
};

static struct scan *
scan_of (struct job *job)
{
  return (struct scan *) job;
}

static int walk_l1_table (struct job *job);
static int l1_walked (struct job *job);
static int walk_l2_tables (struct job *job);
static int conclude (struct job *job);

static const struct job_step scan_steps[] = {
  { "walk-l1",          walk_l1_table },
  { "l1-walked",        l1_walked },    /* in-place writes may go on */
  { "walk-l2",          walk_l2_tables },
  { "conclude",         conclude },     /* changes may go on */
  { NULL, NULL }
};

static void
found (struct survey *survey, const struct qed_problem *problem)
{
  char text[QED_PROBLEM_TEXT_SIZE];

  if (survey->image->recover) {
    recover_found (survey->image->recover, problem);
    return;
  }
  qed_problem_to_text (problem, text);
  image_damage (survey->image, "%s", text);
}

static void
tell_progress (struct scan *scan)
{
  const struct survey *survey = &scan->survey;
  struct qed_image *image = survey->image;
  const uint64_t done = atomic_load (&survey->tables_read);
  const uint64_t total = atomic_load (&survey->tables_known);

  atomic_store (&image->tables_read, done);
  atomic_store (&image->tables_known, total);
  if (loop_now () - scan->told < TELL_SECONDS)
    return;
  scan->told = loop_now ();
  log_warning (&image->options.log, "%s: its tables are being read: %" PRIu64
               " of %" PRIu64 "; changes wait for that", image->path, done,
               total);
}

static int
may_go_on (struct survey *survey)
{
  tell_progress ((struct scan *)
                 ((char *) survey - offsetof (struct scan, survey)));
  return image_close_wanted (survey->image) ? -ECANCELED : 0;
}

static int
walk_l1_table (struct job *job)
{
  survey_l1 (&scan_of (job)->survey);
  return JOB_WAIT;
}

static int
l1_walked (struct job *job)
{
  struct survey *survey = &scan_of (job)->survey;
  int r = survey_sort_tables (survey);

  if (r == 0) {
    atomic_store (&survey->image->scan_state, SCAN_READING_L2);
    wait_wake_all (&survey->image->scanned);
  }
  return r;
}

static int
walk_l2_tables (struct job *job)
{
  struct survey *survey = &scan_of (job)->survey;

  if (survey->image->read_only &&
      survey->image->options.check != QED_CHECK_ALWAYS)
    return JOB_NEXT;
  survey_l2 (survey);
  return JOB_WAIT;
}

static int
conclude (struct job *job)
{
  struct survey *survey = &scan_of (job)->survey;

  if (survey->whole && !survey->image->read_only)
    space_complete (survey->space);
  return JOB_NEXT;
}

static void
free_scan (struct scan *scan)
{
  survey_destroy (&scan->survey);
  free (scan);
}

static const char *
reason (int error)
{
  return error == -EFBIG ? "the clusters are scattered too widely"
    : strerror (-error);
}

/* An unread table may name clusters anywhere, also behind the end, where the
 * next allocation would go: nothing is changed then.
 */
static void
scan_done (struct job *job)
{
  struct scan *scan = scan_of (job);
  struct qed_image *image = scan->survey.image;

  if (job->error < 0 && job->error != -ECANCELED) {
    log_error (&image->options.log, "%s: the opening scan failed (%s): %s: "
               "no writes are accepted: see to the storage, then open the "
               "image anew", image->path, job->failed_at, reason (job->error));
    image_refuse (image, EROFS);
  }
  if (job->error < 0)
    recover_unknown (image);
  image->want_recover = image->recover && job->error == 0 &&
    recover_weigh (image->recover);
  image->scan = NULL;
  free_scan (scan);
  if (!image->want_recover)
    recover_end (image);
  image_kick (image);
}

static struct scan *
alloc_scan (struct qed_image *image)
{
  struct scan *scan = calloc (1, sizeof *scan);

  if (scan == NULL)
    return NULL;
  scan->survey = (struct survey) {
    .image = image,
    .space = &image->space,
    .job = &scan->job,
    .width = WALKERS,
    .found = found,
    .may_go_on = may_go_on,
  };
  if (survey_init (&scan->survey) < 0) {
    free (scan);
    return NULL;
  }
  scan->told = loop_now ();
  scan->job.name = "scan";
  scan->job.steps = scan_steps;
  scan->job.done = scan_done;
  scan->job.log = &image->options.log;
  scan->job.about = image->path;
  return scan;
}

void
scan_start (struct qed_image *image)
{
  image->scan = alloc_scan (image);
  if (image->scan == NULL) {
    log_error (&image->options.log, "%s: no memory for the opening scan: no "
               "writes are accepted", image->path);
    image_refuse (image, EROFS);
    recover_unknown (image);
    recover_end (image);
    return;
  }
  atomic_store (&image->scan_state, SCAN_WALKING_L1);
  job_start (&image->scan->job);
}
