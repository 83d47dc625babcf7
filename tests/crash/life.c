/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "beneath.h"
#include "craft.h"
#include "image.h"
#include "judge.h"
#include "life.h"
#include "reduce.h"
#include "reshape.h"
#include "sim-pending.h"
#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"
#include "workload.h"

#define CRASHES_MAX 16u         /* of a session */
#define SESSIONS_MAX 4u
#define STEPS_MAX 128u
#define LOG_LINES 6u
#define SYNC_FAILS 8u           /* in one of so many sessions one does */
#define STALE_SECONDS 60.       /* no write-back for so long: much later than
                                 * it is due, as much may come first */
#define END_CRASH 1000u         /* the number of the one at the end */
#define STEP_CRASH 2000u        /* and those of steps that never met one */

struct life_totals life_totals;

/* A moment at which power fails; what is left, and what was on its way. */
struct crash {
  struct disk *disk;
  void *log;                    /* the pending log, or NULL */
  struct disk *alive;           /* only the process died, which keeps O10: as
                                 * the next one finds the disk; or NULL */
  uint64_t time;
  unsigned reference;           /* the last clean moment before */
  unsigned number;              /* in the session */
  char where[64];
};

static struct life_step steps[STEPS_MAX];
static unsigned step_count;

/* The life under way: one at a time, as there's one scheduler. */
static struct {
  uint64_t seed;
  unsigned geometry, session, state;
  struct shape shape;
  struct reshape reshape;       /* what the session does instead of work */
  bool often;                   /* that */
  bool resized;                 /* in this or an earlier session, or before */
  struct promise promise;
  struct random random;
  struct random crash_random;
  struct disk *disk;            /* what the session works on */
  struct qed_image *image;      /* that is served, or NULL */
  double dirty_since;           /* its pages; or not: -1 */
  struct disk *before;          /* the same, as it was opened */
  struct crash crashes[CRASHES_MAX + 1 + STEPS_MAX];
  unsigned crash_count;
  unsigned crashes_drawn;       /* in this session */
  unsigned crash_number;        /* of the one under way */
  unsigned serving;             /* how often the image was served */
  uint64_t crash_rate;          /* one in so many yields */
  bool met[STEPS_MAX][2];       /* in this session; while disk_is_exposed */
  bool changed;                 /* an entry may have been, in this session */
  struct walk *references;      /* the tables at each clean moment: when it was
                                 * opened, and before NEED_CHECK was cleared */
  unsigned reference_count;
  enum qed_pending_mode pending;        /* in this session */
  const char *where;            /* of the state that is judged, or "" */
  char log[LOG_LINES][256];     /* the engine's last messages */
  unsigned logged;
} life;

/* ---- Saying where we are ---- */

static void
describe (void)
{
  unsigned i;

  fprintf (stderr, "crash-test: session %u, %s%s\n", life.session,
           life.where ? "after a crash at " : "while it ran",
           life.where ? life.where : "");
  for (i = life.logged > LOG_LINES ? life.logged - LOG_LINES : 0;
       i < life.logged; i++)
    fprintf (stderr, "crash-test: the engine said: %s\n",
             life.log[i % LOG_LINES]);
  fprintf (stderr, "crash-test: to reproduce: crash-test --seed %" PRIu64
           " --states 1 --geometry %s --backing %s%s%s%s",
           life.seed, geometry_names[life.geometry],
           life.shape.backing_sectors > 0 ? "yes" : "no",
           life.often ? " --reshape" : "",
           sim_left_out ? " --leave-out " : "",
           sim_left_out ? sim_left_out : "");
  reduce_print (stderr);
  fputs (" --trace\n", stderr);
}

static void
engine_says (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  if (level != QED_LOG_TRACE)
    snprintf (life.log[life.logged++ % LOG_LINES], sizeof life.log[0], "%s",
              message);
  sim_trace ("# %s", message);
}

/* ---- When power fails ---- */

static void
note_clean_moment (void)
{
  life.references = realloc (life.references, (life.reference_count + 1) *
                             sizeof *life.references);
  if (life.references == NULL)
    abort ();
  walk_image (life.disk, &life.references[life.reference_count++]);
}

