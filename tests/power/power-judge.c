/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Power cuts of a recorded session.
 *
 *   power-judge [OPTIONS] SESSION     (power-judge --help lists them)
 *
 * The session, which record-fs and power-client have left (record.h), is
 * replayed into the simulated file of the crash tests.  At as many places as
 * there are states to be made the power fails: what was synced is there, of the
 * rest any part.  Each state is judged by the crash tests' judge, which looks
 * at the tables and lets the engine read them; one in some is made a file, and
 * served, repaired and checked by the programs themselves.
 *
 * All of it follows from the session and the seed.  A violation names the
 * state; --only makes that one alone, --keep FILE leaves its file.
 *
 * Exit status: 0 every promise was kept; 1 one was broken; 2 usage, or the
 * session is not as it should be.
 */

#include <config.h>

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "judge.h"
#include "random.h"
#include "real.h"
#include "replay.h"
#include "sim.h"
#include "stamp.h"

#define EARLY_EVENTS 200u       /* where a repair at open is likely */

static struct {
  const char *session, *make_backing, *keep, *next, *final, *first_name;
  uint64_t seed, states, only, drop, first, backing, real_one_in;
  bool clean;
  struct real real;
} options = { .seed = 1, .states = 1000, .only = UINT64_MAX, .first = 1 };

struct state {
  size_t at;                    /* events that were carried out */
  uint64_t number;
};

static struct replay replay;
static struct state *states;
static uint64_t current;        /* the state that is judged */
static size_t turn_count;
static size_t *turns;           /* the events that replay_is_turn */

/* ---- Where power fails ---- */

static void
find_turns (void)
{
  size_t i;

  turns = malloc (replay.count * sizeof *turns);
  if (turns == NULL)
    abort ();
  for (i = 0; i < replay.count; i++)
    if (replay_is_turn (&replay.events[i]))
      turns[turn_count++] = i;
}

static struct random
random_of_state (uint64_t number)
{
  return (struct random) { random_mix (options.seed << 32 ^ number) };
}

/* After any event; in half of the states shortly before or after a turn. */
static size_t
draw_place (struct random *random)
{
  size_t at = random_below (random, replay.count) + 1;

  if (turn_count > 0 && random_one_in (random, 2)) {
    at = turns[random_below (random, turn_count)] + random_below (random, 4);
    at = at < 1 ? 1 : at > replay.count ? replay.count : at;
  }
  else if (random_one_in (random, 5))
    at = random_below (random, replay.count < EARLY_EVENTS ? replay.count
                       : EARLY_EVENTS) + 1;
  return at;
}

static int
compare_states (const void *a, const void *b)
{
  const struct state *s = a, *t = b;

  if (s->at != t->at)
    return s->at < t->at ? -1 : 1;
  return s->number < t->number ? -1 : s->number > t->number;
}

static void
draw_states (void)
{
  struct random random;
  uint64_t i;

  states = malloc (options.states * sizeof *states);
  if (states == NULL)
    abort ();
  for (i = 0; i < options.states; i++) {
    random = random_of_state (i);
    states[i].number = i;
    states[i].at = draw_place (&random);
  }
  qsort (states, options.states, sizeof *states, compare_states);
}

/* ---- Judging ---- */

static void
describe (void)
{
  fprintf (stderr, "power-judge: to reproduce: power-judge --seed %" PRIu64
           " --states %" PRIu64 " --only %" PRIu64 " --first %" PRIu64,
           options.seed, options.states, current, options.first);
  if (options.backing > 0)
    fprintf (stderr, " --backing-sectors %" PRIu64 " --backing-name %s",
             options.backing, options.first_name);
  if (options.drop > 0)
    fprintf (stderr, " --drop-syncs %" PRIu64, options.drop);
  fprintf (stderr, " %s\npower-judge: after event %zu of %zu, number %" PRIu64
           "\n", options.session, replay.done, replay.count,
           replay.events[replay.done ? replay.done - 1 : 0].number);
}

static uint64_t
time_now (void)
{
  return replay.events[replay.done - 1].number + 1;
}

/* The engine on the simulated storage knows no other names of backing files
 * than the simulation's.
 */
