/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Requests over a backing file that is a socket: they wait for it, without
 * holding anything up, may be given up at any moment, and look up anew what
 * they need.  The socket is the test's own: it answers when it is told.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake-socket.h"

/* ---- The image above --------------------------------------------------- */

static unsigned char buf[16 * CLUSTER], data[4 * CLUSTER];

static int
setup (void **state)
{
  static const char name[] = "nbd://there/";
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 1, .header_size = 1,
    .features = QED_F_BACKING_FILE, .l1_table_offset = AT_L1,
    .image_size = IMAGE_SIZE, .backing_filename_offset = 64,
    .backing_filename_size = sizeof name - 1,
  };
  struct qed_options options;

  (void) state;
  fake = fake_new (0, UINT64_C (16) << 20);
  fake_format (fake, &header);
  fake_poke (fake, name, sizeof name - 1, 64);
  sock_reset ();
  memset (buf, 0xee, sizeof buf);
  memset (data, 0xdd, sizeof data);

  qed_options_init (&options);
  options.path = "fake";
  options.backing = QED_BACKING_ANY;
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.clean_after = 0;
  options.log.fn = log_quietly;
  assert_int_equal (image_open_storage (&options, &fake->storage, &image), 0);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  return 0;
}

static int
teardown (void **state)
{
  assert_int_equal (close_image (), 0);
  assert_true (sock.closed);
  assert_int_equal (sock.stops, 2);
  assert_null (sock.first);
  pthread_mutex_destroy (&sock.lock);
  return fake_image_teardown (state);
}

static struct pending *
start_read (uint64_t offset, uint64_t count)
{
  return pending_start (image, QED_OP_READ, buf, count, offset, 0);
}

/* It was woken: a step on, to the next wait. */
static void
run_to_wait (struct pending *pending)
{
  assert_int_equal (pending->wakes, 1);
  pending->wakes = 0;
  pending->result = qed_request_run (image, &pending->request);
  assert_int_equal (pending->result, QED_WAIT);
}

static void
expect_backing (uint64_t offset, uint64_t count)
{
  uint64_t i;

  for (i = 0; i < count; i++)
    assert_int_equal (buf[i], backing_byte (offset + i));
}

/* Whoever waits holds neither a guard nor the gate. */
static void
expect_nothing_held (void)
{
  assert_true (guard_passed (&image->guards, guard_mark (&image->guards)));
  assert_int_equal (atomic_load (&image->gate.word) & ~GATE_OPEN, 0);
}

/* ---- Reading ----------------------------------------------------------- */

static void
test_read (void **state)
{
  struct pending *read = start_read (100, 3 * CLUSTER);

  (void) state;
  assert_int_equal (read->result, QED_WAIT);
  expect_nothing_held ();
  answer (100, 3 * CLUSTER, 0);
  assert_int_equal (pending_finish (image, read), 0);
  expect_backing (100, 3 * CLUSTER);
  assert_int_equal (sock.submitted, 1);
}

/* What is asked for ends where the backing file does. */
static void
test_read_end (void **state)
{
  struct pending *read = start_read (8 * CLUSTER, CLUSTER);
  unsigned i;

  (void) state;
  answer (8 * CLUSTER, 1000, 0);
  assert_int_equal (pending_finish (image, read), 0);
  expect_backing (8 * CLUSTER, 1000);
  for (i = 1000; i < CLUSTER; i++)
    assert_int_equal (buf[i], 0);
}

static void
test_read_many (void **state)
{
  struct pending *reads[8];
  static unsigned char content[8][CLUSTER];
  unsigned i, j;

  (void) state;
  for (i = 0; i < 8; i++)
    reads[i] = pending_start (image, QED_OP_READ, content[i], CLUSTER,
                              i * CLUSTER, 0);
  assert_int_equal (sock.submitted, 8);
  for (i = 0; i < 8; i++)
    answer (i * CLUSTER, CLUSTER, 0);
  for (i = 0; i < 8; i++) {
    assert_int_equal (pending_finish (image, reads[i]), 0);
    for (j = 0; j < CLUSTER; j++)
      assert_int_equal (content[i][j], backing_byte (i * CLUSTER + j));
  }
}

