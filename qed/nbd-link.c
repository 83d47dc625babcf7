/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nbd-link.h"
#include "qed.h"

/* For the handshake. */
#define GREETING_SECONDS 10.

/* A server that owes an answer and sends nothing for so long is lost: a host
 * without power doesn't say good-bye.  As long as Linux waits for a disk.
 */
#define SILENCE_SECONDS 30.

#define PAUSE_MIN .1
#define PAUSE_MAX 2.

/* Where the server doesn't say what it takes, as the protocol has it. */
#define MINIMUM_DEFAULT UINT64_C (512)
#define MAXIMUM_DEFAULT (UINT64_C (32) << 20)

/* ---- A handle ---------------------------------------------------------- */

/* What libnbd said last, on this thread. */
static void
take_error (char error[NBD_ERROR_SIZE])
{
  const char *text = nbd_get_error ();

  snprintf (error, NBD_ERROR_SIZE, "%s", text ? text : "unknown error");
}

/* URIs come here only where every file may be opened, so that they may also
 * name keys and certificates.
 */
static struct nbd_handle *
new_handle (void)
{
  struct nbd_handle *nbd = nbd_create ();

  if (nbd == NULL)
    return NULL;
  if (nbd_set_uri_allow_transports (nbd, LIBNBD_ALLOW_TRANSPORT_TCP |
                                    LIBNBD_ALLOW_TRANSPORT_UNIX) == 0 &&
      nbd_set_uri_allow_local_file (nbd, true) == 0 &&
      nbd_set_full_info (nbd, true) == 0 &&
      nbd_add_meta_context (nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0)
    return nbd;
  nbd_close (nbd);
  return NULL;
}

static bool
is_lost (struct nbd_handle *nbd)
{
  return nbd_aio_is_dead (nbd) > 0 || nbd_aio_is_closed (nbd) > 0;
}

static const char closed[] = "the server closed the connection";

static uint64_t
block_size (struct nbd_handle *nbd, int type, uint64_t otherwise)
{
  int64_t size = nbd_get_block_size (nbd, type);

  return size > 0 ? (uint64_t) size : otherwise;
}

/* A server of ours says what it serves. */
static bool
is_guest_disk (struct nbd_handle *nbd)
{
  char *description = nbd_get_export_description (nbd);
  bool ours = description &&
    strcmp (description, QED_EXPORT_DESCRIPTION) == 0;

  free (description);
  return ours;
}

static int
read_export (struct nbd_handle *nbd, struct nbd_export *export,
             char error[NBD_ERROR_SIZE])
{
  int64_t size = nbd_get_size (nbd);

  if (size < 0) {
    take_error (error);
    return -EIO;
  }
  export->size = (uint64_t) size;
  export->minimum = block_size (nbd, LIBNBD_SIZE_MINIMUM, MINIMUM_DEFAULT);
  export->maximum = block_size (nbd, LIBNBD_SIZE_MAXIMUM, MAXIMUM_DEFAULT);
  if (export->maximum > MAXIMUM_DEFAULT)
    export->maximum = MAXIMUM_DEFAULT;
  export->maximum -= export->maximum % export->minimum;
  if (export->maximum == 0)
    export->maximum = export->minimum;
  export->guest_disk = is_guest_disk (nbd);
  export->can_cache = nbd_can_cache (nbd) > 0;
  export->read_only = nbd_is_read_only (nbd) != 0;
  export->can_flush = nbd_can_flush (nbd) > 0;
  export->can_zero = nbd_can_zero (nbd) > 0;
  export->can_fast_zero = nbd_can_fast_zero (nbd) > 0;
  export->has_extents =
    nbd_can_meta_context (nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
  return 0;
}

/* Say good-bye, if that goes without waiting. */
static void
close_handle (struct nbd_handle *nbd)
{
  if (nbd_aio_is_ready (nbd) > 0)
    (void) nbd_aio_disconnect (nbd, 0);
  nbd_close (nbd);
}

/* ---- Plain calls ------------------------------------------------------- */

/* Of the last call, if it says one that means nothing else here. */
static int
errno_of_libnbd (void)
{
  int error = nbd_get_errno ();

  return error == 0 || error == ETIMEDOUT ? -EIO : -error;
}

static void
say_silent (struct nbd_link *link, double seconds)
{
  snprintf (link->error, sizeof link->error, "no answer for %.0f seconds",
            seconds);
}

/* Until something happens, for so long at most. */
static int
poll_plainly (struct nbd_link *link, double seconds)
{
  int r = nbd_poll (link->nbd, (int) (seconds * 1000) + 1);

  if (r == -1 && nbd_get_errno () != EINTR) {
    take_error (link->error);
    return errno_of_libnbd ();
  }
  if (is_lost (link->nbd)) {
    snprintf (link->error, sizeof link->error, "%s", closed);
    return -EIO;
  }
  return r == 0 ? -ETIMEDOUT : 0;
}

static int
greet_plainly (struct nbd_link *link)
{
  double end = loop_now () + GREETING_SECONDS, left;
  int r = 0;

  while (r == 0 && nbd_aio_is_ready (link->nbd) <= 0) {
    left = end - loop_now ();
    r = left <= 0 ? -ETIMEDOUT : poll_plainly (link, left);
  }
  if (r == -ETIMEDOUT)
    say_silent (link, GREETING_SECONDS);
  return r;
}

int
nbd_link_connect_plainly (struct nbd_link *link)
{
  int r = 0;

  link->nbd = new_handle ();
  if (link->nbd == NULL || nbd_aio_connect_uri (link->nbd, link->uri) == -1) {
    take_error (link->error);
    r = errno_of_libnbd ();
    if (r == -ENOENT)           /* no socket, not no export */
      r = -ECONNREFUSED;
  }
  if (r == 0)
    r = greet_plainly (link);
  if (r == 0)
    r = read_export (link->nbd, &link->export, link->error);
  if (r < 0)
    nbd_link_disconnect_plainly (link);
  return r;
}

int
nbd_link_wait_plainly (struct nbd_link *link)
{
  int r = poll_plainly (link, SILENCE_SECONDS);

  if (r == -ETIMEDOUT)
    say_silent (link, SILENCE_SECONDS);
  return r;
}

void
nbd_link_disconnect_plainly (struct nbd_link *link)
{
  if (link->nbd)
    close_handle (link->nbd);
  link->nbd = NULL;
}

/* ---- Up and down ------------------------------------------------------- */

static struct nbd_link *
link_of (struct loop_watch *watch)
{
  return (struct nbd_link *)
    ((char *) watch - offsetof (struct nbd_link, watch));
}

/* libnbd lets go of all commands here, by their free functions. */
static void
drop_handle (struct nbd_link *link)
{
  loop_watch_stop (link->loop, &link->watch);
  loop_timer_stop (link->loop, &link->timer);
  if (link->nbd)
    close_handle (link->nbd);
  link->nbd = NULL;
  link->drop = false;
}

static void
go_down (struct nbd_link *link)
{
  bool was_up = link->state == NBD_LINK_UP;

  drop_handle (link);
  if (was_up && loop_now () - link->up_since > PAUSE_MAX)
    link->pause = PAUSE_MIN;
  link->state = NBD_LINK_PAUSE;
  loop_timer_start (link->loop, &link->timer, link->pause);
  link->pause = 2 * link->pause < PAUSE_MAX ? 2 * link->pause : PAUSE_MAX;
  link->down (link, was_up);
}

static void
go_up (struct nbd_link *link)
{
  if (read_export (link->nbd, &link->export, link->error) < 0 ||
      !link->up (link)) {
    go_down (link);
    return;
  }
  link->state = NBD_LINK_UP;
  link->error[0] = '\0';
  link->up_since = loop_now ();
  loop_timer_start (link->loop, &link->timer, SILENCE_SECONDS);
}

/* ---- While there is a handle ------------------------------------------- */

bool
nbd_link_is_alive (const struct nbd_link *link)
{
  return !link->drop && !is_lost (link->nbd);
}

void
nbd_link_drop (struct nbd_link *link, const char *why)
{
  snprintf (link->error, sizeof link->error, "%s", why);
  link->drop = true;
}

static void
take_turn (struct nbd_link *link)
{
  bool idle = nbd_aio_in_flight (link->nbd) <= 0;

  link->turn (link);
  if (idle)
    link->heard = loop_now ();
}

/* A socket may have taken the number of another while libnbd went from one
 * address of the server to the next.
 */
static void
watch_direction (struct nbd_link *link)
{
  unsigned direction = nbd_aio_get_direction (link->nbd);
  int fd = nbd_aio_get_fd (link->nbd);

  if (fd < 0)
    direction = 0;
  loop_watch_set (link->loop, &link->watch, fd,
                  (direction & LIBNBD_AIO_DIRECTION_READ ? LOOP_READ : 0) |
                  (direction & LIBNBD_AIO_DIRECTION_WRITE ? LOOP_WRITE : 0),
                  link->state != NBD_LINK_UP);
}

static void
before_sleep (struct loop_watch *watch)
{
  struct nbd_link *link = link_of (watch);

  if (link->state == NBD_LINK_GREETING && nbd_aio_is_ready (link->nbd) > 0)
    go_up (link);
  if (link->state == NBD_LINK_UP)
    take_turn (link);
  if (link->nbd == NULL)
    return;
  if (link->drop)
    go_down (link);
  else if (is_lost (link->nbd)) {
    if (link->error[0] == '\0')
      snprintf (link->error, sizeof link->error, "%s", closed);
    go_down (link);
  }
  else
    watch_direction (link);
}

/* The direction may have changed with what this turn has started. */
static void
ready (struct loop_watch *watch, unsigned events)
{
  struct nbd_link *link = link_of (watch);
  unsigned direction = nbd_aio_get_direction (link->nbd);
  int r = 0;

  if ((events & LOOP_READ) && (direction & LIBNBD_AIO_DIRECTION_READ)) {
    link->heard = loop_now ();
    r = nbd_aio_notify_read (link->nbd);
  }
  else if ((events & LOOP_WRITE) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
    r = nbd_aio_notify_write (link->nbd);
  if (r == -1)
    take_error (link->error);
}

/* ---- Connecting -------------------------------------------------------- */

static void
connect_now (struct nbd_link *link)
{
  link->state = NBD_LINK_RESOLVING;
  link->error[0] = '\0';
  loop_submit (link->loop, &link->resolve);
}

/* On a worker: looking up a name may take as long as the resolver likes. */
static void
resolve (struct loop_work *work)
{
  struct nbd_link *link = (struct nbd_link *)
    ((char *) work - offsetof (struct nbd_link, resolve));

  link->nbd = new_handle ();
  link->resolve_result = link->nbd == NULL ? -1
    : nbd_aio_connect_uri (link->nbd, link->uri);
  if (link->resolve_result == -1)
    take_error (link->error);
}

static void
resolved (struct loop_work *work)
{
  struct nbd_link *link = (struct nbd_link *)
    ((char *) work - offsetof (struct nbd_link, resolve));

  if (link->stopping) {
    drop_handle (link);
    link->state = NBD_LINK_STOPPED;
    link->stopped (link);
  }
  else if (link->resolve_result == -1)
    go_down (link);
  else {
    link->state = NBD_LINK_GREETING;
    loop_watch_start (link->loop, &link->watch);
    loop_timer_start (link->loop, &link->timer, GREETING_SECONDS);
  }
}

/* ---- Time -------------------------------------------------------------- */

static void
look_for_silence (struct nbd_link *link)
{
  double silent = loop_now () - link->heard;

  if (nbd_aio_in_flight (link->nbd) > 0 && silent >= SILENCE_SECONDS) {
    say_silent (link, SILENCE_SECONDS);
    go_down (link);
  }
  else
    loop_timer_start (link->loop, &link->timer,
                      silent > 0 && silent < SILENCE_SECONDS
                      ? SILENCE_SECONDS - silent : SILENCE_SECONDS);
}

static void
timer_fired (struct loop_timer *timer)
{
  struct nbd_link *link = (struct nbd_link *)
    ((char *) timer - offsetof (struct nbd_link, timer));

  switch (link->state) {
  case NBD_LINK_PAUSE:
    connect_now (link);
    break;
  case NBD_LINK_GREETING:
    say_silent (link, GREETING_SECONDS);
    go_down (link);
    break;
  case NBD_LINK_UP:
    look_for_silence (link);
    break;
  case NBD_LINK_STOPPED:
  case NBD_LINK_RESOLVING:
    break;
  }
}

/* ---- Life -------------------------------------------------------------- */

static void
begin (struct loop_task *task)
{
  struct nbd_link *link = (struct nbd_link *)
    ((char *) task - offsetof (struct nbd_link, begin));

  if (!link->stopping)
    connect_now (link);
}

int
nbd_link_init (struct nbd_link *link)
{
  int r = loop_watch_init (link->loop, &link->watch, before_sleep, ready);

  if (r == 0)
    r = loop_timer_init (link->loop, &link->timer, timer_fired);
  if (r < 0)
    return r;
  link->begin.run = begin;
  link->resolve.run = resolve;
  link->resolve.done = resolved;
  link->pause = PAUSE_MIN;
  loop_post (link->loop, &link->begin);
  return 0;
}

bool
nbd_link_stop (struct nbd_link *link)
{
  link->stopping = true;
  if (link->state == NBD_LINK_RESOLVING)
    return false;
  if (link->state != NBD_LINK_STOPPED)
    drop_handle (link);
  link->state = NBD_LINK_STOPPED;
  return true;
}

void
nbd_link_destroy (struct nbd_link *link)
{
  assert (link->state == NBD_LINK_STOPPED);
  loop_watch_destroy (&link->watch);
  loop_timer_destroy (link->loop, &link->timer);
}
