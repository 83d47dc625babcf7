/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reduce.h"
#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"
#include "workload.h"

#define QUIET 8u                /* one in so many sessions ends like that: */
#define QUIET_SECONDS 100.      /* nobody asks for anything, and all timers
                                 * have fired */

struct caller {
  struct workload *workload;
  struct random stream;
  struct random random;         /* of the request that comes now */
  unsigned number;              /* of the caller */
  unsigned left;                /* requests */
};

struct range {
  uint64_t sector, count;
};

/* ---- One request ---- */

static void
wake (struct qed_request *request)
{
  *(bool *) request->opaque = true;
  fiber_wake (request);
}

int
workload_request (struct qed_image *image, struct qed_request *request,
                  double patience)
{
  bool woken = false;
  double until;
  int r;

  request->wake = wake;
  request->opaque = &woken;
  while ((r = qed_request_run (image, request)) == QED_WAIT) {
    until = patience > 0 ? sim_now () + patience : FOREVER;
    while (!woken && sim_now () < until)
      fiber_wait (request, until);
    if (!woken && patience > 0) {
      qed_request_withdraw (image, request);
      return -ECANCELED;
    }
    woken = false;
  }
  return r;
}

/* Whether a change or a flush may fail like that. */
static bool
may_fail (const struct workload *workload, int r)
{
  return r == -ECANCELED || (r == -ENOSPC && workload->may_fill) ||
    (r == -EIO && sim_storage_sync_failed);
}

/* A client that goes away, now and then. */
static double
draw_patience (struct caller *caller)
{
  return random_one_in (&caller->random, 25) ? 0.004 : 0;
}

/* ---- Where ---- */

/* The callers meet in one window, then in another. */
static unsigned
draw_window (struct caller *caller)
{
  struct workload *workload = caller->workload;
  unsigned n = (unsigned) random_below (&caller->random,
                                        workload->shape->window_count);

  if (random_one_in (&caller->random, workload->moves)) {
    workload->focus = n;
    workload->spot = random_next (&caller->random);
  }
  if (workload->duel)
    return workload->focus;
  return random_one_in (&caller->random, 2) ? workload->focus : n;
}

static uint64_t
draw_sector (struct caller *caller, const struct window *w)
{
  uint64_t per_cluster = caller->workload->shape->cluster_size / SECTOR;
  uint64_t at = caller->workload->spot % w->count;

  if (!caller->workload->duel)
    return random_below (&caller->random, w->count);
  at = at - at % per_cluster + random_below (&caller->random, per_cluster);
  return at < w->count ? at : w->count - 1;
}

/* From one of the window's sectors on: part of a cluster, all of one, across
 * two, or more.
 */
static struct range
draw_range (struct caller *caller)
{
  const struct shape *shape = caller->workload->shape;
  struct random *random = &caller->random;
  uint64_t per_cluster = shape->cluster_size / SECTOR, at, n;
  const struct window *w = &shape->windows[draw_window (caller)];

  at = draw_sector (caller, w);
  n = random_between (random, 1, per_cluster < 16 ? per_cluster : 16);
  switch (random_below (random, per_cluster > 256 ? 40 : 10)) {
  case 0:                       /* whole clusters */
    at -= at % per_cluster;
    n = per_cluster * random_between (random, 1, 2);
    break;
  case 1:                       /* all of the window */
    at = 0;
    n = w->count;
    break;
  default:
    if (random_one_in (random, 3) && w->count > per_cluster &&
        !caller->workload->duel) {
      at = (1 + random_below (random, (w->count - 1) / per_cluster)) *
        per_cluster - random_between (random, 1, 4);
      n = random_between (random, 5, 8);        /* across two clusters */
    }
    else if (random_one_in (random, 2))
      at -= at % per_cluster;   /* where many meet */
    break;
  }
  if (n > w->count - at)
    n = w->count - at;
  return (struct range) { w->sector + at, n };
}

/* ---- What ---- */

static void
do_write (struct caller *caller)
{
  struct workload *workload = caller->workload;
  struct range range = draw_range (caller);
  unsigned flags = random_one_in (&caller->random, workload->fua)
    ? QED_FUA : 0;
  unsigned char *buf = malloc (range.count * SECTOR);
  uint32_t number = promise_write (workload->promise, WRITE_DATA,
                                   range.sector, range.count);
  struct qed_request request;
  uint64_t i;
  int r;

  for (i = 0; i < range.count; i++)
    stamp_fill (buf + i * SECTOR, range.sector + i, number);
  sim_trace ("write %" PRIu32 ": sectors 0x%" PRIx64 "+%" PRIu64 "%s", number,
             range.sector, range.count, flags & QED_FUA ? ", FUA" : "");
  qed_request_init (&request, QED_OP_WRITE, buf, range.count * SECTOR,
                    range.sector * SECTOR, flags);
  r = workload_request (workload->image, &request, draw_patience (caller));
  sim_trace ("write %" PRIu32 ": %s", number, r < 0 ? strerror (-r) : "done");
  if (r == 0)
    promise_written (workload->promise, number, flags & QED_FUA);
  else if (!may_fail (workload, r))
    sim_violation ("write %" PRIu32 " failed: %s", number, strerror (-r));
  free (buf);
}

