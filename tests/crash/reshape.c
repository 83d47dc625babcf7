/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "reshape.h"
#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"

#define PADDING_MAX 700u        /* times "./" */

/* Judge what the backing files have, and what lies around an image's end. */
static void
touch (struct promise *promise, const struct shape *shape, uint64_t end)
{
  uint64_t cluster = shape->cluster_size / SECTOR, s;
  uint64_t step = cluster > 64 ? cluster / 64 : 1;
  unsigned i;

  for (i = 0; i < stamp_backing.range_count; i++)
    for (s = stamp_backing.ranges[i].from; s < stamp_backing.ranges[i].to;
         s += BLOCK_SECTORS)
      promise_touch (promise, s);
  for (s = end > cluster ? end - cluster : 0; s < end + 2 * cluster; s += step)
    promise_touch (promise, s);
}

static uint64_t
draw_size (const struct shape *shape, struct random *random)
{
  uint64_t cluster = shape->cluster_size / SECTOR, sectors, max, size;
  uint64_t entries = shape->table_size * shape->cluster_size / 8;
  const struct window *w = &shape->windows[random_below
                                           (random, shape->window_count)];
  unsigned range = (unsigned) random_below (random,
                                            stamp_backing.range_count);

  sectors = shape->image_size / SECTOR;
  max = entries * entries * cluster;
  switch (random_below (random, 6)) {
  case 0:                       /* within a window */
  case 5:
    size = w->sector + random_below (random, w->count);
    break;
  case 1:
    size = random_between (random, 1, sectors);
    break;
  case 2:                       /* not much larger */
    size = sectors + random_below (random, 3 * cluster);
    break;
  case 3:                       /* where the backing files have something */
    size = stamp_backing.ranges[range].to + random_below (random, cluster);
    break;
  default:
    size = sectors + random_below (random, 3 * entries * cluster);
    break;
  }
  if (random_one_in (random, 3))
    size -= size % cluster;
  return (size == 0 ? 1 : size > max ? max : size) * SECTOR;
}

static void
draw_resize (struct reshape *reshape, const struct shape *shape,
             struct promise *promise, struct random *random)
{
  struct qed_resize *resize = &reshape->resize;
  uint64_t old = shape->image_size;

  resize->how = QED_RESIZE_TO;
  resize->size = draw_size (shape, random);
  resize->shrink = true;
  resize->force = !random_one_in (random, 4);
  touch (promise, shape, (old < resize->size ? old : resize->size) / SECTOR);
}

/* The name is long now and then, so that it takes several sectors. */
static void
draw_rebase (struct reshape *reshape, const struct shape *shape,
             struct promise *promise, struct random *random)
{
  unsigned n = (unsigned) random_below (random, random_one_in (random, 2)
                                        ? PADDING_MAX : 8), i;
  uint64_t which = random_below (random, 5);

  touch (promise, shape, shape->image_size / SECTOR);
  reshape->rebase.format = random_one_in (random, 2) ? QED_REBASE_RAW
    : QED_REBASE_PROBE;
  if (which == 0)
    return;
  if (which == 1 && stamp_backing.is_qed)
    reshape->rebase.format = QED_REBASE_PROBE;
  strcpy (reshape->name, SIM_STORAGE_DIR);
  for (i = 0; i < n; i++)
    strcat (reshape->name, "./");
  strcat (reshape->name, strlen (SIM_STORAGE_DIR) +
          (which == 1 ? SIM_STORAGE_BACKING : SIM_STORAGE_SECOND));
  reshape->rebase.backing = reshape->name;
}

void
reshape_draw (struct reshape *reshape, const struct shape *shape, bool often,
              struct promise *promise, struct random *random)
{
  if (random_one_in (random, 4))
    reshape->patience = (unsigned) random_between (random, 1, 40);
  switch (random_below (random, often ? 3 : 6)) {
  case 0:
    reshape->kind = RESHAPE_SIZE;
    draw_resize (reshape, shape, promise, random);
    break;
  case 1:
    reshape->kind = RESHAPE_BACKING;
    draw_rebase (reshape, shape, promise, random);
    break;
  default:
    break;
  }
}

static int
tell (void *opaque, uint64_t done, uint64_t total)
{
  struct reshape *reshape = opaque;

  if (done > total)
    sim_violation ("0x%" PRIx64 " of 0x%" PRIx64 " is done", done, total);
  return reshape->patience > 0 && --reshape->patience == 0;
}

static void
run_resize (struct reshape *reshape, const struct qed_options *options)
{
  struct qed_progress progress = { .fn = tell, .opaque = reshape };
  struct qed_resize *resize = &reshape->resize;
  int r;

  sim_trace ("resize to 0x%" PRIx64 "%s", resize->size,
             resize->force ? ", force" : "");
  r = qed_resize (options, resize, &progress);
  sim_trace ("resize: %s, 0x%" PRIx64 " bytes", r < 0 ? strerror (-r) : "done",
             resize->is);
  if (r < 0 && r != -ECANCELED && !(r == -ENOTEMPTY && !resize->force) &&
      !(r == -ENOSPC && reshape->may_fill))
    sim_violation ("resizing the image failed: %s", strerror (-r));
  if (r != -ENOSPC &&
      resize->is != (r == 0 ? resize->size : resize->was))
    sim_violation ("resizing the image left it with 0x%" PRIx64 " bytes",
                   resize->is);
}

/* The header may have no room for the name, or unknown features. */
static void
run_rebase (struct reshape *reshape, const struct qed_options *options)
{
  struct qed_progress progress = { .fn = tell, .opaque = reshape };
  int r;

  sim_trace ("rebase to %s", reshape->name[0] ? reshape->name : "nothing");
  r = qed_rebase (options, &reshape->rebase, &progress);
  sim_trace ("rebase: %s", r < 0 ? strerror (-r) : "done");
  if (r < 0 && r != -ENOTSUP && r != -ENOSPC && r != -ECANCELED)
    sim_violation ("rebasing the image failed: %s", strerror (-r));
}

void
reshape_run (struct reshape *reshape, const struct qed_options *options)
{
  if (reshape->kind == RESHAPE_SIZE)
    run_resize (reshape, options);
  else
    run_rebase (reshape, options);
}
