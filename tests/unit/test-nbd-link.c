/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A connection that is kept alive: each thing that can go wrong on the way up,
 * what a server may say of an export, silence, loss, and the end in each
 * state.  libnbd, the loop and its clock are the test's own.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libnbd.h>

#include "fake-libnbd.h"
#include "nbd-link.h"
#include "qed.h"

/* ---- The link ---------------------------------------------------------- */

static struct nbd_link conn;
static unsigned ups, turns, downs, stops;
static bool takes_it, was_up_last, drops;

static bool
conn_up (struct nbd_link *link)
{
  (void) link;
  ups++;
  return takes_it;
}

static void
conn_turn (struct nbd_link *link)
{
  turns++;
  assert_int_equal (nbd_link_is_alive (link), !lib.dead && !lib.closed);
  if (drops)
    nbd_link_drop (link, "no use");
}

static void
conn_down (struct nbd_link *link, bool was_up)
{
  (void) link;
  downs++;
  was_up_last = was_up;
}

static void
conn_stopped (struct nbd_link *link)
{
  (void) link;
  stops++;
}

static int
setup (void **state)
{
  (void) state;
  memset (&lib, 0, sizeof lib);
  lib.size = 1 << 20;
  lib.minimum = lib.maximum = -1;
  lib.fd = 5;
  lib.direction = LIBNBD_AIO_DIRECTION_READ;
  lib.error = "it said so";
  clock_now = 100;
  timer_seconds = 0;
  work = NULL;
  posted = NULL;
  watch_error = timer_error = 0;
  watching = drops = false;
  takes_it = true;
  ups = turns = downs = stops = 0;
  conn = (struct nbd_link) {
    .uri = "nbd://there/", .up = conn_up, .turn = conn_turn,
    .down = conn_down, .stopped = conn_stopped,
  };
  return 0;
}

static void
run_work (void)
{
  struct loop_work *w = work;

  assert_non_null (w);
  work = NULL;
  w->run (w);
  w->done (w);
}

static void
start (void)
{
  assert_int_equal (nbd_link_init (&conn), 0);
  posted->run (posted);
  assert_int_equal (conn.state, NBD_LINK_RESOLVING);
}

static void
sleep_once (void)
{
  assert_true (watching);
  conn.watch.before_sleep (&conn.watch);
}

static void
come_up (void)
{
  start ();
  run_work ();
  assert_int_equal (conn.state, NBD_LINK_GREETING);
  lib.ready = true;
  sleep_once ();
  assert_int_equal (conn.state, NBD_LINK_UP);
}

static int
teardown (void **state)
{
  (void) state;
  if (conn.watch.before_sleep) {
    assert_true (nbd_link_stop (&conn));
    nbd_link_destroy (&conn);
  }
  else
    nbd_link_disconnect_plainly (&conn);
  assert_int_equal (lib.handles, 0);
  return 0;
}

/* ---- Plain calls ------------------------------------------------------- */

static void
become_ready (void)
{
  lib.ready = true;
}

static void
let_time_pass (void)
{
  clock_now += 6;
}

static void
test_plain (void **state)
{
  (void) state;
  lib.at_poll = become_ready;
  lib.poll_result = 1;
  assert_int_equal (nbd_link_connect_plainly (&conn), 0);
  assert_true (conn.export.size == 1 << 20);
  assert_int_equal (nbd_link_wait_plainly (&conn), 0);
  lib.poll_result = 0;
  assert_int_equal (nbd_link_wait_plainly (&conn), -ETIMEDOUT);
  assert_string_equal (conn.error, "no answer for 30 seconds");
  lib.closed = true;
  assert_int_equal (nbd_link_wait_plainly (&conn), -EIO);
  assert_string_equal (conn.error, "the server closed the connection");
  lib.poll_result = -1;
  lib.error_number = ECONNRESET;
  assert_int_equal (nbd_link_wait_plainly (&conn), -ECONNRESET);
  lib.error_number = ETIMEDOUT;         /* which is said otherwise */
  assert_int_equal (nbd_link_wait_plainly (&conn), -EIO);
  lib.error_number = 0;
  lib.error = NULL;
  assert_int_equal (nbd_link_wait_plainly (&conn), -EIO);
  assert_string_equal (conn.error, "unknown error");
  lib.error_number = EINTR;
  lib.closed = false;
  assert_int_equal (nbd_link_wait_plainly (&conn), 0);
}

