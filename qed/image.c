/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Opening, starting and closing an image. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "yield.h"

/* So many lines about damage go to the log. */
#define REPORTS_MAX 100u

void
qed_options_init (struct qed_options *options)
{
  memset (options, 0, sizeof *options);
  options->lock = true;
  options->check = QED_CHECK_AUTO;
  options->clean_after = QED_CLEAN_AFTER_DEFAULT;
  options->metadata_cache = QED_METADATA_CACHE_DEFAULT;
}

struct qed_file_id
qed_identify (const struct qed_image *image)
{
  return (struct qed_file_id) { image->device, image->inode };
}

uint64_t
qed_size (const struct qed_image *image)
{
  return image->geometry.image_size;
}

uint32_t
qed_cluster_size (const struct qed_image *image)
{
  return image->geometry.cluster_size;
}

bool
qed_writable (const struct qed_image *image)
{
  return atomic_load (&image->refuse) == 0;
}

bool
qed_scanned (const struct qed_image *image)
{
  return atomic_load (&((struct qed_image *) image)->scan_state) == SCAN_DONE;
}

/* ---- Refusing, failing, reporting ---- */

void
image_refuse (struct qed_image *image, int error)
{
  int before = atomic_load (&image->refuse);

  while (before != EIO &&
         !atomic_compare_exchange_weak (&image->refuse, &before, error))
    ;
}

/* True while there is something left to say; the last time it says so. */
static bool
may_report (struct qed_image *image)
{
  unsigned n = atomic_load (&image->reports);

  if (n > REPORTS_MAX)
    return false;
  n = atomic_fetch_add (&image->reports, 1);
  if (n == REPORTS_MAX)
    log_warning (&image->options.log, "%s: more damage follows that is not "
                 "logged: check the image", image->path);
  return n < REPORTS_MAX;
}

void
image_damage (struct qed_image *image, const char *fmt, ...)
{
  char text[256];
  va_list args;

  if (image->options.examine)
    return;                     /* the check names it */
  if (may_report (image)) {
    va_start (args, fmt);
    vsnprintf (text, sizeof text, fmt, args);
    va_end (args);
    log_error (&image->options.log, "%s: damaged: %s", image->path, text);
  }
  if (!atomic_exchange (&image->damaged, true) && !image->read_only)
    log_error (&image->options.log, "%s: no more writes are accepted until "
               "the image is repaired (qedctl check --repair)",
               image->path);
  image_refuse (image, EROFS);
}

/* EIO, after a failed sync, stays. */
void
image_mended (struct qed_image *image)
{
  int damage = EROFS;

  atomic_store (&image->space.frozen_bytes, UINT64_MAX);
  atomic_store (&image->damaged, false);
  atomic_store (&image->reports, 0);
  if (!image->read_only)
    atomic_compare_exchange_strong (&image->refuse, &damage, 0);
  log_warning (&image->options.log, "%s: repaired: writes are accepted again",
               image->path);
}

void
image_fail (struct qed_image *image, const char *step, int error)
{
  if (atomic_exchange (&image->failed, true))
    return;
  image_refuse (image, EIO);
  pending_discard (image);
  log_error (&image->options.log, "%s: sync failed (%s): %s: written data may "
             "be lost, so writes and flushes fail from now on; reads go on. "
             "Check the storage, then restart the server", image->path, step,
             strerror (-error));
}

int
image_sync_result (struct qed_image *image, const char *step, int error)
{
  if (error == -ENOTCONN)       /* not tried: nothing is lost yet */
    return -EIO;
  if (error < 0 && !sim_skips ("image", "fail"))
    image_fail (image, step, error);
  return error;
}

void
image_report (struct qed_image *image, const char *what, uint64_t offset,
              int error)
{
  log_request (&image->options.log, "%s: %s 0x%" PRIx64 " failed: %s",
               image->path, what, offset, strerror (-error));
}

/* ---- Opening ---- */

