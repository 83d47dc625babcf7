/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which job an image's loop runs next, and the requests that wait for one.
 *
 * One job at a time, by urgency: the repair at open, mark-dirty, write-back,
 * make-clean on request, a change of the header, the end, make-clean;
 * whoever came before a job started is answered by it, later ones by the next.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "image.h"
#include "yield.h"

/* A dirty page is written back at the latest after this (O2). */
#ifdef QED_SIM
#define WRITE_BACK_SECONDS sim_write_back_seconds
#else
#define WRITE_BACK_SECONDS 5.
#endif

/* So long a reclaim may take before make-clean is put off once more. */
#define RECLAIM_SECONDS .1

/* ---- Requests that wait for a job ---- */

void
image_kick (struct qed_image *image)
{
  image = image_top (image);
  if (image->loop)
    loop_post (image->loop, &image->dispatch);
}

void
image_queue (struct qed_image *image, struct request_list *list,
             struct qed_request *request)
{
  pthread_mutex_lock (&image->lock);
  request->flush_next = list->first;
  list->first = request;
  pthread_mutex_unlock (&image->lock);
  image_kick (image);
}

/* The running job serves all who are in the list now. */
static bool
take_list (struct qed_image *image, struct request_list *list)
{
  bool any;

  assert (image->served.first == NULL);
  pthread_mutex_lock (&image->lock);
  any = list->first != NULL;
  image->served = *list;
  list->first = NULL;
  pthread_mutex_unlock (&image->lock);
  return any;
}

static void
answer_served (struct qed_image *image, int error)
{
  struct qed_request *request;

  pthread_mutex_lock (&image->lock);
  while ((request = image->served.first) != NULL) {
    image->served.first = request->flush_next;
    request->flush_error = error;
    request->phase = REQUEST_SERVED;
    request->wake (request);
  }
  pthread_mutex_unlock (&image->lock);
}

/* ---- Which job runs next (loop) ---- */

static void
write_back_done (struct job *job)
{
  struct qed_image *image = (struct qed_image *)
    ((char *) job - offsetof (struct qed_image, write_back));

  if (image->closing && job->error < 0)
    image->close_error = job->error;
  image_job_done (image, job, job->error);
}

static void
arm_timers (struct qed_image *image)
{
  struct metadata *md = &image->metadata;

  if (metadata_dirty (md, METADATA_L1) + metadata_dirty (md, METADATA_L2) &&
      !loop_timer_active (&image->write_back_timer) &&
      !sim_skips ("dispatch", "arm-write-back"))
    loop_timer_start (image->loop, &image->write_back_timer,
                      WRITE_BACK_SECONDS);
  if (image->state == STATE_DIRTY && image->options.clean_after > 0 &&
      !atomic_load (&image->damaged) &&
      !loop_timer_active (&image->clean_timer))
    loop_timer_start (image->loop, &image->clean_timer,
                      image->options.clean_after);
}

static void
write_back_due (struct loop_timer *timer)
{
  struct qed_image *image = (struct qed_image *)
    ((char *) timer - offsetof (struct qed_image, write_back_timer));
  struct metadata *md = &image->metadata;

  image->want_write_back =
    metadata_dirty (md, METADATA_L1) + metadata_dirty (md, METADATA_L2) > 0;
  image_kick (image);
}

/* O7: so many seconds after the last change.  What was freed is reclaimed
 * before the gate is closed: a reader that is stuck may keep that for long.
 */
static void
clean_due (struct loop_timer *timer)
{
  struct qed_image *image = (struct qed_image *)
    ((char *) timer - offsetof (struct qed_image, clean_timer));
  double idle = loop_now () - atomic_load (&image->last_change);

  if (idle < image->options.clean_after)
    loop_timer_start (image->loop, timer, image->options.clean_after - idle);
  else if (space_any_freed (&image->space) && !atomic_load (&image->failed)) {
    write_back_due (&image->write_back_timer);
    loop_timer_start (image->loop, timer, RECLAIM_SECONDS);
  }
  else {
    image->want_clean = true;
    image_kick (image);
  }
}

int
dispatch_init_timers (struct qed_image *image)
{
  int r = loop_timer_init (image->loop, &image->write_back_timer,
                           write_back_due);

  return r < 0 ? r
    : loop_timer_init (image->loop, &image->clean_timer, clean_due);
}

void
dispatch_destroy_timers (struct qed_image *image)
{
  loop_timer_destroy (image->loop, &image->write_back_timer);
  loop_timer_destroy (image->loop, &image->clean_timer);
}

/* The loop has nothing left to do; qed_close waits for this. */
static void
end (struct qed_image *image)
{
  loop_timer_stop (image->loop, &image->write_back_timer);
  loop_timer_stop (image->loop, &image->clean_timer);
  pthread_mutex_lock (&image->lock);
  image->closed = true;
  pthread_cond_signal (&image->closed_cond);
  pthread_mutex_unlock (&image->lock);
}

