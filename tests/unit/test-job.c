/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The step runner: what job.h promises about order, waiting and errors. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "job.h"

/* What happened, a letter an event. */
static char events[64];

static void
event (char c)
{
  size_t n = strlen (events);

  assert_true (n + 1 < sizeof events);
  events[n] = c;
  events[n + 1] = '\0';
}

static unsigned done_count;
static int done_error;
static const struct qed_log no_log;

static void
done (struct job *job)
{
  event ('.');
  done_count++;
  done_error = job->error;
  assert_false (job->active);
}

static void
start (struct job *job, const struct job_step *steps)
{
  memset (job, 0, sizeof *job);
  events[0] = '\0';
  done_count = 0;
  done_error = 1;
  job->name = "test";
  job->about = "image";
  job->log = &no_log;
  job->steps = steps;
  job->done = done;
  job_start (job);
}

/* ---- Steps ---- */

static int
step_a (struct job *job)
{
  (void) job;
  event ('a');
  return JOB_NEXT;
}

static int
step_b (struct job *job)
{
  (void) job;
  event ('b');
  return JOB_NEXT;
}

/* Begins two pieces of I/O, which the test ends. */
static int
step_wait (struct job *job)
{
  event ('w');
  job_io_begin (job);
  job_io_begin (job);
  return JOB_WAIT;
}

/* Its I/O ends before it returns. */
static int
step_at_once (struct job *job)
{
  event ('o');
  job_io_begin (job);
  job_io_end (job, 0);
  event ('O');                  /* no other step in between */
  return JOB_WAIT;
}

static int
step_at_once_fails (struct job *job)
{
  job_io_begin (job);
  job_io_end (job, -EIO);
  event ('f');
  return JOB_WAIT;
}

static int
step_fails (struct job *job)
{
  (void) job;
  event ('f');
  return -ENOSPC;
}

static int
step_begins_and_fails (struct job *job)
{
  job_io_begin (job);
  event ('f');
  return -ENOSPC;
}

static unsigned rounds;

static int
step_again (struct job *job)
{
  (void) job;
  return rounds-- > 0 ? JOB_AGAIN : JOB_NEXT;
}

/* ---- Tests ---- */

static void
test_order (void **state)
{
  static const struct job_step steps[] = {
    { "a", step_a }, { "b", step_b }, { "a2", step_a }, { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  assert_string_equal (events, "aba.");
  assert_int_equal (done_error, 0);
  assert_null (job.failed_at);
}

static void
test_empty (void **state)
{
  static const struct job_step steps[] = { { NULL, NULL } };
  struct job job;

  (void) state;
  start (&job, steps);
  assert_string_equal (events, ".");
}

/* The next step comes after the last piece of I/O. */
static void
test_wait (void **state)
{
  static const struct job_step steps[] = {
    { "wait", step_wait }, { "b", step_b }, { "wait2", step_wait },
    { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  assert_string_equal (events, "w");
  assert_true (job.active);
  job_io_end (&job, 0);
  assert_string_equal (events, "w");
  job_io_end (&job, 0);
  assert_string_equal (events, "wbw");
  job_io_end (&job, 0);
  assert_int_equal (done_count, 0);
  job_io_end (&job, 0);
  assert_string_equal (events, "wbw.");
  assert_int_equal (done_error, 0);
}

static void
test_at_once (void **state)
{
  static const struct job_step steps[] = {
    { "at-once", step_at_once }, { "b", step_b }, { "at-once2", step_at_once },
    { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  assert_string_equal (events, "oOboO.");
}

/* Completions that come at once, and rounds, must not pile up on the stack. */
static uintptr_t lowest, highest;

static int
step_notes_stack (struct job *job)
{
  uintptr_t at = (uintptr_t) __builtin_frame_address (0);

  lowest = at < lowest ? at : lowest;
  highest = at > highest ? at : highest;
  job_io_begin (job);
  job_io_end (job, 0);
  return JOB_WAIT;
}

static void
test_many_rounds (void **state)
{
  static const struct job_step steps[] = {
    { "notes-stack", step_notes_stack }, { "again", step_again },
    { NULL, NULL }
  };
  struct job job;

  (void) state;
  rounds = 100000;
  lowest = UINTPTR_MAX;
  highest = 0;
  start (&job, steps);
  assert_string_equal (events, ".");
  assert_true (highest - lowest < 4096);
}

static void
test_again (void **state)
{
  static const struct job_step steps[] = {
    { "a", step_a }, { "again", step_again }, { "b", step_b }, { NULL, NULL }
  };
  struct job job;

  (void) state;
  rounds = 3;
  start (&job, steps);
  assert_string_equal (events, "aaaab.");
}

/* Of a step: nothing after it runs. */
static void
test_step_error (void **state)
{
  static const struct job_step steps[] = {
    { "a", step_a }, { "fails", step_fails }, { "b", step_b }, { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  assert_string_equal (events, "af.");
  assert_int_equal (done_error, -ENOSPC);
  assert_string_equal (job.failed_at, "fails");
}

/* Of its I/O: the rest of it is waited for, the first error stays. */
static void
test_io_error (void **state)
{
  static const struct job_step steps[] = {
    { "wait", step_wait }, { "b", step_b }, { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  job_io_end (&job, -EIO);
  assert_string_equal (events, "w");
  job_io_end (&job, -ENOSPC);
  assert_string_equal (events, "w.");
  assert_int_equal (done_error, -EIO);
  assert_string_equal (job.failed_at, "wait");
}

static void
test_io_error_at_once (void **state)
{
  static const struct job_step steps[] = {
    { "fails", step_at_once_fails }, { "b", step_b }, { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  assert_string_equal (events, "f.");
  assert_int_equal (done_error, -EIO);
}

/* 'done' may free things: not while I/O is under way. */
static void
test_step_error_with_io (void **state)
{
  static const struct job_step steps[] = {
    { "fails", step_begins_and_fails }, { "b", step_b }, { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  assert_string_equal (events, "f");
  job_io_end (&job, -EIO);
  assert_string_equal (events, "f.");
  assert_int_equal (done_error, -ENOSPC);
}

static unsigned restarts;

static void
done_restarts (struct job *job)
{
  event ('.');
  if (restarts-- > 0)
    job_start (job);
}

/* An error of the run before is forgotten. */
static void
test_restart_in_done (void **state)
{
  static const struct job_step steps[] = {
    { "wait", step_wait }, { NULL, NULL }
  };
  struct job job;

  (void) state;
  start (&job, steps);
  job.done = done_restarts;
  restarts = 1;
  job_io_end (&job, -EIO);
  job_io_end (&job, 0);
  assert_string_equal (events, "w.w");
  assert_int_equal (job.error, 0);
  assert_null (job.failed_at);
  job_io_end (&job, 0);
  job_io_end (&job, 0);
  assert_string_equal (events, "w.w.");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_order),
    cmocka_unit_test (test_empty),
    cmocka_unit_test (test_wait),
    cmocka_unit_test (test_at_once),
    cmocka_unit_test (test_many_rounds),
    cmocka_unit_test (test_again),
    cmocka_unit_test (test_step_error),
    cmocka_unit_test (test_io_error),
    cmocka_unit_test (test_io_error_at_once),
    cmocka_unit_test (test_step_error_with_io),
    cmocka_unit_test (test_restart_in_done),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