/* Each call on the way to a connection fails. */
static void
test_plain_fails (void **state)
{
  (void) state;
  lib.error_number = ENOMEM;
  for (lib.fails = 1; lib.fails <= 6; lib.fails++) {
    lib.calls = 0;
    assert_int_equal (nbd_link_connect_plainly (&conn), -ENOMEM);
    assert_string_equal (conn.error, "it said so");
    assert_int_equal (lib.handles, 0);
  }
  lib.calls = 0;
  lib.fails = 6;
  lib.error_number = ENOENT;    /* no socket, not no export */
  assert_int_equal (nbd_link_connect_plainly (&conn), -ECONNREFUSED);
  lib.fails = 0;
  lib.at_poll = let_time_pass;
  lib.poll_result = 1;
  assert_int_equal (nbd_link_connect_plainly (&conn), -ETIMEDOUT);
  assert_string_equal (conn.error, "no answer for 10 seconds");
  lib.ready = true;
  lib.size = -1;
  assert_int_equal (nbd_link_connect_plainly (&conn), -EIO);
}

static void
test_export (void **state)
{
  (void) state;
  lib.ready = true;
  assert_int_equal (nbd_link_connect_plainly (&conn), 0);
  assert_int_equal (conn.export.minimum, 512);
  assert_int_equal (conn.export.maximum, 32 << 20);
  assert_false (conn.export.guest_disk);
  nbd_link_disconnect_plainly (&conn);
  assert_int_equal (lib.goodbyes, 1);
  lib.minimum = 4096;
  lib.maximum = 1 << 30;
  lib.description = QED_EXPORT_DESCRIPTION;
  assert_int_equal (nbd_link_connect_plainly (&conn), 0);
  assert_int_equal (conn.export.minimum, 4096);
  assert_int_equal (conn.export.maximum, 32 << 20);
  assert_true (conn.export.guest_disk);
  nbd_link_disconnect_plainly (&conn);
  lib.maximum = 1000;
  lib.description = "another";
  assert_int_equal (nbd_link_connect_plainly (&conn), 0);
  assert_int_equal (conn.export.maximum, 4096);
  assert_false (conn.export.guest_disk);
}

/* ---- Up and down ------------------------------------------------------- */

static void
test_up (void **state)
{
  (void) state;
  come_up ();
  assert_int_equal (ups, 1);
  assert_int_equal (turns, 1);
  assert_int_equal (watched_fd, 5);
  assert_int_equal (watched, LOOP_READ);
  lib.direction = LIBNBD_AIO_DIRECTION_BOTH;
  sleep_once ();
  assert_int_equal (watched, LOOP_READ | LOOP_WRITE);
  lib.direction = LIBNBD_AIO_DIRECTION_WRITE;
  lib.fd = -1;
  sleep_once ();
  assert_int_equal (watched, 0);
}

static void
test_init_fails (void **state)
{
  (void) state;
  watch_error = -ENOMEM;
  assert_int_equal (nbd_link_init (&conn), -ENOMEM);
  watch_error = 0;
  timer_error = -ENOMEM;
  assert_int_equal (nbd_link_init (&conn), -ENOMEM);
}

/* The pause doubles, up to 2 s; a connection that lasted makes it short. */
static void
test_pauses (void **state)
{
  static const double pauses[] = { .1, .2, .4, .8, 1.6, 2, 2 };
  size_t i;

  (void) state;
  start ();
  for (i = 0; i < sizeof pauses / sizeof pauses[0]; i++) {
    lib.calls = 0;
    lib.fails = i % 2 ? 1 : 6;
    run_work ();
    assert_int_equal (conn.state, NBD_LINK_PAUSE);
    assert_string_equal (conn.error, "it said so");
    assert_int_equal (downs, i + 1);
    assert_false (was_up_last);
    assert_true (timer_seconds > pauses[i] * .99 &&
                 timer_seconds < pauses[i] * 1.01);
    conn.timer.run (&conn.timer);
    assert_int_equal (conn.state, NBD_LINK_RESOLVING);
    conn.timer.run (&conn.timer);       /* nothing */
  }
  lib.fails = 0;
  run_work ();
  lib.ready = true;
  sleep_once ();
  clock_now += 1;
  lib.dead = true;
  sleep_once ();
  assert_true (timer_seconds == 2);     /* it did not last */
  lib.dead = false;
  conn.timer.run (&conn.timer);
  run_work ();
  sleep_once ();
  clock_now += 10;
  lib.dead = true;
  sleep_once ();
  assert_true (timer_seconds == .1);
  assert_true (was_up_last);
}