static int
read_header (struct qed_image *image, uint64_t *length)
{
  const struct qed_log *log = &image->options.log;
  struct storage *s = image->storage;
  unsigned char buf[FORMAT_HEADER_BYTES];
  char error[FORMAT_ERROR_SIZE];
  int r = s->ops->length (s, length);

  if (r == 0)
    r = s->ops->pread (s, buf, sizeof buf, 0);
  if (r < 0) {
    log_error (log, "%s: cannot read the header: %s", image->path,
               strerror (-r));
    return r;
  }
  r = format_decode_header (buf, *length, &image->header, error);
  if (r < 0) {
    log_error (log, "%s: %s", image->path, error);
    return r;
  }
  format_geometry_init (&image->geometry, &image->header);
  return 0;
}

void
image_reach (struct qed_image *image, uint64_t size)
{
  image->geometry.image_size = size;
}

/* For a while the image is larger than its header says. */
static int
grow_geometry (struct qed_image *image)
{
  uint64_t size = image->options.grow_to;
  char error[FORMAT_ERROR_SIZE];
  int r;

  if (size <= image->geometry.image_size || image->overlay)
    return 0;
  r = format_check_geometry (image->header.cluster_size,
                             image->header.table_size, size, error);
  if (r < 0)
    log_error (&image->options.log, "%s: %s", image->path, error);
  else
    image_reach (image, size);
  return r;
}

/* Become a reader of the file, whatever was wanted. */
static int
make_read_only (struct qed_image *image)
{
  int r;

  if (image->storage->read_only)
    return 0;
  r = image->storage->ops->downgrade (image->storage);
  if (r < 0)
    log_error (&image->options.log, "%s: cannot lock the image for reading: "
               "%s", image->path, strerror (-r));
  return r;
}

/* It will be checked when it is started, and repaired. */
static int
plan_recovery (struct qed_image *image)
{
  image->recover = recover_new (image);
  if (image->recover == NULL)
    return -ENOMEM;
  image->state = STATE_DIRTY;
  atomic_init (&image->recovering, true);
  log_warning (&image->options.log, "%s: NEED_CHECK is set (features, offset "
               "0x%x): the image was not closed cleanly: it is checked before "
               "it is served", image->path, FORMAT_AT_FEATURES);
  return 0;
}

static int
check_features (struct qed_image *image)
{
  if (!(image->header.features & QED_F_NEED_CHECK))
    return 0;
  atomic_store (&image->need_check, true);
  if (image->options.examine) {
    image->state = STATE_DIRTY;
    return 0;
  }
  if (image->options.need_write) {
    log_error (&image->options.log, "%s: NEED_CHECK is set (features, offset "
               "0x%x): the image was not closed cleanly: repair it first "
               "(qedctl check --repair)", image->path, FORMAT_AT_FEATURES);
    return -EROFS;
  }
  if (image->options.check != QED_CHECK_NEVER && !image->storage->read_only)
    return plan_recovery (image);
  log_warning (&image->options.log, "%s: NEED_CHECK is set (features, offset "
               "0x%x): the image was not closed cleanly and is served "
               "read-only; repair it first (qedctl check --repair)",
               image->path, FORMAT_AT_FEATURES);
  return make_read_only (image);
}

/* Unknown autoclear bits say that we don't know how to keep something up to
 * date: they go, durably, before anything else is written.  So do those of the
 * pending log, once what it said is done.
 */
static int
clear_autoclear (struct qed_image *image)
{
  struct storage *s = image->storage;
  int r;

  if (s->read_only)
    return 0;
  if (image->header.autoclear_features == 0) {
    pending_forget (image);
    return 0;
  }
  r = s->ops->pread (s, image->sector, sizeof image->sector, 0);
  format_put64 (image->sector + FORMAT_AT_AUTOCLEAR, 0);
  if (r == 0)
    r = s->ops->pwrite (s, image->sector, sizeof image->sector, 0);
  if (r == 0)
    r = s->ops->sync (s);
  if (r < 0)
    log_error (&image->options.log, "%s: cannot clear the autoclear features "
               "(offset 0x%x): %s: the image is not opened", image->path,
               FORMAT_AT_AUTOCLEAR, strerror (-r));
  else
    pending_forget (image);
  image->header.autoclear_features = 0;
  return r;
}

