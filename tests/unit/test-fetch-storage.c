/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A socket as an image's file: the loop's reads and changes, and plain calls,
 * made of fetches; blocks that are written in parts, what ends with the
 * storage, data among holes, and errors.  The socket is the test's own, and
 * answers at once.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "fake-blocks.h"

static unsigned char noise[8192];

/* Each allocation fails in turn: -ENOMEM each time, until there are no more
 * and it ends well.
 */
static void
expect_no_memory (int (*run_it) (void), unsigned at_least)
{
  unsigned n;
  int r;

  for (n = 0; ; n++) {
    allocations = n;
    r = run_it ();
    if (allocations != UINT32_MAX)
      break;
    assert_int_equal (r, -ENOMEM);
  }
  allocations = UINT32_MAX;
  assert_int_equal (r, 0);
  assert_in_range (n, at_least, 20);
}

/* ---- Plain calls ---- */

static void
test_read (void **state)
{
  unsigned char buf[4096], zeros[4096] = { 0 };

  (void) state;
  assert_int_equal (fetch_pread (&sock, buf, 4096, 777), 0);
  assert_memory_equal (buf, content + 777, 4096);
  assert_int_equal (fetch_pread (&sock, buf, 4096, LENGTH - 10), 0);
  assert_memory_equal (buf, content + LENGTH - 10, 10);
  assert_memory_equal (buf + 10, zeros, 4086);
  memset (buf, 1, sizeof buf);
  assert_int_equal (fetch_pread (&sock, buf, 4096, LENGTH + 10), 0);
  assert_memory_equal (buf, zeros, 4096);
  fail_next (FETCH_READ, -EIO, 0);
  assert_int_equal (fetch_pread (&sock, buf, 4096, 0), -EIO);
  length_error = -EIO;
  assert_int_equal (fetch_pread (&sock, buf, 4096, 0), -EIO);
}

/* Parts of blocks are read, changed and written. */
static void
test_write (void **state)
{
  struct iovec iov[] = { { noise, 100 }, { NULL, 0 }, { noise + 100, 900 } };
  struct iovec whole = { noise, 2 * BLOCK }, none = { NULL, 0 };

  (void) state;
  assert_int_equal (fetch_pwritev (&sock, &blocks, iov, 3, 700), 0);
  memcpy (model + 700, noise, 1000);
  expect_content ();
  assert_int_equal (calls[FETCH_READ], 1);
  assert_int_equal (fetch_pwritev (&sock, &blocks, &whole, 1, 4 * BLOCK), 0);
  memcpy (model + 4 * BLOCK, noise, 2 * BLOCK);
  expect_content ();
  assert_int_equal (calls[FETCH_READ], 1);
  assert_int_equal (fetch_pwritev (&sock, &blocks, &none, 1, 0), 0);
  assert_int_equal (calls[FETCH_WRITE], 2);

  /* The last block, which is none. */
  iov[0].iov_len = 300;
  assert_int_equal (fetch_pwritev (&sock, &blocks, iov, 1, LENGTH - 300), 0);
  memcpy (model + LENGTH - 300, noise, 300);
  expect_content ();
  assert_int_equal (calls[FETCH_READ], 1);
  assert_int_equal (fetch_pwritev (&sock, &blocks, iov, 1, LENGTH - 299),
                    -ENOSPC);
  assert_int_equal (fetch_pwritev (&sock, &blocks, iov, 1, LENGTH + 1),
                    -ENOSPC);
  fail_next (FETCH_READ, -EIO, 0);
  assert_int_equal (fetch_pwritev (&sock, &blocks, iov, 1, 1), -EIO);
  fail_next (FETCH_WRITE, -ENOSPC, 0);
  assert_int_equal (fetch_pwritev (&sock, &blocks, iov, 1, 1), -ENOSPC);
  length_error = -EIO;
  assert_int_equal (fetch_pwritev (&sock, &blocks, iov, 1, 1), -EIO);
  expect_content ();
}

static void
zero (uint64_t offset, uint64_t count)
{
  uint64_t n = offset < LENGTH ? LENGTH - offset : 0;

  assert_int_equal (fetch_zero (&sock, &blocks, offset, count), 0);
  if (n > count)
    n = count;
  if (n > 0)
    memset (model + offset, 0, n);
  expect_content ();
}

