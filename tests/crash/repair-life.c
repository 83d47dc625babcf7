/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "craft.h"
#include "damage.h"
#include "image.h"
#include "life.h"
#include "reduce.h"
#include "repair-life.h"
#include "serve-on.h"
#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"
#include "workload.h"

#define CRASHES_MAX 6u          /* of a repair */
#define DEPTH_MAX 2u            /* repairs of what a crash in a repair left */
#define READERS 2u
#define SERVED_ON 3u            /* one in so many repaired images */

/* A cluster of the guest's disk, and the one that it is to read as; both are
 * the same where nothing was planted.
 */
struct expected {
  uint64_t cluster, source;
};

static struct {
  uint64_t seed;
  unsigned geometry;
  struct shape shape;
  struct random random, crash_random;
  struct disk *before;          /* without damage */
  struct walk walk;             /* of it */
  struct expected *expected;
  size_t count;
  uint64_t crash_rate;
  struct disk *disk;            /* that is repaired now */
  struct disk *crashes[CRASHES_MAX];
  unsigned crash_count, crash_max;
  unsigned crashes_drawn;       /* in the whole life */
  unsigned depth;
  bool online;                  /* that repair */
  struct served served;         /* what was written after it */
  char where[64];               /* of the last crash */
  char damage[256];
} life;

static void
describe (void)
{
  fprintf (stderr, "crash-test: repair %u, the last crash at %s; planted:%s\n"
           "crash-test: to reproduce: crash-test --repairs --seed %" PRIu64
           " --states 1 --geometry %s", life.depth, life.where,
           life.damage, life.seed, geometry_names[life.geometry]);
  reduce_print (stderr);
  fputs (" --trace\n", stderr);
}

static void
engine_says (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  (void) level;
  sim_trace ("# %s", message);
}

/* ---- What is expected ---- */

static void
expect (uint64_t cluster, uint64_t source)
{
  if (life.count % 256 == 0) {
    life.expected = realloc (life.expected, (life.count + 256) *
                             sizeof *life.expected);
    if (life.expected == NULL)
      abort ();
  }
  life.expected[life.count++] = (struct expected) { cluster, source };
}

static void
expect_all (void)
{
  size_t i;

  for (i = 0; i < life.walk.entry_count; i++)
    expect (life.walk.entries[i].cluster, life.walk.entries[i].cluster);
}

static void
judge_cluster (const struct disk *disk, const struct walk *walk,
               const struct expected *e)
{
  uint64_t per_cluster = walk->cluster_size / SECTOR, s;
  static const unsigned char zeros[SECTOR];
  const unsigned char *is, *was;

  for (s = 0; s < per_cluster; s++) {
    is = walk_sector (disk, walk, e->cluster * per_cluster + s);
    was = walk_sector (life.before, &life.walk, e->source * per_cluster + s);
    if (served_find (&life.served, e->cluster * per_cluster + s) == 0 &&
        memcmp (is ? is : zeros, was ? was : zeros, SECTOR) != 0)
      sim_violation ("repaired: guest cluster 0x%" PRIx64 " is not as it was: "
                     "sector %" PRIu64 " holds %s", e->cluster, s,
                     is ? stamp_to_text (is) : "zeros");
  }
}

/* After the repair of a closed image there are no gaps. */
static void
judge_length (const struct disk *disk, const struct walk *walk)
{
  size_t i;

  if (disk_can_grow (disk) && disk_length (disk) != walk->end_of_use)
    sim_violation ("repaired: the file is 0x%" PRIx64 " bytes long, its use "
                   "ends at 0x%" PRIx64, disk_length (disk),
                   walk->end_of_use);
  for (i = 0; i < walk->end_of_use / walk->cluster_size; i++)
    if (!walk_is_used (walk, i) && i * walk->cluster_size > walk->l1_offset)
      sim_violation ("repaired: cluster 0x%zx is not in use", i);
}

static void
judge_repaired (const struct disk *disk)
{
  struct walk walk;
  size_t i;

  life_totals.states++;
  walk_image (disk, &walk);
  if (walk.problem[0])
    sim_violation ("repaired: %s", walk.problem);
  if (walk.features & WALK_NEED_CHECK || walk.debris_count > 0)
    sim_violation ("repaired: NEED_CHECK is %s, %zu entries are past the end",
                   walk.features & WALK_NEED_CHECK ? "set" : "clear",
                   walk.debris_count);
  if (!life.online)
    judge_length (disk, &walk);
  for (i = 0; i < life.count; i++)
    judge_cluster (disk, &walk, &life.expected[i]);
  walk_destroy (&walk);
}

