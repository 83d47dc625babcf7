/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <string.h>

#include <libnbd.h>

#include "fake-libnbd.h"

/* ---- libnbd ------------------------------------------------------------ */

struct fake_libnbd lib;

static int
step (void)
{
  return ++lib.calls == lib.fails ? -1 : 0;
}

struct nbd_handle *
nbd_create (void)
{
  if (step () < 0)
    return NULL;
  lib.handles++;
  return (struct nbd_handle *) &lib;
}

void
nbd_close (struct nbd_handle *nbd)
{
  assert_ptr_equal (nbd, &lib);
  assert_int_equal (lib.handles--, 1);
}

#define NBD_STEP(name, type) \
  int name (struct nbd_handle *nbd, type value) \
  { (void) nbd; (void) value; return step (); }
NBD_STEP (nbd_set_uri_allow_transports, uint32_t)
NBD_STEP (nbd_set_uri_allow_local_file, bool)
NBD_STEP (nbd_set_full_info, bool)
NBD_STEP (nbd_add_meta_context, const char *)
NBD_STEP (nbd_aio_connect_uri, const char *)

#define NBD_SAYS(type, name, what) \
  type name (struct nbd_handle *nbd) { (void) nbd; return what; }
NBD_SAYS (int, nbd_aio_is_ready, lib.ready)
NBD_SAYS (int, nbd_aio_is_dead, lib.dead)
NBD_SAYS (int, nbd_aio_is_closed, lib.closed)
NBD_SAYS (int64_t, nbd_get_size, lib.size)
NBD_SAYS (int, nbd_can_cache, 1)
NBD_SAYS (int, nbd_is_read_only, 0)
NBD_SAYS (int, nbd_can_flush, 1)
NBD_SAYS (int, nbd_can_zero, 0)
NBD_SAYS (int, nbd_can_fast_zero, 0)
NBD_SAYS (int, nbd_aio_in_flight, lib.in_flight)
NBD_SAYS (unsigned, nbd_aio_get_direction, lib.direction)
NBD_SAYS (int, nbd_aio_get_fd, lib.fd)

int
nbd_can_meta_context (struct nbd_handle *nbd, const char *context)
{
  (void) nbd;
  assert_string_equal (context, "base:allocation");
  return 1;
}

char *
nbd_get_export_description (struct nbd_handle *nbd)
{
  (void) nbd;
  return lib.description ? strdup (lib.description) : NULL;
}

int64_t
nbd_get_block_size (struct nbd_handle *nbd, int type)
{
  (void) nbd;
  return type == LIBNBD_SIZE_MINIMUM ? lib.minimum : lib.maximum;
}

const char *
nbd_get_error (void)
{
  return lib.error;
}

int
nbd_get_errno (void)
{
  return lib.error_number;
}

int
nbd_poll (struct nbd_handle *nbd, int timeout)
{
  (void) nbd;
  assert_in_range (timeout, 1, 31000);
  if (lib.at_poll)
    lib.at_poll ();
  return lib.poll_result;
}

int
nbd_aio_disconnect (struct nbd_handle *nbd, uint32_t flags)
{
  (void) nbd;
  (void) flags;
  lib.goodbyes++;
  return 0;
}

int
nbd_aio_notify_read (struct nbd_handle *nbd)
{
  (void) nbd;
  lib.reads++;
  return lib.notify_result;
}

int
nbd_aio_notify_write (struct nbd_handle *nbd)
{
  (void) nbd;
  lib.writes++;
  return lib.notify_result;
}

/* ---- The loop ---------------------------------------------------------- */

double clock_now, timer_seconds;
struct loop_work *work;
struct loop_task *posted;
int watch_error, timer_error, watched_fd;
unsigned watched;
bool watching;

#define WRAP(type, name, ...) \
  type __wrap_##name (__VA_ARGS__); \
  type __wrap_##name (__VA_ARGS__)

WRAP (double, loop_now, void)
{
  return clock_now;
}

WRAP (void, loop_post, struct loop *loop, struct loop_task *task)
{
  (void) loop;
  posted = task;
}

WRAP (void, loop_submit, struct loop *loop, struct loop_work *w)
{
  (void) loop;
  assert_null (work);
  work = w;
}

WRAP (int, loop_timer_init, struct loop *loop, struct loop_timer *timer,
      void (*run) (struct loop_timer *timer))
{
  (void) loop;
  timer->run = run;
  return timer_error;
}

WRAP (void, loop_timer_start, struct loop *loop, struct loop_timer *timer,
      double seconds)
{
  (void) loop;
  (void) timer;
  assert_true (seconds > 0);
  timer_seconds = seconds;
}

WRAP (void, loop_timer_stop, struct loop *loop, struct loop_timer *timer)
{
  (void) loop;
  (void) timer;
  timer_seconds = 0;
}

WRAP (void, loop_timer_destroy, struct loop *loop, struct loop_timer *timer)
{
  (void) loop;
  (void) timer;
  assert_true (timer_seconds == 0);
}

WRAP (int, loop_watch_init, struct loop *loop, struct loop_watch *watch,
      void (*before_sleep) (struct loop_watch *watch),
      void (*ready) (struct loop_watch *watch, unsigned events))
{
  (void) loop;
  watch->before_sleep = before_sleep;
  watch->ready = ready;
  return watch_error;
}

WRAP (void, loop_watch_start, struct loop *loop, struct loop_watch *watch)
{
  (void) loop;
  (void) watch;
  watching = true;
}

WRAP (void, loop_watch_set, struct loop *loop, struct loop_watch *watch,
      int fd, unsigned events, bool anew)
{
  (void) loop;
  (void) watch;
  (void) anew;
  watched_fd = fd;
  watched = events;
}

WRAP (void, loop_watch_stop, struct loop *loop, struct loop_watch *watch)
{
  (void) loop;
  (void) watch;
  watching = false;
}

WRAP (void, loop_watch_destroy, struct loop_watch *watch)
{
  (void) watch;
  assert_false (watching);
}