/* Within one block, with parts on both sides, to the end. */
static void
test_zero (void **state)
{
  (void) state;
  zero (100, 50);
  assert_int_equal (calls[FETCH_ZERO], 0);
  zero (1000, 5000);
  assert_int_equal (calls[FETCH_ZERO], 1);
  zero (16 * BLOCK, 4 * BLOCK);
  zero (LENGTH - 700, 700);
  zero (LENGTH - 100, 5000);
  zero (LENGTH + 100, 100);
  fail_next (FETCH_ZERO, -EIO, 0);
  assert_int_equal (fetch_zero (&sock, &blocks, 1, 5000), -EIO);
  fail_next (FETCH_READ, -EIO, 0);      /* of the first part */
  assert_int_equal (fetch_zero (&sock, &blocks, 1, 5000), -EIO);
  length_error = -EIO;
  assert_int_equal (fetch_zero (&sock, &blocks, 0, 512), -EIO);
}

static void
test_punch (void **state)
{
  (void) state;
  assert_int_equal (fetch_punch (&sock, &blocks, 2 * BLOCK, 6 * BLOCK), 0);
  memset (model + 2 * BLOCK, 0, 6 * BLOCK);
  assert_int_equal (fetch_punch (&sock, &blocks, 1, BLOCK), -EOPNOTSUPP);
  assert_int_equal (fetch_punch (&sock, &blocks, LENGTH - 300, 4096), 0);
  memset (model + LENGTH - 300, 0, 300);
  expect_content ();
  fail_next (FETCH_PUNCH, -EOPNOTSUPP, 0);
  assert_int_equal (fetch_punch (&sock, &blocks, 0, BLOCK), -EOPNOTSUPP);
  length_error = -EIO;
  assert_int_equal (fetch_punch (&sock, &blocks, 0, BLOCK), -EIO);
}

static void
test_read_only (void **state)
{
  struct iovec iov = { noise, BLOCK };

  (void) state;
  assert_int_equal (fetch_sync (&sock), 0);
  sock.read_only = true;
  assert_int_equal (fetch_pwritev (&sock, &blocks, &iov, 1, 0), -EROFS);
  assert_int_equal (fetch_zero (&sock, &blocks, 0, BLOCK), -EROFS);
  assert_int_equal (fetch_punch (&sock, &blocks, 0, BLOCK), -EROFS);
  assert_int_equal (fetch_sync (&sock), -EROFS);
  expect_content ();
}

/* ---- Where data is ---- */

static void
expect_data (uint64_t from, uint64_t start, uint64_t end)
{
  uint64_t s, e;

  assert_int_equal (fetch_next_data (&sock, &window, from, &s, &e), 0);
  assert_true (s == start);
  assert_true (e == end);
}

static void
test_next_data (void **state)
{
  static const struct piece some[] = {
    { 8, QED_EXTENT_HOLE }, { 4, QED_EXTENT_DATA }, { 4, QED_EXTENT_DATA },
    { 16, QED_EXTENT_ZERO }, { 2, QED_EXTENT_DATA }, { 0, QED_EXTENT_HOLE },
  };
  uint64_t s, e;

  (void) state;
  expect_data (0, UINT64_MAX, UINT64_MAX);
  fetch_window_destroy (&window);
  fetch_window_init (&window);
  pieces = some;
  expect_data (0, 8 * KIB, 16 * KIB);
  expect_data (13 * KIB, 13 * KIB, 16 * KIB);
  expect_data (16 * KIB, 32 * KIB, 34 * KIB);
  expect_data (34 * KIB, UINT64_MAX, UINT64_MAX);
  assert_int_equal (calls[FETCH_EXTENTS], 2);   /* one answer for all that */
  expect_data (LENGTH, UINT64_MAX, UINT64_MAX);
  expect_data (0, 8 * KIB, 16 * KIB);   /* backwards: asked anew */
  atomic_fetch_add (&window.changes, 1);
  expect_data (10 * KIB, 10 * KIB, 16 * KIB);
  assert_int_equal (calls[FETCH_EXTENTS], 4);

  /* A server that tells little at a time. */
  atomic_fetch_add (&window.changes, 1);
  told_at_most = 3 * KIB;
  expect_data (0, 8 * KIB, 9 * KIB);
  expect_data (17 * KIB, 32 * KIB, 34 * KIB);

  /* What can't be told may be data. */
  atomic_fetch_add (&window.changes, 1);
  fail_next (FETCH_EXTENTS, -EOPNOTSUPP, 0);
  expect_data (100 * KIB, 100 * KIB, LENGTH);
  fail_next (FETCH_EXTENTS, -ENOTCONN, 0);
  assert_int_equal (fetch_next_data (&sock, &window, 0, &s, &e), -ENOTCONN);
  fail_next (FETCH_EXTENTS, -ENOMEM, 0);
  assert_int_equal (fetch_next_data (&sock, &window, 0, &s, &e), -ENOMEM);
  length_error = -EIO;
  (void) fetch_next_data (&sock, &window, 0, &s, &e);
  assert_true (s != UINT64_MAX);        /* nor does it say that there's none */
}

