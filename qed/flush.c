/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The ordered write-back: the one place that decides in which order metadata
 * reaches the disk (O3, O4, O6).  It is always of the whole image; one flush
 * serves all who came before it started.
 *
 * What it promises when it succeeds: all data whose write had ended when it
 * started, and every entry needed to reach it, are durable.
 *
 * Dirty pages are copied in rounds of a bounded number, so that the copies
 * take a bounded amount of memory.  L1 pages are copied before the first L2
 * round and written after the last: so whatever table an L1 entry names, all
 * that its pages held when the entry was copied is durable before (O4).
 * Loop only.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

/* Pages that are copied in a round, and how many runs of pages that lie side
 * by side in the file are written at a time: to a file, by as many threads; to
 * a socket, as requests in flight.
 */
#ifndef QED_SIM
#define L1_ROUND 256u           /* 1 MiB of copies */
#define L2_ROUND 1024u          /* 4 MiB */
#define RUNS_FILE 4u
#define RUNS_MAX 32u
#else                           /* small images are to take many rounds */
#define L1_ROUND 1u
#define L2_ROUND 3u
#define RUNS_FILE 2u
#define RUNS_MAX 2u
#endif

struct write_back {
  void (*done) (struct job *job);       /* whose flush it is */
  struct metadata_batch l1, l2;
  bool log_switched;            /* and L1 pages counted */
  bool freed_noted;             /* what is freed now will be durably gone */
  bool l1_copied;               /* the L1 copies of this round were made */
  size_t l1_left, l2_left;      /* dirty pages that this flush has to write */
  bool sync_data;               /* O3 asks for it in this round */
  bool tables_new;              /* L1 pages will be written */

  struct metadata_batch *writing;       /* while a batch is written */
  pthread_mutex_t lock;                 /* for next and failed */
  size_t next;                          /* its first page not yet begun */
  bool failed;                          /* nothing more of it is begun */
  struct storage_io runs[RUNS_MAX];
  struct storage_io sync_io;
};

static struct qed_image *
image_of (struct job *job)
{
  return (struct qed_image *)
    ((char *) job - offsetof (struct qed_image, write_back));
}

int
flush_init (struct qed_image *image)
{
  struct write_back *wb = calloc (1, sizeof *wb);

  if (wb == NULL)
    return -ENOMEM;
  image->wb = wb;
  pthread_mutex_init (&wb->lock, NULL);
  if (metadata_batch_init (&wb->l1, L1_ROUND) < 0 ||
      metadata_batch_init (&wb->l2, L2_ROUND) < 0) {
    flush_destroy (image);
    return -ENOMEM;
  }
  return 0;
}

void
flush_destroy (struct qed_image *image)
{
  if (image->wb == NULL)
    return;
  metadata_batch_destroy (&image->wb->l1);
  metadata_batch_destroy (&image->wb->l2);
  pthread_mutex_destroy (&image->wb->lock);
  free (image->wb);
  image->wb = NULL;
}

/* ---- The steps ---- */

static int note_freed (struct job *job);
static int switch_log (struct job *job);
static int copy_l1_pages (struct job *job);
static int copy_l2_pages (struct job *job);
static int sync_data (struct job *job);
static int write_l2_pages (struct job *job);
static int next_l2_round (struct job *job);
static int sync_l2_pages (struct job *job);
static int write_l1_pages (struct job *job);
static int next_l1_round (struct job *job);
static int sync_all (struct job *job);

static const struct job_step flush_steps[] = {
  { "note-freed",       note_freed },      /* O5: what this flush covers */
  { "switch-log",       switch_log },      /* O10: what it makes needless */
  { "copy-l1",          copy_l1_pages },
  { "copy-l2",          copy_l2_pages },
  { "sync-data",        sync_data },       /* O3: used-before clusters */
  { "write-l2",         write_l2_pages },
  { "next-l2-round",    next_l2_round },   /* until all of them are written */
  { "sync-l2",          sync_l2_pages },   /* O4: only if a table is new */
  { "write-l1",         write_l1_pages },
  { "next-l1-round",    next_l1_round },
  { "sync",             sync_all },        /* O6 */
  { NULL, NULL }
};

/* What had named them is dirty, or gone, before the dirty pages are counted. */
static int
note_freed (struct job *job)
{
  struct qed_image *image = image_of (job);

  if (!image->wb->freed_noted)
    space_flush_begins (&image->space);
  image->wb->freed_noted = true;
  return JOB_NEXT;
}

/* What had been logged is dirty before it is counted: pending.c. */
static int
switch_log (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct write_back *wb = image->wb;

  if (wb->log_switched)
    return JOB_NEXT;
  pending_switch (&image->pending);
  wb->log_switched = true;
  wb->l1_left = metadata_dirty (&image->metadata, METADATA_L1);
  return JOB_NEXT;
}

static int
copy_l1_pages (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct write_back *wb = image->wb;

  if (wb->l1_copied)
    return JOB_NEXT;
  metadata_copy_dirty (&image->metadata, METADATA_L1, wb->l1_left, &wb->l1);
  wb->l1_left -= wb->l1.count;
  wb->l1_copied = true;
  wb->tables_new = wb->l1.count > 0;

  /* Whatever the copied entries name is dirty by now, if it ever will be
   * (publishers change L2 pages after the table's L1 entry: those are not
   * ours).
   */
  wb->l2_left = metadata_dirty (&image->metadata, METADATA_L2);
  return JOB_NEXT;
}

/* O3: a publisher sets sync_data_first before it publishes.  So it is cleared
 * before the copy: what is published after that sets it for the next round,
 * and what got into the copy meanwhile is seen by the second look.
 */
