/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "scene.h"
#include "steps.h"

/* Whether a step can fail, by itself or by what it waits for. */
enum can_fail { SOUND, FAILS };

static const struct step {
  const char *job, *name;
  enum can_fail can_fail;
} steps[] = {
#define STEP(job, name, can_fail) { job, name, can_fail }
  STEP ("scan", "walk-l1", FAILS),
  STEP ("scan", "l1-walked", FAILS),
  STEP ("scan", "walk-l2", FAILS),
  STEP ("scan", "conclude", SOUND),
  STEP ("recover", "save-old-values", FAILS),
  STEP ("recover", "drop-entries", FAILS),
  STEP ("recover", "write-back", FAILS),
  STEP ("recover", "go-on", SOUND),
  STEP ("recover", "punch-leaks", SOUND),       /* what stays leaks */
  STEP ("mark-dirty", "begin-log", SOUND),
  STEP ("mark-dirty", "read-header", FAILS),
  STEP ("mark-dirty", "set-need-check", FAILS),
  STEP ("mark-dirty", "sync-header", FAILS),
  STEP ("mark-dirty", "open-gate", SOUND),
  STEP ("flush", "switch-log", SOUND),
  STEP ("flush", "note-freed", SOUND),
  STEP ("flush", "copy-l1", SOUND),
  STEP ("flush", "copy-l2", SOUND),
  STEP ("flush", "sync-data", FAILS),
  STEP ("flush", "write-l2", FAILS),
  STEP ("flush", "next-l2-round", SOUND),
  STEP ("flush", "sync-l2", FAILS),
  STEP ("flush", "write-l1", FAILS),
  STEP ("flush", "next-l1-round", SOUND),
  STEP ("flush", "sync", FAILS),
  STEP ("reclaim", "take-gone", SOUND),
  STEP ("reclaim", "wait-guards", SOUND),
  STEP ("reclaim", "punch", SOUND),     /* it may stay as it is */
  STEP ("reclaim", "free", SOUND),
  STEP ("make-clean", "close-gate", SOUND),
  STEP ("make-clean", "write-back", FAILS),
  STEP ("make-clean", "empty-log", SOUND),
  STEP ("make-clean", "reclaim", SOUND),
  STEP ("make-clean", "drop-tables", FAILS),
  STEP ("make-clean", "sync-dropped", FAILS),
  STEP ("make-clean", "cut-tail", SOUND),       /* a tail may stay */
  STEP ("make-clean", "read-header", FAILS),
  STEP ("make-clean", "clear-need-check", FAILS),
  STEP ("make-clean", "sync-header", FAILS),
  STEP ("resize", "write-back", FAILS),
  STEP ("resize", "read-header", FAILS),
  STEP ("resize", "set-size", FAILS),
  STEP ("resize", "sync-header", FAILS),
  STEP ("resize", "adopt", SOUND),
  STEP ("rebase", "write-back", FAILS),
  STEP ("rebase", "read-place", FAILS),
  STEP ("rebase", "write-name", FAILS),
  STEP ("rebase", "sync-name", FAILS),
  STEP ("rebase", "read-header", FAILS),
  STEP ("rebase", "set-backing", FAILS),
  STEP ("rebase", "sync-header", FAILS),
  STEP ("rebase", "adopt", SOUND),
  STEP ("rebase", "read-old-name", FAILS),
  STEP ("rebase", "wipe-old-name", FAILS),
  STEP ("look", "walk-l1", FAILS),
  STEP ("look", "sort-tables", FAILS),
  STEP ("look", "walk-l2", FAILS),
  STEP ("look", "walk-doubtful", FAILS),
  STEP ("look", "name-shared", FAILS),
  STEP ("commit", "open-overlay", FAILS),
  STEP ("commit", "open-backing", FAILS),
  STEP ("commit", "survey", FAILS),
  STEP ("commit", "start-backing", FAILS),
  STEP ("commit", "copy", FAILS),
  STEP ("commit", "sync-backing", FAILS),
  STEP ("commit", "empty-overlay", FAILS),
  STEP ("commit", "close-overlay", FAILS),
  STEP ("commit", "close-backing", FAILS),
#undef STEP
};

#define STEPS (sizeof steps / sizeof *steps)

/* What all processes have seen. */
static struct seen {
  struct {
    _Atomic bool passed;        /* in a run where something fails */
    _Atomic bool failed;
  } steps[STEPS];
  char unknown[128];            /* a step that is not in the table */
} *seen;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;        /* 'unknown' */

void
steps_begin (void)
{
  seen = mmap (NULL, sizeof *seen, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  must (seen != MAP_FAILED, "mmap");
}

/* What is between two colons, or the rest; *text goes behind it. */
static bool
next_word (const char **text, char *word, size_t size)
{
  const char *end = *text ? strstr (*text, ": ") : NULL;
  size_t n = *text == NULL ? 0
    : end ? (size_t) (end - *text) : strlen (*text);

  if (n == 0 || n >= size)
    return false;
  memcpy (word, *text, n);
  word[n] = '\0';
  *text = end ? end + 2 : NULL;
  return true;
}

static void
note (const char *job, const char *name, bool failed, unsigned hits)
{
  size_t i;

  for (i = 0; i < STEPS; i++)
    if (strcmp (steps[i].job, job) == 0 && strcmp (steps[i].name, name) == 0) {
      if (hits > 0)
        seen->steps[i].passed = true;
      if (failed)
        seen->steps[i].failed = true;
      return;
    }
  snprintf (seen->unknown, sizeof seen->unknown, "%s: %s", job, name);
}

/* "IMAGE: JOB: STEP", and where it failed ": ERROR". */
void
steps_note (const char *message, unsigned hits)
{
  char image[256], job[32], name[32];

  pthread_mutex_lock (&lock);
  if (!next_word (&message, image, sizeof image) ||
      !next_word (&message, job, sizeof job) ||
      !next_word (&message, name, sizeof name))
    snprintf (seen->unknown, sizeof seen->unknown, "%s", "a line of the trace");
  else
    note (job, name, message != NULL, hits);
  pthread_mutex_unlock (&lock);
}

int
steps_judge (bool all)
{
  int r = 0;
  size_t i;

  if (seen->unknown[0]) {
    fprintf (stderr, "fault-test: the table of steps lacks %s\n",
             seen->unknown);
    r = -1;
  }
  for (i = 0; i < STEPS; i++)
    if (all && (!seen->steps[i].passed ||
                (steps[i].can_fail == FAILS && !seen->steps[i].failed))) {
      fprintf (stderr, "fault-test: %s: %s: it never %s\n", steps[i].job,
               steps[i].name, seen->steps[i].passed ? "failed"
               : "came after a failure");
      r = -1;
    }
    else if (steps[i].can_fail == SOUND && seen->steps[i].failed) {
      fprintf (stderr, "fault-test: %s: %s: it failed\n", steps[i].job,
               steps[i].name);
      r = -1;
    }
  return r;
}

void
steps_list (void)
{
  size_t i;

  for (i = 0; i < STEPS; i++)
    printf ("%s %s\n", steps[i].job, steps[i].name);
}
