/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What becomes of requests and changes when the connection to a server comes,
 * goes, or brings another export, and for how long they wait.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake-nbd.h"

/* ---- Fetches ----------------------------------------------------------- */

/* One that is looked at after its end. */
static struct fetch *
submit (enum fetch_op op, uint64_t offset, uint64_t count)
{
  struct fetch *fetch = fetch_new (op, offset, count);

  assert_non_null (fetch);
  atomic_store (&fetch->holders, 2);
  if (op == FETCH_WRITE) {
    fetch->buf = calloc (1, count);
    assert_non_null (fetch->buf);
  }
  storage->ops->submit (storage, fetch);
  return fetch;
}

static bool
has_ended (const struct fetch *fetch)
{
  return atomic_load (&((struct fetch *) fetch)->ended);
}

static void
withdraw (struct fetch *fetch)
{
  struct qed_request request = { .fetch = fetch };

  fetch_drop (&request);
}

static void
expect_end (struct fetch *fetch, int error)
{
  assert_true (has_ended (fetch));
  assert_int_equal (fetch->error, error);
  withdraw (fetch);
}

static int loops_result;

static void
loops_ended (struct fetch *fetch)
{
  loops_result = fetch->error;
}

/* ---- On a loop --------------------------------------------------------- */

static void
test_start_fails (void **state)
{
  (void) state;
  assert_int_equal (open_storage (0), 0);
  timer_error = -ENOMEM;
  assert_int_equal (start_storage (), -ENOMEM);
  timer_error = 0;
  init_error = -ENOMEM;
  assert_int_equal (start_storage (), -ENOMEM);
  assert_null (nbd->loop);
}

/* What is asked before there is a connection waits for it, in order. */
static void
test_wait_for_connection (void **state)
{
  struct fetch *one, *two, *gone;

  (void) state;
  open_and_start (0);
  one = submit (FETCH_READ, 0, 512);
  gone = submit (FETCH_READ, 512, 512);
  two = submit (FETCH_READ, 1024, 512);
  assert_true (timer_runs);
  withdraw (gone);
  go_up ();
  assert_false (timer_runs);
  assert_int_equal (sent_count, 2);
  assert_ptr_equal (sent[0], one);
  end_sent (1, 0);
  turn ();
  expect_end (two, 0);
  assert_false (has_ended (one));
  end_sent (0, -ENOSPC);        /* what reads don't know */
  turn ();
  expect_end (one, -EIO);
}

static void
test_patience (void **state)
{
  struct fetch *read, *flush, *loops, *late, *cache;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_down ();
  expect_said ("cannot be connected to");
  read = submit (FETCH_READ, 0, 512);
  flush = submit (FETCH_FLUSH, 0, 0);
  loops = submit (FETCH_READ, 0, 512);
  loops->done = loops_ended;
  cache = submit (FETCH_CACHE, 0, 512);
  expect_end (cache, 0);        /* nobody waits for it */
  clock_now += 20;
  nbd->tick.run (&nbd->tick);
  assert_false (has_ended (read));
  late = submit (FETCH_READ, 0, 512);
  clock_now += 11;
  nbd->tick.run (&nbd->tick);
  expect_said ("what has waited long enough fails");
  expect_end (read, -EIO);
  expect_end (flush, -ENOTCONN);
  expect_end (loops, -ENOTCONN);
  assert_int_equal (loops_result, -ENOTCONN);
  assert_false (has_ended (late));
  errors = 0;
  clock_now += 30;
  nbd->tick.run (&nbd->tick);
  expect_end (late, -EIO);
  assert_int_equal (errors, 0); /* it was said */
  go_up ();
  expect_said ("is back after 61 seconds");
  nbd->tick.run (&nbd->tick);       /* with a connection it does nothing */
}

/* For those who can't go on without: the first loss of patience is the end. */
static void
test_once (void **state)
{
  struct fetch *read, *late;

  (void) state;
  open_and_start (STORAGE_NBD_ONCE);
  go_down ();
  read = submit (FETCH_READ, 0, 512);
  clock_now += 31;
  nbd->tick.run (&nbd->tick);
  expect_said ("start again when the server is back");
  expect_end (read, -ENOTCONN);
  late = submit (FETCH_READ, 0, 512);
  expect_end (late, -ENOTCONN);
}

static void
test_given_up (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (0);
  go_down ();
  read = submit (FETCH_READ, 0, 512);
  storage_give_up (storage);
  nbd->tick.run (&nbd->tick);
  expect_end (read, -EIO);
}

