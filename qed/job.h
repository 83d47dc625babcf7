/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The step runner: procedures of the loop as tables of named steps.
 *
 * The table is the order.  A step does one thing and returns JOB_NEXT, or
 * JOB_WAIT after it began I/O (the next step runs when all of it has ended),
 * or JOB_AGAIN to start over with the first step, or a negative errno.  The
 * first error, of a step or of its I/O, ends the list.  'done' then runs
 * exactly once, on success and failure alike, and alone undoes things.  A
 * completion that arrives at once does not recurse into the next step.
 *
 * The steps' names are the trace (-D qed.trace=1), the crash points and the
 * documentation.  Loop only.
 */

#ifndef QED_JOB_H
#define QED_JOB_H

#include "qed.h"

enum {
  JOB_NEXT = 0,
  JOB_WAIT = 1,
  JOB_AGAIN = 2,
};

struct job;

struct job_step {
  const char *name;             /* NULL ends the table */
  int (*run) (struct job *job);
};

struct job {
  /* Filled in by the owner. */
  const char *name;
  const struct job_step *steps;
  void (*done) (struct job *job);
  const struct qed_log *log;
  const char *about;            /* the image's name, for the trace */

  /* The runner's. */
  const struct job_step *at;
  const char *failed_at;        /* the name of the step that failed */
  int error;                    /* the first one */
  unsigned pending;             /* I/O under way, and the step itself */
  bool active;
};

/* Start with the first step.  'done' may have run when this returns. */
void job_start (struct job *job);

/* A piece of I/O, or a wait for someone else, begins and ends. */
void job_io_begin (struct job *job);
void job_io_end (struct job *job, int error);

#endif /* QED_JOB_H */
