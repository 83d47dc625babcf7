/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Requests that wait and are given up, wherever they wait, and closing an
 * image in every state.  A request that was given up is freed at once: a
 * sanitizer sees it if anyone touches it later.
 */

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

#include "fake-image.h"

#define TABLE AT_END
#define FIRST (AT_END + CLUSTER)

/* An image with one cluster at the guest's offset 0. */
static void
make_image (void)
{
  fake->length = AT_END + 2 * CLUSTER;
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE, FIRST);
}

/* ---- Giving up ---- */

/* Some of those who wait for NEED_CHECK, while it is written and before. */
static void
test_withdraw_mark (void **state)
{
  struct pending *writes[6];
  unsigned i;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_SYNC, 0, 1, 0, 1);
  for (i = 0; i < 3; i++)
    writes[i] = start_write (i * TABLE_SPAN, i + 1);
  fake_wait_held (fake, 1);
  for (i = 3; i < 6; i++)
    writes[i] = start_write (i * TABLE_SPAN, i + 1);
  for (i = 0; i < 6; i++)
    assert_int_equal (writes[i]->result, QED_WAIT);
  for (i = 0; i < 6; i += 2)
    pending_withdraw (image, writes[i]);
  fake_let_go (fake);
  for (i = 1; i < 6; i += 2)
    assert_int_equal (pending_finish (image, writes[i]), 0);
  for (i = 0; i < 6; i++)
    expect_byte (i * TABLE_SPAN, i % 2 ? i + 1 : 0);
  assert_int_equal (close_image (), 0);
}

static void
test_withdraw_flush (void **state)
{
  struct pending *flushes[4];
  unsigned i;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_SYNC, 0, 1, 0, 1);
  flushes[0] = start_flush ();
  fake_wait_held (fake, 1);
  for (i = 1; i < 4; i++)
    flushes[i] = start_flush ();
  pending_withdraw (image, flushes[0]);         /* the one that runs */
  pending_withdraw (image, flushes[2]);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, flushes[1]), 0);
  assert_int_equal (pending_finish (image, flushes[3]), 0);
  assert_int_equal (flush_image (), 0);
  assert_int_equal (close_image (), 0);
}

static void
test_withdraw_scan (void **state)
{
  struct pending *one, *two, *three;

  (void) state;
  make_image ();
  assert_int_equal (open_image (), 0);
  fake_rule_add (fake, FAKE_READ, TABLE, FIRST, 0, 1);
  assert_int_equal (qed_start (image), 0);
  fake_wait_held (fake, 1);
  one = start_write (TABLE_SPAN, 1);    /* these need no other table */
  two = start_write (2 * TABLE_SPAN, 2);
  three = start_write (3 * TABLE_SPAN, 3);
  assert_int_equal (one->result, QED_WAIT);
  assert_int_equal (two->result, QED_WAIT);
  assert_int_equal (three->result, QED_WAIT);
  pending_withdraw (image, three);
  pending_withdraw (image, one);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, two), 0);
  expect_byte (TABLE_SPAN, 0);
  expect_byte (2 * TABLE_SPAN, 2);
  assert_int_equal (close_image (), 0);
}

static int read_in_thread_result;

static void *
read_in_thread (void *arg)
{
  (void) arg;
  read_in_thread_result = read_result (0);
  return NULL;
}

/* Of two who wait for a third to read a page. */
static void
test_withdraw_load (void **state)
{
  struct pending *one, *two;
  pthread_t thread;
  unsigned char buf[2][512];

  (void) state;
  make_image ();
  start_image ();
  fake_rule_add (fake, FAKE_READ, TABLE, FIRST, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, read_in_thread, NULL), 0);
  fake_wait_held (fake, 1);
  one = pending_start (image, QED_OP_READ, buf[0], 512, 0, 0);
  two = pending_start (image, QED_OP_READ, buf[1], 512, 512, 0);
  assert_int_equal (one->result, QED_WAIT);
  assert_int_equal (two->result, QED_WAIT);
  pending_withdraw (image, two);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, one), 0);
  pthread_join (thread, NULL);
  assert_int_equal (read_in_thread_result, 0);
  assert_int_equal (close_image (), 0);
}

