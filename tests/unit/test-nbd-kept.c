/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Changes that are kept until they are flushed: in which order they are sent
 * again, and when they go.
 */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nbd-kept.h"

static struct nbd_kept kept;

static void
add (enum fetch_op op, uint64_t offset, uint64_t count, int fill)
{
  struct fetch *fetch = fetch_new (op, offset, count);

  assert_non_null (fetch);
  if (op == FETCH_WRITE) {
    fetch->buf = malloc (count);
    memset (fetch->buf, fill, count);
  }
  assert_int_equal (nbd_kept_add (&kept, fetch), 0);
  assert_null (fetch->buf);
  fetch_end (fetch, 0);
}

static void
ends (struct fetch *fetch, int error)
{
  fetch->error = error;
  nbd_kept_ended (&kept, fetch);
}

static int
setup (void **state)
{
  (void) state;
  nbd_kept_init (&kept);
  return 0;
}

static int
teardown (void **state)
{
  (void) state;
  nbd_kept_destroy (&kept);
  assert_int_equal (kept.bytes, 0);
  return 0;
}

/* A flush takes along what was there when it was sent. */
static void
test_flush (void **state)
{
  uint64_t number;

  (void) state;
  add (FETCH_WRITE, 0, 512, 1);
  add (FETCH_WRITE, 0, 512, 2);
  number = kept.number;
  add (FETCH_WRITE, 0, 512, 3);
  nbd_kept_flushed (&kept, number);
  nbd_kept_restart (&kept);
  assert_int_equal (nbd_kept_next (&kept)->buf[0], 3);
  assert_null (kept.next);
  ends (kept.sent[0], 0);
  nbd_kept_flushed (&kept, kept.number);
  assert_null (kept.first);
  assert_int_equal (kept.bytes, 0);
}

/* The same place is written in the order of the answers, others side by
 * side; a punch has made zeros.
 */
static void
test_order (void **state)
{
  struct fetch *a, *b, *c;

  (void) state;
  add (FETCH_WRITE, 4096, 4096, 1);
  add (FETCH_WRITE, 0, 4096, 2);
  add (FETCH_PUNCH, 4095, 2, 0);
  add (FETCH_WRITE, 8192, 512, 3);
  assert_true (nbd_kept_is_settled (&kept));
  nbd_kept_restart (&kept);
  a = nbd_kept_next (&kept);
  b = nbd_kept_next (&kept);
  assert_int_equal (a->buf[0], 1);
  assert_int_equal (b->buf[0], 2);
  assert_null (nbd_kept_next (&kept));
  ends (a, 0);
  assert_null (nbd_kept_next (&kept));
  ends (b, 0);
  c = nbd_kept_next (&kept);
  assert_int_equal (c->op, FETCH_ZERO);
  a = nbd_kept_next (&kept);
  assert_int_equal (a->buf[0], 3);
  assert_false (nbd_kept_is_settled (&kept));
  ends (a, 0);
  ends (c, 0);
  assert_true (nbd_kept_is_settled (&kept));
  assert_int_equal (kept.error, 0);
}

/* A second loss begins anew; so many are under way at most. */
static void
test_again (void **state)
{
  struct fetch *sent[NBD_KEPT_SENT_MAX];
  unsigned i;

  (void) state;
  for (i = 0; i <= NBD_KEPT_SENT_MAX; i++)
    add (FETCH_WRITE, i * 512, 512, (int) i);
  nbd_kept_restart (&kept);
  for (i = 0; i < NBD_KEPT_SENT_MAX; i++)
    sent[i] = nbd_kept_next (&kept);
  assert_null (nbd_kept_next (&kept));
  for (i = 0; i < NBD_KEPT_SENT_MAX; i++)
    ends (sent[i], i % 2 ? -ENOTCONN : 0);
  assert_int_equal (kept.error, 0);
  nbd_kept_restart (&kept);
  for (i = 0; i <= NBD_KEPT_SENT_MAX; i++) {
    sent[0] = nbd_kept_next (&kept);
    assert_int_equal (sent[0]->buf[0], (unsigned char) i);
    ends (sent[0], 0);
  }
  assert_true (nbd_kept_is_settled (&kept));
}

/* What can't be made again is lost for good. */
static void
test_error (void **state)
{
  (void) state;
  add (FETCH_WRITE, 0, 512, 1);
  nbd_kept_restart (&kept);
  ends (nbd_kept_next (&kept), -EIO);
  assert_int_equal (kept.error, -EIO);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (test_flush, setup, teardown),
    cmocka_unit_test_setup_teardown (test_order, setup, teardown),
    cmocka_unit_test_setup_teardown (test_again, setup, teardown),
    cmocka_unit_test_setup_teardown (test_error, setup, teardown),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