/* What the connection took with it is asked again; what nobody wants is not. */
static void
test_loss (void **state)
{
  struct fetch *one, *two, *gone, *cache;

  (void) state;
  open_and_start (0);
  go_up ();
  one = submit (FETCH_READ, 0, 512);
  gone = submit (FETCH_READ, 0, 512);
  cache = submit (FETCH_CACHE, 0, 512);
  two = submit (FETCH_READ, 512, 512);
  turn ();
  assert_int_equal (sent_count, 4);
  withdraw (gone);
  go_down ();
  expect_said ("was lost");
  expect_end (cache, -EIO);
  clock_now += 1;
  go_up ();
  assert_int_equal (sent_count, 2);
  assert_ptr_equal (sent[0], one);
  assert_ptr_equal (sent[1], two);
  end_sent (0, 0);
  end_sent (0, 0);
  turn ();
  expect_end (one, 0);
  expect_end (two, 0);
}

/* A server that says that it ends is left, and the next one asked. */
static void
test_shutdown (void **state)
{
  struct fetch *one, *two;

  (void) state;
  open_and_start (0);
  go_up ();
  one = submit (FETCH_READ, 0, 512);
  two = submit (FETCH_READ, 512, 512);
  turn ();
  end_sent (0, -ESHUTDOWN);
  turn ();
  assert_true (nbd->link.drop);
  assert_string_equal (nbd->link.error, "the server is shutting down");
  assert_false (has_ended (one));
  go_down ();
  assert_false (has_ended (two));
  go_up ();
  assert_int_equal (sent_count, 2);
  end_sent (0, 0);
  end_sent (0, 0);
  turn ();
  expect_end (one, 0);
  expect_end (two, 0);
}

static void
test_no_room (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (0);
  go_up ();
  full = true;
  read = submit (FETCH_READ, 0, 512);
  turn ();
  assert_int_equal (sent_count, 0);
  full = false;
  answers = true;
  turn ();
  expect_end (read, 0);
}

/* Those are advice, and not kept without end. */
static void
test_many_caches (void **state)
{
  struct fetch *caches[70];
  unsigned i, ended = 0;

  (void) state;
  open_and_start (0);
  go_up ();
  for (i = 0; i < 70; i++) {
    caches[i] = submit (FETCH_CACHE, i * 512, 512);
    ended += has_ended (caches[i]);
  }
  assert_int_equal (ended, 6);
  answers = true;
  turn ();
  for (i = 0; i < 70; i++)
    expect_end (caches[i], 0);
  assert_int_equal (atomic_load (&nbd->caches), 0);
}

/* ---- Another export ---------------------------------------------------- */

static void
come_back_changed (void)
{
  server.size = 4096;
  nbd->link.nbd = (struct nbd_handle *) &server;
  nbd->link.export = server;
  assert_false (nbd->link.up (&nbd->link));
  go_down ();
}

static void
test_other_export (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (0);
  go_up ();
  read = submit (FETCH_READ, 0, 512);
  turn ();
  go_down ();
  come_back_changed ();
  expect_said ("is not the same any more: it has 4096 bytes now");
  expect_end (read, -EIO);
  errors = 0;
  come_back_changed ();
  assert_int_equal (errors, 0); /* it was said */
  read = submit (FETCH_READ, 0, 512);
  server.size = SIZE;
  answers = true;
  go_up ();
  expect_end (read, 0);
}

static void
test_other_export_once (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (STORAGE_NBD_ONCE);
  read = submit (FETCH_READ, 0, 512);
  come_back_changed ();
  expect_said ("start again when nobody else changes it");
  expect_end (read, -ENOTCONN);
  read = submit (FETCH_READ, 0, 512);
  expect_end (read, -ENOTCONN);
}

/* ---- Changes ----------------------------------------------------------- */

/* Acknowledged and not flushed: made again before anything else. */
static void
test_made_again (void **state)
{
  struct fetch *one, *two, *flush;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  one = submit (FETCH_WRITE, 0, 512);
  turn ();
  end_sent (0, 0);
  turn ();
  expect_end (one, 0);
  two = submit (FETCH_WRITE, 4096, 512);
  flush = submit (FETCH_FLUSH, 0, 0);
  turn ();
  assert_int_equal (sent_count, 2);
  go_down ();
  go_up ();
  assert_int_equal (sent_count, 1);     /* that which was acknowledged */
  assert_true (sent[0]->kept && sent[0]->offset == 0);
  go_down ();                           /* once more */
  go_up ();
  assert_int_equal (sent_count, 1);
  end_sent (0, 0);
  turn ();
  assert_int_equal (sent_count, 2);
  end_sent (0, 0);
  end_sent (0, 0);
  turn ();
  expect_end (two, 0);
  expect_end (flush, 0);
}

