/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage driver for an export of an NBD server: a backing file, for
 * reading, or the file of an image that is checked and repaired.
 *
 *   submit --> arrived --> queue --> (libnbd) --> ended --> fetch_end
 *                            ^                      |
 *                            +--- connection lost --+
 *
 * Requests hand fetches over (fetch.h); all else happens on the loop, except
 * in an image that is looked at without being started.  They are sent as they
 * came, many at a time; the link (nbd-link.h) says when.  What was under way
 * when the connection is lost is asked again on the next one, for
 * PATIENCE_SECONDS at most.  A fetch that nobody wants any more is left out,
 * or if it was sent its answer thrown away.
 *
 * Changes are under way in parallel, too, and in no order: who needs one waits
 * for answers.  Those that were answered and not flushed are made again on the
 * next connection, before anything else (nbd-kept.h).  If they take much memory
 * the server is asked to flush.
 *
 * The export must be as long as it was at open, whenever it comes back, and
 * take changes if it did.  What else the server can do may change: nothing
 * that was done depends on it.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fetch-change.h"
#include "fetch-io.h"
#include "log.h"
#include "nbd-flight.h"
#include "nbd-kept.h"
#include "nbd-link.h"
#include "storage.h"

/* How long a request may wait for a connection that is lost. */
#define PATIENCE_SECONDS 30.

/* How often those who wait are looked at. */
#define TICK_SECONDS 1.

/* Read-ahead that waits for its turn; what is more is forgotten, since nobody
 * waits for it who would hold a client back.
 */
#define CACHES_MAX 64u

/* Memory for changes that are not flushed: from where on the server is asked
 * to, and where others wait until it has.
 */
#define KEPT_SOON (UINT64_C (32) << 20)
#define KEPT_MAX (UINT64_C (64) << 20)

struct storage_nbd {
  struct storage storage;
  char *uri;
  char *name;                   /* whose and what it is, for messages */
  bool is_image;                /* not a backing file: if the server stays
                                 * away, that is the end */
  struct qed_log log;
  uint64_t size;
  struct loop *loop;            /* NULL before start */
  struct loop_task submitted;
  void (*stopped) (void *opaque);
  void *opaque;

  _Atomic unsigned caches;      /* FETCH_CACHE that have not ended */
  struct fetch_window window;   /* for next_data */
  struct fetch_blocks blocks;   /* for changes of parts of them */
  pthread_mutex_t lock;         /* protects the next */
  struct fetch_list arrived;

  /* Loop only. */
  struct nbd_link link;
  struct fetch_list queue;      /* to be sent */
  struct nbd_flight flight;     /* those that were */
  struct nbd_kept kept;         /* changes that are not flushed */
  bool flushing;                /* on our own account */
  bool unflushed;               /* before there is a loop: changes were made,
                                 * which are not kept */
  struct loop_timer tick;       /* while any wait for a connection */
  double lost_since;            /* 0: it isn't */
  bool gave_up;                 /* since then, on a request */
  bool changed;                 /* the export has another size */
  bool told_changed;
};

static struct storage_nbd *
nbd_of (struct storage *s)
{
  return (struct storage_nbd *) s;
}

/* ---- Fetches ----------------------------------------------------------- */

static void
end_fetch (struct storage_nbd *s, struct fetch *fetch, int error)
{
  if (fetch->op == FETCH_CACHE)
    atomic_fetch_sub (&s->caches, 1);
  fetch_end (fetch, error);
}

static void
end_all (struct storage_nbd *s, struct fetch_list *list, int error)
{
  struct fetch *fetch;

  while ((fetch = fetch_list_take_first (list)) != NULL)
    end_fetch (s, fetch, error);
}

/* Whether the first of the queue can be sent. */
static bool
can_send (const struct storage_nbd *s)
{
  const struct fetch *fetch = s->queue.first;

  if (fetch == NULL || !nbd_link_is_alive (&s->link) ||
      !nbd_kept_is_settled (&s->kept))
    return false;
  if (fetch_changes (fetch->op) && s->flushing && s->kept.bytes > KEPT_MAX)
    return false;
  return nbd_flight_has_room (&s->flight, fetch);
}

