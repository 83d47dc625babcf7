/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The dirty bit's life: mark-dirty and make-clean (image.h has the diagram).
 * header.c writes it.  Loop only.
 */

#include <config.h>

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "image.h"

static struct qed_image *
image_of (struct job *job)
{
  return (struct qed_image *)
    ((char *) job - offsetof (struct qed_image, job));
}

/* ---- mark-dirty: NEED_CHECK is durable before any change (O1) ---- */

static int begin_log (struct job *job);
static int set_need_check (struct job *job);
static int open_gate (struct job *job);

static const struct job_step mark_dirty_steps[] = {
  { "begin-log",        begin_log },    /* O10: the log before the gate */
  { "read-header",      header_read },
  { "set-need-check",   set_need_check },
  { "sync-header",      header_sync },
  { "open-gate",        open_gate },
  { NULL, NULL }
};

static int
begin_log (struct job *job)
{
  pending_begin (image_of (job));
  return JOB_NEXT;
}

static int
set_need_check (struct job *job)
{
  return header_write_features (job, QED_F_NEED_CHECK, 0);
}

static int
open_gate (struct job *job)
{
  struct qed_image *image = image_of (job);

  image->state = STATE_DIRTY;
  atomic_store (&image->last_change, loop_now ());
  gate_open (&image->gate);
  return JOB_NEXT;
}

static void
mark_dirty_done (struct job *job)
{
  struct qed_image *image = image_of (job);

  if (job->error < 0 &&
      log_may (&image->mark_dirty_log, &image->options.log, image->path))
    log_error (&image->options.log, "%s: cannot mark the header (%s, "
               "NEED_CHECK, offset 0x%x): %s: writes that allocate fail",
               image->path, job->failed_at, FORMAT_AT_FEATURES,
               strerror (-job->error));
  image_job_done (image, job, job->error);
}

void
dirty_mark (struct qed_image *image)
{
  struct job *job = &image->job;

  assert (!gate_is_open (&image->gate));
  image->running = job;
  job->name = "mark-dirty";
  job->steps = mark_dirty_steps;
  job->done = mark_dirty_done;
  job_start (job);
}

/* ---- make-clean: NEED_CHECK goes after everything else (O7) ---- */

static int close_gate (struct job *job);
static int empty_log (struct job *job);
static int reclaim (struct job *job);
static int drop_tables (struct job *job);
static int sync_dropped (struct job *job);
static int cut_tail (struct job *job);
static int clear_need_check (struct job *job);

static const struct job_step make_clean_steps[] = {
  { "close-gate",       close_gate },   /* wait for changes under way */
  { "write-back",       flush_step },   /* ends with a sync */
  { "empty-log",        empty_log },    /* before what it names is cut off */
  { "reclaim",          reclaim },      /* what was freed is free */
  { "drop-tables",      drop_tables },  /* none of them names anything */
  { "sync-dropped",     sync_dropped }, /* before they are cut off */
  { "cut-tail",         cut_tail },     /* the file ends where its use ends */
  { "read-header",      header_read },
  { "clear-need-check", clear_need_check },
  { "sync-header",      header_sync },
  { NULL, NULL }
};

static int
close_gate (struct job *job)
{
  struct qed_image *image = image_of (job);

  job_io_begin (job);
  if (gate_close (&image->gate))
    job_io_end (job, 0);
  return JOB_WAIT;              /* else the last holder ends it */
}

/* No one adds to it while the gate is closed. */
static int
empty_log (struct job *job)
{
  pending_empty (&image_of (job)->pending);
  return JOB_NEXT;
}

static int
reclaim (struct job *job)
{
  reclaim_wait (image_of (job), job);
  return JOB_WAIT;
}

/* As none of them names anything, a crash while they go leaks their clusters
 * at most.
 */
static bool
may_drop_tables (const struct qed_image *image)
{
  return image->closing && image->drop_tables &&
    !atomic_load (&image->damaged);
}

static void
tables_dropped (struct storage_io *io)
{
  struct job *job = io->opaque;
  struct qed_image *image = image_of (job);
  struct space *space = &image->space;

  /* Else nothing counts as free, and nothing is cut. */
  if (io->error == 0 &&
      space_reset (space, &image->geometry, image->storage,
                   atomic_load (&space->length_bytes)) == 0)
    space_complete (space);
  job_io_end (job, io->error);
}

static int
drop_tables (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct storage_io *io = &image->header_io;

  if (!may_drop_tables (image))
    return JOB_NEXT;
  io->op = STORAGE_ZERO;
  io->offset = image->geometry.l1_offset;
  io->limit = image->geometry.table_bytes;
  io->done = tables_dropped;
  io->opaque = job;
  job_io_begin (job);
  storage_submit (image->loop, image->storage, io);
  return JOB_WAIT;
}

static int
sync_dropped (struct job *job)
{
  return may_drop_tables (image_of (job)) ? header_sync (job) : JOB_NEXT;
}

/* A tail that stays does no harm: a failure is only logged. */
static void
cut_done (struct storage_io *io)
{
  struct job *job = io->opaque;
  struct qed_image *image = image_of (job);

  if (io->error < 0)
    log_warning (&image->options.log, "%s: cannot cut the file to 0x%" PRIx64
                 " bytes: %s: it stays longer than its use", image->path,
                 io->offset, strerror (-io->error));
  else {
    image->cut = true;
    space_was_cut (&image->space, io->offset);
  }
  job_io_end (job, 0);
}

static int
cut_tail (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct storage_io *io = &image->header_io;

  if (atomic_load (&image->damaged) ||
      !space_cut_wanted (&image->space, &io->offset))
    return JOB_NEXT;
  io->op = STORAGE_RESIZE;
  io->done = cut_done;
  io->opaque = job;
  job_io_begin (job);
  storage_submit (image->loop, image->storage, io);
  return JOB_WAIT;
}

/* An image in which damage was found stays marked, so that it is checked; but
 * no longer as one with a log.
 */
static int
clear_need_check (struct job *job)
{
  struct qed_image *image = image_of (job);
  bool damaged = atomic_load (&image->damaged);

  if (damaged && image->header.autoclear_features == 0)
    return JOB_NEXT;
  image->header.autoclear_features = 0;
  return header_write_features (job, 0, damaged ? 0 : QED_F_NEED_CHECK);
}

/* If anything failed, the header may say either: the gate stays closed, so
 * that the next change marks the image again, and it counts as dirty.
 */
static void
make_clean_done (struct job *job)
{
  struct qed_image *image = image_of (job);

  atomic_store (&image->cut_wanted, false);
  if (job->error == 0) {
    if (!atomic_load (&image->damaged))
      image->state = STATE_CLEAN;
    if (image->cut)
      space_cut_is_durable (&image->space);
    image->cut = false;
  }
  else
    log_error (&image->options.log, "%s: cannot make the image clean "
               "(%s): %s: NEED_CHECK stays set until that succeeds, or the "
               "next open checks the image", image->path, job->failed_at,
               strerror (-job->error));
  image->close_error = job->error;
  image_job_done (image, job, job->error);
}

void
dirty_make_clean (struct qed_image *image)
{
  struct job *job = &image->job;

  assert (image->state == STATE_DIRTY || image->options.examine ||
          image->drop_tables || atomic_load (&image->cut_wanted));
  image->running = job;
  job->name = "make-clean";
  job->steps = make_clean_steps;
  job->done = make_clean_done;
  job_start (job);
}