/* An error is that request's alone. */
static void
test_read_error (void **state)
{
  struct pending *one = start_read (0, CLUSTER);
  struct pending *two = start_read (CLUSTER, CLUSTER);

  (void) state;
  answer (0, CLUSTER, -EIO);
  answer (CLUSTER, CLUSTER, 0);
  assert_int_equal (pending_finish (image, one), -EIO);
  assert_int_equal (pending_finish (image, two), 0);
  expect_backing (CLUSTER, CLUSTER);
  assert_true (qed_writable (image));
}

/* While the server is asked another request writes: what counts is what the
 * tables say afterwards, and nothing is asked twice.
 */
static void
test_read_overtaken (void **state)
{
  struct pending *read = start_read (0, 4 * CLUSTER);

  (void) state;
  assert_int_equal (sync_request (image, QED_OP_WRITE, data, CLUSTER,
                                  CLUSTER, 0), 0);
  assert_int_equal (sync_request (image, QED_OP_ZERO, NULL, CLUSTER,
                                  3 * CLUSTER, 0), 0);
  answer (0, 4 * CLUSTER, 0);
  assert_int_equal (pending_finish (image, read), 0);
  expect_backing (0, CLUSTER);
  assert_memory_equal (buf + CLUSTER, data, CLUSTER);
  assert_int_equal (buf[2 * CLUSTER], backing_byte (2 * CLUSTER));
  assert_int_equal (buf[3 * CLUSTER], 0);
  assert_int_equal (sock.submitted, 1);
}

/* And an error for what isn't needed any more is none. */
static void
test_error_overtaken (void **state)
{
  struct pending *read = start_read (0, CLUSTER);

  (void) state;
  assert_int_equal (sync_request (image, QED_OP_WRITE, data, CLUSTER, 0, 0),
                    0);
  answer (0, CLUSTER, -EIO);
  assert_int_equal (pending_finish (image, read), 0);
  assert_memory_equal (buf, data, CLUSTER);
}

/* ---- Giving up --------------------------------------------------------- */

/* The answer comes when the request is long gone: a sanitizer sees who would
 * touch it.
 */
static void
test_withdraw (void **state)
{
  struct pending *one = start_read (0, CLUSTER);
  struct pending *two = start_read (0, CLUSTER);

  (void) state;
  pending_withdraw (image, one);
  answer (0, CLUSTER, 0);
  answer (0, CLUSTER, 0);
  assert_int_equal (pending_finish (image, two), 0);
  expect_backing (0, CLUSTER);
}

/* The answer is there, but was not taken yet. */
static void
test_withdraw_woken (void **state)
{
  struct pending *read = start_read (0, CLUSTER);

  (void) state;
  answer (0, CLUSTER, 0);
  pending_withdraw (image, read);
  assert_int_equal (buf[0], 0xee);
}

static void
test_withdraw_extents (void **state)
{
  struct pending *pending = pending_start (image, QED_OP_EXTENTS, NULL,
                                           CLUSTER, 0, 0);
  struct fetch *fetch = take ();

  (void) state;
  assert_int_equal (fetch->op, FETCH_EXTENTS);
  pending_withdraw (image, pending);
  assert_false (atomic_load (&fetch->wanted));
  fetch_end (fetch, -EIO);
}

/* A write that waits for its fill gives its claim back. */
static void
test_withdraw_write (void **state)
{
  struct pending *one, *two;

  (void) state;
  one = pending_start (image, QED_OP_WRITE, data, 10, 100, 0);
  two = pending_start (image, QED_OP_WRITE, data, 10, 200, 0);
  assert_int_equal (sock.submitted, 1);
  expect_nothing_held ();
  pending_withdraw (image, one);
  answer (0, CLUSTER, 0);
  run_to_wait (two);
  answer (0, CLUSTER, 0);
  assert_int_equal (pending_finish (image, two), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER, 0, 0), 0);
  expect_backing (0, 200);
  assert_memory_equal (buf + 200, data, 10);
  assert_int_equal (buf[210], backing_byte (210));
}

static _Atomic bool stop;