/* After a loss, what is kept comes first. */
static void
send_kept (struct storage_nbd *s)
{
  struct fetch *fetch;

  while (nbd_link_is_alive (&s->link) && s->kept.next &&
         nbd_flight_has_room (&s->flight, s->kept.next) &&
         (fetch = nbd_kept_next (&s->kept)) != NULL)
    nbd_flight_send (&s->flight, &s->link, fetch);
}

static void
send_some (struct storage_nbd *s)
{
  struct fetch *fetch;

  send_kept (s);
  while (can_send (s)) {
    fetch = fetch_list_take_first (&s->queue);
    if (!atomic_load (&fetch->wanted)) {
      end_fetch (s, fetch, 0);
      continue;
    }
    fetch->number = s->kept.number;
    nbd_flight_send (&s->flight, &s->link, fetch);
  }
}

/* Other errors than these mean something else to a request. */
static int
error_of (const struct fetch *fetch)
{
  switch (fetch->error) {
  case 0:
  case -ENOMEM:
  case -EPERM:
    return fetch->error;
  case -ENOSPC:
  case -EOPNOTSUPP:
    return fetch_changes (fetch->op) ? fetch->error : -EIO;
  default:
    return -EIO;
  }
}

/* What waited for the connection for too long gets this. */
static int
error_lost (const struct storage_nbd *s)
{
  return s->is_image ? -ENOTCONN : -EIO;
}

static bool
is_lost (const struct fetch *fetch)
{
  return fetch->error == -ENOTCONN || fetch->error == -ESHUTDOWN;
}

/* Who made it learns of a change when it is kept.  A flush that fails is the
 * end of all flushes: what it was for may be lost.
 */
static void
answered (struct storage_nbd *s, struct fetch *fetch)
{
  struct nbd_kept *kept = &s->kept;
  int error = error_of (fetch);

  if (fetch_changes (fetch->op)) {
    if (error == 0)
      error = nbd_kept_add (kept, fetch);
    atomic_fetch_add (&s->window.changes, 1);
  }
  if (fetch->op == FETCH_FLUSH) {
    if (error < 0 && kept->error == 0)
      kept->error = error;
    error = kept->error < 0 ? -EIO : 0;
    if (error == 0)
      nbd_kept_flushed (kept, fetch->number);
  }
  end_fetch (s, fetch, error);
}

/* Those that the connection, or the server's end, has cut short go back to the
 * queue; the others have their result.
 */
static void
settle (struct storage_nbd *s)
{
  struct fetch_list again;
  struct fetch *fetch;

  fetch_list_init (&again);
  while ((fetch = nbd_flight_next_ended (&s->flight)) != NULL) {
    if (fetch->error == -ESHUTDOWN && s->link.state == NBD_LINK_UP)
      nbd_link_drop (&s->link, "the server is shutting down");
    if (fetch->kept)
      nbd_kept_ended (&s->kept, fetch);
    else if (is_lost (fetch) && fetch->op != FETCH_CACHE &&
             atomic_load (&fetch->wanted))
      fetch_list_append (&again, fetch);
    else
      answered (s, fetch);
  }
  fetch_list_prepend_all (&s->queue, &again);
}

static void
own_flush_ended (struct fetch *fetch)
{
  struct storage_nbd *s = fetch->opaque;

  s->flushing = false;
}

/* Without memory for it, it is tried again in the next turn. */
static void
flush_if_much (struct storage_nbd *s)
{
  struct fetch *fetch;

  if (s->flushing || s->kept.bytes < KEPT_SOON || s->kept.error < 0)
    return;
  fetch = fetch_new (FETCH_FLUSH, 0, 0);
  if (fetch == NULL)
    return;
  s->flushing = true;
  fetch->done = own_flush_ended;
  fetch->opaque = s;
  fetch_list_prepend (&s->queue, fetch);
}

/* ---- While there is no connection -------------------------------------- */

