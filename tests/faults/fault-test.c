/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The first call of a kind fails, then the second, and so on until a scene
 * passes without a failure; for each kind, each scene, once and for good.
 */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"
#include "steps.h"

#define RUN_SECONDS 60u         /* longer is a hang */
#define SHORT_RUNS 5u           /* seeds for each scene */
#define RUNS_MAX 4000u          /* of a scene and a call */

static const struct scene *const scene_tables[] = {
  live_scenes, log_scenes, repair_scenes, shape_scenes, slot_scenes,
};
#define TABLES (sizeof scene_tables / sizeof *scene_tables)

/* A call, and how it fails. */
static const struct way {
  enum fault_call call;
  int error;
  unsigned times;
} ways[] = {
  { FAULT_READ, EIO, 1 },
  { FAULT_READ, EIO, FAULT_ALWAYS },
  { FAULT_WRITE, EIO, 1 },
  { FAULT_WRITE, EIO, FAULT_ALWAYS },
  { FAULT_WRITE, ENOSPC, 1 },
  { FAULT_WRITE, ENOSPC, FAULT_ALWAYS },
  { FAULT_SYNC, EIO, 1 },
  { FAULT_SYNC, EIO, FAULT_ALWAYS },
  { FAULT_SYNC, ENOSPC, 1 },
  { FAULT_RESIZE, EIO, 1 },
  { FAULT_RESIZE, ENOSPC, FAULT_ALWAYS },
  { FAULT_PUNCH, EIO, 1 },
  { FAULT_PUNCH, EIO, FAULT_ALWAYS },
  { FAULT_PUNCH, ENOSPC, 1 },
  { FAULT_PUNCH, EOPNOTSUPP, FAULT_ALWAYS },
  { FAULT_SEEK, EIO, 1 },
  { FAULT_SEEK, EIO, FAULT_ALWAYS },
  { FAULT_LOCK, ENOLCK, 1 },
  { FAULT_LOCK, ENOLCK, FAULT_ALWAYS },
  { FAULT_OPEN, EMFILE, 1 },
  { FAULT_OPEN, EMFILE, FAULT_ALWAYS },
  { FAULT_UNLINK, EACCES, 1 },
  { FAULT_UNLINK, EACCES, FAULT_ALWAYS },
  { FAULT_SPACE, ENOSPC, 1 },
  { FAULT_SPACE, ENOSPC, FAULT_ALWAYS },
  { FAULT_MAP, ENOMEM, 1 },
  { FAULT_THREAD, EAGAIN, 1 },
  { FAULT_ALLOC, ENOMEM, 1 },
  { FAULT_ALLOC, ENOMEM, FAULT_ALWAYS },
  { FAULT_LOG, ENOMEM, FAULT_ALWAYS },
  { FAULT_SHORT, 0, FAULT_ALWAYS },
};
#define WAYS (sizeof ways / sizeof *ways)

/* Built with the address sanitizer there is such a function. */
int __lsan_do_recoverable_leak_check (void) __attribute__ ((weak));

static char directory[128];     /* in memory, if possible */
static _Atomic unsigned long *runs;     /* of all processes */

static void
hangs (int number)
{
  static const char text[] = "fault-test: it hangs: run it with --verbose\n";

  (void) number;
  (void) !write (STDERR_FILENO, text, sizeof text - 1);
  abort ();
}

static unsigned
open_files (void)
{
  DIR *dir = opendir ("/proc/self/fd");
  unsigned n = 0;

  must (dir != NULL, "/proc/self/fd");
  while (readdir (dir) != NULL)
    n++;
  closedir (dir);
  return n;
}

/* ---- One run ---- */

static void
arm (const struct way *way, unsigned nth)
{
  run.armed = true;
  if (way->call == FAULT_SHORT)
    fault_arm_short (nth + 1);
  else
    fault_arm (way->call, nth, way->times, way->error);
}

