/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door's commands check and repair, of images that are served.
 *
 * One that was started runs on its request's thread until it ends or is
 * canceled, also when who started it has gone; what it found stays known.
 *
 * C1. There is at most one for an image, which is pinned meanwhile.
 * C2. What is in 'runs' is on its thread's stack.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control-command.h"
#include "control-findings.h"

/* At once, of all images. */
#define RUNS_MAX 4u

#define EVENT_MS 100

struct run {
  struct run *next;
  struct export *export;
  const struct control_request *request;
  struct qed_check_options options;
  struct qed_check_control control;
  time_t started;
  _Atomic uint64_t done, total;

  /* Its thread's alone. */
  int64_t event_at;             /* milliseconds */
  struct findings findings;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct run *runs;
static unsigned nr_runs;
static bool ending;

/* ---- In words ---------------------------------------------------------- */

/* With the lock, unless it is called on its own thread. */
static json_t *
describe_run (struct run *run)
{
  json_t *object = json_object ();

  json_object_set_new (object, "what",
                       json_string (control_check_name (run->options.repair)));
  json_object_set_new (object, "by",
                       json_string (run->request->client->who));
  json_object_set_new (object, "since", control_time (run->started));
  control_set_number (object, "seconds", time (NULL) - run->started);
  control_set_number (object, "done", atomic_load (&run->done));
  control_set_number (object, "total", atomic_load (&run->total));
  json_object_set_new (object, "paused",
                       json_boolean (atomic_load (&run->control.pause)));
  control_set_number (object, "rate", atomic_load (&run->control.rate));
  return object;
}

/* ---- What the engine calls, on the request's thread -------------------- */

static int64_t
milliseconds (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int
progress (void *opaque, uint64_t done, uint64_t total)
{
  struct run *run = opaque;
  const int64_t now = milliseconds ();
  json_t *event;

  atomic_store (&run->done, done);
  atomic_store (&run->total, total);
  if (now - run->event_at >= EVENT_MS) {
    run->event_at = now;
    event = json_object ();
    json_object_set_new (event, "event", json_string ("progress"));
    json_object_set_new (event, "running", describe_run (run));
    control_event (run->request, event);
  }
  return atomic_load (&run->control.cancel);
}

static void
found (void *opaque, const struct qed_problem *problem)
{
  struct run *run = opaque;

  findings_add_problem (&run->findings, problem);
}

static void
fixed (void *opaque, const struct qed_problem *problem, const char *action)
{
  struct run *run = opaque;

  findings_add_repair (&run->findings, problem, action);
}

static void
lost (void *opaque, uint64_t guest, uint64_t bytes)
{
  struct run *run = opaque;

  findings_add_lost (&run->findings, guest, bytes);
}

/* ---- The table of those that run, and of those that ended -------------- */

/* With the lock. */
static struct run *
find_run (const struct export *export)
{
  struct run *run;

  for (run = runs; run != NULL; run = run->next)
    if (run->export == export)
      break;
  return run;
}

/* Enter it, or return the reply that says why not. */
static json_t *
enter (struct run *run)
{
  struct run *other;
  json_t *failure = NULL;

  pthread_mutex_lock (&lock);
  other = find_run (run->export);
  if (other != NULL) {
    failure = control_fail ("already-running", "%s: a %s is running already: "
                            "wait for it, or cancel it",
                            export_name (run->export),
                            other->options.repair == QED_REPAIR_NONE
                            ? "check" : "repair");
    json_object_set_new (failure, "running", describe_run (other));
  }
  else if (ending)
    failure = control_fail ("unavailable", "the server ends");
  else if (nr_runs == RUNS_MAX)
    failure = control_fail ("too-many-checks", "%u checks run already: wait "
                            "for one to end", RUNS_MAX);
  else {
    run->next = runs;
    runs = run;
    nr_runs++;
  }
  pthread_mutex_unlock (&lock);
  return failure;
}

static void
leave (struct run *run, int r, const struct qed_check_result *result)
{
  const struct control_check check = {
    .started = run->started, .ended = time (NULL),
    .repair = run->options.repair, .r = r, .result = *result,
  };
  const struct qed_file_id id = qed_identify (export_image (run->export));
  struct run **link = &runs;

  pthread_mutex_lock (&lock);
  while (*link != run)
    link = &(*link)->next;
  *link = run->next;
  nr_runs--;
  last_checks_add (&id, &check);
  pthread_mutex_unlock (&lock);
}

/* ---- Starting one ------------------------------------------------------ */

static json_t *
report (const struct run *run, int r, const struct qed_check_result *result)
{
  json_t *reply;

  if (r == -ECANCELED)
    return control_fail ("canceled", "%s: the %s was canceled",
                         export_name (run->export),
                         run->options.repair == QED_REPAIR_NONE
                         ? "check" : "repair");
  if (r < 0)
    return run->request->error[0] != '\0'
      ? control_fail_logged (run->request, "failed", "")
      : control_fail ("failed", "%s: %s", export_path (run->export),
                      strerror (-r));
  reply = json_object ();
  json_object_set_new (reply, "image",
                       control_string (export_name (run->export)));
  json_object_set_new (reply, "path",
                       control_string (export_path (run->export)));
  findings_describe (&run->findings, reply);
  json_object_set_new (reply, "result", findings_result (result));
  return reply;
}

static json_t *
carry_out (struct run *run)
{
  struct qed_check_result result;
  json_t *reply = enter (run);
  int r;

  if (reply != NULL)
    return reply;
  findings_init (&run->findings);
  memset (&result, 0, sizeof result);
  r = qed_check_online (export_image (run->export), &run->options, &result);
  leave (run, r, &result);
  reply = report (run, r, &result);
  findings_free (&run->findings);
  return reply;
}

/* The reply if no repair of this image is possible here. */
static json_t *
refuse_repair (const struct export *export)
{
  const char *name = export_name (export);
  struct qed_status status;

  qed_status (export_image (export), &status);
  switch (status.access) {
  case QED_ACCESS_READ_ONLY:
    return control_fail ("read-only", "%s can't be repaired: the server was "
                         "started read-only (-r)", name);
  case QED_ACCESS_NO_PERMISSION:
    return control_fail ("read-only", "%s can't be repaired: the server has "
                         "no permission to write to the file", name);
  case QED_ACCESS_NEED_CHECK:
    return control_fail ("read-only", "%s can't be repaired: it was not "
                         "closed cleanly and is served read-only; stop the "
                         "server and run qedctl check --repair, or start it "
                         "without check=never", name);
  case QED_ACCESS_FAILED:
    return control_fail ("failed", "%s can't be repaired: its storage has "
                         "failed; restart the server when that is repaired",
                         name);
  default:
    return NULL;
  }
}

static json_t *
start (struct control_request *request, enum qed_repair repair)
{
  struct run run = { .request = request, .started = time (NULL) };
  json_t *reply = control_pin (request, true, &run.export);
  uint64_t rate;

  if (reply != NULL)
    return reply;
  control_get_number (request, "rate", &rate);
  atomic_store (&run.control.rate, rate);
  qed_check_options_init (&run.options);
  run.options.repair = repair;
  run.options.data = control_get_bool (request, "data");
  run.options.control = &run.control;
  run.options.progress = (struct qed_progress) { progress, &run };
  run.options.found = found;
  run.options.fixed = fixed;
  run.options.lost = lost;
  run.options.opaque = &run;
  if (repair != QED_REPAIR_NONE)
    reply = refuse_repair (run.export);
  if (reply == NULL)
    reply = carry_out (&run);
  export_unpin (run.export);
  return reply;
}

/* ---- Steering one that runs -------------------------------------------- */

static bool
is_steering (const char *action)
{
  return strcmp (action, "pause") == 0 || strcmp (action, "continue") == 0 ||
    strcmp (action, "cancel") == 0;
}

/* With the lock. */
static void
steer_run (struct run *run, const struct control_request *request,
           const char *action)
{
  uint64_t rate;

  if (strcmp (action, "pause") == 0)
    atomic_store (&run->control.pause, true);
  else if (strcmp (action, "continue") == 0)
    atomic_store (&run->control.pause, false);
  else
    atomic_store (&run->control.cancel, true);
  if (control_get_number (request, "rate", &rate))
    atomic_store (&run->control.rate, rate);
}

static json_t *
steer (struct control_request *request, const char *action)
{
  struct export *export;
  json_t *reply = control_pin (request, false, &export);
  struct run *run;

  if (reply != NULL)
    return reply;
  pthread_mutex_lock (&lock);
  run = export != NULL ? find_run (export) : NULL;
  if (run == NULL)
    reply = control_fail ("not-running", "no check of this image is running");
  else if (run->options.repair != QED_REPAIR_NONE &&
           request->client->rights < CONTROL_ADMIN)
    reply = control_fail ("forbidden", "what runs is a repair, which is not "
                          "allowed here");
  else {
    steer_run (run, request, action);
    reply = json_object ();
    json_object_set_new (reply, "running", describe_run (run));
  }
  pthread_mutex_unlock (&lock);
  if (export != NULL)
    export_unpin (export);
  return reply;
}

/* ---- The commands ------------------------------------------------------ */

json_t *
control_check (struct control_request *request)
{
  const char *action = control_get_string (request, "action");

  if (action == NULL || strcmp (action, "start") == 0)
    return start (request, QED_REPAIR_NONE);
  if (is_steering (action))
    return steer (request, action);
  return control_fail ("bad-request", "member \"action\": must be start, "
                       "pause, continue or cancel");
}

json_t *
control_repair (struct control_request *request)
{
  const char *what = control_get_string (request, "what");

  if (what == NULL || strcmp (what, "all") == 0)
    return start (request, QED_REPAIR_ALL);
  if (strcmp (what, "leaks") == 0)
    return start (request, QED_REPAIR_LEAKS);
  return control_fail ("bad-request", "member \"what\": must be leaks or all");
}

/* ---- For the other commands -------------------------------------------- */

void
control_check_describe (json_t *status, const struct export *export)
{
  const struct qed_file_id id = qed_identify (export_image (export));
  struct run *run;

  pthread_mutex_lock (&lock);
  run = find_run (export);
  if (run != NULL)
    json_object_set_new (status, "running-check", describe_run (run));
  last_checks_describe (status, &id);
  pthread_mutex_unlock (&lock);
}

void
control_check_look (const struct export *export,
                    struct control_check_look *look)
{
  const struct qed_file_id id = qed_identify (export_image (export));
  struct run *run;

  memset (look, 0, sizeof *look);
  pthread_mutex_lock (&lock);
  run = find_run (export);
  if (run != NULL) {
    look->running = true;
    look->done = atomic_load (&run->done);
    look->total = atomic_load (&run->total);
  }
  last_checks_look (look, &id);
  pthread_mutex_unlock (&lock);
}

unsigned
control_checks_running (void)
{
  unsigned n;

  pthread_mutex_lock (&lock);
  n = nr_runs;
  pthread_mutex_unlock (&lock);
  return n;
}

bool
control_check_repairs (const struct export *export)
{
  const struct run *run;
  bool repairs;

  pthread_mutex_lock (&lock);
  run = find_run (export);
  repairs = run != NULL && run->options.repair != QED_REPAIR_NONE;
  pthread_mutex_unlock (&lock);
  return repairs;
}

void
control_checks_cancel_image (const struct qed_image *image)
{
  struct run *run;

  pthread_mutex_lock (&lock);
  for (run = runs; run != NULL; run = run->next)
    if (export_image (run->export) == image)
      atomic_store (&run->control.cancel, true);
  pthread_mutex_unlock (&lock);
}

void
control_checks_cancel (void)
{
  struct run *run;

  pthread_mutex_lock (&lock);
  ending = true;
  for (run = runs; run != NULL; run = run->next)
    atomic_store (&run->control.cancel, true);
  pthread_mutex_unlock (&lock);
}