static void *
read_second (void *arg)
{
  (void) arg;
  read_in_thread_result = read_result (CLUSTER);
  return NULL;
}

static int write_in_thread_result;

static void *
write_in_thread (void *arg)
{
  (void) arg;
  write_in_thread_result = write_byte (TABLE_SPAN, 1, 0);
  return NULL;
}

/* Of two who wait for a third to make the file longer. */
static void
test_withdraw_grow (void **state)
{
  struct pending *one, *two;
  pthread_t thread;

  (void) state;
  make_image ();
  start_image ();
  assert_int_equal (write_byte (512, 1, QED_FUA), 0);
  fake_rule_add (fake, FAKE_RESIZE, 0, UINT64_MAX, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, write_in_thread, NULL), 0);
  fake_wait_held (fake, 1);
  one = start_write (CLUSTER, 3);
  two = start_write (2 * CLUSTER, 4);
  assert_int_equal (one->result, QED_WAIT);
  assert_int_equal (two->result, QED_WAIT);
  pending_withdraw (image, one);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, two), 0);
  pthread_join (thread, NULL);
  assert_int_equal (write_in_thread_result, 0);
  expect_byte (CLUSTER, 0);
  expect_byte (2 * CLUSTER, 4);
  assert_int_equal (close_image (), 0);
}

/* Of two who wait for a third to make the table that all of them need; who
 * needs another does not wait.  No second table is made for nothing: the
 * clusters in use lie side by side.
 */
static void
test_withdraw_table (void **state)
{
  struct pending *one, *two;
  pthread_t thread;

  (void) state;
  make_image ();
  fake->length += 20 * CLUSTER;         /* no one's, but not known as zeros */
  start_image ();
  assert_int_equal (write_byte (512, 1, QED_FUA), 0);
  fake_rule_add (fake, FAKE_ZERO, FIRST + CLUSTER, FIRST + 2 * CLUSTER, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, write_in_thread, NULL), 0);
  fake_wait_held (fake, 1);
  one = start_write (TABLE_SPAN + CLUSTER, 3);
  two = start_write (TABLE_SPAN + 2 * CLUSTER, 4);
  assert_int_equal (one->result, QED_WAIT);
  assert_int_equal (two->result, QED_WAIT);
  assert_int_equal (write_byte (2 * TABLE_SPAN, 5, 0), 0);
  pending_withdraw (image, one);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, two), 0);
  pthread_join (thread, NULL);
  assert_int_equal (write_in_thread_result, 0);
  expect_byte (TABLE_SPAN, 1);
  expect_byte (TABLE_SPAN + CLUSTER, 0);
  expect_byte (TABLE_SPAN + 2 * CLUSTER, 4);
  expect_byte (2 * TABLE_SPAN, 5);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake->length, FIRST + 6 * CLUSTER);
}

/* Again and again, at whatever moment it is. */
static _Atomic bool stop;

static void *
flush_often (void *arg)
{
  (void) arg;
  while (!atomic_load (&stop))
    if (flush_image () != 0)
      return (void *) 1;
  return NULL;
}

static void
test_withdraw_race (void **state)
{
  struct pending *pending;
  pthread_t threads[2];
  void *failed;
  unsigned i;

  (void) state;
  start_image ();
  atomic_store (&stop, false);
  for (i = 0; i < 2; i++)
    assert_int_equal (pthread_create (&threads[i], NULL, flush_often, NULL),
                      0);
  for (i = 0; i < 3000; i++) {
    pending = i % 2 ? start_flush ()
      : start_write (i % TABLES * TABLE_SPAN + i / TABLES * 512, 1);
    if (pending->result == QED_WAIT)
      pending_withdraw (image, pending);
    else
      assert_int_equal (pending_finish (image, pending), 0);
  }
  atomic_store (&stop, true);
  for (i = 0; i < 2; i++) {
    pthread_join (threads[i], &failed);
    assert_null (failed);
  }
  assert_int_equal (close_image (), 0);
}

