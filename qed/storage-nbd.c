/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage driver for an export of an NBD server, for reading: a backing
 * file, or the file of an image that is checked.
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
 * The export must be as long as it was at open, whenever it comes back.  What
 * else the server can do may change: nothing that was done depends on it.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fetch-io.h"
#include "log.h"
#include "nbd-flight.h"
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
  pthread_mutex_t lock;         /* protects the next */
  struct fetch_list arrived;

  /* Loop only. */
  struct nbd_link link;
  struct fetch_list queue;      /* to be sent */
  struct nbd_flight flight;     /* those that were */
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
  return nbd_link_is_alive (&s->link) && s->queue.first &&
    nbd_flight_has_room (&s->flight, s->queue.first);
}

static void
send_some (struct storage_nbd *s)
{
  struct fetch *fetch;

  while (can_send (s)) {
    fetch = fetch_list_take_first (&s->queue);
    if (atomic_load (&fetch->wanted))
      nbd_flight_send (&s->flight, &s->link, fetch);
    else
      end_fetch (s, fetch, 0);
  }
}

/* Other errors than these mean something else to a request. */
static int
error_of (const struct fetch *fetch)
{
  return fetch->error == 0 || fetch->error == -ENOMEM ||
    fetch->error == -EPERM ? fetch->error : -EIO;
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
    if (is_lost (fetch) && fetch->op != FETCH_CACHE &&
        atomic_load (&fetch->wanted)) {
      if (fetch->error == -ESHUTDOWN && s->link.state == NBD_LINK_UP)
        nbd_link_drop (&s->link, "the server is shutting down");
      fetch_list_append (&again, fetch);
    }
    else
      end_fetch (s, fetch, error_of (fetch));
  }
  fetch_list_prepend_all (&s->queue, &again);
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
  loop_timer_stop (s->loop, &s->tick);
  return true;
}

static void
link_turn (struct nbd_link *link)
{
  struct storage_nbd *s = owner_of (link);

  settle (s);
  do {
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
      nbd_link_disconnect_plainly (&s->link);
    (void) nbd_flight_next_ended (&s->flight);
  }
  else
    fetch->error = r;
  if (r < 0)
    log_error (&s->log, "%s: %s", s->name, s->link.error);
  end_fetch (s, fetch, error_of (fetch));
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
  nbd_link_disconnect_plainly (&s->link);
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
  end_all (s, &s->flight.ended, -ESHUTDOWN);
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
  pthread_mutex_destroy (&s->lock);
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

static const struct storage_ops nbd_ops = {
  .pread = fetch_pread,
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
new_storage (const char *uri, const char *about, const struct qed_log *log)
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
  s->storage.read_only = true;
  s->log = *log;
  pthread_mutex_init (&s->lock, NULL);
  fetch_list_init (&s->arrived);
  fetch_list_init (&s->queue);
  fetch_window_init (&s->window);
  nbd_flight_init (&s->flight);
  s->submitted.run = take_arrived;
  s->link.uri = s->uri;
  s->link.up = link_up;
  s->link.turn = link_turn;
  s->link.down = link_down;
  s->link.stopped = link_stopped;
  return s;
}

/* What to do when a server could not be connected to, as far as the error
 * tells.
 */
static const char *
advice (const struct storage_nbd *s, int error)
{
  bool tls = strncmp (s->uri, "nbds", 4) == 0;

  switch (error) {
  case -ECONNREFUSED:
    return ": see that the server runs, and listens there";
  case -ETIMEDOUT:
    return ": see that the server runs, and that no firewall is between";
  case -ENOENT:
    return ": see which exports there are (nbdinfo --list)";
  case -ENOTSUP:
    return tls ? ": let the server offer TLS, or use nbd:// without"
      : ": use nbds:// and a key or certificate";
  default:
    return tls && strstr (s->link.error, "tls") ? ": see that the server knows "
      "the key or certificate" : "";
  }
}

int
storage_nbd_open (const char *uri, const char *about,
                  const struct qed_log *log, struct storage **storage)
{
  struct storage_nbd *s = new_storage (uri, about, log);
  int r;

  if (s == NULL) {
    log_error (log, "%s: out of memory", about ? about : uri);
    return -ENOMEM;
  }
  r = nbd_link_connect_plainly (&s->link);
  if (r < 0) {
    if (about)
      log_error (log, "%s: cannot connect to the backing file %s: %s", about,
                 uri, s->link.error);
    else
      log_error (log, "%s: cannot connect: %s%s", uri, s->link.error,
                 advice (s, r));
    nbd_storage_close (&s->storage);
    return r;
  }
  s->size = s->link.export.size;
  s->storage.guest_disk = s->link.export.guest_disk;
  nbd_link_disconnect_plainly (&s->link); /* a fork may follow */
  *storage = &s->storage;
  return 0;
}
