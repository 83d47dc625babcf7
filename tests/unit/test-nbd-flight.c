/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Fetches as commands of libnbd: pieces and alignment, what a server can't do,
 * answers of all kinds, lost ones, and what libnbd refuses.  The calls of
 * libnbd come to the test, which answers as it likes.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <libnbd.h>

#include "nbd-flight.h"

#define MIB (UINT64_C (1) << 20)
#define EXPORT_SIZE (64 * MIB + 100)

/* ---- libnbd ------------------------------------------------------------ */

struct command {
  enum fetch_op op;             /* WRITE for zeros by writing, too */
  uint64_t count, offset;
  void *buf;
  uint32_t flags;
  nbd_completion_callback completion;
  nbd_extent_callback extent;
};

#define COMMANDS 300u
static struct command commands[COMMANDS];
static unsigned started;
static int start_errno;         /* the next ones can't be started */
static bool alive;

static int64_t
add (struct command command)
{
  if (start_errno) {
    command.completion.free (command.completion.user_data);
    return -1;
  }
  assert_in_range (started, 0, COMMANDS - 1);
  commands[started++] = command;
  return started;
}

#define NBD(name, ...) \
  int64_t __wrap_nbd_aio_##name (struct nbd_handle *nbd, __VA_ARGS__); \
  int64_t __wrap_nbd_aio_##name (struct nbd_handle *nbd, __VA_ARGS__)

NBD (pread, void *buf, size_t count, uint64_t offset,
     nbd_completion_callback completion, uint32_t flags)
{
  (void) nbd;
  return add ((struct command) { FETCH_READ, count, offset, buf, flags,
                                 completion, { 0 } });
}

NBD (pwrite, const void *buf, size_t count, uint64_t offset,
     nbd_completion_callback completion, uint32_t flags)
{
  (void) nbd;
  return add ((struct command) { FETCH_WRITE, count, offset, (void *) buf,
                                 flags, completion, { 0 } });
}

NBD (zero, uint64_t count, uint64_t offset,
     nbd_completion_callback completion, uint32_t flags)
{
  (void) nbd;
  return add ((struct command) { FETCH_ZERO, count, offset, NULL, flags,
                                 completion, { 0 } });
}

NBD (cache, uint64_t count, uint64_t offset,
     nbd_completion_callback completion, uint32_t flags)
{
  (void) nbd;
  return add ((struct command) { FETCH_CACHE, count, offset, NULL, flags,
                                 completion, { 0 } });
}

NBD (flush, nbd_completion_callback completion, uint32_t flags)
{
  (void) nbd;
  return add ((struct command) { FETCH_FLUSH, 0, 0, NULL, flags, completion,
                                 { 0 } });
}

NBD (block_status, uint64_t count, uint64_t offset, nbd_extent_callback extent,
     nbd_completion_callback completion, uint32_t flags)
{
  (void) nbd;
  return add ((struct command) { FETCH_EXTENTS, count, offset, NULL, flags,
                                 completion, extent });
}

int __wrap_nbd_get_errno (void);
int
__wrap_nbd_get_errno (void)
{
  return start_errno;
}

bool
nbd_link_is_alive (const struct nbd_link *link)
{
  (void) link;
  return alive;
}

/* The server answers the n-th. */
static void
answer (unsigned n, int error)
{
  struct command *c = &commands[n];

  if (c->op == FETCH_READ)
    memset (c->buf, 'a' + (int) n, c->count);
  assert_int_equal (c->completion.callback (c->completion.user_data, &error),
                    1);
  c->completion.free (c->completion.user_data);
}

static void
lose (unsigned n)
{
  commands[n].completion.free (commands[n].completion.user_data);
}

/* ---- The flight -------------------------------------------------------- */

static struct nbd_flight flight;
static struct nbd_link nbd_link;
static struct fetch *fetch;