/* What can fail is found before a daemon is made of us. */
static int
read_first_l1_page (struct qed_image *image)
{
  struct storage *s = image->storage;
  unsigned char buf[PAGE_BYTES];
  int r = s->ops->pread (s, buf, sizeof buf, image->geometry.l1_offset);

  if (r < 0)
    log_error (&image->options.log, "%s: cannot read the L1 table at offset "
               "0x%" PRIx64 ": %s", image->path, image->geometry.l1_offset,
               strerror (-r));
  return r;
}

/* The cache never needs more than twice the pages that the image can have:
 * then none of its sets is ever full.
 */
static uint64_t
cache_bytes (const struct qed_image *image)
{
  const struct format_geometry *g = &image->geometry;
  uint64_t l2_pages = (g->image_size >> g->cluster_bits) / PAGE_ENTRIES + 1;
  uint64_t l1_pages = (g->image_size >> g->cluster_bits >> g->entries_bits)
    / PAGE_ENTRIES + 1;
  uint64_t most = 2 * (l1_pages + l2_pages) * PAGE_BYTES;

  if (most < QED_METADATA_CACHE_MIN)
    most = QED_METADATA_CACHE_MIN;
  return image->options.metadata_cache < most
    ? image->options.metadata_cache : most;
}

static int
open_backing (struct qed_image *image)
{
  if (!(image->header.features & QED_F_BACKING_FILE))
    return 0;
  if (image->options.skip_backing) {
    image->backing_skipped = true;
    return 0;
  }
  if (image->storage->ops->submit) {
    log_error (&image->options.log, "%s: has a backing file, which an image on "
               "an NBD server can't have: serve it on the host where it lies",
               image->path);
    return -EOPNOTSUPP;
  }
  return backing_open (image, &image->backing);
}

static int
init_parts (struct qed_image *image, uint64_t length)
{
  int r = metadata_init (&image->metadata, image->storage,
                         cache_bytes (image));

  if (r < 0)
    return r;
  r = space_init (&image->space, &image->geometry, image->storage, length);
  if (r < 0)
    goto fail;
  r = flush_init (image);
  if (r == 0)
    return 0;
  space_destroy (&image->space);
 fail:
  metadata_destroy (&image->metadata);
  return r;
}

static void
init_synchronization (struct qed_image *image)
{
  pthread_mutex_init (&image->lock, NULL);
  pthread_mutex_init (&image->cow_lock, NULL);
  wait_queue_init (&image->cow_done, "copy-on-write");
  wait_queue_init (&image->table_made, "make-table");
  pthread_cond_init (&image->closed_cond, NULL);
  wait_queue_init (&image->scanned, "scan");
  guard_init (&image->guards);
  dispatch_init (image);
  image->job.log = image->write_back.log = &image->options.log;
  image->job.about = image->write_back.about = image->path;
}

int
image_open_backing (const struct qed_options *options,
                    struct storage *storage, struct qed_image *overlay,
                    struct qed_image **result)
{
  struct qed_image *image = calloc (1, sizeof *image);
  uint64_t length;
  int r = -ENOMEM;

  if (image)
    image->path = strdup (options->path);
  if (image == NULL || image->path == NULL)
    goto fail;
  image->options = *options;
  image->options.path = image->path;
  image->storage = storage;
  image->device = storage->device;
  image->inode = storage->inode;
  image->overlay = overlay;
  r = read_header (image, &length);
  if (r == 0)
    r = grow_geometry (image);
  if (r == 0)
    r = check_features (image);
  if (r == 0)
    r = open_backing (image);
  if (r == 0)
    r = pending_replay (image);
  if (r == 0)
    r = clear_autoclear (image);
  if (r == 0)
    r = read_first_l1_page (image);
  if (r == 0)
    r = init_parts (image, length);
  if (r < 0)
    goto fail;
  image->read_only = storage->read_only;
  atomic_init (&image->refuse, image->read_only ? EROFS : 0);
  pending_init (image);
  init_synchronization (image);
  *result = image;
  return 0;

 fail:
  if (r == -ENOMEM)
    log_error (&options->log, "%s: out of memory", options->path);
  if (image) {
    backing_close (image->backing);
    recover_free (image->recover);
    free (image->backing_directory);
    free (image->path);
  }
  storage->ops->close (storage);
  free (image);
  return r;
}