static bool
keeps_write (unsigned op)
{
  return reduce_has (REDUCE_WRITE, life.session, life.crash_number, op);
}

static void
crash_now (const char *job, const char *step, unsigned number)
{
  struct random random = { random_mix (life.crash_random.state) };
  struct crash *crash = &life.crashes[life.crash_count];
  uint64_t time = sim_ticks ();
  bool killed;

  if (number != END_CRASH &&
      !reduce_has (REDUCE_CRASH, 0, life.session, number))
    return;
  life.crash_count++;
  life.crash_number = crash->number = number;
  disk_keeps = keeps_write;
  crash->time = time;
  crash->reference = life.reference_count - 1;
  killed = random_one_in (&random, 4);
  crash->disk = killed
    ? disk_kill (life.disk) : disk_crash (life.disk, &random);
  crash->alive = killed && life.pending != QED_PENDING_OFF &&
    !sim_storage_sync_failed    /* O8: then the log is thrown away */
    ? disk_survive (life.disk) : NULL;
  crash->log = sim_pending_copy ();
  snprintf (crash->where, sizeof crash->where, "%s%s%s", job ? job : "",
            job ? ":" : "", step);
  sim_trace ("*** crash c0.%u.%u at %s", life.session, number, crash->where);
}

static void
forget_crash (struct crash *crash, bool keep_disk)
{
  if (!keep_disk)
    disk_destroy (crash->disk);
  if (crash->alive)
    disk_destroy (crash->alive);
  free (crash->log);
}

struct life_step *
life_find_step (const char *job, const char *name)
{
  unsigned i;

  for (i = 0; i < step_count; i++)
    if (strcmp (steps[i].job, job) == 0 && strcmp (steps[i].name, name) == 0)
      return &steps[i];
  assert (step_count < STEPS_MAX);
  steps[step_count] = (struct life_step) { job, name, 0 };
  return &steps[step_count++];
}

/* The first time in a session that a step is met counts more, and so do moments
 * when tables are on their way.
 */
static uint64_t
crash_rate (const struct life_step *step)
{
  bool exposed = disk_is_exposed (life.disk), *met;

  if (step) {
    met = &life.met[step - steps][exposed];
    if (!*met) {
      *met = true;
      return exposed || life.reshape.kind != RESHAPE_NOT ? 3 : 6;
    }
  }
  if ((step || exposed) && life.crash_rate >= 400)
    return life.crash_rate / 20;
  return life.crash_rate;
}

static void
crash_maybe (const char *job, const char *name)
{
  struct life_step *step = job ? life_find_step (job, name) : NULL;

  life.changed |= step && strcmp (name, "open-gate") == 0;
  if (step && strcmp (name, "clear-need-check") == 0)
    note_clean_moment ();
  if (life.crashes_drawn < CRASHES_MAX &&
      random_one_in (&life.crash_random, crash_rate (step))) {
    if (step)
      step->crashes++;
    crash_now (job, name, life.crashes_drawn++);
  }
  else if (step && step->crashes == 0) {
    step->crashes++;            /* it may be the only time */
    crash_now (job, name, STEP_CRASH + (unsigned) (step - steps));
  }
  else if (step)
    (void) sim_ticks ();        /* as if: lives before it change nothing */
}

/* O2: dirty pages don't stay so for long. */
static void
judge_dirty (bool written_back)
{
  struct metadata *md = &life.image->metadata;

  if (written_back || life.image->closing || sim_storage_sync_failed ||
      metadata_dirty (md, METADATA_L1) + metadata_dirty (md, METADATA_L2) == 0)
    life.dirty_since = -1;
  else if (life.dirty_since < 0)
    life.dirty_since = sim_now ();
  else if (sim_now () - life.dirty_since > STALE_SECONDS)
    sim_violation ("pages have been dirty for %g seconds",
                   sim_now () - life.dirty_since);
}

static void
crash_point (const char *job, const char *name)
{
  if (life.image)
    judge_dirty (job && strcmp (name, "copy-l2") == 0);
  crash_maybe (job, name);
}