static void
judge (const struct state *state)
{
  struct random random = random_of_state (state->number);
  struct disk *disk;
  struct walk walk;
  struct verdict verdict = { .what = "after a power cut", .time = time_now (),
                             .reference = &replay.reference };

  draw_place (&random);
  disk = disk_crash (replay.disk, &random);
  current = state->number;
  if (options.keep)
    replay_write_file (disk, options.keep);
  walk_image (disk, &walk);
  verdict.image_sizes[0] = verdict.image_sizes[1] =
    replay.reference.image_size;
  judge_state (disk, &walk, &replay.promise, &verdict);
  if (options.real_one_in > 0 && state->number % options.real_one_in == 0)
    real_judge (&options.real, disk, &walk, &replay.promise, verdict.time);
  if (options.backing == 0) {
    sim_reset ();
    judge_engine (disk, &walk, &replay.promise, &random);
  }
  if (options.next && state->number == 0)
    replay_write_file (disk, options.next);
  walk_destroy (&walk);
  disk_destroy (disk);
}

/* What the record says is what the server left; and if it ended by itself all
 * is there that it had acknowledged.
 */
static void
judge_end (void)
{
  struct disk *disk = replay_read_file (options.final);
  uint64_t length = disk_length (disk), s;
  const unsigned char *a, *b;
  static const unsigned char zeros[SECTOR];
  struct verdict verdict = { .what = "the end", .time = time_now (),
                             .clean = true, .running = true,
                             .reference = &replay.reference };
  struct walk walk;

  if (length != disk_length (replay.disk))
    replay_die ("%s is 0x%" PRIx64 " bytes long, the record says 0x%" PRIx64,
                options.final, length, disk_length (replay.disk));
  for (s = 0; s < length / SECTOR; s++) {
    a = disk_sector (disk, s);
    b = disk_sector (replay.disk, s);
    if (memcmp (a ? a : zeros, b ? b : zeros, SECTOR) != 0)
      replay_die ("%s: sector 0x%" PRIx64 " isn't what was recorded",
                  options.final, s);
  }
  if (options.clean) {
    walk_image (disk, &walk);
    verdict.image_sizes[0] = verdict.image_sizes[1] =
      replay.reference.image_size;
    judge_state (disk, &walk, &replay.promise, &verdict);
    walk_destroy (&walk);
  }
  disk_destroy (disk);
}

static void
run (void)
{
  uint64_t i, judged = 0;

  replay.drop = options.drop;
  replay.random.state = random_mix (options.seed);
  replay_load (&replay, options.session, (uint32_t) options.first);
  find_turns ();
  draw_states ();
  sim_describe = describe;
  for (i = 0; i < options.states; i++) {
    while (replay.done < states[i].at)
      replay_step (&replay);
    if (options.only == UINT64_MAX || options.only == states[i].number) {
      judge (&states[i]);
      judged++;
    }
  }
  while (replay.done < replay.count)
    replay_step (&replay);
  if (options.final && options.drop == 0)
    judge_end ();
  printf ("%" PRIu64 " states judged, of a session of %zu events and %" PRIu64
          " syncs\n", judged, replay.count, replay.syncs);
  replay_destroy (&replay);
  free (states);
  free (turns);
}

/* ---- The command line ---- */

enum { OPTION_SEED = 1, OPTION_STATES, OPTION_ONLY, OPTION_FIRST, OPTION_DROP,
       OPTION_BACKING, OPTION_BACKING_NAME, OPTION_MAKE_BACKING, OPTION_KEEP,
       OPTION_NEXT, OPTION_FINAL, OPTION_CLEAN, OPTION_REAL, OPTION_NBDKIT,
       OPTION_REAL_FILE, OPTION_HELP };

static void
usage (FILE *out)
{
  fprintf (out, "power-judge [OPTIONS] SESSION: power cuts of what was "
           "recorded there\n"
           "  --seed N             where power fails, and what is left [1]\n"
           "  --states N           so many times [1000]\n"
           "  --only N             that one alone\n"
           "  --first N            the number of the session's first write "
           "[1]\n"
           "  --drop-syncs N       one sync in N was none: the judge should "
           "notice\n"
           "  --backing-sectors N  there is a backing file of that length\n"
           "  --backing-name NAME  as the image names it\n"
           "  --make-backing FILE  write its content there, and end\n"
           "  --keep FILE          leave the last state there\n"
           "  --next FILE          leave state 0 there, to go on from it\n"
           "  --final FILE         the image as the server left it\n"
           "  --clean              and it ended by itself\n"
           "  --real N             one state in N is served by the programs\n"
           "  --nbdkit COMMAND     the wrapper that serves it\n"
           "  --real-file FILE     where\n");
}