/* Often whole clusters, and always within a window. */
static struct range
draw_discard (struct caller *caller)
{
  const struct shape *shape = caller->workload->shape;
  uint64_t per_cluster = shape->cluster_size / SECTOR, at, n;
  const struct window *w = &shape->windows[draw_window (caller)];

  if (random_one_in (&caller->random, per_cluster > 256 ? 4 : 2))
    return draw_range (caller);
  at = draw_sector (caller, w);
  at -= at % per_cluster;
  n = per_cluster * random_between (&caller->random, 1, 3);
  if (n > w->count - at)
    n = w->count - at;
  return (struct range) { w->sector + at, n };
}

/* What a trim promises: for the whole clusters, for the part of one that it
 * begins with, for the part at the end.  Parts are not forgotten.
 */
static unsigned
promise_parts (struct workload *workload, enum write_kind kind,
               const struct range *range, uint32_t *numbers)
{
  uint64_t per_cluster = workload->shape->cluster_size / SECTOR;
  uint64_t start = range->sector, end = start + range->count;
  uint64_t first = (start + per_cluster - 1) / per_cluster * per_cluster;
  uint64_t last = end * SECTOR == workload->shape->image_size
    ? end : end - end % per_cluster;

  if ((kind == WRITE_TRIM && workload->ignores_trim) || first > last)
    first = last = end;
  numbers[0] = promise_write (workload->promise, kind, first, last - first);
  if (kind == WRITE_FORGET)
    return 1;
  numbers[1] = promise_write (workload->promise, WRITE_HINT, start,
                              first - start);
  numbers[2] = promise_write (workload->promise, WRITE_HINT, last, end - last);
  return 3;
}

static const struct discard {
  enum qed_op op;
  enum write_kind kind;
  const char *name;
} discards[] = {
  { QED_OP_TRIM, WRITE_TRIM, "trim" },
  { QED_OP_ZERO, WRITE_ZEROS, "zero" },
  { QED_OP_FORGET, WRITE_FORGET, "forget" },
};

static void
do_discard (struct caller *caller)
{
  const struct discard *what = &discards[random_below (&caller->random, 3)];
  struct workload *workload = caller->workload;
  struct range range = draw_discard (caller);
  unsigned flags = random_one_in (&caller->random, workload->fua)
    ? QED_FUA : 0, n = 1, i;
  struct qed_request request;
  uint32_t numbers[3];
  int r;

  if (what->op != QED_OP_ZERO)
    n = promise_parts (workload, what->kind, &range, numbers);
  else
    numbers[0] = promise_write (workload->promise, WRITE_ZEROS, range.sector,
                                range.count);
  sim_trace ("%s %" PRIu32 ": sectors 0x%" PRIx64 "+%" PRIu64 "%s",
             what->name, numbers[0], range.sector, range.count,
             flags & QED_FUA ? ", FUA" : "");
  qed_request_init (&request, what->op, NULL, range.count * SECTOR,
                    range.sector * SECTOR, flags);
  r = workload_request (workload->image, &request, draw_patience (caller));
  sim_trace ("%s %" PRIu32 ": %s", what->name, numbers[0],
             r < 0 ? strerror (-r) : "done");
  for (i = 0; r == 0 && i < n; i++)
    promise_written (workload->promise, numbers[i], flags & QED_FUA);
  if (r < 0 && !may_fail (workload, r))
    sim_violation ("%s %" PRIu32 " failed: %s", what->name, numbers[0],
                   strerror (-r));
}

static void
judge_read (struct caller *caller, const struct range *range,
            const unsigned char *buf, uint64_t start, uint64_t end)
{
  uint64_t i;
  uint32_t found;

  for (i = 0; i < range->count; i++) {
    found = stamp_read (buf + i * SECTOR, range->sector + i);
    if (!promise_allows_read (caller->workload->promise, range->sector + i,
                              found, start, end))
      sim_violation ("a read of guest sector 0x%" PRIx64 " returned %s",
                     range->sector + i, stamp_to_text (buf + i * SECTOR));
  }
}