static void
judge_served_on (struct disk *disk)
{
  const struct served *served = &life.served;
  const unsigned char *is;
  struct walk walk;
  unsigned i;

  serve_on (disk, &life.shape, &life.random, &life.served);
  walk_image (disk, &walk);
  for (i = 0; i < served->count; i++) {
    is = walk_sector (disk, &walk, served->writes[i].sector);
    if (stamp_read (is, served->writes[i].sector) !=
        served->writes[i].number)
      sim_violation ("served on: sector 0x%" PRIx64 " holds %s",
                     served->writes[i].sector,
                     is ? stamp_to_text (is) : "zeros");
  }
  walk_destroy (&walk);
  life.online = true;           /* it may have gaps now */
  judge_repaired (disk);
  life.served.count = 0;
}

/* ---- Repair ---- */

static bool
keeps_write (unsigned op)
{
  return reduce_has (REDUCE_WRITE, 0, life.crashes_drawn, op);
}

static void
crash_point (const char *job, const char *step)
{
  struct random random;
  struct life_step *of = job ? life_find_step (job, step) : NULL;
  uint64_t rate = of || disk_is_exposed (life.disk) ? life.crash_rate / 20
    : life.crash_rate;

  if (life.crash_count == life.crash_max ||
      !random_one_in (&life.crash_random, rate))
    return;
  random = random_fork (&life.crash_random);
  if (!reduce_has (REDUCE_CRASH, 0, 0, ++life.crashes_drawn))
    return;
  if (of)
    of->crashes++;
  disk_keeps = keeps_write;
  snprintf (life.where, sizeof life.where, "%s%s%s", job ? job : "",
            job ? ":" : "", step);
  life.crashes[life.crash_count++] = random_one_in (&random, 8)
    ? disk_kill (life.disk) : disk_crash (life.disk, &random);
  life_totals.crashes++;
  sim_trace ("*** crash c0.0.%u at %s", life.crashes_drawn, life.where);
}

static void
found (void *opaque, const struct qed_problem *problem)
{
  char text[QED_PROBLEM_TEXT_SIZE];

  (void) opaque;
  qed_problem_to_text (problem, text);
  sim_trace ("# found %s", text);
}

static void
fixed (void *opaque, const struct qed_problem *problem, const char *action)
{
  char text[QED_PROBLEM_TEXT_SIZE];

  (void) opaque;
  qed_problem_to_text (problem, text);
  sim_trace ("# fixed %s: %s", text, action);
}

/* Only where space is short may a repair fail. */
static void
repair_fiber (void *arg)
{
  bool *done = arg;
  struct qed_check_result result;
  struct qed_check_options check;
  struct qed_options options;
  bool short_of_space = !disk_can_grow (life.disk) ||
    disk_limit (life.disk) != UINT64_MAX;
  int r;

  qed_options_init (&options);
  options.path = "image.qed";
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.log.fn = engine_says;
  options.log.trace = sim_tracing;
  qed_check_options_init (&check);
  check.repair = QED_REPAIR_ALL;
  check.found = found;
  check.fixed = fixed;
  sim_storage_disk = life.disk;
  r = qed_check (&options, &check, &result);
  if (r == 0 && result.corruptions == 0 && result.leaks + result.free > 0) {
    check.repair = QED_REPAIR_LEAKS;    /* of tables that were lost */
    r = qed_check (&options, &check, &result);
  }
  *done = r == 0 && result.corruptions == 0 && result.errors == 0;
  if (!*done && !(short_of_space && r == -ENOSPC))
    sim_violation ("the repair: %s, %" PRIu64 " corruptions are left",
                   r < 0 ? strerror (-r) : "success", result.corruptions);
}

/* ---- Repair while it is served ---- */

static struct {
  struct qed_image *image;
  struct random random;
  bool stop;
  unsigned readers;
} served;

/* It is as it was, or can't be read. */
static void
read_expected (const struct expected *e)
{
  uint64_t per_cluster = life.walk.cluster_size / SECTOR;
  uint64_t s = random_below (&served.random, per_cluster);
  static const unsigned char zeros[SECTOR];
  const unsigned char *was = walk_sector (life.before, &life.walk,
                                          e->source * per_cluster + s);
  unsigned char buf[SECTOR];
  struct qed_request request;
  int r;

  if ((e->cluster * per_cluster + s + 1) * SECTOR > life.walk.image_size)
    return;
  qed_request_init (&request, QED_OP_READ, buf, SECTOR,
                    (e->cluster * per_cluster + s) * SECTOR, 0);
  r = workload_request (served.image, &request, 0);
  if (r < 0 && r != -EIO)
    sim_violation ("reading meanwhile: %s", strerror (-r));
  if (r == 0 && memcmp (buf, was ? was : zeros, SECTOR) != 0)
    sim_violation ("meanwhile guest cluster 0x%" PRIx64 " is not as it was: "
                   "sector %" PRIu64 " holds %s", e->cluster, s,
                   stamp_to_text (buf));
}

