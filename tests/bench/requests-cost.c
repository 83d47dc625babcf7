/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What it costs a request to be counted and to be seen in flight
 * (server/requests.c): nanoseconds of processor time, of the fastest of several
 * rounds.
 *
 *   requests-cost THREADS
 *
 * All threads have requests of one export, as nbdkit's have.
 */

#include <config.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "message.h"
#include "requests.h"

#define REQUESTS 200000u
#define ROUNDS 15u
#define THREADS_MAX 64u

static struct export_counters counters;

/* ---- What requests.c asks the plugin and nbdkit ------------------------ */

struct export_counters *
export_counters (struct export *export)
{
  (void) export;
  return &counters;
}

const char *
export_path (const struct export *export)
{
  (void) export;
  return "disk.qed";
}

void
message_error (const char *fmt, ...)
{
  va_list args;

  va_start (args, fmt);
  vfprintf (stderr, fmt, args);
  va_end (args);
  fputc ('\n', stderr);
  exit (1);
}

void nbdkit_error (const char *fmt, ...);
void
nbdkit_error (const char *fmt, ...)
{
  message_error ("%s", fmt);
}

/* ---- The measurement --------------------------------------------------- */

static uint64_t
processor_ns (void)
{
  struct timespec used;

  clock_gettime (CLOCK_THREAD_CPUTIME_ID, &used);
  return (uint64_t) used.tv_sec * 1000000000 + (uint64_t) used.tv_nsec;
}

static void *
measure (void *arg)
{
  struct export *export = (struct export *) &counters;  /* only compared */
  double *best = arg, each;
  uint64_t start;
  unsigned round, i;

  for (round = 0; round < ROUNDS; round++) {
    start = processor_ns ();
    for (i = 0; i < REQUESTS; i++) {
      requests_begin (export, EXPORT_READ, i * UINT64_C (4096), 4096);
      (void) requests_step ();
      requests_end (export, EXPORT_READ, 4096, 0);
    }
    each = (double) (processor_ns () - start) / REQUESTS;
    if (round == 0 || each < *best)
      *best = each;
  }
  return NULL;
}

int
main (int argc, char **argv)
{
  const unsigned n = argc == 2 ? (unsigned) atoi (argv[1]) : 0;
  pthread_t threads[THREADS_MAX];
  double each[THREADS_MAX], sum = 0;
  unsigned i;

  if (n < 1 || n > THREADS_MAX || requests_load () == -1) {
    fprintf (stderr, "usage: %s THREADS (1 to %u)\n", argv[0], THREADS_MAX);
    return 1;
  }
  for (i = 0; i < n; i++)
    if (pthread_create (&threads[i], NULL, measure, &each[i]) != 0)
      return 1;
  for (i = 0; i < n; i++) {
    pthread_join (threads[i], NULL);
    sum += each[i];
  }
  printf ("%.1f\n", sum / n);
  requests_unload ();
  return 0;
}