static void
do_read (struct caller *caller)
{
  struct workload *workload = caller->workload;
  struct range range = draw_range (caller);
  unsigned char *buf = malloc (range.count * SECTOR);
  uint64_t start = sim_ticks ();
  struct qed_request request;
  int r;

  memset (buf, 0xa5, range.count * SECTOR);
  sim_trace ("read: sectors 0x%" PRIx64 "+%" PRIu64, range.sector,
             range.count);
  qed_request_init (&request, QED_OP_READ, buf, range.count * SECTOR,
                    range.sector * SECTOR, 0);
  r = workload_request (workload->image, &request, draw_patience (caller));
  if (r == 0)
    judge_read (caller, &range, buf, start, sim_ticks ());
  else if (r != -ECANCELED)
    sim_violation ("a read of guest sector 0x%" PRIx64 " failed: %s",
                   range.sector, strerror (-r));
  free (buf);
}

static void
do_flush (struct caller *caller)
{
  struct workload *workload = caller->workload;
  uint64_t start = sim_ticks ();
  struct qed_request request;
  int r;

  sim_trace ("flush");
  qed_request_init (&request, QED_OP_FLUSH, NULL, 0, 0, 0);
  r = workload_request (workload->image, &request, draw_patience (caller));
  sim_trace ("flush: %s", r < 0 ? strerror (-r) : "done");
  if (r == 0)
    promise_flushed (workload->promise, start);
  else if (!may_fail (workload, r))
    sim_violation ("a flush failed: %s", strerror (-r));
}

static void
wait_for (const void *who, double seconds)
{
  double until = sim_now () + seconds;

  sim_trace ("idle");
  while (sim_now () < until)
    fiber_wait (who, until);
}

/* Long enough that timers fire. */
static void
do_idle (struct caller *caller)
{
  uint64_t most = random_one_in (&caller->random, 8) ? 100000 : 8000;

  wait_for (caller, (double) random_below (&caller->random, most) / 1e3);
}

/* ---- All of them ---- */

static void
caller_fiber (void *arg)
{
  struct caller *caller = arg;
  struct workload *workload = caller->workload;

  for (; caller->left > 0; caller->left--) {
    caller->random = random_fork (&caller->stream);
    if (!reduce_has (REDUCE_REQUEST, workload->session, caller->number,
                     caller->left))
      continue;
    if (random_one_in (&caller->random, workload->flush))
      do_flush (caller);
    else if (random_one_in (&caller->random, workload->idle))
      do_idle (caller);
    else if (random_one_in (&caller->random, workload->read))
      do_read (caller);
    else if (random_one_in (&caller->random, workload->discard))
      do_discard (caller);
    else
      do_write (caller);
  }
  workload->callers--;
  fiber_wake (workload);
}

void
workload_run (struct workload *workload)
{
  static const unsigned char rates[] = { 3, 6, 12, 100 };
  bool brief = random_one_in (workload->random, 8); /* closed as it opens */
  unsigned n = (unsigned) random_between (workload->random, 2, 4), i;
  struct caller callers[4];
  char name[16];

  workload->flush = rates[random_below (workload->random, 4)];
  workload->idle = rates[random_below (workload->random, 4)] * 2;
  workload->read = rates[random_below (workload->random, 4)];
  workload->fua = rates[random_below (workload->random, 4)];
  workload->discard = rates[random_below (workload->random, 4)];
  workload->focus = 0;
  workload->moves = random_one_in (workload->random, 2) ? 8 : 1000;
  workload->duel = random_one_in (workload->random, 4);
  if (workload->duel) {
    workload->moves = 8;
    workload->discard = 2;
  }
  if (workload->shape->one_set || (workload->shape->scattered &&
                                   random_one_in (workload->random, 2)))
    workload->flush = workload->fua = workload->idle = 200;
  if (workload->shape->one_set) {       /* dirty pages fill the set: others are
                                         * read past the cache */
    workload->moves = 1;
    workload->read = 4;
  }
  workload->callers = n;
  for (i = 0; i < n; i++) {
    callers[i].workload = workload;
    callers[i].number = i;
    callers[i].stream = random_fork (workload->random);
    callers[i].left = (unsigned) random_between (workload->random,
                                                 brief ? 0 : 20,
                                                 brief ? 2 : 60);
    snprintf (name, sizeof name, "caller%u", i);
    fiber_spawn (name, FIBER_CALLER, caller_fiber, &callers[i]);
  }
  while (workload->callers > 0)
    fiber_wait (workload, FOREVER);
  if (random_one_in (workload->random, QUIET))
    wait_for (workload, QUIET_SECONDS);
}