/* ---- A session ---- */

static void
init_options (struct qed_options *options)
{
  qed_options_init (options);
  options->path = "image.qed";
  options->backing = QED_BACKING_ANY;
  options->log.fn = engine_says;
  options->log.trace = sim_tracing;
  options->pending = life.pending;
  sim_storage_disk = life.disk;
}

static void
open_image (struct workload *workload, struct random *random)
{
  static const uint64_t caches[] = { 0, 128 << 10, QED_METADATA_CACHE_MIN,
                                     QED_METADATA_CACHE_DEFAULT };
  struct qed_image **image = &workload->image;
  struct qed_request ready;
  struct qed_options options;
  int r;

  init_options (&options);
  workload->ignores_trim = random_one_in (random, 12);
  if (workload->ignores_trim)
    options.discard = QED_DISCARD_IGNORE;
  options.clean_after = (unsigned) random_below (random, 8);
  options.metadata_cache = caches[life.shape.one_set ? 2 : random_below
                                  (random, life.shape.scattered ? 3 : 4)];
  sim_trace ("open: cache %" PRIu64 ", clean-after %u", options.metadata_cache,
             options.clean_after);
  if (options.metadata_cache >= QED_METADATA_CACHE_MIN)
    r = qed_open (&options, image);
  else                          /* smaller than a user may have it */
    r = image_open_storage (&options, sim_storage_open (life.disk, random),
                            image);
  if (r == 0)
    r = qed_start (*image);
  if (r < 0)
    sim_violation ("a good image can't be opened: %s", strerror (-r));
  qed_request_init (&ready, QED_OP_READY, NULL, 0, 0, 0);
  workload_request (*image, &ready, 0);
}

static bool
may_fill (void)
{
  return !disk_can_grow (life.disk) || disk_limit (life.disk) != UINT64_MAX;
}

static void
reshape_fiber (void *arg)
{
  struct random *random = arg;
  struct qed_options options;

  init_options (&options);
  if (random_one_in (random, 2))
    options.metadata_cache = QED_METADATA_CACHE_MIN;
  life.reshape.may_fill = may_fill ();
  reshape_run (&life.reshape, &options);
}

static void
serve (struct random *random)
{
  struct workload workload = {
    .shape = &life.shape,
    .session = life.session * 2 + life.serving++,
    .promise = &life.promise,
    .random = random,
    .may_fill = may_fill (),
  };
  uint64_t closing;
  int r;

  open_image (&workload, random);
  if (random_one_in (random, SYNC_FAILS))
    sim_storage_sync_fails = (unsigned) random_between (random, 1, 20);
  life.image = workload.image;
  life.dirty_since = -1;
  workload_run (&workload);
  judge_dirty (false);
  life.image = NULL;
  if (!qed_writable (workload.image) && !sim_storage_sync_failed)
    sim_violation ("a good image is refused for writing");
  sim_trace ("close");
  closing = sim_ticks ();
  r = qed_close (workload.image);
  if (r < 0 && !sim_storage_sync_failed)
    sim_violation ("closing the image failed: %s", strerror (-r));
  if (r == 0)
    promise_flushed (&life.promise, closing);
  sim_storage_sync_fails = 0;
  sim_trace ("closed");
}

/* Now and then the image is handed over: a release is a close, with nothing
 * left behind, and an activation an open; power may fail in the next server,
 * when not all that the last one has written need be on disk.
 */
static void
session_fiber (void *arg)
{
  struct random *random = arg;

  serve (random);
  if (!sim_storage_sync_failed && random_one_in (random, 3)) {
    sim_trace ("handed over");
    serve (random);
  }
}