static bool
is_fed_up (struct storage_nbd *s, const struct fetch *fetch)
{
  if (atomic_load (&s->storage.given_up) || (s->is_image && s->gave_up))
    return true;
  if (loop_now () - fetch->lost_at < PATIENCE_SECONDS)
    return false;
  if (!s->gave_up)
    log_error (&s->log, "%s cannot be reached (%s): %s", s->name,
               s->link.error, s->is_image ? "start again when the server is "
               "back" : "what has waited long enough fails, what comes later "
               "tries again");
  s->gave_up = true;
  return true;
}

/* Leave in the queue what may still wait. */
static void
sift (struct storage_nbd *s)
{
  struct fetch_list all = s->queue;
  struct fetch *fetch;

  if (all.first == NULL)
    return;
  fetch_list_init (&s->queue);
  while ((fetch = fetch_list_take_first (&all)) != NULL) {
    if (fetch->lost_at == 0)
      fetch->lost_at = loop_now ();
    if (fetch->op == FETCH_CACHE || !atomic_load (&fetch->wanted))
      end_fetch (s, fetch, 0);
    else if (is_fed_up (s, fetch))
      end_fetch (s, fetch, error_lost (s));
    else
      fetch_list_append (&s->queue, fetch);
  }
  if (s->queue.first && !loop_timer_active (&s->tick))
    loop_timer_start (s->loop, &s->tick, TICK_SECONDS);
}

static void
tick (struct loop_timer *timer)
{
  struct storage_nbd *s = (struct storage_nbd *)
    ((char *) timer - offsetof (struct storage_nbd, tick));

  if (s->link.state != NBD_LINK_UP)
    sift (s);
}

/* ---- The link's callbacks ---------------------------------------------- */

static struct storage_nbd *
owner_of (struct nbd_link *link)
{
  return (struct storage_nbd *)
    ((char *) link - offsetof (struct storage_nbd, link));
}

static bool
is_same_export (struct storage_nbd *s)
{
  uint64_t size = s->link.export.size;

  if (size != s->size)
    snprintf (s->link.error, sizeof s->link.error, "it has %" PRIu64 " bytes "
              "now, and had %" PRIu64 " before", size, s->size);
  else if (s->is_image && s->link.export.guest_disk != s->storage.guest_disk)
    snprintf (s->link.error, sizeof s->link.error, "another kind of server "
              "answers there now");
  else if (!s->storage.read_only &&
           (s->link.export.read_only || !s->link.export.can_flush ||
            s->link.export.minimum > s->storage.block))
    snprintf (s->link.error, sizeof s->link.error, "it can't be written to as "
              "before");
  else
    return true;
  return false;
}

static bool
link_up (struct nbd_link *link)
{
  struct storage_nbd *s = owner_of (link);

  s->changed = !is_same_export (s);
  if (s->changed)
    return false;
  if (s->lost_since != 0)
    log_warning (&s->log, "%s is back after %.0f seconds", s->name,
                 loop_now () - s->lost_since);
  s->lost_since = 0;
  s->gave_up = s->told_changed = false;
  nbd_kept_restart (&s->kept);
  loop_timer_stop (s->loop, &s->tick);
  return true;
}

static void
link_turn (struct nbd_link *link)
{
  struct storage_nbd *s = owner_of (link);

  settle (s);
  do {
    flush_if_much (s);
    send_some (s);
    settle (s);
  } while (can_send (s));
}

/* Waiting would not help: the content may be another one, too. */
static void
export_changed (struct storage_nbd *s)
{
  if (!s->told_changed)
    log_error (&s->log, "%s is not the same any more: %s; %s", s->name,
               s->link.error, s->is_image ? "start again when nobody else "
               "changes it" : "what needs it fails until the server has the "
               "old one again");
  s->told_changed = true;
  s->gave_up |= s->is_image;
  end_all (s, &s->queue, error_lost (s));
}

static void
link_down (struct nbd_link *link, bool was_up)
{
  struct storage_nbd *s = owner_of (link);

  settle (s);
  if (s->changed)
    export_changed (s);
  else if (s->lost_since == 0)
    log_warning (&s->log, "%s %s: %s; what needs it waits for %.0f seconds at "
                 "most", s->name, was_up ? "was lost" :
                 "cannot be connected to", link->error, PATIENCE_SECONDS);
  if (s->lost_since == 0)
    s->lost_since = loop_now ();
  s->changed = false;
  sift (s);
}