static int
setup (void **state)
{
  (void) state;
  nbd_flight_init (&flight);
  memset (&nbd_link, 0, sizeof nbd_link);
  nbd_link.export = (struct nbd_export) {
    .size = EXPORT_SIZE, .minimum = 4096, .maximum = 4 * MIB,
    .can_cache = true, .has_extents = true, .can_flush = true,
    .can_zero = true, .can_fast_zero = true,
  };
  started = 0;
  start_errno = 0;
  alive = true;
  return 0;
}

static void
start (enum fetch_op op, uint64_t offset, uint64_t count)
{
  fetch = fetch_new (op, offset, count);
  assert_non_null (fetch);
  if (op == FETCH_WRITE)
    fetch->buf = calloc (1, count);
  nbd_flight_send (&flight, &nbd_link, fetch);
}

static void
expect_command (unsigned n, enum fetch_op op, uint64_t offset, uint64_t count)
{
  assert_in_range (n, 0, started - 1);
  assert_int_equal (commands[n].op, op);
  assert_int_equal (commands[n].offset, offset);
  assert_int_equal (commands[n].count, count);
}

/* It has ended; still to be looked at. */
static void
expect_ended (int error)
{
  assert_ptr_equal (nbd_flight_next_ended (&flight), fetch);
  assert_int_equal (fetch->error, error);
  assert_null (nbd_flight_next_ended (&flight));
  assert_int_equal (flight.commands, 0);
  assert_true (flight.bytes == 0);
}

static void
expect_end (int error)
{
  expect_ended (error);
  fetch_end (fetch, error);
}

/* ---- Pieces ------------------------------------------------------------ */

static void
test_read (void **state)
{
  (void) state;
  start (FETCH_READ, 4 * MIB - 10, 4 * MIB);
  assert_int_equal (started, 2);
  expect_command (0, FETCH_READ, 4 * MIB - 4096, 4 * MIB);
  expect_command (1, FETCH_READ, 8 * MIB - 4096, 4096);
  answer (1, 0);
  assert_null (nbd_flight_next_ended (&flight));
  answer (0, 0);
  expect_ended (0);
  assert_int_equal (fetch->data[0], 'a');
  assert_int_equal (fetch->data[4 * MIB - 1], 'b');
  fetch_end (fetch, 0);

  /* To the end of the export, which is none of a block. */
  started = 0;
  start (FETCH_READ, EXPORT_SIZE - 10, 10);
  expect_command (0, FETCH_READ, EXPORT_SIZE - 100, 100);
  answer (0, 0);
  expect_end (0);
}

static void
test_changes (void **state)
{
  (void) state;
  start (FETCH_WRITE, 4096, 5 * MIB);
  assert_int_equal (started, 2);
  expect_command (1, FETCH_WRITE, 4 * MIB + 4096, MIB);
  answer (0, 0);
  answer (1, 0);
  expect_end (0);
  started = 0;
  start (FETCH_ZERO, 0, 33 * MIB);
  assert_int_equal (started, 2);
  expect_command (0, FETCH_ZERO, 0, 32 * MIB);
  assert_int_equal (commands[0].flags, 0);
  answer (0, 0);
  answer (1, 0);
  expect_end (0);
  started = 0;
  start (FETCH_PUNCH, 0, MIB);
  assert_int_equal (commands[0].flags, LIBNBD_CMD_FLAG_FAST_ZERO);
  answer (0, EOPNOTSUPP);
  expect_end (-EOPNOTSUPP);
  started = 0;
  start (FETCH_FLUSH, 0, 0);
  expect_command (0, FETCH_FLUSH, 0, 0);
  answer (0, 0);
  expect_end (0);
}

/* ---- What a server can't do -------------------------------------------- */

