/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Crash states of the engine on a simulated storage.
 *
 *   crash-test [OPTIONS]            (crash-test --help lists them)
 *
 * Lives of images (life.h, commit-life.h) are run, seed by seed, until so many
 * states were judged.  The code that runs is the engine's own: the same requests that
 * nbdkit's threads carry out, on fibers, under a scheduler that follows from
 * the seed, so that a seed that fails fails again, here and elsewhere.
 *
 * When a promise is broken the life that broke it is run again and again, with
 * less and less of it, until what is left is small (reduce.h).
 *
 * Reading order: disk.h (what survives), sim.h (who runs next), workload.h
 * and promise.h (what the guest does and may rely on), reshape.h, judge.h,
 * life.h.  A new step of a job is a crash point by itself; a new ordering rule
 * is a line in 'rules' below.
 *
 * Exit status: 0 every promise was kept; 1 one was broken, or the self-test
 * did not notice what it should; 2 usage.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commit-life.h"
#include "craft.h"
#include "life.h"
#include "reduce.h"
#include "repair-life.h"
#include "sim.h"

#define STATES_DEFAULT 2000u
#define SELF_TEST_STATES 4000u  /* within so many, a small part of a campaign,
                                 * it must be noticed */
#define REPAIR_SEEDS 4u         /* one in so many seeds is repaired, too */
#define ALL_STEPS_STATES 1000u  /* after so many each step met a crash */
#define COMMITS 4u              /* one in so many lives is of that kind */
#define REDUCE_SECONDS 60u      /* to make a failing life small */
#define LIFE_SECONDS 120        /* of processor time; more is endless */

enum life_kind { LIFE_ANY = -1, LIFE_GUEST, LIFE_COMMIT };

static const char *const life_names[] = { "guest", "commit" };

/* The steps that keep the ordering rules. */
static const struct rule {
  const char *rule, *step;
  int backing;                  /* as life_run has them */
  bool reshape;
} rules[] = {
  { "O1", "mark-dirty:sync-header", -1, false },
  { "O2", "dispatch:arm-write-back", -1, false },
  { "O3", "flush:sync-data", 0, false },
  { "O3, over a backing file", "flush:sync-data", 1, false },
  { "O3", "allocate:zero-run", -1, false },
  { "O4", "flush:sync-l2", -1, false },
  { "O5, younger ones wait", "flush:leave-younger", -1, false },
  { "O5, guards", "reclaim:wait-guards", -1, false },
  { "O6", "flush:sync", -1, false },
  { "O7", "make-clean:close-gate", -1, false },
  { "O7", "make-clean:write-back", -1, false },
  { "O8", "image:fail", -1, false },
  { "O9, what grows reads as zeros", "grow:zero-rest", -1, true },
  { "O9, what grows reads as zeros", "grow:forget", -1, true },
  { "O9, what grows reads as zeros", "grow:hide-backing", 1, true },
  { "O9, and durably so", "resize:write-back", -1, true },
  { "O9, entries go when the image is smaller", "resize:sync-header", -1,
    true },
  { "O9, the content before the name", "rebase:write-back", -1, true },
  { "O9, the name before what leads to it", "rebase:sync-name", -1, true },
  { "O9, the old name goes last", "rebase:sync-header", -1, true },
  { "O9, the backing file before the entries go", "commit:sync-backing", -1,
    false },
  { "O10", "pending:append", -1, false },
  { "O10, what came after the copy is kept", "pending:keep-younger", -1,
    false },
  { "O10, data before entries in a replay", "replay:sync-data", 1, false },
  { "a cut is durable before what grows is fresh", "make-clean:sync-header",
    -1, false },
  { "no table is cut off that L1 names", "make-clean:sync-dropped", -1,
    false },
};

#define RULES (sizeof rules / sizeof rules[0])

struct arguments {
  uint64_t seed, states;
  int geometry, backing;
  enum life_kind life;
  bool reshape, self_test, steps, repairs, whole;
};

static void
usage (FILE *out)
{
  fprintf (out,
           "crash-test [OPTIONS]: crash states on a simulated storage\n"
           "  --seed N          the first seed [1]\n"
           "  --states N        judge so many states [%u]; lives are run "
           "whole\n"
           "  --geometry G      4K/1, 4K/2, 64K/1 or 1M/1 [any]\n"
           "  --backing yes|no  images over a backing file [any]\n"
           "  --life guest|commit\n"
           "                    guests at work, or overlays that are committed "
           "[any]\n"
           "  --reshape         most sessions resize or rebase the image\n"
           "  --leave-out J:S   leave out step S of job J\n"
           "  --self-test       leave out each step that a rule needs, and "
           "notice it\n"
           "  --repairs         repairs of damaged images alone\n"
           "  --steps           list at which steps power failed\n"
           "  --trace           print everything that happens\n"
           "  --schedule N, --only LIST\n"
           "                    a part of a life, as a failure tells it\n"
           "  --whole           don't look for the part that fails\n",
           STATES_DEFAULT);
}

/* ---- The work ---- */