/* ---- The loop's ---- */

static unsigned ended;

static void
io_ended (struct storage_io *io)
{
  (void) io;
  ended++;
}

static int
run (struct storage_io *io)
{
  ended = 0;
  io->done = io_ended;
  if (io->op == STORAGE_READ || io->op == STORAGE_READ_DATA)
    fetch_io_start (&sock, io);
  else
    fetch_change_start (&sock, io);
  assert_int_equal (ended, 1);
  return io->error;
}

static int
run_range (enum storage_op op, void *buf, uint64_t offset, uint64_t count)
{
  struct storage_io io = {
    .op = op, .buf = buf, .offset = offset,
    .count = buf ? (size_t) count : 0, .limit = buf ? 0 : count,
  };

  return run (&io);
}

static void
test_loop_reads (void **state)
{
  unsigned char buf[4096], zeros[4096] = { 0 };

  (void) state;
  assert_int_equal (run_range (STORAGE_READ, buf, 4096, 4096), 0);
  assert_memory_equal (buf, content + 4096, 4096);
  assert_int_equal (run_range (STORAGE_READ, buf, LENGTH - 300, 4096), 0);
  assert_memory_equal (buf, content + LENGTH - 300, 300);
  assert_memory_equal (buf + 300, zeros, 3796);
  assert_int_equal (run_range (STORAGE_READ, buf, LENGTH + 5, 4096), 0);
  assert_memory_equal (buf, zeros, 4096);
  fail_next (FETCH_READ, -ENOTCONN, 0);
  assert_int_equal (run_range (STORAGE_READ, buf, 0, 4096), -ENOTCONN);
  length_error = -EIO;
  assert_int_equal (run_range (STORAGE_READ, buf, 0, 4096), -EIO);
}

static int
read_data (struct storage_io *io, uint64_t from, uint64_t limit)
{
  static unsigned char buf[512 << 10];

  io->op = STORAGE_READ_DATA;
  io->buf = buf;
  io->count = sizeof buf;
  io->offset = from;
  io->limit = limit;
  return run (io);
}

/* Small holes are read along; what is known isn't asked for again. */
static void
test_loop_data (void **state)
{
  static const struct piece some[] = {
    { 9, QED_EXTENT_HOLE }, { 4, QED_EXTENT_DATA }, { 16, QED_EXTENT_ZERO },
    { 3, QED_EXTENT_DATA }, { 64, QED_EXTENT_HOLE }, { 40, QED_EXTENT_DATA },
    { 0, QED_EXTENT_HOLE },
  };
  struct storage_io io = { .data_end = 0 };

  (void) state;
  pieces = some;
  assert_int_equal (read_data (&io, 0, LENGTH), 0);
  assert_true (io.offset == 8 * KIB);           /* whole pages */
  assert_true (io.count == 24 * KIB);
  assert_true (io.data_end == 32 * KIB);
  assert_memory_equal (io.buf, content + 8 * KIB, io.count);
  assert_int_equal (read_data (&io, 12 * KIB, LENGTH), 0);
  assert_true (io.offset == 12 * KIB && io.count == 20 * KIB);
  assert_int_equal (calls[FETCH_EXTENTS], 1);
  assert_int_equal (read_data (&io, 32 * KIB, LENGTH), 0);
  assert_true (io.offset == 96 * KIB && io.count == 40 * KIB);
  assert_int_equal (read_data (&io, 136 * KIB, LENGTH), 0);
  assert_int_equal (io.count, 0);
  io.data_end = 0;
  assert_int_equal (read_data (&io, LENGTH, LENGTH + 4096), 0);
  assert_int_equal (io.count, 0);

  told_at_most = 2 * KIB;
  assert_int_equal (read_data (&io, 0, LENGTH), 0);
  assert_true (io.offset == 8 * KIB);
}

static void
test_loop_data_errors (void **state)
{
  struct storage_io io = { .data_end = 0 };

  (void) state;
  fail_next (FETCH_EXTENTS, -ENOTCONN, 0);
  assert_int_equal (read_data (&io, 0, LENGTH), -ENOTCONN);
  fail_next (FETCH_EXTENTS, -EIO, 0);   /* so it is read */
  assert_int_equal (read_data (&io, 0, 8192), 0);
  assert_int_equal (io.count, 8192);
  length_error = -EIO;
  assert_int_equal (read_data (&io, 0, 8192), -EIO);
}

