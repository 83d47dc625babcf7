/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage driver for an export of an NBD server: a backing file, for
 * reading, or the file of an image that is checked and repaired.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage-nbd.h"

/* Read-ahead that waits for its turn; what is more is forgotten, since nobody
 * waits for it who would hold a client back.
 */
#define CACHES_MAX 64u

static struct storage_nbd *
nbd_of (struct storage *s)
{
  return (struct storage_nbd *) s;
}

/* ---- Before there is a loop -------------------------------------------- */

static int
connect_plainly (struct storage_nbd *s)
{
  int r = 0;

  if (s->link.nbd == NULL)
    r = nbd_link_connect_plainly (&s->link);
  if (r == 0 && !nbd_queue_same_export (s)) {
    nbd_link_disconnect_plainly (&s->link);
    r = -EIO;
  }
  return r;
}

/* What isn't flushed goes with the connection. */
static void
disconnect_plainly (struct storage_nbd *s)
{
  if (s->unflushed && s->kept.error == 0)
    s->kept.error = -EIO;
  nbd_link_disconnect_plainly (&s->link);
}

static int
plainly_answered (struct storage_nbd *s, struct fetch *fetch)
{
  int error = nbd_queue_error (fetch);

  if (fetch_changes (fetch->op))
    s->unflushed = true;
  if (fetch->op == FETCH_FLUSH) {
    if (error < 0 && s->kept.error == 0)
      s->kept.error = error;
    error = s->kept.error < 0 ? -EIO : 0;
    s->unflushed &= error < 0;
  }
  return error;
}

/* The connection stays for the next one, unless it is of no use. */
static void
carry_out_plainly (struct storage_nbd *s, struct fetch *fetch)
{
  int r = connect_plainly (s);

  if (r == 0) {
    nbd_flight_send (&s->flight, &s->link, fetch);
    while (r == 0 && s->flight.ended.first == NULL)
      r = nbd_link_wait_plainly (&s->link);
    if (r < 0)
      disconnect_plainly (s);
    (void) nbd_flight_next_ended (&s->flight);
  }
  else
    fetch->error = r;
  if (r < 0)
    log_error (&s->log, "%s: %s", s->name, s->link.error);
  nbd_queue_end (s, fetch, plainly_answered (s, fetch));
}

/* ---- The storage ------------------------------------------------------- */

static void
nbd_submit (struct storage *storage, struct fetch *fetch)
{
  struct storage_nbd *s = nbd_of (storage);

  if (fetch->op == FETCH_CACHE &&
      atomic_fetch_add (&s->caches, 1) >= CACHES_MAX) {
    nbd_queue_end (s, fetch, 0);
    return;
  }
  if (s->loop == NULL) {
    carry_out_plainly (s, fetch);
    return;
  }
  pthread_mutex_lock (&s->lock);
  fetch_list_append (&s->arrived, fetch);
  pthread_mutex_unlock (&s->lock);
  loop_post (s->loop, &s->submitted);
}

static void
take_arrived (struct loop_task *task)
{
  nbd_queue_take ((struct storage_nbd *)
                  ((char *) task - offsetof (struct storage_nbd, submitted)));
}

static int
nbd_start (struct storage *storage, struct loop *loop,
           void (*stopped) (void *opaque), void *opaque)
{
  struct storage_nbd *s = nbd_of (storage);
  int r;

  disconnect_plainly (s);
  s->loop = s->link.loop = loop;
  s->stopped = stopped;
  s->opaque = opaque;
  r = nbd_queue_start (s);
  if (r < 0) {
    s->loop = NULL;
    return r;
  }
  r = nbd_link_init (&s->link);
  if (r < 0) {
    nbd_link_destroy (&s->link);
    loop_timer_destroy (loop, &s->tick);
    s->loop = NULL;
  }
  return r;
}

/* No request needs anything any more. */
static bool
nbd_stop (struct storage *storage)
{
  struct storage_nbd *s = nbd_of (storage);

  if (s->loop == NULL)
    return true;
  if (!nbd_link_stop (&s->link))
    return false;
  nbd_queue_stop (s);
  nbd_link_destroy (&s->link);
  s->loop = NULL;
  return true;
}

static int
nbd_length (struct storage *storage, uint64_t *length)
{
  *length = nbd_of (storage)->size;
  return 0;
}

static void
nbd_storage_close (struct storage *storage)
{
  struct storage_nbd *s = nbd_of (storage);

  nbd_link_disconnect_plainly (&s->link);
  nbd_kept_destroy (&s->kept);
  pthread_mutex_destroy (&s->lock);
  fetch_blocks_destroy (&s->blocks);
  fetch_window_destroy (&s->window);
  free (s->uri);
  free (s->name);
  free (s);
}

static int
nbd_next_data (struct storage *storage, uint64_t offset, uint64_t *start,
               uint64_t *end)
{
  return fetch_next_data (storage, &nbd_of (storage)->window, offset, start,
                          end);
}

static int
storage_pwritev (struct storage *storage, const struct iovec *iov, int n,
             uint64_t offset)
{
  return fetch_pwritev (storage, &nbd_of (storage)->blocks, iov, n, offset);
}