static uint64_t
number (const char *s)
{
  char *end;
  uint64_t n = strtoull (s, &end, 0);

  if (*s < '0' || *s > '9' || *end != '\0')
    replay_die ("%s is not a number", s);
  return n;
}

static void
set_option (int c)
{
  switch (c) {
  case OPTION_SEED: options.seed = number (optarg); break;
  case OPTION_STATES: options.states = number (optarg); break;
  case OPTION_ONLY: options.only = number (optarg); break;
  case OPTION_FIRST: options.first = number (optarg); break;
  case OPTION_DROP: options.drop = number (optarg); break;
  case OPTION_BACKING: options.backing = number (optarg); break;
  case OPTION_BACKING_NAME: options.first_name = optarg; break;
  case OPTION_MAKE_BACKING: options.make_backing = optarg; break;
  case OPTION_KEEP: options.keep = optarg; break;
  case OPTION_NEXT: options.next = optarg; break;
  case OPTION_FINAL: options.final = optarg; break;
  case OPTION_CLEAN: options.clean = true; break;
  case OPTION_REAL: options.real_one_in = number (optarg); break;
  case OPTION_NBDKIT: options.real.nbdkit = optarg; break;
  case OPTION_REAL_FILE: options.real.path = optarg; break;
  case OPTION_HELP: usage (stdout); exit (0);
  default: usage (stderr); exit (2);
  }
}

static void
parse (int argc, char **argv)
{
  static const struct option known[] = {
    { "seed", required_argument, NULL, OPTION_SEED },
    { "states", required_argument, NULL, OPTION_STATES },
    { "only", required_argument, NULL, OPTION_ONLY },
    { "first", required_argument, NULL, OPTION_FIRST },
    { "drop-syncs", required_argument, NULL, OPTION_DROP },
    { "backing-sectors", required_argument, NULL, OPTION_BACKING },
    { "backing-name", required_argument, NULL, OPTION_BACKING_NAME },
    { "make-backing", required_argument, NULL, OPTION_MAKE_BACKING },
    { "keep", required_argument, NULL, OPTION_KEEP },
    { "next", required_argument, NULL, OPTION_NEXT },
    { "final", required_argument, NULL, OPTION_FINAL },
    { "clean", no_argument, NULL, OPTION_CLEAN },
    { "real", required_argument, NULL, OPTION_REAL },
    { "nbdkit", required_argument, NULL, OPTION_NBDKIT },
    { "real-file", required_argument, NULL, OPTION_REAL_FILE },
    { "help", no_argument, NULL, OPTION_HELP },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = getopt_long (argc, argv, "", known, NULL)) != -1)
    set_option (c);
  options.session = argv[optind];
  if (argc - optind != (options.make_backing == NULL) ||
      options.states == 0 ||
      (options.real_one_in > 0 &&
       (options.real.nbdkit == NULL || options.real.path == NULL))) {
    usage (stderr);
    exit (2);
  }
}

/* Every second block of it holds something. */
static void
set_backing (void)
{
  stamp_backing.sectors = options.backing;
  stamp_backing.one_in = 2;
  stamp_backing.ranges[0].from = 0;
  stamp_backing.ranges[0].to = options.backing;
  stamp_backing.range_count = options.backing > 0;
  walk_first_name = options.first_name;
}

static void
make_backing (void)
{
  struct disk *disk = disk_create (true, options.backing * SECTOR,
                                   UINT64_MAX);
  const unsigned char *data;
  uint64_t s;

  for (s = 0; s < options.backing; s++) {
    data = stamp_file_data (STAMP_FIRST_FILE, s);
    if (data)
      disk_poke (disk, s, data);
  }
  replay_write_file (disk, options.make_backing);
  disk_destroy (disk);
}

int
main (int argc, char **argv)
{
  parse (argc, argv);
  set_backing ();
  if (options.make_backing)
    make_backing ();
  else
    run ();
  return 0;
}