static void
test_loop_changes (void **state)
{
  (void) state;
  assert_int_equal (run_range (STORAGE_WRITE, noise, 4 * BLOCK, 4 * BLOCK), 0);
  memcpy (model + 4 * BLOCK, noise, 4 * BLOCK);
  assert_int_equal (run_range (STORAGE_WRITE, noise, 8, 64), 0);
  memcpy (model + 8, noise, 64);
  expect_content ();
  assert_int_equal (run_range (STORAGE_WRITE, noise, LENGTH - 64, 65),
                    -ENOSPC);
  fail_next (FETCH_READ, -EIO, 0);
  assert_int_equal (run_range (STORAGE_WRITE, noise, 8, 64), -EIO);
  fail_next (FETCH_WRITE, -EIO, 0);
  assert_int_equal (run_range (STORAGE_WRITE, noise, 0, BLOCK), -EIO);
  expect_content ();

  assert_int_equal (run_range (STORAGE_ZERO, NULL, 0, 3 * BLOCK), 0);
  assert_int_equal (run_range (STORAGE_PUNCH, NULL, 8 * BLOCK, BLOCK), 0);
  memset (model, 0, 3 * BLOCK);
  memset (model + 8 * BLOCK, 0, BLOCK);
  expect_content ();
  assert_int_equal (calls[FETCH_PUNCH], 1);
  assert_int_equal (run_range (STORAGE_ZERO, NULL, 1, BLOCK), -EINVAL);
  assert_int_equal (run_range (STORAGE_ZERO, NULL, LENGTH + 212, BLOCK), 0);
  fail_next (FETCH_ZERO, -EIO, 0);
  assert_int_equal (run_range (STORAGE_ZERO, NULL, 0, BLOCK), -EIO);

  assert_int_equal (run_range (STORAGE_SYNC, NULL, 0, 0), 0);
  assert_int_equal (calls[FETCH_FLUSH], 1);
  assert_int_equal (run_range (STORAGE_RESIZE, NULL, 0, 0), -EOPNOTSUPP);
  sock.read_only = true;
  assert_int_equal (run_range (STORAGE_ZERO, NULL, 0, BLOCK), -EROFS);
  sock.read_only = false;
  length_error = -EIO;
  assert_int_equal (run_range (STORAGE_ZERO, NULL, 0, BLOCK), -EIO);
  expect_content ();
}

/* ---- Without memory ---- */

static int
read_part (void)
{
  unsigned char buf[512];

  return fetch_pread (&sock, buf, 512, 0);
}

static int
write_part (void)
{
  struct iovec iov = { noise, 100 };

  return fetch_pwritev (&sock, &blocks, &iov, 1, 8 * BLOCK + 100);
}

static int
loop_read (void)
{
  unsigned char buf[512];

  return run_range (STORAGE_READ, buf, 0, 512);
}

static int
loop_write (void)
{
  return run_range (STORAGE_WRITE, noise, 8, 64);
}

static int
loop_zero (void)
{
  return run_range (STORAGE_ZERO, NULL, 0, BLOCK);
}

static void
test_no_memory (void **state)
{
  (void) state;
  expect_no_memory (write_part, 4);
  expect_no_memory (loop_read, 1);
  expect_no_memory (loop_write, 2);
  expect_no_memory (loop_zero, 1);
  expect_no_memory (read_part, 1);
  allocations = 0;
  fetch_prefetch (&sock, 0, 512);       /* then it is left out */
  assert_int_equal (calls[FETCH_CACHE], 0);
  allocations = UINT32_MAX;
  fetch_prefetch (&sock, 0, 512);
  assert_int_equal (calls[FETCH_CACHE], 1);
}

static int
setup_all (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof noise; i++)
    noise[i] = (unsigned char) (i * 11 + 3);
  return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown (f, blocks_setup, blocks_teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_read),
    TEST (test_write),
    TEST (test_zero),
    TEST (test_punch),
    TEST (test_read_only),
    TEST (test_next_data),
    TEST (test_loop_reads),
    TEST (test_loop_data),
    TEST (test_loop_data_errors),
    TEST (test_loop_changes),
    TEST (test_no_memory),
  };

  return cmocka_run_group_tests (tests, setup_all, NULL);
}