static void
run_session (void)
{
  static const unsigned rates[] = { 400, 1500, 5000 };
  struct random random = random_fork (&life.random);
  struct random schedule = random_fork (&life.random);

  life.crash_count = life.crashes_drawn = life.serving = 0;
  memset (life.met, 0, sizeof life.met);
  life.changed = false;
  life.crash_random = random_fork (&life.random);
  life.crash_rate = rates[random_below (&life.random, 3)];
  life.before = disk_kill (life.disk);
  life.reference_count = 0;
  note_clean_moment ();
  life.promise.backing = life.references[0].backing;
  memset (&life.reshape, 0, sizeof life.reshape);
  if (!(life.references[0].features & WALK_NEED_CHECK)) /* it has to be clean */
    reshape_draw (&life.reshape, &life.shape, life.often, &life.promise,
                  &random);
  life.pending = QED_PENDING_OFF;
  if (life.reshape.kind == RESHAPE_NOT)
    life.pending = random_one_in (&life.random, 4)
      ? (enum qed_pending_mode) random_below (&life.random, 3)
      : QED_PENDING_LOG;
  life.resized |= life.reshape.kind == RESHAPE_SIZE;
  if (life.reshape.kind == RESHAPE_SIZE)
    life.crash_rate = 40;       /* it is short */
  sim_trace ("--- session %u: %s%s, image size 0x%" PRIx64 ", file 0x%" PRIx64,
             life.session, geometry_names[life.geometry],
             stamp_backing.is_qed ? " over QED" : "", life.shape.image_size,
             disk_length (life.disk));
  sim_at = crash_point;
  sim_storage_reused = 0;
  sim_storage_sync_failed = false;
  sim_run (&schedule, life.reshape.kind == RESHAPE_NOT ? session_fiber
           : reshape_fiber, &random);
  life_totals.reused += sim_storage_reused;
  sim_at = NULL;
}

/* ---- Judging ---- */

static void
judge (struct disk *disk, const void *log, const struct verdict *verdict,
       struct walk *walk)
{
  struct random random = { random_mix (life.seed ^ verdict->time << 32) };
  uint64_t ticks = sim_ticks ();
  double now = sim_now ();
  bool tracing = sim_tracing;

  life_totals.states++;
  life.where = verdict->what;
  walk_image (disk, walk);
  judge_state (disk, walk, &life.promise, verdict);
  sim_tracing = false;          /* the session's is what matters */
  sim_pending_set (log);        /* of a machine that isn't any more */
  sim_pending_boot = 1;
  judge_engine (disk, walk, &life.promise, &random);
  sim_pending_boot = 0;
  sim_tracing = tracing;
  sim_turn_back (ticks, now);   /* how many are judged changes nothing */
  life.where = NULL;
}

/* Which sizes the image may have; when all is over there's one. */
static void
expect_sizes (struct verdict *verdict, bool over)
{
  const struct qed_resize *resize = &life.reshape.resize;
  bool resized = life.reshape.kind == RESHAPE_SIZE;

  verdict->image_sizes[0] = resized && over ? resize->is
    : life.shape.image_size;
  verdict->image_sizes[1] = resized && !over ? resize->size
    : verdict->image_sizes[0];
  verdict->beyond = life.resized;
}

/* How many are judged changes nothing here, too. */
static void
judge_alive (const struct crash *crash, const struct verdict *verdict)
{
  uint64_t ticks = sim_ticks ();
  double now = sim_now ();

  life.where = crash->where;
  judge_survival (crash->alive, crash->log, &life.promise, verdict,
                  &(struct random) { random_mix (crash->time) });
  sim_turn_back (ticks, now);
}

static void
judge_crash (const struct crash *crash, bool clean)
{
  struct verdict verdict = {
    .what = crash->where, .time = crash->time, .clean = clean,
    .reference = &life.references[crash->reference],
  };
  struct walk walk;

  expect_sizes (&verdict, clean);
  if (crash->alive)
    judge_alive (crash, &verdict);
  judge (crash->disk, crash->log, &verdict, &walk);
  walk_destroy (&walk);
  life_totals.crashes++;
}

