/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What becomes of freed clusters (O5):
 *
 *   freed (discard.c) -> its old entry durably gone (flush.c) -> older guards
 *   gone -> punched -> free
 *
 * A job of its own, beside the image's one: it changes no metadata on disk,
 * and a reader that is slow to leave must not hold up a flush.  Loop only.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define BATCH 4096u             /* clusters taken at a time */
#define PUNCHES 4u              /* under way at a time */
#define GUARD_POLL_SECONDS .001
#define STALL_SECONDS 1.        /* of waiting for guards */

struct reclaim {
  struct job job;
  struct qed_image *image;
  uint64_t clusters[BATCH];     /* in the order in which they were freed, then
                                 * in file order */
  size_t n, next;               /* next: not yet punched */
  uint64_t mark;                /* guards older than this must go */
  double since;                 /* when that wait began */
  bool stalled;                 /* it is long */
  struct loop_timer poll;
  struct storage_io punches[PUNCHES];
  struct job *waiting;          /* another job that waits for the end */
};

static struct reclaim *
reclaim_of (struct job *job)
{
  return (struct reclaim *) job;
}

static int take_gone (struct job *job);
static int wait_guards (struct job *job);
static int punch (struct job *job);
static int free_clusters (struct job *job);

static const struct job_step reclaim_steps[] = {
  { "take-gone",        take_gone },
  { "wait-guards",      wait_guards },
  { "punch",            punch },
  { "free",             free_clusters },
  { NULL, NULL }
};

static int
compare_clusters (const void *a, const void *b)
{
  const uint64_t *p = a, *q = b;

  return *p < *q ? -1 : *p > *q;
}

static int
take_gone (struct job *job)
{
  struct reclaim *reclaim = reclaim_of (job);

  reclaim->n = space_first_gone (&reclaim->image->space, reclaim->clusters,
                                 BATCH);
  qsort (reclaim->clusters, reclaim->n, sizeof *reclaim->clusters,
         compare_clusters);
  reclaim->next = 0;
  return JOB_NEXT;
}

/* ---- Older guards ---- */

/* A reader may be stuck, as on a backing file that doesn't answer. */
static void
note_stall (struct reclaim *reclaim, bool stalled)
{
  if (reclaim->stalled == stalled)
    return;
  reclaim->stalled = stalled;
  space_stall (&reclaim->image->space, stalled);
}

static void
poll_guards (struct loop_timer *timer)
{
  struct reclaim *reclaim = (struct reclaim *)
    ((char *) timer - offsetof (struct reclaim, poll));
  struct qed_image *image = reclaim->image;

  if (guard_passed (&image->guards, reclaim->mark)) {
    note_stall (reclaim, false);
    job_io_end (&reclaim->job, 0);
    return;
  }
  if (loop_now () - reclaim->since >= STALL_SECONDS)
    note_stall (reclaim, true);
  loop_timer_start (image->loop, timer, GUARD_POLL_SECONDS);
}

static int
wait_guards (struct job *job)
{
  struct reclaim *reclaim = reclaim_of (job);

  reclaim->mark = guard_mark (&reclaim->image->guards);
  reclaim->since = loop_now ();
  job_io_begin (job);
  poll_guards (&reclaim->poll);
  return JOB_WAIT;
}

/* ---- Punching ---- */

/* Give the next run of neighbours back to the file system. */
static void
punch_next (struct reclaim *reclaim, struct storage_io *io)
{
  unsigned bits = reclaim->image->geometry.cluster_bits;
  uint64_t first = reclaim->clusters[reclaim->next], n = 1;

  while (reclaim->next + n < reclaim->n &&
         reclaim->clusters[reclaim->next + n] == first + n)
    n++;
  reclaim->next += n;
  io->op = STORAGE_PUNCH;
  io->offset = first << bits;
  io->limit = n << bits;
  storage_submit (reclaim->image->loop, reclaim->image->storage, io);
}

/* What could not be punched is free all the same: whoever takes it makes it
 * read as zeros.
 */
static void
punched (struct storage_io *io)
{
  struct reclaim *reclaim = io->opaque;

  if (io->error < 0 && io->error != -EOPNOTSUPP)
    image_report (reclaim->image, "punching freed clusters at file offset",
                  io->offset, io->error);
  if (reclaim->next < reclaim->n)
    punch_next (reclaim, io);
  else
    job_io_end (&reclaim->job, 0);
}

static int
punch (struct job *job)
{
  struct reclaim *reclaim = reclaim_of (job);
  unsigned i;

  for (i = 0; i < PUNCHES && reclaim->next < reclaim->n; i++) {
    reclaim->punches[i].done = punched;
    reclaim->punches[i].opaque = reclaim;
    job_io_begin (job);
    punch_next (reclaim, &reclaim->punches[i]);
  }
  return i > 0 ? JOB_WAIT : JOB_NEXT;
}

static int
free_clusters (struct job *job)
{
  struct reclaim *reclaim = reclaim_of (job);

  space_reclaim (&reclaim->image->space, reclaim->n);
  return space_any_gone (&reclaim->image->space) ? JOB_AGAIN : JOB_NEXT;
}

/* ---- Start and end ---- */

static void
reclaim_done (struct job *job)
{
  struct reclaim *reclaim = reclaim_of (job);
  struct job *waiting = reclaim->waiting;

  reclaim->waiting = NULL;
  if (waiting)
    job_io_end (waiting, 0);
  image_kick (reclaim->image);
}

int
reclaim_init (struct qed_image *image)
{
  struct reclaim *reclaim = calloc (1, sizeof *reclaim);
  int r;

  if (reclaim == NULL)
    return -ENOMEM;
  r = loop_timer_init (image->loop, &reclaim->poll, poll_guards);
  if (r < 0) {
    free (reclaim);
    return r;
  }
  reclaim->image = image;
  reclaim->job.name = "reclaim";
  reclaim->job.steps = reclaim_steps;
  reclaim->job.done = reclaim_done;
  reclaim->job.log = &image->options.log;
  reclaim->job.about = image->path;
  image->reclaim = reclaim;
  return 0;
}

void
reclaim_destroy (struct qed_image *image)
{
  if (image->reclaim == NULL)
    return;
  loop_timer_destroy (image->loop, &image->reclaim->poll);
  free (image->reclaim);
  image->reclaim = NULL;
}

void
reclaim_start (struct qed_image *image)
{
  if (!image->reclaim->job.active && space_any_gone (&image->space))
    job_start (&image->reclaim->job);
}

bool
reclaim_active (const struct qed_image *image)
{
  return image->reclaim->job.active;
}

void
reclaim_wait (struct qed_image *image, struct job *job)
{
  if (reclaim_active (image)) {
    job_io_begin (job);
    image->reclaim->waiting = job;
  }
}