static void
reader_fiber (void *arg)
{
  (void) arg;
  while (!served.stop) {
    if (life.count > 0)
      read_expected (&life.expected[random_below (&served.random,
                                                  life.count)]);
    sim_yield ("reader");
  }
  served.readers--;
  fiber_wake (&served);
}

static void
open_served (void)
{
  struct qed_options options;
  int r;

  qed_options_init (&options);
  options.path = "image.qed";
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.log.fn = engine_says;
  options.log.trace = sim_tracing;
  r = image_open_storage (&options, sim_storage_open (life.disk,
                                                      &served.random),
                          &served.image);
  if (r == 0)
    r = qed_start (served.image);
  if (r < 0)
    sim_violation ("it can't be opened: %s", strerror (-r));
}

static int
repair_served (struct qed_check_result *result)
{
  struct qed_check_options check;
  int r;

  qed_check_options_init (&check);
  check.repair = QED_REPAIR_ALL;
  check.found = found;
  check.fixed = fixed;
  r = qed_check_online (served.image, &check, result);
  if (r == 0 && result->corruptions == 0 && result->leaks > 0) {
    check.repair = QED_REPAIR_LEAKS;
    r = qed_check_online (served.image, &check, result);
  }
  return r;
}

static void
online_fiber (void *arg)
{
  bool *done = arg;
  struct qed_check_result result;
  bool short_of_space = !disk_can_grow (life.disk) ||
    disk_limit (life.disk) != UINT64_MAX;
  unsigned i;
  int r;

  open_served ();
  served.stop = false;
  served.readers = READERS;
  for (i = 0; i < READERS; i++)
    fiber_spawn ("reader", FIBER_CALLER, reader_fiber, NULL);
  r = repair_served (&result);
  served.stop = true;
  while (served.readers > 0)
    fiber_wait (&served, FOREVER);
  *done = r == 0 && result.corruptions == 0 && result.errors == 0;
  if (*done && !qed_writable (served.image))
    sim_violation ("repaired, and changes are refused still");
  if (!*done && !(short_of_space && r == -ENOSPC))
    sim_violation ("the repair: %s, %" PRIu64 " corruptions are left",
                   r < 0 ? strerror (-r) : "success", result.corruptions);
  r = qed_close (served.image);
  if (r < 0)
    sim_violation ("closing it fails: %s", strerror (-r));
}

/* ---- One after the other ---- */

/* Takes over the disk. */
static void
repair (struct disk *disk, unsigned depth)
{
  struct disk *crashes[CRASHES_MAX];
  struct random schedule = random_fork (&life.random);
  unsigned n, i;
  bool done;

  life.disk = disk;
  life.depth = depth + 1;
  life.online = random_one_in (&life.random, 2);
  served.random = random_fork (&life.random);
  life.crash_count = 0;
  life.crash_max = depth < DEPTH_MAX ? CRASHES_MAX >> depth : 0;
  sim_trace ("--- repair %u, %s, file 0x%" PRIx64, life.depth,
             life.online ? "served" : "closed", disk_length (disk));
  sim_at = crash_point;
  sim_run (&schedule, life.online ? online_fiber : repair_fiber, &done);
  sim_at = NULL;
  if (done)
    judge_repaired (disk);
  if (done && random_one_in (&life.random, SERVED_ON))
    judge_served_on (disk);
  disk_destroy (disk);
  n = life.crash_count;
  memcpy (crashes, life.crashes, sizeof crashes);
  for (i = 0; i < n; i++)
    repair (crashes[i], depth + 1);
}

void
repair_life_run (uint64_t seed, int geometry)
{
  static const unsigned rates[] = { 100, 400, 1500 };
  struct damaging how = {
    .walk = &life.walk, .random = &life.random, .expect = expect,
  };
  struct promise promise;
  struct disk *disk;

  sim_reset ();
  memset (&life, 0, sizeof life);
  sim_describe = describe;
  life.seed = seed;
  life.random.state = random_mix (seed) ^ 1;
  if (random_mix (seed) % 2)
    sim_hurry ();
  life.geometry = (unsigned) random_below (&life.random, GEOMETRIES - 1);
  if (geometry >= 0)
    life.geometry = (unsigned) geometry;
  craft_shape (&life.shape, life.geometry, 0, &life.random);
  promise_init (&promise);
  life.before = craft_image (&life.shape, &promise, &life.random);
  promise_destroy (&promise);
  walk_image (life.before, &life.walk);
  expect_all ();
  disk = disk_kill (life.before);
  how.before = life.before;
  damage_plant (disk, &how, life.damage, sizeof life.damage);
  life.crash_random = random_fork (&life.random);
  life.crash_rate = rates[random_below (&life.random, 3)];
  repair (disk, 0);
  walk_destroy (&life.walk);
  disk_destroy (life.before);
  free (life.expected);
  life_totals.lives++;
}