/* A flush that fails is the end of all; what is written would be kept for
 * ever.
 */
static void
test_flush_fails (void **state)
{
  struct fetch *write, *flush;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  flush = submit (FETCH_FLUSH, 0, 0);
  turn ();
  end_sent (0, -ENOSPC);
  turn ();
  expect_end (flush, -EIO);
  answers = true;
  write = submit (FETCH_WRITE, 0, 512);
  turn ();
  expect_end (write, -EIO);
  flush = submit (FETCH_FLUSH, 0, 0);
  turn ();
  expect_end (flush, -EIO);
  write = submit (FETCH_READ, 0, 512);
  turn ();
  expect_end (write, 0);
}

static void
write_some (unsigned mib)
{
  struct fetch *write;
  unsigned i;

  answers = true;
  for (i = 0; i < mib; i++) {
    write = submit (FETCH_WRITE, i * MIB, MIB);
    turn ();
    expect_end (write, 0);
  }
  answers = false;
}

/* From so many on, the server is asked to flush by ourselves. */
static void
test_own_flush (void **state)
{
  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  write_some (31);
  turn ();
  assert_int_equal (sent_count, 0);
  write_some (1);
  turn ();
  assert_int_equal (sent_count, 1);
  assert_int_equal (sent[0]->op, FETCH_FLUSH);
  turn ();
  assert_int_equal (sent_count, 1);     /* one at a time */
  end_sent (0, 0);
  turn ();
  assert_true (nbd->kept.bytes == 0);
}

/* While it is under way others wait when there is too much; a lost one is
 * sent again.
 */
static void
test_own_flush_lost (void **state)
{
  struct fetch *write;
  unsigned n;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  for (n = 0; n < 100; n++) {
    write = submit (FETCH_WRITE, n * MIB, MIB);
    turn ();
    if (sent_count > 0 && sent[sent_count - 1]->op == FETCH_WRITE) {
      end_sent (sent_count - 1, 0);
      turn ();
    }
    if (!has_ended (write))
      break;
    withdraw (write);
  }
  assert_in_range (n, 64, 66);  /* the flush has no answer */
  assert_int_equal (sent_count, 1);
  assert_int_equal (sent[0]->op, FETCH_FLUSH);
  go_down ();
  go_up ();
  answers = true;
  while (sent_count > 0) {      /* what is kept */
    end_sent (0, 0);
    turn ();
  }
  turn ();
  expect_end (write, 0);
  assert_true (nbd->kept.bytes <= 2 * MIB);
}

/* ---- The end ----------------------------------------------------------- */

static void
test_stop (void **state)
{
  struct fetch *read, *waits;

  (void) state;
  open_and_start (0);
  go_up ();
  read = submit (FETCH_READ, 0, 512);
  turn ();
  full = true;
  waits = submit (FETCH_READ, 512, 512);
  worker_is_out = true;
  stopped_calls = 0;
  assert_false (storage->ops->stop (storage));
  assert_false (has_ended (read));
  nbd->link.stopped (&nbd->link);
  assert_int_equal (stopped_calls, 1);
  worker_is_out = false;
  assert_true (storage->ops->stop (storage));
  expect_end (read, -ESHUTDOWN);
  expect_end (waits, -ESHUTDOWN);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_NBD_TEST (test_start_fails),
    FAKE_NBD_TEST (test_wait_for_connection),
    FAKE_NBD_TEST (test_patience),
    FAKE_NBD_TEST (test_once),
    FAKE_NBD_TEST (test_given_up),
    FAKE_NBD_TEST (test_loss),
    FAKE_NBD_TEST (test_shutdown),
    FAKE_NBD_TEST (test_no_room),
    FAKE_NBD_TEST (test_many_caches),
    FAKE_NBD_TEST (test_other_export),
    FAKE_NBD_TEST (test_other_export_once),
    FAKE_NBD_TEST (test_made_again),
    FAKE_NBD_TEST (test_flush_fails),
    FAKE_NBD_TEST (test_own_flush),
    FAKE_NBD_TEST (test_own_flush_lost),
    FAKE_NBD_TEST (test_stop),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