/* Returns whether anything failed. */
static bool
try (const struct scene *scene, const struct way *way, unsigned nth)
{
  unsigned files, hits;

  run = (struct run) {
    .scene = scene, .call = way->call, .error = way->error,
    .times = way->times, .nth = nth, .trace = run.trace,
  };
  (*runs)++;
  alarm (RUN_SECONDS);
  clear_files ();
  guest_reset ();
  scene->prepare ();
  files = open_files ();
  arm (way, nth);
  scene->act ();
  fault_disarm ();
  hits = fault_hits ();
  run.armed = false;
  if (way->call == FAULT_SHORT && run.failures > 0)
    broken ("short transfers make errors");
  if (hits == 0 && run.failures > 0)
    broken ("errors, though nothing has failed");
  guest_reopened ();
  if (scene->finish)
    scene->finish ();
  judge (IMAGE);
  if (open_files () != files)
    broken ("files are left open");
  judge_logs ();
  if (__lsan_do_recoverable_leak_check && way->call != FAULT_LOG &&
      __lsan_do_recoverable_leak_check () != 0)
    broken ("memory leaks");
  alarm (0);
  return hits > 0;
}

/* ---- All of them ---- */

static void
try_all (const struct scene *scene, const struct way *way, unsigned first,
         unsigned stride)
{
  unsigned n = first;

  if (way->call == FAULT_SHORT) {
    for (n = 0; n < SHORT_RUNS; n++)
      must (try (scene, way, first + n), "short transfers");
    return;
  }
  while (try (scene, way, n))
    if ((n += stride) > RUNS_MAX)
      broken ("it never comes to an end");
}

static bool
wanted (const char *option, const char *name)
{
  return option == NULL || strcmp (option, name) == 0;
}

struct choice {
  const char *scene, *call;
  long nth, error;              /* -1: all */
  unsigned long times;          /* 0: all */
  unsigned stride, share, seed;
  unsigned jobs, job;           /* processes, and which one this is */
  bool slow, verbose;
};

static void
try_way (const struct choice *choice, const struct scene *scene,
         const struct way *way)
{
  static unsigned turn, mine;

  if (!wanted (choice->call, fault_names[way->call]) ||
      (choice->error >= 0 && choice->error != way->error) ||
      (choice->times > 0 && choice->times != way->times) ||
      (choice->seed + turn++) % choice->share != 0 ||
      mine++ % choice->jobs != choice->job)
    return;
  if (choice->nth >= 0)
    (void) try (scene, way, (unsigned) choice->nth);
  else
    try_all (scene, way, (choice->seed + turn) % choice->stride,
             choice->stride);
  if (choice->verbose)
    fprintf (stderr, "%s: %s, error %d, %s: %lu runs so far\n", scene->name,
             fault_names[way->call], way->error,
             way->times == 1 ? "once" : "for good", *runs);
}

static void
try_scenes (const struct choice *choice)
{
  const struct scene *scene;
  size_t i, j;

  for (i = 0; i < TABLES; i++)
    for (scene = scene_tables[i]; scene->name; scene++)
      if (wanted (choice->scene, scene->name) &&
          (!scene->slow || choice->slow || choice->scene))
        for (j = 0; j < WAYS; j++)
          try_way (choice, scene, &ways[j]);
}

static unsigned long
number (const char *text)
{
  char *end;
  unsigned long n = strtoul (text, &end, 10);

  if (end == text || *end != '\0') {
    fprintf (stderr, "fault-test: %s is no number\n", text);
    exit (1);
  }
  return n;
}

static void
usage (void)
{
  fprintf (stderr, "fault-test [--scene NAME] [--call NAME] [--error ERRNO] "
           "[--times N]\n           [--nth N] [--stride N] [--share N] "
           "[--seed N] [--jobs N] [--slow]\n           [--trace] [--verbose] "
           "[--steps]\n"
           "With --stride each N-th call only; --share: each N-th of the "
           "scenes' ways to fail;\n--jobs: by so many processes; --slow: also "
           "what takes a second each time;\n--steps: list the steps of all "
           "jobs.\n");
  exit (1);
}