/* The closed image, first as it is, then as a crash would leave it. */
static void
judge_end (void)
{
  struct verdict verdict = {
    .what = "the end", .time = sim_ticks (),
    .clean = !sim_storage_sync_failed, .running = !sim_storage_sync_failed,
    .reference = &life.references[life.reference_count - 1],
  };
  struct disk *copy = disk_kill (life.disk);    /* it may be repaired */
  struct walk walk;

  expect_sizes (&verdict, true);
  judge (copy, NULL, &verdict, &walk);
  disk_destroy (copy);
  if (verdict.clean)
    judge_closed (life.disk, &walk, life.before, &life.references[0],
                  life.changed);
  walk_destroy (&walk);

  crash_now (NULL, "the end", END_CRASH);
  judge_crash (&life.crashes[life.crash_count - 1], verdict.clean);
}

/* The next session goes on from there: what is there now is what was there
 * from the start.
 */
static void
go_on_from (struct disk *disk)
{
  struct promise *promise = &life.promise;
  struct sector_record *record;
  struct walk walk;
  size_t i;

  walk_image (disk, &walk);
  /* Or the engine repairs it when it is opened. */
  if (walk.features & WALK_NEED_CHECK && random_one_in (&life.random, 2))
    craft_repair (disk, &walk);
  walk_destroy (&walk);
  walk_image (disk, &walk);
  life.resized |= walk.beyond > 0;
  craft_fit_windows (&life.shape, walk.image_size, &life.random);
  promise_cut (promise, walk.image_size / SECTOR);
  for (i = 0; i < promise->record_count; i++) {
    record = &promise->records[i];
    if (record->sector * SECTOR >= walk.image_size)
      continue;
    promise_rebase (record, stamp_read (walk_sector (disk, &walk,
                                                     record->sector),
                                        record->sector));
  }
  walk_destroy (&walk);
  life.disk = disk;
}

static void
end_session (void)
{
  struct disk *next;
  unsigned i, n, drawn;

  for (i = 0; i < life.crash_count; i++)
    judge_crash (&life.crashes[i], false);
  judge_end ();

  drawn = (unsigned) random_below (&life.random, life.crashes_drawn + 2);
  if (drawn == life.crashes_drawn)
    drawn = END_CRASH;
  for (n = 0; n < life.crash_count && life.crashes[n].number != drawn; n++)
    ;
  next = n < life.crash_count ? life.crashes[n].disk : disk_kill (life.disk);
  for (i = 0; i < life.crash_count; i++)
    forget_crash (&life.crashes[i], i == n);
  sim_pending_set (NULL);
  for (i = 0; i < life.reference_count; i++)
    walk_destroy (&life.references[i]);
  disk_destroy (life.before);
  disk_destroy (life.disk);
  sim_trace ("--- going on from %s", n < life.crash_count
             ? life.crashes[n].where : "the end");
  go_on_from (next);
}

void
life_run (uint64_t seed, int geometry, int backing, bool reshape)
{
  unsigned sessions;

  sim_reset ();
  sim_pending_reset ();
  memset (&life, 0, sizeof life);
  sim_describe = describe;
  life.seed = seed;
  life.often = reshape;
  life.random.state = random_mix (seed);
  if (random_mix (seed) % 16 == 0)
    sim_hurry ();
  life.geometry = (unsigned) random_below (&life.random, GEOMETRIES);
  if (geometry >= 0)
    life.geometry = (unsigned) geometry;
  craft_shape (&life.shape, life.geometry, backing, &life.random);
  if (random_one_in (&life.random, 2))
    beneath_make (&life.shape);
  promise_init (&life.promise);
  go_on_from (craft_image (&life.shape, &life.promise, &life.random));
  sessions = (unsigned) random_between (&life.random, 1, SESSIONS_MAX);
  for (life.session = 1; life.session <= sessions; life.session++) {
    run_session ();
    end_session ();
  }
  disk_destroy (life.disk);
  beneath_drop ();
  promise_destroy (&life.promise);
  free (life.references);
  life_totals.lives++;
}

unsigned
life_steps (bool print, unsigned *missed)
{
  unsigned i;

  *missed = 0;
  for (i = 0; i < step_count; i++) {
    if (print)
      printf ("%s:%s %" PRIu64 "\n", steps[i].job, steps[i].name,
              steps[i].crashes);
    *missed += steps[i].crashes == 0;
  }
  return step_count;
}
