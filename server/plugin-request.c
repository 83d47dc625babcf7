/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* How a request is carried out: by the thread of nbdkit that brought it.  One
 * that must wait sleeps in its own thread, in slices, between which nbdkit is
 * asked whether it still makes sense to go on.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "client.h"
#include "exports.h"
#include "plugin.h"
#include "requests.h"

/* How long a request sleeps before it looks whether nbdkit ends. */
#define WAIT_SLICE_NS 100000000

/* ---- Waiting ----------------------------------------------------------- */

/* Where a request's thread sleeps.  It lies on that thread's stack, and the
 * initialisers cost nothing but a few stores: most requests never wait.
 */
struct sleeper {
  pthread_mutex_t lock;
  pthread_cond_t cond;
  bool woken;
};

/* The engine's wake function: any thread, with locks of the engine held,
 * perhaps before qed_request_run has returned.
 *
 * The sleeper may be gone as soon as 'lock' is let go.  So the signal comes
 * before, and the owner takes the lock once after each wake-up.
 */
static void
wake_request (struct qed_request *request)
{
  struct sleeper *sleeper = request->opaque;

  pthread_mutex_lock (&sleeper->lock);
  sleeper->woken = true;
  pthread_cond_signal (&sleeper->cond);
  pthread_mutex_unlock (&sleeper->lock);
}

/* Sleep until woken, for one slice at most.  Returns whether it was. */
static bool
sleep_slice (struct sleeper *sleeper)
{
  struct timespec end;
  bool woken;
  int r = 0;

  clock_gettime (CLOCK_MONOTONIC, &end);
  end.tv_nsec += WAIT_SLICE_NS;
  if (end.tv_nsec >= 1000000000) {
    end.tv_nsec -= 1000000000;
    end.tv_sec++;
  }
  pthread_mutex_lock (&sleeper->lock);
  while (!sleeper->woken && r == 0)
    r = pthread_cond_clockwait (&sleeper->cond, &sleeper->lock,
                                CLOCK_MONOTONIC, &end);
  woken = sleeper->woken;
  sleeper->woken = false;
  pthread_mutex_unlock (&sleeper->lock);
  return woken;
}

/* Whether it makes no sense for a request to wait on; *r is its result. */
static bool
should_give_up (struct qed_slot *slot, const struct qed_request *request,
                int *r)
{
  if (qed_request_drains (request))
    return false;
  if (!qed_slot_is_active (slot)) {
    *r = PLUGIN_AGAIN;
    return true;
  }
  if (nbdkit_nanosleep (0, 1) == 0)
    return false;
  *r = errno != 0 ? -errno : -ESHUTDOWN;
  return true;
}

/* Go on with a request that returned QED_WAIT, until it is complete, or given
 * up because the server quits, its client has gone or the image is released;
 * but a flush under way is not given up.
 */
static int
run_waiting (struct qed_slot *slot, struct qed_request *request,
             struct sleeper *sleeper)
{
  struct qed_image *image = qed_slot_image (slot);
  bool waits = true;
  int r = 0;

  while (waits) {
    if (sleep_slice (sleeper)) {
      r = qed_request_run (image, request);
      waits = r == QED_WAIT;
    }
    else if (should_give_up (slot, request, &r)) {
      qed_request_withdraw (image, request);
      waits = false;
    }
  }
  pthread_cond_destroy (&sleeper->cond);
  pthread_mutex_destroy (&sleeper->lock);
  return r;
}

int
plugin_run_request (struct qed_slot *slot, struct qed_request *request)
{
  struct sleeper sleeper = { .lock = PTHREAD_MUTEX_INITIALIZER,
                             .cond = PTHREAD_COND_INITIALIZER };
  int r;

  request->step = requests_step ();
  request->wake = wake_request;
  request->opaque = &sleeper;
  r = qed_request_run (qed_slot_image (slot), request);
  return r == QED_WAIT ? run_waiting (slot, request, &sleeper) : r;
}

/* ---- Requests ---------------------------------------------------------- */

static const char *
op_to_text (enum qed_op op)
{
  switch (op) {
  case QED_OP_READ: return "read";
  case QED_OP_WRITE: return "write";
  case QED_OP_FLUSH: return "flush";
  case QED_OP_TRIM: return "trim";
  case QED_OP_ZERO: return "zero";
  case QED_OP_FORGET: return "forget";
  case QED_OP_CACHE: return "cache";
  case QED_OP_EXTENTS: return "block status";
  case QED_OP_READY: return "open";
  case QED_OP_CLEAN: return "clean";
  case QED_OP_AMEND: return "repair";
  }
  return "request";
}

