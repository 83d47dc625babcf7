/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <string.h>

#include "job.h"
#include "log.h"
#include "yield.h"

static void
note_error (struct job *job, const struct job_step *step, int error)
{
  if (error < 0 && job->error == 0) {
    job->error = error;
    job->failed_at = step->name;
    log_trace (job->log, "%s: %s: %s: %s", job->about, job->name, step->name,
               strerror (-error));
  }
}

/* Run steps until one waits or the list ends. */
static void
run_steps (struct job *job)
{
  const struct job_step *step;
  int r;

  while (job->error == 0 && job->at->name) {
    step = job->at;
    log_trace (job->log, "%s: %s: %s", job->about, job->name, step->name);
    yield_point (step->name);
    if (sim_skips (job->name, step->name)) {
      job->at++;
      continue;
    }

    job->pending = 1;           /* the step itself */
    r = step->run (job);
    note_error (job, step, r < 0 ? r : 0);
    if (r == JOB_AGAIN) {
      assert (job->pending == 1);
      job->at = job->steps;
      continue;
    }
    if (--job->pending > 0)
      return;                   /* job_io_end goes on */
    job->at++;
  }

  job->active = false;
  job->done (job);
}

void
job_start (struct job *job)
{
  assert (!job->active);
  job->active = true;
  job->at = job->steps;
  job->error = 0;
  job->failed_at = NULL;
  run_steps (job);
}

void
job_io_begin (struct job *job)
{
  assert (job->active && job->pending > 0);
  job->pending++;
}

void
job_io_end (struct job *job, int error)
{
  assert (job->active && job->pending > 0);
  note_error (job, job->at, error);
  if (--job->pending > 0)
    return;
  job->at++;
  run_steps (job);
}