/* ---- A reader that is stuck ---- */

/* With clusters 0 to 2 of the disk, one reads cluster 1 and does not get on;
 * what is freed meanwhile can't be used.
 */
static void
free_behind_reader (pthread_t *reader)
{
  make_image ();
  fake->length += 2 * CLUSTER;
  fake_poke64 (fake, TABLE + 8, FIRST + CLUSTER);
  fake_poke64 (fake, TABLE + 16, FIRST + 2 * CLUSTER);
  start_image ();
  fake_rule_add (fake, FAKE_READ, FIRST + CLUSTER, FIRST + 2 * CLUSTER, 0, 1);
  assert_int_equal (pthread_create (reader, NULL, read_second, NULL), 0);
  fake_wait_held (fake, 1);
  assert_int_equal (sync_request (image, QED_OP_TRIM, NULL, CLUSTER, 0, 0),
                    0);
  assert_int_equal (sync_request (image, QED_OP_TRIM, NULL, CLUSTER,
                                  2 * CLUSTER, 0), 0);
  assert_int_equal (flush_image (), 0);
}

/* The file can grow. */
static void
test_stuck_grows (void **state)
{
  pthread_t reader;

  (void) state;
  free_behind_reader (&reader);
  alarm (60);
  assert_int_equal (write_byte (3 * CLUSTER, 3, 0), 0);
  assert_int_equal (write_byte (4 * CLUSTER, 4, 0), 0);
  alarm (0);
  assert_true (fake->length > FIRST + 3 * CLUSTER);
  fake_let_go (fake);
  pthread_join (reader, NULL);
  assert_int_equal (close_image (), 0);
}

/* It can't: who needs room waits, and writes nothing back meanwhile. */
static void
test_stuck_waits (void **state)
{
  pthread_t reader, writer;

  (void) state;
  fake->storage.can_grow = false;
  free_behind_reader (&reader);
  assert_int_equal (pthread_create (&writer, NULL, write_in_thread, NULL), 0);
  usleep (1300000);
  fake_forget (fake);
  usleep (300000);
  assert_int_equal (fake_calls (fake, FAKE_SYNC), 0);
  fake_let_go (fake);
  pthread_join (writer, NULL);
  assert_int_equal (write_in_thread_result, 0);
  pthread_join (reader, NULL);
  expect_byte (TABLE_SPAN, 1);
  assert_int_equal (close_image (), 0);
}

/* Nor does it stop others when the image has been idle for long. */
static void
test_stuck_idle (void **state)
{
  pthread_t reader;

  (void) state;
  fake_clean_after = 1;
  free_behind_reader (&reader);
  sleep (2);
  alarm (60);
  assert_int_equal (flush_image (), 0);
  assert_int_equal (write_byte (3 * CLUSTER, 3, 0), 0);
  alarm (0);
  assert_true (need_check ());
  fake_let_go (fake);
  pthread_join (reader, NULL);
  sleep (2);
  assert_false (need_check ());
  assert_int_equal (close_image (), 0);
  fake_clean_after = 0;
}

/* ---- Closing ---- */

static void
test_close_never_started (void **state)
{
  (void) state;
  make_image ();
  assert_int_equal (open_image (), 0);
  fake_forget (fake);
  assert_int_equal (close_image (), 0);
  expect_calls (NULL, 0);
}

static void
test_close_at_once (void **state)
{
  unsigned i;

  (void) state;
  make_image ();
  for (i = 0; i < 50; i++) {
    assert_int_equal (open_image (), 0);
    assert_int_equal (qed_start (image), 0);
    assert_int_equal (close_image (), 0);
  }
}

static void *
close_in_thread (void *arg)
{
  *(int *) arg = qed_close (image);
  return NULL;
}

