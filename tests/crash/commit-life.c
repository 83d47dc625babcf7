/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commit-life.h"
#include "craft.h"
#include "image.h"
#include "life.h"
#include "reduce.h"
#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"

#define CRASHES_MAX 16u         /* of a session */
#define SESSIONS_MAX 4u
#define RAW_MAX (UINT64_C (128) << 30)  /* more would take much memory */

/* Two files, and what the tables in them say. */
struct chain {
  struct disk *overlay, *backing;
  bool raw;                     /* the backing file */
  struct walk walk, backing_walk;       /* the second only if it's QED */
};

struct crash {
  struct chain chain;
  char where[64];
};

/* The life under way. */
static struct {
  uint64_t seed;
  unsigned geometry, session;
  struct shape shape;
  struct random random, crash_random;
  struct chain chain;           /* what the session works on */
  struct chain before;          /* the same, as it was */
  struct crash crashes[CRASHES_MAX];
  unsigned crash_count;
  unsigned crashes_drawn;       /* in this session */
  uint64_t crash_rate;          /* one in so many yields */
  uint64_t patience;            /* one in so many pieces is the last, or 0 */
  unsigned flags;
  int result;                   /* of qed_commit */
  const char *where;            /* of the state that is judged, or NULL */
  char said[256];               /* the engine's last message */
} life;