static void
test_not_possible (void **state)
{
  (void) state;
  nbd_link.export.can_zero = false;
  nbd_link.export.can_flush = nbd_link.export.can_cache = false;
  nbd_link.export.has_extents = false;
  start (FETCH_ZERO, 0, MIB);
  assert_int_equal (started, 4);        /* zeros are written */
  expect_command (3, FETCH_WRITE, 768 << 10, 256 << 10);
  answer (0, 0);
  answer (1, 0);
  answer (2, 0);
  answer (3, 0);
  expect_end (0);
  started = 0;
  nbd_link.export.maximum = 64 << 10;
  start (FETCH_ZERO, 0, 128 << 10);
  assert_int_equal (started, 2);
  answer (0, 0);
  answer (1, 0);
  expect_end (0);
  started = 0;
  start (FETCH_PUNCH, 0, MIB);
  expect_end (-EOPNOTSUPP);
  start (FETCH_FLUSH, 0, 0);
  expect_end (-EOPNOTSUPP);
  start (FETCH_CACHE, 0, MIB);
  expect_end (0);
  start (FETCH_EXTENTS, 0, MIB);
  expect_ended (0);
  assert_int_equal (fetch->extent_count, 1);
  assert_true (fetch->extents[0].bytes == MIB);
  assert_int_equal (fetch->extents[0].kind, QED_EXTENT_DATA);
  fetch_end (fetch, 0);
  assert_int_equal (started, 0);
}

static void
test_cache (void **state)
{
  (void) state;
  start (FETCH_CACHE, 0, 1000);
  expect_command (0, FETCH_CACHE, 0, 4096);
  answer (0, 0);
  expect_end (0);
  nbd_link.export.can_fast_zero = false;
  started = 0;
  start (FETCH_PUNCH, 0, MIB);
  assert_int_equal (commands[0].flags, 0);
  answer (0, 0);
  expect_end (0);
}

/* ---- Errors ------------------------------------------------------------ */

/* The first one counts. */
static void
test_errors (void **state)
{
  (void) state;
  start (FETCH_READ, 0, 12 * MIB);
  assert_int_equal (started, 3);
  answer (2, EPERM);
  answer (0, EIO);
  answer (1, 0);
  expect_end (-EPERM);
}

static void
test_lost (void **state)
{
  (void) state;
  start (FETCH_READ, 0, 12 * MIB);
  answer (0, 0);
  lose (1);
  lose (2);
  expect_end (-ENOTCONN);
  started = 0;
  start (FETCH_READ, 0, 8 * MIB);
  answer (0, EIO);
  lose (1);
  expect_end (-EIO);

  /* Sent again, it has forgotten that. */
  started = 0;
  start (FETCH_EXTENTS, 0, MIB);
  lose (0);
  expect_ended (-ENOTCONN);
  nbd_flight_send (&flight, &nbd_link, fetch);
  answer (1, 0);
  expect_end (0);
}

static void
test_not_started (void **state)
{
  (void) state;
  start_errno = ENOMEM;
  start (FETCH_READ, 0, 8 * MIB);
  expect_end (-ENOMEM);
  start_errno = EINVAL;
  start (FETCH_READ, 0, 8 * MIB);
  expect_end (-EIO);
  alive = false;                /* the connection is the reason */
  start (FETCH_READ, 0, 8 * MIB);
  expect_end (-ENOTCONN);
}

/* ---- Block status ------------------------------------------------------ */

#define HOLE (LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO)

static void
describe (const char *context, uint64_t offset, const uint32_t *pairs,
          size_t count)
{
  int error = 0;

  assert_int_equal (commands[0].extent.callback (commands[0].extent.user_data,
                                                 context, offset,
                                                 (uint32_t *) pairs, count,
                                                 &error), 0);
  assert_int_equal (error, 0);
}

static void
expect_extent (size_t n, uint64_t bytes, enum qed_extent kind)
{
  assert_in_range (n, 0, fetch->extent_count - 1);
  assert_true (fetch->extents[n].bytes == bytes);
  assert_int_equal (fetch->extents[n].kind, kind);
}

/* What was not asked for, or is told a second time, is left out; neighbours
 * of one kind are joined.
 */