static void
link_stopped (struct nbd_link *link)
{
  struct storage_nbd *s = owner_of (link);

  s->stopped (s->opaque);
}

/* ---- Before there is a loop -------------------------------------------- */

static int
connect_plainly (struct storage_nbd *s)
{
  int r = 0;

  if (s->link.nbd == NULL)
    r = nbd_link_connect_plainly (&s->link);
  if (r == 0 && !is_same_export (s)) {
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
  int error = error_of (fetch);

  if (fetch_changes (fetch->op)) {
    atomic_fetch_add (&s->window.changes, 1);
    s->unflushed = true;
  }
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
  end_fetch (s, fetch, plainly_answered (s, fetch));
}

/* ---- The storage ------------------------------------------------------- */

static void
nbd_submit (struct storage *storage, struct fetch *fetch)
{
  struct storage_nbd *s = nbd_of (storage);

  if (fetch->op == FETCH_CACHE &&
      atomic_fetch_add (&s->caches, 1) >= CACHES_MAX) {
    end_fetch (s, fetch, 0);
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

/* If there is a connection, the link has its turn before the loop sleeps. */
static void
take_arrived (struct loop_task *task)
{
  struct storage_nbd *s = (struct storage_nbd *)
    ((char *) task - offsetof (struct storage_nbd, submitted));
  struct fetch *fetch;

  pthread_mutex_lock (&s->lock);
  while ((fetch = fetch_list_take_first (&s->arrived)) != NULL)
    fetch_list_append (&s->queue, fetch);
  pthread_mutex_unlock (&s->lock);
  if (s->link.state != NBD_LINK_UP)
    sift (s);
}

static int
nbd_start (struct storage *storage, struct loop *loop,
           void (*stopped) (void *opaque), void *opaque)
{
  struct storage_nbd *s = nbd_of (storage);
  int r = loop_timer_init (loop, &s->tick, tick);

  if (r < 0)
    return r;
  disconnect_plainly (s);
  s->loop = s->link.loop = loop;
  s->stopped = stopped;
  s->opaque = opaque;
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
  take_arrived (&s->submitted);
  settle (s);
  end_all (s, &s->queue, -ESHUTDOWN);
  loop_timer_stop (s->loop, &s->tick);
  loop_timer_destroy (s->loop, &s->tick);
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
  .punch = fetch_punch,
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
new_storage (const char *uri, const char *about, bool write,
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
  s->storage.ops = &nbd_ops;
  s->storage.read_only = !write;
  s->log = *log;
  pthread_mutex_init (&s->lock, NULL);
  fetch_list_init (&s->arrived);
  fetch_list_init (&s->queue);
  fetch_window_init (&s->window);
  fetch_blocks_init (&s->blocks);
  nbd_kept_init (&s->kept);
  nbd_flight_init (&s->flight);
  s->submitted.run = take_arrived;
  s->link.uri = s->uri;
  s->link.up = link_up;
  s->link.turn = link_turn;
  s->link.down = link_down;
  s->link.stopped = link_stopped;
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
take_export (struct storage_nbd *s)
{
  const struct nbd_export *export = &s->link.export;

  s->size = export->size;
  s->storage.guest_disk = export->guest_disk;
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
storage_nbd_open (const char *uri, const char *about, bool write,
                  const struct qed_log *log, struct storage **storage)
{
  struct storage_nbd *s = new_storage (uri, about, write, log);
  int r;

  if (s == NULL) {
    log_error (log, "%s: out of memory", about ? about : uri);
    return -ENOMEM;
  }
  r = nbd_link_connect_plainly (&s->link);
  if (r < 0)
    say_unreachable (s, about, r);
  else
    r = take_export (s);
  nbd_link_disconnect_plainly (&s->link); /* a fork may follow */
  if (r < 0)
    nbd_storage_close (&s->storage);
  else
    *storage = &s->storage;
  return r;
}