bool
image_close_wanted (struct qed_image *image)
{
  bool wanted;

  image = image_top (image);
  pthread_mutex_lock (&image->lock);
  wanted = image->want_close && !image->closed;
  pthread_mutex_unlock (&image->lock);
  return wanted;
}

/* If it is a socket. */
static bool
storage_stopped (struct storage *s)
{
  return s->ops->stop == NULL || s->ops->stop (s);
}

/* Of a chain, from this one on. */
static bool
backing_ended (struct backing *backing)
{
  const struct qed_image *image;

  while (backing && backing_stop (backing)) {
    image = backing_image (backing);
    if (image && image->scan)
      return false;
    backing = image ? image->backing : NULL;
  }
  return backing == NULL;
}

static bool
may_end (const struct qed_image *image)
{
  return !reclaim_active (image) && image->scan == NULL &&
    backing_ended (image->backing) && backing_ended (image->new_backing) &&
    storage_stopped (image->storage);
}

static void
start_scans (struct qed_image *image)
{
  for (; image; image = image_below (image)) {
    if (atomic_load (&image->scan_state) != SCAN_NOT_STARTED)
      continue;
    if (image->options.examine)
      atomic_store (&image->scan_state, SCAN_DONE);
    else
      scan_start (image);
  }
}

/* A failed image takes no job any more; whoever waits for one is told. */
static void
dispatch_failed (struct qed_image *image)
{
  image->close_error = -EIO;
  if (image->want_recover)
    recover_end (image);
  take_list (image, &image->want_mark);
  answer_served (image, -EIO);
  take_list (image, &image->want_flush);
  answer_served (image, -EIO);
  take_list (image, &image->want_make_clean);
  answer_served (image, -EIO);
  take_list (image, &image->want_header);
  answer_served (image, -EIO);
  if (image_close_wanted (image) && may_end (image))
    end (image);
}

static void
start_write_back (struct qed_image *image)
{
  image->want_write_back = false;
  image->running = &image->write_back;
  flush_start (image, write_back_done);
}

/* A clean image may have been written in place since the last sync; one that
 * is repaired, or was emptied, may have to be cut.
 */
static void
make_clean_now (struct qed_image *image)
{
  if (image->state == STATE_DIRTY || image->options.examine ||
      image->drop_tables || atomic_load (&image->cut_wanted))
    dirty_make_clean (image);
  else
    start_write_back (image);
}

/* The last write-back, once: what fails then stays dirty. */
static void
dispatch_close (struct qed_image *image)
{
  if (!image->closing && !image->read_only) {
    image->closing = true;
    make_clean_now (image);
  }
  else if (may_end (image))
    end (image);
}

static void
dispatch (struct loop_task *task)
{
  struct qed_image *image = (struct qed_image *)
    ((char *) task - offsetof (struct qed_image, dispatch));

  pending_grow (&image->pending);
  if (image->running || image->closed)
    return;
  start_scans (image);
  start_scans (image_below_new (image));
  if (atomic_load (&image->failed)) {
    dispatch_failed (image);
    return;
  }
  reclaim_start (image);        /* a check may have held it up */
  if (image->want_recover)
    recover_start (image);
  else if (take_list (image, &image->want_mark)) {
    if (gate_is_open (&image->gate))
      image_job_done (image, NULL, 0);
    else
      dirty_mark (image);
  }
  else if (take_list (image, &image->want_flush) || image->want_write_back ||
           pending_pressed (&image->pending))
    start_write_back (image);
  else if (atomic_load (&image->recovering))
    return;                     /* NEED_CHECK stays until all was read */
  else if (take_list (image, &image->want_make_clean))
    make_clean_now (image);
  else if (take_list (image, &image->want_header))
    header_start (image);
  else if (image_close_wanted (image))
    dispatch_close (image);
  else if (image->want_clean) {
    image->want_clean = false;
    if (image->state == STATE_DIRTY)
      dirty_make_clean (image);
  }
  else
    arm_timers (image);
}

void
image_job_done (struct qed_image *image, struct job *job, int error)
{
  (void) job;
  image->running = NULL;
  if (error == -ENOTCONN)       /* a storage that is away: to requests it's */
    error = -EIO;
  answer_served (image, error);
  image_kick (image);
}

static void
gate_drained (struct loop_task *task)
{
  struct qed_image *image = (struct qed_image *)
    ((char *) task - offsetof (struct qed_image, gate_drained));

  job_io_end (&image->job, 0);
}

/* Called by the last holder of a closed gate, on his thread. */
static void
post_gate_drained (void *opaque)
{
  struct qed_image *image = opaque;

  loop_post (image->loop, &image->gate_drained);
}

/* Called by whoever dirtied the first page, on his thread. */
static void
became_dirty (void *opaque)
{
  image_kick (opaque);
}

void
dispatch_init (struct qed_image *image)
{
  image->dispatch.run = dispatch;
  image->gate_drained.run = gate_drained;
  gate_init (&image->gate, post_gate_drained, image);
  image->metadata.became_dirty = became_dirty;
  image->metadata.opaque = image;
}