static int
copy_l2_pages (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct write_back *wb = image->wb;

  wb->sync_data = atomic_exchange (&image->sync_data_first, false);
  metadata_copy_dirty (&image->metadata, METADATA_L2, wb->l2_left, &wb->l2);
  wb->l2_left -= wb->l2.count;
  wb->sync_data |= atomic_load (&image->sync_data_first);
  return JOB_NEXT;
}

static void
sync_done (struct storage_io *io)
{
  struct job *job = io->opaque;

  job_io_end (job, image_sync_result (image_of (job), job->at->name,
                                      io->error));
}

static int
start_sync (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct storage_io *io = &image->wb->sync_io;

  io->op = STORAGE_SYNC;
  io->done = sync_done;
  io->opaque = job;
  job_io_begin (job);
  storage_submit (image->loop, image->storage, io);
  return JOB_WAIT;
}

static int
sync_data (struct job *job)
{
  return image_of (job)->wb->sync_data ? start_sync (job) : JOB_NEXT;
}

/* ---- Writing a batch ---- */

/* Fill in the pages from wb->next on that lie side by side in file and buffer;
 * false if there are none.  Any thread: who has written a run goes on with the
 * next, without a detour over the loop.
 */
static bool
next_run (struct storage_io *run)
{
  struct write_back *wb = image_of (run->opaque)->wb;
  struct metadata_batch *batch = wb->writing;
  size_t first, n = 0;

  pthread_mutex_lock (&wb->lock);
  first = wb->next;
  while (!wb->failed && first + n < batch->count &&
         batch->offsets[first + n] == batch->offsets[first] + n * PAGE_BYTES)
    n++;
  wb->next += n;
  pthread_mutex_unlock (&wb->lock);

  run->op = STORAGE_WRITE;
  run->buf = batch->buf + first * PAGE_BYTES;
  run->count = n * PAGE_BYTES;
  run->offset = n > 0 ? batch->offsets[first] : 0;
  return n > 0;
}

static void
runs_done (struct storage_io *run)
{
  struct job *job = run->opaque;
  struct qed_image *image = image_of (job);
  struct write_back *wb = image->wb;

  if (run->error < 0) {
    if (log_may (&image->write_back_log, &image->options.log, image->path))
      log_error (&image->options.log, "%s: cannot write tables (%s, offset 0x%"
                 PRIx64 "): %s: flushes fail; the tables stay in memory and "
                 "are tried again", image->path, job->at->name, run->offset,
                 strerror (-run->error));
    pthread_mutex_lock (&wb->lock);
    wb->failed = true;
    pthread_mutex_unlock (&wb->lock);
  }
  job_io_end (job, run->error);
}

static int
write_batch (struct job *job, struct metadata_batch *batch)
{
  struct qed_image *image = image_of (job);
  struct write_back *wb = image->wb;
  size_t i, width = image->storage->ops->submit ? RUNS_MAX : RUNS_FILE;

  if (batch->count == 0)
    return JOB_NEXT;
  wb->writing = batch;
  wb->next = 0;
  wb->failed = false;
  for (i = 0; i < width; i++) {
    wb->runs[i].done = runs_done;
    wb->runs[i].more = next_run;
    wb->runs[i].opaque = job;
    if (!next_run (&wb->runs[i]))
      break;
    job_io_begin (job);
    storage_submit (image->loop, image->storage, &wb->runs[i]);
  }
  return JOB_WAIT;
}

static int
write_l2_pages (struct job *job)
{
  return write_batch (job, &image_of (job)->wb->l2);
}

/* A round's pages may change again once they are written; they stay pinned as
 * "being written" no longer than needed.
 */
static int
next_l2_round (struct job *job)
{
  struct qed_image *image = image_of (job);

  metadata_batch_done (&image->metadata, &image->wb->l2, true);
  return image->wb->l2_left > 0 ? JOB_AGAIN : JOB_NEXT;
}

static int
sync_l2_pages (struct job *job)
{
  return image_of (job)->wb->tables_new ? start_sync (job) : JOB_NEXT;
}

static int
write_l1_pages (struct job *job)
{
  return write_batch (job, &image_of (job)->wb->l1);
}

static int
next_l1_round (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct write_back *wb = image->wb;

  metadata_batch_done (&image->metadata, &wb->l1, true);
  wb->l1_copied = false;
  return wb->l1_left > 0 ? JOB_AGAIN : JOB_NEXT;
}

static int
sync_all (struct job *job)
{
  return start_sync (job);
}

/* ---- Start and end ---- */

/* The pages of a round that failed stay dirty; those of earlier rounds are
 * written, and a sync that failed has failed the image for good.
 */
static void
flush_done (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct write_back *wb = image->wb;

  if (job->error < 0) {
    metadata_batch_done (&image->metadata, &wb->l2, false);
    metadata_batch_done (&image->metadata, &wb->l1, false);
    if (wb->sync_data)
      atomic_store (&image->sync_data_first, true);
  }
  else
    pending_written (&image->pending);  /* before anything is used again */
  space_flush_ends (&image->space, job->error == 0);
  reclaim_start (image);
  wb->done (job);
}

/* Its end is that of a piece of the other job's I/O. */
static void
step_done (struct job *job)
{
  job_io_end (&image_of (job)->job, job->error);
}

int
flush_step (struct job *job)
{
  job_io_begin (job);
  flush_start ((struct qed_image *)
               ((char *) job - offsetof (struct qed_image, job)), step_done);
  return JOB_WAIT;
}

void
flush_start (struct qed_image *image, void (*done) (struct job *job))
{
  struct write_back *wb = image->wb;
  struct job *job = &image->write_back;

  wb->done = done;
  wb->log_switched = false;
  wb->freed_noted = false;
  wb->l1_copied = false;
  job->name = "flush";
  job->steps = flush_steps;
  job->done = flush_done;
  job_start (job);
}