static void *
answer_all (void *arg)
{
  struct fetch *fetch;

  (void) arg;
  while ((fetch = take ()) != NULL || !atomic_load (&stop))
    if (fetch)
      answer_read (fetch, fetch->offset % 5 ? 0 : -EIO);
    else
      sched_yield ();
  return NULL;
}

/* At whatever moment it is. */
static void
test_withdraw_race (void **state)
{
  struct pending *read;
  pthread_t thread;
  unsigned i, j;
  int r;

  (void) state;
  atomic_store (&stop, false);
  assert_int_equal (pthread_create (&thread, NULL, answer_all, NULL), 0);
  for (i = 0; i < 5000; i++) {
    read = start_read (i % (7 * CLUSTER), 100);
    for (j = 0; j < i % 7; j++)
      sched_yield ();
    if (i % 2)
      pending_withdraw (image, read);
    else {
      r = pending_finish (image, read);
      assert_int_equal (r, i % (7 * CLUSTER) % 5 ? 0 : -EIO);
      if (r == 0)
        expect_backing (i % (7 * CLUSTER), 100);
    }
  }
  atomic_store (&stop, true);
  pthread_join (thread, NULL);
}

/* ---- Writing ----------------------------------------------------------- */

/* What surrounds the data comes in one read. */
static void
test_copy_on_write (void **state)
{
  struct pending *write = pending_start (image, QED_OP_WRITE, data, 100,
                                         2 * CLUSTER + 1000, QED_FUA);

  (void) state;
  assert_int_equal (write->result, QED_WAIT);
  expect_nothing_held ();
  answer (2 * CLUSTER, CLUSTER, 0);
  assert_int_equal (pending_finish (image, write), 0);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, CLUSTER,
                                  2 * CLUSTER, 0), 0);
  expect_backing (2 * CLUSTER, 1000);
  assert_memory_equal (buf + 1000, data, 100);
  assert_int_equal (buf[1100], backing_byte (2 * CLUSTER + 1100));
  assert_int_equal (sock.submitted, 1);
}

/* Whole clusters need nothing; a fill that fails changes nothing. */
static void
test_write (void **state)
{
  struct pending *write;

  (void) state;
  assert_int_equal (sync_request (image, QED_OP_WRITE, data, 2 * CLUSTER,
                                  0, 0), 0);
  assert_int_equal (sock.submitted, 0);
  write = pending_start (image, QED_OP_WRITE, data, 1, 3 * CLUSTER, 0);
  answer (3 * CLUSTER + 1, CLUSTER - 1, -EIO);
  assert_int_equal (pending_finish (image, write), -EIO);
  assert_true (qed_writable (image));
  write = pending_start (image, QED_OP_WRITE, data, 1, 3 * CLUSTER, 0);
  answer (3 * CLUSTER + 1, CLUSTER - 1, 0);
  assert_int_equal (pending_finish (image, write), 0);
}

/* The header update and a write-back go on while a fill is waited for. */
static void
test_flush_meanwhile (void **state)
{
  struct pending *write = pending_start (image, QED_OP_WRITE, data, 10, 10,
                                         0);

  (void) state;
  assert_int_equal (sync_request (image, QED_OP_WRITE, data, CLUSTER,
                                  CLUSTER, QED_FUA), 0);
  assert_int_equal (flush_image (), 0);
  answer (0, CLUSTER, 0);
  assert_int_equal (pending_finish (image, write), 0);
}

/* ---- Extents and read-ahead -------------------------------------------- */

struct told {
  unsigned count;
  uint64_t offset[8], bytes[8];
  enum qed_extent kind[8];
} told;

static int
note_extent (struct qed_request *request, uint64_t offset, uint64_t bytes,
             enum qed_extent kind)
{
  (void) request;
  assert_true (told.count < 8);
  told.offset[told.count] = offset;
  told.bytes[told.count] = bytes;
  told.kind[told.count++] = kind;
  return 0;
}

static struct pending *
start_extents (uint64_t offset, uint64_t count)
{
  struct pending *pending;

  memset (&told, 0, sizeof told);
  pending = pending_start (image, QED_OP_EXTENTS, NULL, count, offset, 0);
  pending->request.extent = note_extent;
  return pending;
}