static void
test_extents (void **state)
{
  static const uint32_t pairs[] = {
    4096, HOLE, 4096, 0, 0, HOLE, 4096, LIBNBD_STATE_HOLE, 8192,
    LIBNBD_STATE_ZERO, 1 << 30, HOLE, 4096, 0,
  };
  static const uint32_t other[] = { 1 << 20, HOLE };

  (void) state;
  start (FETCH_EXTENTS, 8192, 100000);
  expect_command (0, FETCH_EXTENTS, 8192, 102400);
  describe ("base:allocation", 4096, pairs, 1);
  describe ("other:context", 8192, other, 2);
  describe (LIBNBD_CONTEXT_BASE_ALLOCATION, 4096, pairs, 14);
  describe (LIBNBD_CONTEXT_BASE_ALLOCATION, 8192, other, 2);
  answer (0, 0);
  expect_ended (0);
  assert_int_equal (fetch->extent_count, 3);
  expect_extent (0, 8192, QED_EXTENT_DATA);
  expect_extent (1, 8192, QED_EXTENT_ZERO);
  expect_extent (2, 100000 - 16384, QED_EXTENT_HOLE);
  fetch_end (fetch, 0);
}

static void
test_no_extents (void **state)
{
  static const uint32_t before[] = { 4096, HOLE };

  (void) state;
  start (FETCH_EXTENTS, 8192, 4096);
  describe (LIBNBD_CONTEXT_BASE_ALLOCATION, 0, before, 2);
  answer (0, 0);
  expect_ended (0);
  assert_int_equal (fetch->extent_count, 1);
  expect_extent (0, 4096, QED_EXTENT_DATA);
  fetch_end (fetch, 0);
  started = 0;
  start (FETCH_EXTENTS, 8192, 4096);
  answer (0, EIO);
  expect_ended (-EIO);
  assert_int_equal (fetch->extent_count, 0);
  fetch_end (fetch, -EIO);
}

/* Of a flood only so much is kept. */
static void
test_many_extents (void **state)
{
  enum { MANY = 40000 };
  uint32_t *pairs = malloc (MANY * 2 * sizeof *pairs);
  unsigned i;

  (void) state;
  assert_non_null (pairs);
  for (i = 0; i < MANY; i++) {
    pairs[2 * i] = 512;
    pairs[2 * i + 1] = i % 2 ? HOLE : 0;
  }
  start (FETCH_EXTENTS, 0, 32 * MIB);
  describe (LIBNBD_CONTEXT_BASE_ALLOCATION, 0, pairs, MANY * 2);
  answer (0, 0);
  expect_ended (0);
  assert_in_range (fetch->extent_count, 1000, MANY - 1);
  expect_extent (fetch->extent_count - 1, 512, QED_EXTENT_HOLE);
  fetch_end (fetch, 0);
  free (pairs);
}

/* ---- Room -------------------------------------------------------------- */

static void
test_room (void **state)
{
  struct fetch *big = fetch_new (FETCH_READ, 0, 1024 * MIB);
  struct fetch *cache = fetch_new (FETCH_CACHE, 0, 1024 * MIB);
  unsigned n;

  (void) state;
  assert_true (nbd_flight_has_room (&flight, big));     /* alone */
  start (FETCH_READ, 0, 512);
  assert_false (nbd_flight_has_room (&flight, big));
  assert_true (nbd_flight_has_room (&flight, cache));   /* it brings nothing */
  answer (0, 0);
  expect_end (0);
  started = 0;
  for (n = 0; n == 0 || nbd_flight_has_room (&flight, cache); n++)
    start (FETCH_CACHE, 0, 512);
  assert_in_range (n, 16, COMMANDS - 1);
  for (; n > 0; n--) {
    answer (n - 1, 0);
    fetch_end (nbd_flight_next_ended (&flight), 0);
  }
  assert_true (nbd_flight_has_room (&flight, big));
  fetch_end (big, 0);
  fetch_end (cache, 0);
}

#define TEST(f) cmocka_unit_test_setup (f, setup)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_read),
    TEST (test_changes),
    TEST (test_not_possible),
    TEST (test_cache),
    TEST (test_errors),
    TEST (test_lost),
    TEST (test_not_started),
    TEST (test_extents),
    TEST (test_no_extents),
    TEST (test_many_extents),
    TEST (test_room),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
