/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* How an image is just now, for those who watch it. */

#include <config.h>

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "image.h"
#include "loop.h"

static enum qed_state
state_of (const struct qed_image *image)
{
  if (atomic_load (&image->failed))
    return QED_STATE_FAILED;
  if (atomic_load (&image->damaged))
    return QED_STATE_DAMAGED;
  return atomic_load (&image->need_check) ? QED_STATE_DIRTY : QED_STATE_CLEAN;
}

static enum qed_access
access_of (const struct qed_image *image, enum qed_state state)
{
  if (state == QED_STATE_FAILED)
    return QED_ACCESS_FAILED;
  if (image->options.read_only)
    return QED_ACCESS_READ_ONLY;
  if (state == QED_STATE_DAMAGED)
    return QED_ACCESS_DAMAGED;
  if (image->read_only)
    return atomic_load (&image->need_check)
      ? QED_ACCESS_NEED_CHECK : QED_ACCESS_NO_PERMISSION;
  return atomic_load (&image->refuse) == 0
    ? QED_ACCESS_WRITABLE : QED_ACCESS_NOT_SCANNED;
}

/* The numbers that belong together, under their lock. */
static void
read_space (struct qed_image *image, struct qed_status *status)
{
  struct space *space = &image->space;
  const uint32_t cluster_size = space->cluster_size;

  pthread_mutex_lock (&space->lock);
  status->end_of_use = space->end * cluster_size;
  status->used_bytes = space->reuse
    ? (space->base + space->used.count) * cluster_size : UINT64_MAX;
  status->freed_clusters = space->freed_n;
  pthread_mutex_unlock (&space->lock);
  status->file_size = atomic_load (&space->length_bytes);
}

static enum qed_pending_state
pending_state (const struct qed_image *image)
{
  if (image->read_only || image->options.pending == QED_PENDING_OFF)
    return QED_PENDING_NOT_KEPT;
  return atomic_load (&image->pending.write_through)
    ? QED_PENDING_WRITTEN_BACK : QED_PENDING_LOGGED;
}

void
qed_status (struct qed_image *image, struct qed_status *status)
{
  struct metadata *md = &image->metadata;

  memset (status, 0, sizeof *status);
  status->state = state_of (image);
  status->access = access_of (image, status->state);
  status->need_check = atomic_load (&image->need_check);
  status->scanned = qed_scanned (image);
  status->tables_read = atomic_load (&image->tables_read);
  status->tables_known = atomic_load (&image->tables_known);
  status->size = image->geometry.image_size;
  status->cluster_size = image->geometry.cluster_size;
  read_space (image, status);
  if (!status->scanned || image->read_only)
    status->used_bytes = status->end_of_use = UINT64_MAX;
  status->dirty_pages = metadata_dirty (md, METADATA_L1) +
    metadata_dirty (md, METADATA_L2);
  status->cached_pages = atomic_load (&md->page_count);
  status->cached_pages_max = md->page_limit;
  status->pending = pending_state (image);
  status->pending_records = pending_count (&image->pending);
  status->table_loads = atomic_load (&md->loads);
}

/* ---- Signs of life ----------------------------------------------------- */

static void
beat (struct loop_task *task)
{
  struct qed_image *image = (struct qed_image *)
    ((char *) task - offsetof (struct qed_image, beat));

  atomic_store (&image->beat_awaited, false);
}

bool
qed_beats (struct qed_image *image)
{
  if (image->loop == NULL)
    return true;
  if (atomic_exchange (&image->beat_awaited, true))
    return false;
  image->beat.run = beat;
  loop_post (image->loop, &image->beat);
  return true;
}