/* What a failure means for who reads the log. */
static const char *
consequence (const struct qed_request *request, int r)
{
  if (request->op == QED_OP_FLUSH || request->flags & QED_FUA)
    return "what was written may not be durable";
  if (r == -ENOSPC || r == -EDQUOT)
    return "the client got this error; make room, then it may try again";
  if (r == -EROFS)
    return "the image takes no changes (qedctl status says why)";
  if (request->op == QED_OP_WRITE || request->op == QED_OP_TRIM ||
      request->op == QED_OP_ZERO)
    return "the client got this error; the range may be old or new";
  return "the client got this error; nothing was changed";
}

/* One line: image, operation, range, error, why (the engine's words, which
 * name the image, step and place in the file), consequence.
 */
static void
log_failure (const struct export *export, const struct qed_request *request,
             int r)
{
  const char *path = export_path (export), *cause = requests_cause ();
  char range[64] = "";

  if (strncmp (cause, path, strlen (path)) == 0 && cause[strlen (path)] == ':')
    cause += strlen (path) + 1 + strspn (cause + strlen (path) + 1, " ");
  if (request->op != QED_OP_FLUSH)
    snprintf (range, sizeof range, " of %" PRIu64 " bytes at 0x%" PRIx64,
              request->count, request->offset);
  errno = -r;                   /* for %m */
  nbdkit_error ("%s: %s%s failed: %m%s%s%s; %s", path,
                op_to_text (request->op), range, cause[0] != '\0' ? " (" : "",
                cause, cause[0] != '\0' ? ")" : "", consequence (request, r));
}

/* Tell the log and nbdkit of a negative errno.  When a request is given up
 * nbdkit_nanosleep has said why.
 */
static void
report_failure (struct export *export, const struct qed_request *request,
                int r)
{
  errno = -r;                   /* for %m */
  if (r == -ESHUTDOWN)
    nbdkit_debug ("%s: request given up: %m", export_path (export));
  else if (r == -EOPNOTSUPP)
    nbdkit_debug ("%s: a fast zero would be slow", export_path (export));
  else if (requests_may_log (export))
    log_failure (export, request, r);
  nbdkit_set_error (-r);
}

static enum export_request
kind_of (const struct qed_request *request)
{
  switch (request->op) {
  case QED_OP_WRITE:
    return EXPORT_WRITE;
  case QED_OP_FLUSH:
    return EXPORT_FLUSH;
  case QED_OP_TRIM:
    return EXPORT_TRIM;
  case QED_OP_ZERO:
    return EXPORT_ZERO;
  case QED_OP_CACHE:
    return EXPORT_CACHE;
  case QED_OP_EXTENTS:
    return EXPORT_BLOCK_STATUS;
  default:
    return EXPORT_READ;
  }
}

/* What was passed on of its extents stays so; all else is done again. */
static void
start_over (struct qed_request *request)
{
  const uint64_t passed = request->op == QED_OP_EXTENTS
    ? request->kind_start : 0;
  int (*const extent) (struct qed_request *, uint64_t, uint64_t,
                       enum qed_extent) = request->extent;

  qed_request_init (request, request->op, request->buf,
                    request->count - passed, request->offset + passed,
                    request->flags);
  request->extent = extent;
}

static int
run_for_client (struct client *client, struct qed_request *request)
{
  struct qed_slot *slot = export_slot (client->export);
  int r;

  while ((r = client_enter (client)) == 0) {
    r = plugin_run_request (slot, request);
    qed_slot_leave (slot);
    if (r != PLUGIN_AGAIN)
      break;
    start_over (request);
  }
  return r;
}

int
plugin_carry_out (struct client *client, struct qed_request *request)
{
  struct export *export = client->export;
  const enum export_request kind = kind_of (request);
  const uint64_t count = request->count;
  int r;

  requests_begin (export, kind, request->offset, count);
  r = run_for_client (client, request);
  requests_end (export, kind, count, r != -EOPNOTSUPP ? r : 0);
  requests_log_rest (export, false);
  if (r == 0)
    return 0;
  report_failure (export, request, r);
  return -1;
}