/* The scan ends when its read does, and nothing is cut by what it knows. */
static void
close_while_scanning (uint64_t at)
{
  pthread_t thread;
  int result = 1;

  make_image ();
  fake->length = AT_END + 10 * CLUSTER;
  assert_int_equal (open_image (), 0);
  fake_forget (fake);
  fake_rule_add (fake, FAKE_READ, at, at + CLUSTER, 0, 1);
  assert_int_equal (qed_start (image), 0);
  fake_wait_held (fake, 1);
  assert_int_equal (pthread_create (&thread, NULL, close_in_thread, &result),
                    0);
  while (!image_close_wanted (image))
    ;
  fake_let_go (fake);
  pthread_join (thread, NULL);
  assert_int_equal (result, 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_RESIZE), 0);
}

static void
test_close_walking_l1 (void **state)
{
  (void) state;
  close_while_scanning (AT_L1);
}

static void
test_close_reading_l2 (void **state)
{
  (void) state;
  close_while_scanning (TABLE);
}

/* The timer: NEED_CHECK goes by itself, and comes again. */
static void
test_clean_after (void **state)
{
  struct qed_options options;
  unsigned i;

  (void) state;
  qed_options_init (&options);
  options.path = "fake";
  options.clean_after = 1;
  options.log.fn = log_quietly;
  assert_int_equal (image_open_storage (&options, &fake->storage, &image), 0);
  assert_int_equal (qed_start (image), 0);
  for (i = 1; i <= 2; i++) {
    assert_int_equal (write_byte (i * CLUSTER, i, 0), 0);
    assert_true (need_check ());
    while (need_check ())
      usleep (20000);
    assert_true (fake_peek64 (fake, TABLE + i * 8) != 0);
  }
  expect_byte (CLUSTER, 1);
  expect_byte (2 * CLUSTER, 2);
  assert_int_equal (close_image (), 0);
}

/* A loop that is stuck in a task gives no sign of life, and then does. */
struct stuck {
  struct loop_task task;
  sem_t go_on;
};

static void
be_stuck (struct loop_task *task)
{
  sem_wait (&((struct stuck *) task)->go_on);
}

/* Until the one that was asked for has come. */
static bool
beats_soon (void)
{
  unsigned i;

  for (i = 0; i < 500 && !qed_beats (image); i++)
    usleep (10000);
  return i < 500;
}

static void
test_beats (void **state)
{
  struct stuck stuck = { .task.run = be_stuck };

  (void) state;
  assert_int_equal (open_image (), 0);
  assert_true (qed_beats (image));      /* without a loop */
  assert_true (qed_beats (image));
  assert_int_equal (qed_start (image), 0);
  assert_true (beats_soon ());
  assert_true (beats_soon ());
  sem_init (&stuck.go_on, 0, 0);
  loop_post (image->loop, &stuck.task);
  assert_true (beats_soon ());          /* before it was stuck */
  usleep (50000);
  assert_false (qed_beats (image));
  assert_false (qed_beats (image));
  sem_post (&stuck.go_on);
  assert_true (beats_soon ());
  assert_int_equal (close_image (), 0);
  sem_destroy (&stuck.go_on);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_withdraw_mark),
    FAKE_IMAGE_TEST (test_withdraw_flush),
    FAKE_IMAGE_TEST (test_withdraw_scan),
    FAKE_IMAGE_TEST (test_withdraw_load),
    FAKE_IMAGE_TEST (test_withdraw_grow),
    FAKE_IMAGE_TEST (test_withdraw_table),
    FAKE_IMAGE_TEST (test_withdraw_race),
    FAKE_IMAGE_TEST (test_stuck_grows),
    FAKE_IMAGE_TEST (test_stuck_waits),
    FAKE_IMAGE_TEST (test_stuck_idle),
    FAKE_IMAGE_TEST (test_close_never_started),
    FAKE_IMAGE_TEST (test_close_at_once),
    FAKE_IMAGE_TEST (test_close_walking_l1),
    FAKE_IMAGE_TEST (test_close_reading_l2),
    FAKE_IMAGE_TEST (test_clean_after),
    FAKE_IMAGE_TEST (test_beats),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