static int
storage_pwrite (struct storage *storage, const void *buf, size_t count,
            uint64_t offset)
{
  const struct iovec iov = { (void *) buf, count };

  return storage_pwritev (storage, &iov, 1, offset);
}

static int
storage_zero (struct storage *storage, uint64_t offset, uint64_t count)
{
  return fetch_zero (storage, &nbd_of (storage)->blocks, offset, count);
}

static int
storage_punch (struct storage *storage, uint64_t offset, uint64_t count)
{
  return fetch_punch (storage, &nbd_of (storage)->blocks, offset, count);
}

static int
nbd_resize (struct storage *storage, uint64_t length)
{
  return length == nbd_of (storage)->size ? 0 : -EOPNOTSUPP;
}

static int
nbd_downgrade (struct storage *storage)
{
  storage->read_only = true;
  return 0;
}

static const struct storage_ops nbd_ops = {
  .pread = fetch_pread,
  .pwrite = storage_pwrite,
  .pwritev = storage_pwritev,
  .zero = storage_zero,
  .punch = storage_punch,
  .prefetch = fetch_prefetch,
  .resize = nbd_resize,
  .sync = fetch_sync,
  .downgrade = nbd_downgrade,
  .next_data = nbd_next_data,
  .length = nbd_length,
  .close = nbd_storage_close,
  .start = nbd_start,
  .stop = nbd_stop,
  .submit = nbd_submit,
};

/* ---- Opening ----------------------------------------------------------- */

static char *
make_name (const char *uri, const char *about)
{
  char *name;
  int r = about ? asprintf (&name, "%s: the backing file %s", about, uri)
    : asprintf (&name, "%s: the image", uri);

  return r < 0 ? NULL : name;
}

static struct storage_nbd *
new_storage (const char *uri, const char *about, unsigned flags,
             const struct qed_log *log)
{
  struct storage_nbd *s = calloc (1, sizeof *s);

  if (s == NULL)
    return NULL;
  s->uri = strdup (uri);
  s->name = make_name (uri, about);
  if (s->uri == NULL || s->name == NULL) {
    free (s->uri);
    free (s->name);
    free (s);
    return NULL;
  }
  s->is_image = about == NULL;
  s->once = (flags & STORAGE_NBD_ONCE) != 0;
  s->storage.ops = &nbd_ops;
  s->storage.read_only = !(flags & STORAGE_NBD_WRITE);
  s->log = *log;
  pthread_mutex_init (&s->lock, NULL);
  fetch_window_init (&s->window);
  fetch_blocks_init (&s->blocks);
  nbd_queue_init (s);
  s->submitted.run = take_arrived;
  return s;
}

/* Why an export can't be written to, and what to do about it. */
static int
check_writable (const struct storage_nbd *s)
{
  const struct nbd_export *export = &s->link.export;
  int r = 0;

  if (export->read_only) {
    log_error (&s->log, "%s is exported read-only: let its server allow "
               "writing", s->name);
    r = -EROFS;
  }
  else if (!export->can_flush) {
    log_error (&s->log, "%s cannot be written to: its server offers no flush, "
               "so that nothing would be durable: use another server, or do "
               "this where the file lies", s->name);
    r = -EOPNOTSUPP;
  }
  else if (export->minimum > STORAGE_BLOCK_MAX) {
    log_error (&s->log, "%s cannot be written to: its server takes blocks of "
               "%" PRIu64 " bytes and no smaller ones, %u are possible",
               s->name, export->minimum, STORAGE_BLOCK_MAX);
    r = -EOPNOTSUPP;
  }
  return r;
}

/* What is known from now on, and has to stay so. */
static int
take_export (struct storage_nbd *s, unsigned flags)
{
  const struct nbd_export *export = &s->link.export;

  s->size = export->size;
  s->storage.guest_disk = export->guest_disk;
  if (export->read_only && !s->storage.read_only &&
      (flags & STORAGE_NBD_MAY_READ)) {
    log_warning (&s->log, "%s is exported read-only, and served so", s->name);
    s->storage.read_only = true;
  }
  if (s->storage.read_only)
    return 0;
  s->storage.block = (uint32_t) export->minimum;
  s->storage.holes_known = export->has_extents && export->can_zero;
  return check_writable (s);
}

static void
say_unreachable (const struct storage_nbd *s, const char *about, int error)
{
  const char *why = s->link.error;

  if (about)
    log_error (&s->log, "%s: cannot connect to the backing file %s: %s", about,
               s->uri, why);
  else
    log_error (&s->log, "%s: cannot connect: %s%s", s->uri, why,
               storage_nbd_advice (s->uri, error, why));
}

int
storage_nbd_open (const char *uri, const char *about, unsigned flags,
                  const struct qed_log *log, struct storage **storage)
{
  struct storage_nbd *s = new_storage (uri, about, flags, log);
  int r;

  if (s == NULL) {
    log_error (log, "%s: out of memory", about ? about : uri);
    return -ENOMEM;
  }
  r = nbd_link_connect_plainly (&s->link);
  if (r < 0)
    say_unreachable (s, about, r);
  else
    r = take_export (s, flags);
  nbd_link_disconnect_plainly (&s->link); /* a fork may follow */
  if (r < 0)
    nbd_storage_close (&s->storage);
  else
    *storage = &s->storage;
  return r;
}