static void
describe (void)
{
  fprintf (stderr, "crash-test: commit %u of an overlay, %s%s\n"
           "crash-test: the engine said: %s\n"
           "crash-test: to reproduce: crash-test --life commit --seed %" PRIu64
           " --states 1 --geometry %s%s%s", life.session,
           life.where ? "after a crash at " : "while it ran",
           life.where ? life.where : "", life.said, life.seed,
           geometry_names[life.geometry],
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
    snprintf (life.said, sizeof life.said, "%s", message);
  sim_trace ("# %s", message);
}

/* ---- Chains ---- */

static void
chain_walk (struct chain *chain)
{
  walk_image (chain->overlay, &chain->walk);
  if (!chain->raw)
    walk_image (chain->backing, &chain->backing_walk);
}

static void
chain_drop_walks (struct chain *chain)
{
  walk_destroy (&chain->walk);
  if (!chain->raw)
    walk_destroy (&chain->backing_walk);
}

static void
chain_destroy (struct chain *chain)
{
  chain_drop_walks (chain);
  disk_destroy (chain->overlay);
  disk_destroy (chain->backing);
}

/* Operations of the backing file are those with odd names. */
static bool
keeps_overlay_write (unsigned op)
{
  return reduce_has (REDUCE_WRITE, life.session, life.crashes_drawn, op * 2);
}

static bool
keeps_backing_write (unsigned op)
{
  return reduce_has (REDUCE_WRITE, life.session, life.crashes_drawn,
                     op * 2 + 1);
}

/* What is left when the power fails, or the process is killed. */
static struct chain
chain_crash (const struct chain *chain, struct random *random)
{
  bool kill = random == NULL || random_one_in (random, 8);
  struct chain left = { .raw = chain->raw };

  disk_keeps = keeps_overlay_write;
  left.overlay = kill ? disk_kill (chain->overlay)
    : disk_crash (chain->overlay, random);
  disk_keeps = keeps_backing_write;
  left.backing = kill ? disk_kill (chain->backing)
    : disk_crash (chain->backing, random);
  chain_walk (&left);
  return left;
}

/* A sector of the backing file; NULL for zeros. */
static const unsigned char *
below (const struct chain *chain, uint64_t sector)
{
  if (chain->raw)
    return disk_sector (chain->backing, sector);
  if (sector * SECTOR >= chain->backing_walk.image_size)
    return NULL;
  return walk_sector (chain->backing, &chain->backing_walk, sector);
}

/* A sector as it is read through the overlay. */
static const unsigned char *
through (const struct chain *chain, uint64_t sector)
{
  uint64_t per_cluster = chain->walk.cluster_size / SECTOR;
  const struct walk_entry *entry = walk_find (&chain->walk,
                                              sector / per_cluster);

  if (entry == NULL)
    return below (chain, sector);
  if (entry->offset == 0)
    return NULL;
  return disk_sector (chain->overlay, entry->offset / SECTOR +
                      sector % per_cluster);
}

/* ---- Judging ---- */

static bool
same (const unsigned char *a, const unsigned char *b)
{
  static const unsigned char zeros[SECTOR];

  return memcmp (a ? a : zeros, b ? b : zeros, SECTOR) == 0;
}

/* 'done': all of it must be in the backing file by now. */
static void
judge_sector (const struct chain *chain, uint64_t sector, bool done)
{
  bool inside = sector * SECTOR < chain->walk.image_size;
  const unsigned char *was = inside ? through (&life.before, sector)
    : below (&life.before, sector);
  const unsigned char *is = inside && !done ? through (chain, sector)
    : below (chain, sector);

  if (!same (was, is))
    sim_violation ("%s 0x%" PRIx64 " is not what it was: it holds %s",
                   !inside ? "behind the overlay's end, sector"
                   : done ? "in the backing file, sector"
                   : "through the overlay, sector",
                   sector, stamp_to_text (is));
}

static void
judge_entries (const struct chain *chain, const struct walk *of, bool done)
{
  uint64_t per_cluster = of->cluster_size / SECTOR, s;
  size_t i;

  for (i = 0; i < of->entry_count; i++)
    for (s = of->entries[i].cluster * per_cluster;
         s < (of->entries[i].cluster + 1) * per_cluster; s++)
      judge_sector (chain, s, done);
}

static void
judge_blocks (const struct chain *chain, const struct disk *of, bool done)
{
  uint64_t limit = (disk_length (of) + BLOCK - 1) / BLOCK, b, s;

  for (b = disk_next_block (of, 0, limit); b < limit;
       b = disk_next_block (of, b + 1, limit))
    for (s = b * BLOCK_SECTORS; s < (b + 1) * BLOCK_SECTORS; s++)
      judge_sector (chain, s, done);
}

/* Wherever anything else than zeros is, or was, or lies below. */
static void
judge_content (const struct chain *chain, bool done)
{
  judge_entries (chain, &life.before.walk, done);
  judge_entries (chain, &chain->walk, done);
  if (chain->raw) {
    judge_blocks (chain, life.before.backing, done);
    judge_blocks (chain, chain->backing, done);
  }
  else {
    judge_entries (chain, &life.before.backing_walk, done);
    judge_entries (chain, &chain->backing_walk, done);
  }
}

static void
judge_walk (const struct walk *walk, const char *which)
{
  bool marked = walk->features & WALK_NEED_CHECK;

  if (walk->problem[0])
    sim_violation ("%s: %s", which, walk->problem);
  if (walk->table_past_end)
    sim_violation ("%s: an L1 entry names a table past the end", which);
  if (walk->debris_count > 0 && (!marked || walk->features & WALK_BACKING))
    sim_violation ("%s: the entry at 0x%" PRIx64 " is past the end", which,
                   walk->debris[0]);
}

static void
judge_chain (const struct chain *chain, const char *where, bool done)
{
  life_totals.states++;
  life.where = where;
  judge_walk (&chain->walk, "the overlay");
  if (!chain->raw)
    judge_walk (&chain->backing_walk, "the backing file");
  judge_content (chain, done);
  life.where = NULL;
}

/* Both were closed. */
static void
judge_end (const struct chain *chain)
{
  const struct walk *walk = &chain->walk;

  if (walk->features & WALK_NEED_CHECK ||
      (!chain->raw && chain->backing_walk.features & WALK_NEED_CHECK))
    sim_violation ("NEED_CHECK is set at the end");
  if (life.result < 0 || life.flags & QED_COMMIT_KEEP)
    return;
  if (walk->entry_count > 0)
    sim_violation ("%zu entries are left in the overlay", walk->entry_count);
  if (life.before.walk.entry_count > 0 && disk_can_grow (chain->overlay) &&
      disk_length (chain->overlay) > walk->l1_offset + walk->table_bytes)
    sim_violation ("the empty overlay is 0x%" PRIx64 " bytes long",
                   disk_length (chain->overlay));
}

/* ---- A session ---- */

static void
crash_now (const char *job, const char *step)
{
  struct random random = random_fork (&life.crash_random);
  struct crash *crash = &life.crashes[life.crash_count];

  life.crashes_drawn++;
  if (strcmp (step, "the end") != 0 &&
      !reduce_has (REDUCE_CRASH, 0, life.session, life.crashes_drawn))
    return;
  life.crash_count++;
  crash->chain = chain_crash (&life.chain, &random);
  snprintf (crash->where, sizeof crash->where, "%s%s%s", job ? job : "",
            job ? ":" : "", step);
  life_totals.crashes++;
  sim_trace ("*** crash c0.%u.%u at %s", life.session, life.crashes_drawn,
             crash->where);
}

/* What commit itself does is met once in a session, and so is the close. */
static void
crash_point (const char *job, const char *name)
{
  struct life_step *step = job ? life_find_step (job, name) : NULL;
  uint64_t rate = step == NULL ? life.crash_rate
    : strcmp (job, "commit") == 0 || strcmp (job, "make-clean") == 0 ? 3 : 15;

  if (life.crashes_drawn == CRASHES_MAX - 1 ||
      !random_one_in (&life.crash_random, rate))
    return;
  if (step)
    step->crashes++;
  crash_now (job, name);
}

static int
progress (void *opaque, uint64_t done, uint64_t total)
{
  (void) opaque;
  if (done > total)
    sim_violation ("%" PRIu64 " of %" PRIu64 " bytes are done", done, total);
  return life.patience && random_one_in (&life.random, life.patience);
}

static void
session_fiber (void *arg)
{
  const struct qed_progress told = { .fn = progress };
  struct qed_options options;

  (void) arg;
  qed_options_init (&options);
  options.path = "image.qed";
  options.backing = QED_BACKING_ANY;
  options.metadata_cache = random_one_in (&life.random, 2)
    ? QED_METADATA_CACHE_MIN : QED_METADATA_CACHE_DEFAULT;
  options.log.fn = engine_says;
  options.log.trace = sim_tracing;
  life.result = qed_commit (&options, life.flags, &told);
}

/* Whether the backing file may have no room for what the overlay holds. */
static bool
may_fill (void)
{
  return !disk_can_grow (life.chain.backing) ||
    disk_limit (life.chain.backing) != UINT64_MAX;
}

static void
run_session (bool last)
{
  static const unsigned rates[] = { 200, 1500, 8000 };
  struct random schedule = random_fork (&life.random);

  life.crash_random = random_fork (&life.random);
  life.crash_rate = rates[random_below (&life.random, 3)];
  life.crash_count = life.crashes_drawn = 0;
  life.flags = !last && random_one_in (&life.random, 6) ? QED_COMMIT_KEEP : 0;
  life.patience = !last && random_one_in (&life.random, 4)
    ? random_between (&life.random, 1, 20) : 0;
  life.before = chain_crash (&life.chain, NULL);
  sim_trace ("--- commit %u: %s, 0x%" PRIx64 " bytes into %s", life.session,
             geometry_names[life.geometry], life.shape.image_size,
             life.chain.raw ? "a raw file" : "QED");
  sim_storage_disk = life.chain.overlay;
  sim_storage_backing_disk = life.chain.backing;
  sim_at = crash_point;
  sim_run (&schedule, session_fiber, NULL);
  sim_at = NULL;
  sim_trace ("commit: %s", life.result < 0 ? strerror (-life.result)
             : "done");
  if (life.result < 0 && !(life.result == -ECANCELED && life.patience) &&
      !(life.result == -ENOSPC && may_fill ()))
    sim_violation ("commit failed: %s", strerror (-life.result));
  chain_drop_walks (&life.chain);
  chain_walk (&life.chain);
}

static void
judge_session (void)
{
  unsigned i;

  for (i = 0; i < life.crash_count; i++)
    judge_chain (&life.crashes[i].chain, life.crashes[i].where, false);
  judge_chain (&life.chain, "the end", false);
  if (life.result == 0)
    judge_chain (&life.chain, "the end", true);
  judge_end (&life.chain);

  crash_now (NULL, "the end");
  judge_chain (&life.crashes[life.crash_count - 1].chain, "the end",
               life.result == 0);
  judge_end (&life.crashes[life.crash_count - 1].chain);
}

/* One of the states that are left is what the next session finds. */
static void
go_on (void)
{
  unsigned n = (unsigned) random_below (&life.random, life.crash_count), i;

  sim_trace ("--- going on from %s", life.crashes[n].where);
  chain_destroy (&life.chain);
  chain_destroy (&life.before);
  life.chain = life.crashes[n].chain;
  for (i = 0; i < life.crash_count; i++)
    if (i != n)
      chain_destroy (&life.crashes[i].chain);
  if (life.chain.walk.features & WALK_NEED_CHECK)
    craft_repair (life.chain.overlay, &life.chain.walk);
  if (!life.chain.raw && life.chain.backing_walk.features & WALK_NEED_CHECK)
    craft_repair (life.chain.backing, &life.chain.backing_walk);
  chain_drop_walks (&life.chain);
  chain_walk (&life.chain);
}

/* ---- The files ---- */

/* As craft_shape drew the length of what is below: in the middle of a window,
 * or at the image's end, or behind it.
 */
static struct disk *
craft_raw (void)
{
  uint64_t length = life.shape.backing_sectors * SECTOR, limit = UINT64_MAX;
  struct disk *disk;
  const struct window *w;
  unsigned char buf[SECTOR];
  uint64_t s, n;
  unsigned i;

  if (random_one_in (&life.random, 8))
    limit = length;
  disk = disk_create (!random_one_in (&life.random, 4), length, limit);
  for (i = 0; i < life.shape.window_count; i++) {
    w = &life.shape.windows[i];
    for (n = 0; n < 40; n++) {
      s = w->sector + random_below (&life.random, w->count + 20);
      if (s * SECTOR >= length)
        continue;
      stamp_fill (buf, s, 1000000 + i);
      disk_poke (disk, s, buf);
    }
  }
  return disk;
}

/* The header must not call the backing file raw. */
static void
probe_backing (struct disk *overlay)
{
  unsigned char buf[SECTOR];

  memcpy (buf, disk_sector (overlay, 0), SECTOR);
  format_put64 (buf + FORMAT_AT_FEATURES, QED_F_BACKING_FILE);
  disk_poke (overlay, 0, buf);
}

/* Of the same geometry, with much the same windows, over a file of its own or
 * none; now and then smaller than the overlay.
 */
static struct disk *
craft_qed (struct promise *promise)
{
  struct shape shape = life.shape;
  const struct window *w = &shape.windows[random_below (&life.random,
                                                        shape.window_count)];

  if (random_one_in (&life.random, 3) && w->sector > 0)
    craft_fit_windows (&shape, (w->sector + w->count / 2) * SECTOR,
                       &life.random);
  if (random_one_in (&life.random, 2))
    shape.backing_sectors = 0;
  stamp_backing.sectors = shape.backing_sectors;
  probe_backing (life.chain.overlay);
  return craft_image (&shape, promise, &life.random);
}

static void
craft_chain (void)
{
  struct promise promise;

  promise_init (&promise);
  craft_shape (&life.shape, life.geometry, 1, &life.random);
  life.chain.raw = life.shape.image_size <= RAW_MAX &&
    !random_one_in (&life.random, 3);
  life.chain.overlay = craft_image (&life.shape, &promise, &life.random);
  life.chain.backing = life.chain.raw ? craft_raw () : craft_qed (&promise);
  promise_destroy (&promise);
  chain_walk (&life.chain);
}

void
commit_life_run (uint64_t seed, int geometry)
{
  unsigned sessions;

  sim_reset ();
  memset (&life, 0, sizeof life);
  sim_describe = describe;
  life.seed = seed;
  life.random.state = random_mix (seed);
  life.geometry = (unsigned) random_below (&life.random, GEOMETRIES);
  if (geometry >= 0)
    life.geometry = (unsigned) geometry;
  craft_chain ();
  sessions = (unsigned) random_between (&life.random, 1, SESSIONS_MAX);
  for (life.session = 1; life.session <= sessions; life.session++) {
    run_session (life.session == sessions);
    judge_session ();
    go_on ();
  }
  chain_destroy (&life.chain);
  sim_storage_backing_disk = NULL;
  life_totals.lives++;
}