static void
run_life (const struct arguments *args, uint64_t seed)
{
  enum life_kind kind = args->life;

  if (kind == LIFE_ANY)
    kind = args->backing < 0 && !args->reshape && seed % COMMITS == 0
      ? LIFE_COMMIT : LIFE_GUEST;
  if (kind == LIFE_COMMIT)
    commit_life_run (seed, args->geometry);
  else
    life_run (seed, args->geometry, args->backing, args->reshape);
}

/* What is shared with the child that runs the states. */
struct campaign {
  const struct arguments *args;
  uint64_t seed;                /* of the life under way */
  bool repairs;                 /* and its kind */
  bool bad;                     /* something was not covered */
};

static void
is_endless (int number)
{
  (void) number;
  sim_violation ("this life does not end");
}

/* The time begins anew with each life. */
static void
watch_life (void)
{
  static const struct itimerval limit = { .it_value.tv_sec = LIFE_SECONDS };

  signal (SIGVTALRM, is_endless);
  if (setitimer (ITIMER_VIRTUAL, &limit, NULL) < 0)
    abort ();
}

static void
run_one (void *arg)
{
  const struct campaign *campaign = arg;

  watch_life ();
  if (campaign->repairs)
    repair_life_run (campaign->seed, campaign->args->geometry);
  else
    run_life (campaign->args, campaign->seed);
}

static void
run_states (struct campaign *campaign)
{
  const struct arguments *args = campaign->args;

  for (campaign->seed = args->seed; life_totals.states < args->states;
       campaign->seed++) {
    campaign->repairs = false;
    if (!args->repairs)
      run_one (campaign);
    campaign->repairs = args->repairs ||
      (campaign->seed % REPAIR_SEEDS == 0 && !args->reshape &&
       args->life == LIFE_ANY && !sim_left_out);
    if (campaign->repairs)
      run_one (campaign);
  }
}

/* A step that never meets a crash isn't tested. */
static bool
is_covered (const struct arguments *args)
{
  unsigned steps, missed;

  steps = life_steps (args->steps, &missed);
  printf ("%" PRIu64 " states of %" PRIu64 " images judged, %" PRIu64
          " of them crashes, before %u of %u steps; %" PRIu64
          " times freed clusters were reused\n", life_totals.states,
          life_totals.lives, life_totals.crashes, steps - missed, steps,
          life_totals.reused);
  if (args->states < ALL_STEPS_STATES || sim_left_out || args->repairs ||
      args->life != LIFE_ANY)
    return true;
  if (missed > 0)
    fprintf (stderr, "crash-test: power never failed before some steps "
             "(--steps lists them)\n");
  if (life_totals.reused == 0)
    fprintf (stderr, "crash-test: no freed cluster was reused\n");
  return missed == 0 && life_totals.reused > 0;
}

static void
run_campaign (void *arg)
{
  struct campaign *campaign = arg;

  run_states (campaign);
  campaign->bad = !is_covered (campaign->args);
}

/* In a child, so that this process knows nothing of the lives that were
 * before, nor does what runs the one that failed again.
 */