int
image_open_storage (const struct qed_options *options,
                    struct storage *storage, struct qed_image **image)
{
  return image_open_backing (options, storage, NULL, image);
}

int
qed_open (const struct qed_options *options, struct qed_image **image)
{
  struct storage *storage;
  int r;

  if (options->metadata_cache < QED_METADATA_CACHE_MIN) {
    log_error (&options->log, "metadata cache of %" PRIu64 " bytes: at least "
               "%" PRIu64 " are needed", options->metadata_cache,
               QED_METADATA_CACHE_MIN);
    return -EINVAL;
  }
  r = storage_open (options, &storage);
  return r < 0 ? r : image_open_storage (options, storage, image);
}

/* All images that 'top' reads from run on its loop. */
static void
lend_loop (struct qed_image *top, struct qed_image *below)
{
  for (; below; below = image_below (below))
    below->loop = top->loop;
}

static void
free_loop (struct qed_image *image)
{
  reclaim_destroy (image);
  dispatch_destroy_timers (image);
  loop_destroy (image->loop);
  image->loop = NULL;
}

/* On the loop, when a socket can be stopped. */
static void
socket_stopped (void *opaque)
{
  image_kick (opaque);
}

/* Those of a whole chain, from this one on. */
static int
start_backing (struct qed_image *top, struct backing *backing)
{
  struct qed_image *image;
  int r = 0;

  while (r == 0 && backing) {
    r = backing_start (backing, top->loop, socket_stopped, top);
    image = backing_image (backing);
    backing = image ? image->backing : NULL;
  }
  return r;
}

/* An image on a server is opened without its backing file: at most one of
 * them is a socket.
 */
static int
start_sockets (struct qed_image *image)
{
  struct storage *s = image->storage;
  int r = 0;

  if (s->ops->start)
    r = s->ops->start (s, image->loop, socket_stopped, image);
  return r == 0 ? start_backing (image, image->backing) : r;
}

int
qed_start (struct qed_image *image)
{
  int r = 0;

  image->loop = loop_create ();
  if (image->loop == NULL)
    r = -errno;
  if (r == 0)
    r = dispatch_init_timers (image);
  if (r == 0)
    r = reclaim_init (image);
  if (r == 0)
    r = start_sockets (image);  /* last: it would have to be stopped */
  if (r < 0) {
    log_error (&image->options.log, "%s: cannot start the image's loop: %s",
               image->path, strerror (-r));
    if (image->loop)
      free_loop (image);
    return r;
  }
  lend_loop (image, image_below (image));
  lend_loop (image, image_below_new (image));
  image_kick (image);
  r = start_backing (image, image->new_backing); /* qed_close stops both */
  if (r < 0)
    log_error (&image->options.log, "%s: cannot start the new backing file: "
               "%s", image->path, strerror (-r));
  return r;
}

/* ---- Closing ---- */

static void
stop_loop (struct qed_image *image)
{
  pthread_mutex_lock (&image->lock);
  image->want_close = true;
  pthread_mutex_unlock (&image->lock);
  image_kick (image);

  pthread_mutex_lock (&image->lock);
  while (!image->closed)
    pthread_cond_wait (&image->closed_cond, &image->lock);
  pthread_mutex_unlock (&image->lock);
  free_loop (image);
}

int
qed_close (struct qed_image *image)
{
  int r = 0;

  if (image->loop && image->overlay == NULL) {
    stop_loop (image);
    r = image->close_error;
  }
  pending_end (image, r == 0);
  backing_close (image->backing);
  backing_close (image->new_backing);
  recover_free (image->recover);
  flush_destroy (image);
  space_destroy (&image->space);
  metadata_destroy (&image->metadata);
  wait_queue_destroy (&image->scanned);
  wait_queue_destroy (&image->table_made);
  wait_queue_destroy (&image->cow_done);
  pthread_mutex_destroy (&image->cow_lock);
  pthread_cond_destroy (&image->closed_cond);
  pthread_mutex_destroy (&image->lock);
  image->storage->ops->close (image->storage);
  free (image->backing_directory);
  free (image->path);
  free (image);
  return r;
}