static void
test_not_taken (void **state)
{
  (void) state;
  start ();
  run_work ();
  conn.timer.run (&conn.timer); /* the greeting takes too long */
  assert_int_equal (conn.state, NBD_LINK_PAUSE);
  assert_string_equal (conn.error, "no answer for 10 seconds");
  conn.timer.run (&conn.timer);
  run_work ();
  lib.closed = true;
  sleep_once ();
  assert_int_equal (conn.state, NBD_LINK_PAUSE);
  assert_string_equal (conn.error, "the server closed the connection");
  lib.closed = false;
  conn.timer.run (&conn.timer);
  run_work ();
  takes_it = false;
  lib.ready = true;
  sleep_once ();
  assert_int_equal (conn.state, NBD_LINK_PAUSE);
  conn.timer.run (&conn.timer);
  run_work ();
  lib.size = -1;
  sleep_once ();
  assert_int_equal (conn.state, NBD_LINK_PAUSE);
  assert_int_equal (downs, 4);
  assert_int_equal (turns, 0);
}

static void
test_dropped (void **state)
{
  (void) state;
  come_up ();
  drops = true;
  sleep_once ();
  assert_int_equal (conn.state, NBD_LINK_PAUSE);
  assert_string_equal (conn.error, "no use");
  assert_true (was_up_last);
  assert_false (conn.drop);
}

/* What libnbd says of a loss is kept, and told. */
static void
test_events (void **state)
{
  (void) state;
  come_up ();
  conn.watch.ready (&conn.watch, LOOP_READ | LOOP_WRITE);
  assert_int_equal (lib.reads, 1);
  conn.watch.ready (&conn.watch, LOOP_WRITE);   /* not wanted any more */
  assert_int_equal (lib.writes, 0);
  lib.direction = LIBNBD_AIO_DIRECTION_WRITE;
  conn.watch.ready (&conn.watch, LOOP_READ);
  assert_int_equal (lib.reads, 1);
  conn.watch.ready (&conn.watch, LOOP_WRITE);
  assert_int_equal (lib.writes, 1);
  lib.notify_result = -1;
  lib.dead = true;
  conn.watch.ready (&conn.watch, LOOP_WRITE);
  sleep_once ();
  assert_int_equal (conn.state, NBD_LINK_PAUSE);
  assert_string_equal (conn.error, "it said so");
}

/* Only a server that owes something can be silent. */
static void
test_silence (void **state)
{
  (void) state;
  come_up ();
  assert_true (timer_seconds == 30);
  clock_now += 30;
  conn.timer.run (&conn.timer);
  assert_int_equal (conn.state, NBD_LINK_UP);
  sleep_once ();                /* idle until now */
  lib.in_flight = 1;
  clock_now += 20;
  conn.timer.run (&conn.timer);
  assert_true (timer_seconds == 10);
  conn.watch.ready (&conn.watch, LOOP_READ);
  conn.timer.run (&conn.timer);
  assert_true (timer_seconds == 30);
  clock_now += 30;
  conn.timer.run (&conn.timer);
  assert_int_equal (conn.state, NBD_LINK_PAUSE);
  assert_string_equal (conn.error, "no answer for 30 seconds");
}

/* ---- The end ----------------------------------------------------------- */

static void
test_stop_before (void **state)
{
  (void) state;
  assert_int_equal (nbd_link_init (&conn), 0);
  assert_true (nbd_link_stop (&conn));
  posted->run (posted);
  assert_int_equal (conn.state, NBD_LINK_STOPPED);
  assert_null (work);
  conn.timer.run (&conn.timer);
  assert_int_equal (conn.state, NBD_LINK_STOPPED);
}

static void
test_stop_resolving (void **state)
{
  (void) state;
  start ();
  assert_false (nbd_link_stop (&conn));
  run_work ();
  assert_int_equal (stops, 1);
  assert_int_equal (lib.handles, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_plain),
    TEST (test_plain_fails),
    TEST (test_export),
    TEST (test_up),
    TEST (test_init_fails),
    TEST (test_pauses),
    TEST (test_not_taken),
    TEST (test_dropped),
    TEST (test_events),
    TEST (test_silence),
    TEST (test_stop_before),
    TEST (test_stop_resolving),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