static int
run (const struct arguments *args)
{
  struct campaign *campaign = mmap (NULL, sizeof *campaign,
                                    PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

  if (campaign == MAP_FAILED)
    abort ();
  campaign->args = args;
  if (args->whole || sim_tracing) {
    run_campaign (campaign);
    return campaign->bad;
  }
  if (reduce_in_child (run_campaign, campaign, false))
    return campaign->bad;
  fprintf (stderr, "crash-test: seed %" PRIu64 "%s failed; now for the least "
           "that does, which takes %u seconds at most\n", campaign->seed,
           campaign->repairs ? " of the repairs" : "", REDUCE_SECONDS);
  reduce (run_one, campaign, REDUCE_SECONDS);
  if (reduce_in_child (run_one, campaign, false))
    fprintf (stderr, "crash-test: seed %" PRIu64 " alone does not fail\n",
             campaign->seed);
  return 1;
}

/* ---- The self-test ---- */

/* In a child, which ends at the violation, or at an assertion of the engine,
 * and shares its count with us.
 */
static bool
notices (const struct arguments *args, const struct rule *rule,
         uint64_t *states)
{
  struct life_totals *shared = mmap (NULL, sizeof *shared,
                                     PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct arguments of_rule = *args;
  uint64_t seed;
  int status, null;
  pid_t pid;

  if (shared == MAP_FAILED)
    abort ();
  fflush (NULL);
  pid = fork ();
  if (pid == 0) {
    null = open ("/dev/null", O_WRONLY);
    dup2 (null, STDERR_FILENO);
    sim_left_out = rule->step;
    of_rule.backing = rule->backing;
    of_rule.reshape = rule->reshape;
    for (seed = args->seed; shared->states < SELF_TEST_STATES; seed++) {
      run_life (&of_rule, seed);
      *shared = life_totals;
    }
    _exit (0);
  }
  if (pid < 0 || waitpid (pid, &status, 0) < 0)
    abort ();
  *states = shared->states;
  munmap (shared, sizeof *shared);
  return !WIFEXITED (status) || WEXITSTATUS (status) != 0;
}

static int
self_test (const struct arguments *args)
{
  uint64_t states;
  bool noticed;
  int r = 0;
  size_t i;

  for (i = 0; i < RULES; i++) {
    noticed = notices (args, &rules[i], &states);
    printf ("without %s (%s): %s %" PRIu64 " good states\n", rules[i].step,
            rules[i].rule, noticed ? "noticed after" : "NOT NOTICED in",
            states);
    if (!noticed)
      r = 1;
  }
  return r;
}

/* ---- The command line ---- */

enum { OPTION_SEED = 1, OPTION_STATES, OPTION_GEOMETRY, OPTION_BACKING,
       OPTION_LIFE, OPTION_RESHAPE, OPTION_LEAVE_OUT, OPTION_SELF_TEST,
       OPTION_STEPS, OPTION_REPAIRS, OPTION_TRACE, OPTION_SCHEDULE,
       OPTION_ONLY, OPTION_WHOLE, OPTION_HELP };

static uint64_t
number (const char *s)
{
  char *end;
  uint64_t n;

  errno = 0;
  n = strtoull (s, &end, 0);
  if (errno != 0 || *s < '0' || *s > '9' || *end != '\0') {
    fprintf (stderr, "crash-test: %s is not a number\n", s);
    exit (2);
  }
  return n;
}

static void
only (const char *list)
{
  if (reduce_parse (list))
    return;
  fprintf (stderr, "crash-test: %s is no list of parts\n", list);
  exit (2);
}

static int
geometry_number (const char *s)
{
  int i;

  for (i = 0; i < (int) GEOMETRIES; i++)
    if (strcmp (s, geometry_names[i]) == 0)
      return i;
  fprintf (stderr, "crash-test: geometry %s is unknown\n", s);
  exit (2);
}

static enum life_kind
life_number (const char *s)
{
  unsigned i;

  for (i = 0; i < sizeof life_names / sizeof life_names[0]; i++)
    if (strcmp (s, life_names[i]) == 0)
      return (enum life_kind) i;
  fprintf (stderr, "crash-test: %s is no kind of life\n", s);
  exit (2);
}

static int
yes_or_no (const char *s)
{
  if (strcmp (s, "yes") == 0 || strcmp (s, "no") == 0)
    return s[0] == 'y';
  fprintf (stderr, "crash-test: %s is neither yes nor no\n", s);
  exit (2);
}

static void
parse (int argc, char **argv, struct arguments *args)
{
  static const struct option options[] = {
    { "seed", required_argument, NULL, OPTION_SEED },
    { "states", required_argument, NULL, OPTION_STATES },
    { "geometry", required_argument, NULL, OPTION_GEOMETRY },
    { "backing", required_argument, NULL, OPTION_BACKING },
    { "life", required_argument, NULL, OPTION_LIFE },
    { "reshape", no_argument, NULL, OPTION_RESHAPE },
    { "leave-out", required_argument, NULL, OPTION_LEAVE_OUT },
    { "self-test", no_argument, NULL, OPTION_SELF_TEST },
    { "repairs", no_argument, NULL, OPTION_REPAIRS },
    { "steps", no_argument, NULL, OPTION_STEPS },
    { "trace", no_argument, NULL, OPTION_TRACE },
    { "schedule", required_argument, NULL, OPTION_SCHEDULE },
    { "only", required_argument, NULL, OPTION_ONLY },
    { "whole", no_argument, NULL, OPTION_WHOLE },
    { "help", no_argument, NULL, OPTION_HELP },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = getopt_long (argc, argv, "", options, NULL)) != -1)
    switch (c) {
    case OPTION_SEED: args->seed = number (optarg); break;
    case OPTION_STATES: args->states = number (optarg); break;
    case OPTION_GEOMETRY: args->geometry = geometry_number (optarg); break;
    case OPTION_BACKING: args->backing = yes_or_no (optarg); break;
    case OPTION_LIFE: args->life = life_number (optarg); break;
    case OPTION_RESHAPE: args->reshape = true; break;
    case OPTION_LEAVE_OUT: sim_left_out = optarg; break;
    case OPTION_SELF_TEST: args->self_test = true; break;
    case OPTION_REPAIRS: args->repairs = true; break;
    case OPTION_STEPS: args->steps = true; break;
    case OPTION_TRACE: sim_tracing = true; break;
    case OPTION_SCHEDULE: reduce_schedule = number (optarg); break;
    case OPTION_ONLY: only (optarg); args->whole = true; break;
    case OPTION_WHOLE: args->whole = true; break;
    case OPTION_HELP: usage (stdout); exit (0);
    default: usage (stderr); exit (2);
    }
  if (optind < argc) {
    usage (stderr);
    exit (2);
  }
}

int
main (int argc, char **argv)
{
  struct arguments args = { .seed = 1, .states = STATES_DEFAULT,
                            .geometry = -1, .backing = -1,
                            .life = LIFE_ANY };

  parse (argc, argv, &args);
  return args.self_test ? self_test (&args) : run (&args);
}
