/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage's first call fails, then its second, and so on until a whole
 * life of an image passes without a failure.  Each time: nothing hangs, what
 * was answered with success can be read, what was answered as durable is
 * there when the image is opened again, no cluster shows another's content,
 * and the image is consistent or says that it needs a check.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fake-image.h"

/* What is there from the start: a table, a cluster, and a tail of the file
 * with somebody's bytes.
 */
#define OLD_AT (5 * TABLE_SPAN)
#define OLD_BYTE 0x55
#define RUBBISH 0xee
#define RUBBISH_CLUSTERS 4u

enum promise { NOTHING, TRIED, DONE, DURABLE };

/* Where the scenario writes. */
struct spot {
  uint64_t offset;
  unsigned char byte;
  unsigned flags;
  enum promise promise;
};

#define SPOTS 7u
static struct spot spots[SPOTS];

static void
make_image (void)
{
  const struct spot fresh[SPOTS] = {
    { 0, 1, 0, NOTHING },                       /* a new table */
    { CLUSTER + 512, 2, 0, NOTHING },
    { 3 * TABLE_SPAN + 512, 3, 0, NOTHING },    /* another */
    { 1024, 4, QED_FUA, NOTHING },              /* in place */
    { 7 * CLUSTER, 5, QED_FUA, NOTHING },
    { 3 * TABLE_SPAN - 256, 6, 0, NOTHING },    /* over a border */
    { OLD_AT + 512, 7, 0, NOTHING },            /* in what was there */
  };
  unsigned char content[RUBBISH_CLUSTERS * CLUSTER];

  assert_int_equal (fake_image_setup (NULL), 0);
  memcpy (spots, fresh, sizeof spots);
  fake->length = AT_END + (2 + RUBBISH_CLUSTERS) * CLUSTER;
  fake_poke64 (fake, AT_L1 + 5 * 8, AT_END);
  fake_poke64 (fake, AT_END, AT_END + CLUSTER);
  memset (content, OLD_BYTE, CLUSTER);
  fake_poke (fake, content, CLUSTER, AT_END + CLUSTER);
  memset (content, RUBBISH, sizeof content);
  fake_poke (fake, content, sizeof content, AT_END + 2 * CLUSTER);
}

static unsigned char
old_content (uint64_t offset)
{
  return offset / CLUSTER == OLD_AT / CLUSTER ? OLD_BYTE : 0;
}

/* 512 bytes that are all the same: what was promised, at least. */
static void
check_spot (const struct spot *spot, enum promise least, bool must_read)
{
  unsigned char buf[512], old = old_content (spot->offset);
  unsigned i;
  int r = sync_request (image, QED_OP_READ, buf, sizeof buf, spot->offset, 0);

  if (must_read)
    assert_int_equal (r, 0);
  if (r != 0)
    return;
  for (i = 0; i < sizeof buf; i++) {
    if (spot->promise >= least)
      assert_int_equal (buf[i], spot->byte);
    else if (spot->promise == NOTHING)
      assert_int_equal (buf[i], old);
    else
      assert_true (buf[i] == spot->byte || buf[i] == old);
  }
}

static void
check_all (enum promise least, bool must_read)
{
  struct spot old = { .offset = OLD_AT, .byte = OLD_BYTE, .promise = DURABLE };
  struct spot empty = { .offset = CLUSTER, .byte = 0, .promise = DURABLE };
  unsigned i;

  for (i = 0; i < SPOTS; i++)
    check_spot (&spots[i], least, must_read);
  check_spot (&old, least, must_read);
  check_spot (&empty, least, must_read);
}

/* ---- The life of the image ---- */

static void
write_spot (struct spot *spot)
{
  int r = write_byte (spot->offset, spot->byte, spot->flags);

  spot->promise = r != 0 ? TRIED
    : spot->flags & QED_FUA ? DURABLE : DONE;
}

static void
promise_all (void)
{
  unsigned i;

  for (i = 0; i < SPOTS; i++)
    if (spots[i].promise == DONE)
      spots[i].promise = DURABLE;
}

/* Returns whether it was closed without an error. */
static bool
live (void)
{
  unsigned i;

  if (open_image () < 0)
    return true;                /* as it was */
  assert_int_equal (qed_start (image), 0);
  for (i = 0; i < SPOTS; i++) {
    write_spot (&spots[i]);
    if (i == 2 && flush_image () == 0)
      promise_all ();
    check_all (DONE, false);
  }
  if (close_image () != 0)
    return false;
  promise_all ();
  return true;
}

static void
check_reopened (bool closed_well)
{
  bool marked = need_check ();

  fake_drop_rules (fake);
  if (closed_well)
    assert_false (marked);      /* else it is repaired */
  assert_int_equal (open_image (), 0);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  assert_true (qed_writable (image));
  check_all (DURABLE, true);
  assert_int_equal (close_image (), 0);
  assert_false (need_check ());
}

/* Let the n-th call fail.  Returns false if there were fewer. */
static bool
fail_nth (unsigned n, int error, unsigned times)
{
  bool closed_well, left;

  make_image ();
  fake_rule_add_full (fake, (struct fake_rule) {
      .op = FAKE_ANY, .to = UINT64_MAX, .error = error, .times = times,
      .skip = n });
  closed_well = live ();
  left = fake->rules[0].skip > 0;
  if (left)
    assert_true (closed_well);
  check_reopened (closed_well);
  fake_image_teardown (NULL);
  return !left;
}

static void
fail_each (int error, unsigned times)
{
  unsigned n = 0;

  while (fail_nth (n, error, times))
    n++;
  assert_in_range (n, 30, 1000);
}

static void
test_once (void **state)
{
  (void) state;
  fail_each (-EIO, 1);
}

static void
test_no_space (void **state)
{
  (void) state;
  fail_each (-ENOSPC, 2);
}

static void
test_for_ever (void **state)
{
  (void) state;
  fail_each (-EIO, FAKE_ALWAYS);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_once),
    cmocka_unit_test (test_no_space),
    cmocka_unit_test (test_for_ever),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