static void
parse (int argc, char **argv, struct choice *choice)
{
  static const struct option options[] = {
    { "scene", required_argument, NULL, 's' },
    { "call", required_argument, NULL, 'c' },
    { "error", required_argument, NULL, 'e' },
    { "times", required_argument, NULL, 't' },
    { "nth", required_argument, NULL, 'n' },
    { "stride", required_argument, NULL, 'S' },
    { "share", required_argument, NULL, 'H' },
    { "seed", required_argument, NULL, 'r' },
    { "jobs", required_argument, NULL, 'j' },
    { "slow", no_argument, NULL, 'l' },
    { "trace", no_argument, NULL, 'T' },
    { "verbose", no_argument, NULL, 'v' },
    { "steps", no_argument, NULL, 'L' },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = getopt_long (argc, argv, "", options, NULL)) != -1)
    switch (c) {
    case 's': choice->scene = optarg; break;
    case 'c': choice->call = optarg; break;
    case 'e': choice->error = (long) number (optarg); break;
    case 't': choice->times = number (optarg); break;
    case 'n': choice->nth = (long) number (optarg); break;
    case 'S': choice->stride = (unsigned) number (optarg); break;
    case 'H': choice->share = (unsigned) number (optarg); break;
    case 'r': choice->seed = (unsigned) number (optarg); break;
    case 'j': choice->jobs = (unsigned) number (optarg); break;
    case 'l': choice->slow = true; break;
    case 'T': run.trace = fault_trace = true; break;
    case 'v': choice->verbose = true; break;
    case 'L': steps_list (); exit (0);
    default: usage ();
    }
  if (optind != argc || choice->stride == 0 || choice->share == 0 ||
      choice->jobs == 0)
    usage ();
}

static void
leave (void)
{
  if (chdir (directory) == 0) {
    clear_files ();
    (void) !chdir ("/");
    rmdir (scene_log_directory);
    rmdir (directory);
  }
}

/* All that this process does, in a directory of its own. */
static void
work (const struct choice *choice)
{
  snprintf (directory, sizeof directory, "%s/fault-test.XXXXXX",
            access ("/dev/shm", R_OK | W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp");
  must (mkdtemp (directory) != NULL && chdir (directory) == 0, directory);
  atexit (leave);
  snprintf (scene_log_directory, sizeof scene_log_directory, "%s/.log",
            directory);
  must (mkdir (scene_log_directory, 0700) == 0, scene_log_directory);
  signal (SIGALRM, hangs);
  try_scenes (choice);
}

/* Returns whether all of them succeed; the first that doesn't ends them. */
static bool
work_together (const struct choice *choice)
{
  pid_t *pids = calloc (choice->jobs, sizeof *pids);
  struct choice part = *choice;
  bool good = true;
  unsigned i;
  int status;

  must (pids != NULL, "calloc");
  for (part.job = 0; part.job < choice->jobs; part.job++) {
    pids[part.job] = fork ();
    must (pids[part.job] != -1, "fork");
    if (pids[part.job] == 0) {
      free (pids);
      work (&part);
      exit (0);
    }
  }
  while (wait (&status) != -1) {
    for (i = 0; i < choice->jobs && good && status != 0; i++)
      kill (pids[i], SIGTERM);
    good = good && status == 0;
  }
  free (pids);
  return good;
}

int
main (int argc, char **argv)
{
  struct choice choice = {
    .nth = -1, .error = -1, .stride = 1, .share = 1, .jobs = 1
  };

  parse (argc, argv, &choice);
  steps_begin ();
  runs = mmap (NULL, sizeof *runs, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  must (runs != MAP_FAILED, "mmap");
  if (choice.jobs == 1)
    work (&choice);
  else if (!work_together (&choice))
    return 1;
  printf ("%lu runs\n", *runs);
  if (*runs == 0)
    return 1;
  return steps_judge (choice.scene == NULL && choice.call == NULL &&
                      choice.stride == 1 && choice.share == 1) < 0;
}
