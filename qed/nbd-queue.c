/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What becomes of fetches, and of changes, when a connection comes and goes.
 * Loop only, but for those that the header says nothing of.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "storage-nbd.h"

/* How long a request may wait for a connection that is lost. */
#define PATIENCE_SECONDS 30.

/* How often those who wait are looked at. */
#define TICK_SECONDS 1.

/* Memory for changes that are not flushed: from where on the server is asked
 * to, and where others wait until it has.
 */
#define KEPT_SOON (UINT64_C (32) << 20)
#define KEPT_MAX (UINT64_C (64) << 20)

/* ---- Fetches ----------------------------------------------------------- */

void
nbd_queue_end (struct storage_nbd *s, struct fetch *fetch, int error)
{
  if (fetch_changes (fetch->op))
    atomic_fetch_add (&s->window.changes, 1);
  if (fetch->op == FETCH_CACHE)
    atomic_fetch_sub (&s->caches, 1);
  fetch_end (fetch, error);
}

static void
end_all (struct storage_nbd *s, struct fetch_list *list, int error)
{
  struct fetch *fetch;

  while ((fetch = fetch_list_take_first (list)) != NULL)
    nbd_queue_end (s, fetch, error);
}

/* Whether the first of the queue can be sent. */
static bool
can_send (const struct storage_nbd *s)
{
  const struct fetch *fetch = s->queue.first;

  if (fetch == NULL || !nbd_link_is_alive (&s->link) ||
      !nbd_kept_is_settled (&s->kept))
    return false;
  if (fetch_changes (fetch->op) && s->flush_sent && s->kept.bytes > KEPT_MAX)
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
own_flush_ended (struct fetch *fetch)
{
  struct storage_nbd *s = fetch->opaque;

  s->flushing = s->flush_sent = false;
}

/* When flushes fail for good, what is written could be kept for ever. */
static bool
is_in_vain (const struct storage_nbd *s, const struct fetch *fetch)
{
  return fetch_changes (fetch->op) && s->kept.error < 0;
}

static void
send_some (struct storage_nbd *s)
{
  struct fetch *fetch;

  send_kept (s);
  while (can_send (s)) {
    fetch = fetch_list_take_first (&s->queue);
    if (!atomic_load (&fetch->wanted)) {
      nbd_queue_end (s, fetch, 0);
      continue;
    }
    if (is_in_vain (s, fetch)) {
      nbd_queue_end (s, fetch, -EIO);
      continue;
    }
    s->flush_sent |= fetch->done == own_flush_ended;
    fetch->number = s->kept.number;
    nbd_flight_send (&s->flight, &s->link, fetch);
  }
}

/* Other errors than these mean something else to a request. */
int
nbd_queue_error (const struct fetch *fetch)
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

/* What waited for the connection for too long gets this.  The loop's own reads
 * must not take a server that is away for a table that can't be read.
 */
static int
error_lost (const struct storage_nbd *s, const struct fetch *fetch)
{
  const bool loops_read = fetch->done != NULL && !fetch_changes (fetch->op);

  return s->once || fetch->op == FETCH_FLUSH || loops_read
    ? -ENOTCONN : -EIO;
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
  int error = nbd_queue_error (fetch);

  if (fetch_changes (fetch->op) && error == 0)
    error = nbd_kept_add (kept, fetch);
  if (fetch->op == FETCH_FLUSH) {
    if (error < 0 && kept->error == 0)
      kept->error = error;
    error = kept->error < 0 ? -EIO : 0;
    if (error == 0)
      nbd_kept_flushed (kept, fetch->number);
  }
  nbd_queue_end (s, fetch, error);
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
             atomic_load (&fetch->wanted)) {
      if (fetch->done == own_flush_ended)
        s->flush_sent = false;  /* changes may go before it, now */
      fetch_list_append (&again, fetch);
    }
    else
      answered (s, fetch);
  }
  fetch_list_prepend_all (&s->queue, &again);
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
  if (atomic_load (&s->storage.given_up) || (s->once && s->gave_up))
    return true;
  if (loop_now () - fetch->lost_at < PATIENCE_SECONDS)
    return false;
  if (!s->gave_up)
    log_error (&s->log, "%s cannot be reached (%s): %s", s->name,
               s->link.error, s->once ? "start again when the server is "
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
      nbd_queue_end (s, fetch, 0);
    else if (is_fed_up (s, fetch))
      nbd_queue_end (s, fetch, error_lost (s, fetch));
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

bool
nbd_queue_same_export (struct storage_nbd *s)
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

  s->changed = !nbd_queue_same_export (s);
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
  struct fetch *fetch;

  if (!s->told_changed)
    log_error (&s->log, "%s is not the same any more: %s; %s", s->name,
               s->link.error, s->once ? "start again when nobody else "
               "changes it" : "what needs it fails until the server has the "
               "old one again");
  s->told_changed = true;
  s->gave_up |= s->once;
  while ((fetch = fetch_list_take_first (&s->queue)) != NULL)
    nbd_queue_end (s, fetch, error_lost (s, fetch));
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

/* ---- Its life ---------------------------------------------------------- */

void
nbd_queue_init (struct storage_nbd *s)
{
  fetch_list_init (&s->arrived);
  fetch_list_init (&s->queue);
  nbd_flight_init (&s->flight);
  nbd_kept_init (&s->kept);
  s->link.uri = s->uri;
  s->link.up = link_up;
  s->link.turn = link_turn;
  s->link.down = link_down;
  s->link.stopped = link_stopped;
}

int
nbd_queue_start (struct storage_nbd *s)
{
  return loop_timer_init (s->loop, &s->tick, tick);
}

/* If there is a connection, the link has its turn before the loop sleeps. */
void
nbd_queue_take (struct storage_nbd *s)
{
  struct fetch *fetch;

  pthread_mutex_lock (&s->lock);
  while ((fetch = fetch_list_take_first (&s->arrived)) != NULL)
    fetch_list_append (&s->queue, fetch);
  pthread_mutex_unlock (&s->lock);
  if (s->link.state != NBD_LINK_UP)
    sift (s);
}

void
nbd_queue_stop (struct storage_nbd *s)
{
  nbd_queue_take (s);
  settle (s);
  end_all (s, &s->queue, -ESHUTDOWN);
  loop_timer_stop (s->loop, &s->tick);
  loop_timer_destroy (s->loop, &s->tick);
}