static void
answer_extents (uint64_t offset, uint64_t count,
                const struct fetch_extent *extents, size_t n)
{
  struct fetch *fetch = take ();

  assert_non_null (fetch);
  assert_int_equal (fetch->op, FETCH_EXTENTS);
  assert_int_equal (fetch->offset, offset);
  assert_int_equal (fetch->count, count);
  fetch->extents = calloc (n, sizeof *extents);
  memcpy (fetch->extents, extents, n * sizeof *extents);
  fetch->extent_count = n;
  fetch_end (fetch, 0);
}

static void
expect_told (unsigned i, uint64_t offset, uint64_t bytes,
             enum qed_extent kind)
{
  assert_int_equal (told.offset[i], offset);
  assert_int_equal (told.bytes[i], bytes);
  assert_int_equal (told.kind[i], kind);
}

/* One question, also where a cluster of the image lies in between; and
 * another where the first answer ended.
 */
static void
test_extents (void **state)
{
  const struct fetch_extent first[] = {
    { CLUSTER, QED_EXTENT_HOLE }, { CLUSTER / 2, QED_EXTENT_DATA },
    { CLUSTER, QED_EXTENT_ZERO }, { 2 * CLUSTER, QED_EXTENT_HOLE },
  };
  const struct fetch_extent second[] = { { BACKING_SIZE, QED_EXTENT_DATA } };
  struct pending *extents;

  (void) state;
  assert_int_equal (sync_request (image, QED_OP_WRITE, data, CLUSTER,
                                  3 * CLUSTER, 0), 0);
  extents = start_extents (0, 10 * CLUSTER);
  answer_extents (0, BACKING_SIZE, first, 4);
  run_to_wait (extents);
  answer_extents (4 * CLUSTER + CLUSTER / 2, BACKING_SIZE - 4 * CLUSTER -
                  CLUSTER / 2, second, 1);
  assert_int_equal (pending_finish (image, extents), 0);
  assert_int_equal (told.count, 8);
  expect_told (0, 0, CLUSTER, QED_EXTENT_HOLE);
  expect_told (1, CLUSTER, CLUSTER / 2, QED_EXTENT_DATA);
  expect_told (2, CLUSTER * 3 / 2, CLUSTER, QED_EXTENT_ZERO);
  expect_told (3, CLUSTER * 5 / 2, CLUSTER / 2, QED_EXTENT_HOLE);
  expect_told (4, 3 * CLUSTER, CLUSTER, QED_EXTENT_DATA);
  expect_told (5, 4 * CLUSTER, CLUSTER / 2, QED_EXTENT_HOLE);
  expect_told (6, CLUSTER * 9 / 2, BACKING_SIZE - CLUSTER * 9 / 2,
               QED_EXTENT_DATA);
  expect_told (7, BACKING_SIZE, 10 * CLUSTER - BACKING_SIZE, QED_EXTENT_HOLE);
}

/* Nobody waits for it. */
static void
test_cache (void **state)
{
  struct fetch *fetch;

  (void) state;
  assert_int_equal (sync_request (image, QED_OP_CACHE, NULL, CLUSTER, 500, 0),
                    0);
  fetch = take ();
  assert_int_equal (fetch->op, FETCH_CACHE);
  assert_int_equal (fetch->offset, 500);
  assert_int_equal (fetch->count, CLUSTER);
  fetch_end (fetch, 0);
}

#define FETCH_TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FETCH_TEST (test_read),
    FETCH_TEST (test_read_end),
    FETCH_TEST (test_read_many),
    FETCH_TEST (test_read_error),
    FETCH_TEST (test_read_overtaken),
    FETCH_TEST (test_error_overtaken),
    FETCH_TEST (test_withdraw),
    FETCH_TEST (test_withdraw_woken),
    FETCH_TEST (test_withdraw_extents),
    FETCH_TEST (test_withdraw_write),
    FETCH_TEST (test_withdraw_race),
    FETCH_TEST (test_copy_on_write),
    FETCH_TEST (test_write),
    FETCH_TEST (test_flush_meanwhile),
    FETCH_TEST (test_extents),
    FETCH_TEST (test_cache),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
