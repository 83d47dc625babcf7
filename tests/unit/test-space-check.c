/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What checks and repairs ask of the space of an image in use; and what holds
 * while clusters wait to be free again.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fake-storage.h"
#include "space.h"

#define CLUSTER UINT64_C (4096)
#define USED 3u                 /* header, and L1 of two clusters */

static const struct format_header header = {
  .cluster_size = 4096, .table_size = 2, .header_size = 1,
  .l1_table_offset = 4096, .image_size = 1 << 20,
};

static struct fake_storage *fake;
static struct space space;

/* A file of so many clusters, all of which were seen. */
static void
open_space (uint64_t clusters, bool can_grow)
{
  struct format_geometry geometry;

  fake = fake_new (clusters * CLUSTER, UINT64_C (64) << 20);
  fake->storage.can_grow = can_grow;
  format_geometry_init (&geometry, &header);
  assert_int_equal (space_init (&space, &geometry, &fake->storage,
                                clusters * CLUSTER), 0);
  space_complete (&space);
}

static void
close_space (void)
{
  space_destroy (&space);
  fake_free (fake);
}

static uint64_t
take (void)
{
  struct space_run run;

  assert_int_equal (space_reserve (&space, 1, &run), 0);
  assert_true (run.n == 1);
  return run.first;
}

static void
let_go (uint64_t cluster)
{
  assert_int_equal (space_promise (&space, 1), 0);
  space_freed (&space, cluster);
}

static void
no_wake (struct qed_request *request)
{
  (void) request;
}

typedef int wait_fn (struct space *, struct qed_request *);

static int
wait_as (enum qed_op op, wait_fn *wait)
{
  struct qed_request request;
  int r;

  qed_request_init (&request, op, NULL, 0, 0, 0);
  request.wake = no_wake;
  r = wait (&space, &request);
  wait_cancel (&request);
  return r;
}

static int
wait_for_space (void)
{
  return wait_as (QED_OP_WRITE, space_wait);
}

static int
wait_for_reclaim (void)
{
  return wait_as (QED_OP_TRIM, space_wait_reclaim);
}

/* ---- The hold of a check ---- */

static void
test_one_check (void **state)
{
  (void) state;
  open_space (USED + 4, true);
  assert_int_equal (space_hold (&space), 0);
  assert_int_equal (space_hold (&space), -EBUSY);
  space_release_hold (&space);
  assert_int_equal (space_hold (&space), 0);
  assert_false (space_hold_broken (&space));
  space_release_hold (&space);
  close_space ();
}

/* It gives way once, and only where that makes room. */
static void
test_break (void **state)
{
  (void) state;
  open_space (USED + 1, false);
  assert_false (space_break_hold (&space));     /* there is none */
  let_go (take ());
  assert_false (space_break_hold (&space));
  assert_int_equal (space_hold (&space), 0);
  assert_true (space_break_hold (&space));
  assert_true (space_hold_broken (&space));
  assert_false (space_break_hold (&space));
  space_release_hold (&space);
  close_space ();

  open_space (USED + 1, false);                 /* nothing was freed */
  assert_int_equal (space_hold (&space), 0);
  assert_false (space_break_hold (&space));
  space.reuse = false;
  let_go (take ());
  assert_false (space_break_hold (&space));     /* nor would it be used */
  space_release_hold (&space);
  close_space ();
}

/* What is taken while a check runs, and what waits, leaks for nobody. */
static void
test_unnamed (void **state)
{
  struct bitmap unnamed;
  uint64_t old, young;

  (void) state;
  open_space (USED + 8, true);
  old = take ();
  take ();
  assert_int_equal (space_hold (&space), 0);
  young = take ();
  let_go (old);
  bitmap_init (&unnamed);
  assert_int_equal (space_add_unnamed (&space, &unnamed), 0);
  assert_true (unnamed.count == 2);
  assert_true (bitmap_test (&unnamed, old));
  assert_true (bitmap_test (&unnamed, young));
  bitmap_destroy (&unnamed);
  space_release_hold (&space);
  close_space ();
}

static void
test_borrow (void **state)
{
  struct space_run run;
  uint64_t young;

  (void) state;
  open_space (USED + 8, true);
  take ();
  assert_int_equal (space_hold (&space), 0);
  young = take ();
  assert_false (space_borrow (&space, young));
  assert_true (space_borrow (&space, USED));
  assert_true (space_borrow (&space, USED + 5));        /* behind the end */
  assert_true (space_end (&space) == USED + 6);
  space_release_hold (&space);
  assert_int_equal (space_reserve (&space, 10, &run), 0);
  assert_true (run.first == USED + 2 && run.n == 3);
  close_space ();
}

static void
test_lower_end (void **state)
{
  struct space_run run;

  (void) state;
  open_space (USED + 8, true);
  take ();
  space_lower_end (&space, USED);       /* all of it is in use */
  assert_true (space_end (&space) == USED + 1);
  assert_true (space_borrow (&space, USED + 10));
  run = (struct space_run) { .first = USED + 10, .n = 1 };
  space_release (&space, &run);
  space_lower_end (&space, USED);
  assert_true (space_end (&space) == USED + 1);
  assert_true (space.fresh == USED + 11);       /* it was in use once */
  space_lower_end (&space, USED + 5);
  assert_true (space_end (&space) == USED + 1);
  close_space ();
}

/* ---- Clusters that wait to be free ---- */

static void
test_too_many_freed (void **state)
{
  const size_t most = (size_t) 1 << 20;

  (void) state;
  open_space (USED + 8, true);
  let_go (take ());
  assert_int_equal (space_promise (&space, most), -EBUSY);
  assert_int_equal (space_hold (&space), 0);    /* they have to wait */
  assert_int_equal (space_promise (&space, most), 0);
  space_unpromise (&space, most);
  space_release_hold (&space);
  assert_int_equal (space_promise (&space, most - 1), 0);
  space_unpromise (&space, most - 1);
  close_space ();
}

static void
test_wait (void **state)
{
  uint64_t cluster, gone[4];

  (void) state;
  open_space (USED + 2, false);
  assert_int_equal (wait_for_space (), 0);
  cluster = take ();
  let_go (cluster);
  assert_int_equal (wait_for_space (), -EAGAIN);        /* a write-back */
  assert_true (space_first_gone (&space, gone, 4) == 0);
  space_flush_begins (&space);
  space_flush_ends (&space, true);
  assert_int_equal (wait_for_space (), QED_WAIT);
  assert_int_equal (space_hold (&space), 0);
  assert_int_equal (wait_for_space (), 0);
  space_release_hold (&space);
  assert_true (space_first_gone (&space, gone, 4) == 1);
  assert_true (gone[0] == cluster);
  space_reclaim (&space, 1);
  assert_int_equal (wait_for_space (), 0);
  close_space ();
}

static void
free_durably (void)
{
  let_go (take ());
  space_flush_begins (&space);
  space_flush_ends (&space, true);
}

/* What a reader keeps from being free is not waited for where the file can grow;
 * but by those who need just that.
 */
static void
test_stalled (void **state)
{
  struct space_run run;

  (void) state;
  open_space (USED + 2, true);
  assert_false (space_any_freed (&space) || space_any_coming (&space));
  assert_int_equal (wait_for_reclaim (), 0);
  let_go (take ());
  assert_true (space_any_freed (&space));
  assert_false (space_any_coming (&space));
  assert_int_equal (wait_for_reclaim (), -EAGAIN);
  space_flush_begins (&space);
  space_flush_ends (&space, true);
  assert_true (space_any_coming (&space));
  assert_int_equal (wait_for_reclaim (), QED_WAIT);
  assert_int_equal (space_reserve (&space, 1, &run), -EBUSY);
  space_stall (&space, true);
  assert_int_equal (wait_for_space (), 0);
  assert_int_equal (wait_for_reclaim (), QED_WAIT);
  assert_true (space_any_coming (&space));
  take ();
  space_stall (&space, false);
  assert_int_equal (space_hold (&space), 0);
  assert_false (space_any_freed (&space) || space_any_coming (&space));
  assert_int_equal (wait_for_reclaim (), 0);
  space_release_hold (&space);
  space.reuse = false;
  assert_false (space_any_coming (&space));
  close_space ();
  open_space (USED + 1, false);
  free_durably ();
  space_stall (&space, true);
  assert_int_equal (space_reserve (&space, 1, &run), -EBUSY);
  assert_int_equal (wait_for_space (), QED_WAIT);
  close_space ();
}

/* A table that finds no gap waits for what is on its way, too. */
static void
test_table_waits (void **state)
{
  struct space_run run;

  (void) state;
  open_space (USED + 1, false);
  assert_int_equal (space_reserve_table (&space, 2, &run), -ENOSPC);
  let_go (take ());
  assert_int_equal (space_reserve_table (&space, 2, &run), -EBUSY);
  assert_int_equal (space_hold (&space), 0);
  assert_int_equal (space_reserve_table (&space, 2, &run), -ENOSPC);
  space_release_hold (&space);
  space.reuse = false;
  assert_int_equal (space_reserve_table (&space, 2, &run), -ENOSPC);
  close_space ();
}

/* ---- Where the next one comes from ---- */

/* The search begins behind the last one, and anew where that ends. */
static void
test_cursor (void **state)
{
  struct space_run run;
  uint64_t i, n = 6;

  (void) state;
  open_space (USED + n, true);
  for (i = 0; i < n; i++)
    assert_true (take () == USED + i);
  run = (struct space_run) { .first = USED + 4, .n = 1 };
  space_release (&space, &run);
  assert_true (take () == USED + 4);
  run.first = USED + 1;
  space_release (&space, &run);
  space.cursor = USED + 5;
  assert_true (take () == USED + 1);
  close_space ();
}

/* After what can't be trusted nothing inside the file is handed out. */
static void
test_keep_all (void **state)
{
  (void) state;
  open_space (USED + 4, true);
  fake->length = (USED + 4) * CLUSTER;
  space_keep_all (&space);
  assert_true (space_end (&space) == USED + 4);
  space_keep_all (&space);
  assert_true (space_end (&space) == USED + 4);
  close_space ();

  open_space (USED + 4, false);         /* or there would be no room */
  space_keep_all (&space);
  assert_true (space_end (&space) == USED);
  close_space ();
}

static void
test_cut (void **state)
{
  uint64_t length;

  (void) state;
  open_space (USED + 4, true);
  space_cut_is_durable (&space);        /* there was none */
  assert_true (space.fresh == USED + 4);
  assert_true (space_cut_wanted (&space, &length));
  assert_true (length == USED * CLUSTER);
  space_was_cut (&space, length);
  assert_true (space.fresh > USED + 4);
  space_cut_is_durable (&space);
  assert_true (space.fresh == USED);
  assert_false (space_cut_wanted (&space, &length));
  close_space ();
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_one_check),
    cmocka_unit_test (test_break),
    cmocka_unit_test (test_unnamed),
    cmocka_unit_test (test_borrow),
    cmocka_unit_test (test_lower_end),
    cmocka_unit_test (test_too_many_freed),
    cmocka_unit_test (test_wait),
    cmocka_unit_test (test_stalled),
    cmocka_unit_test (test_table_waits),
    cmocka_unit_test (test_cursor),
    cmocka_unit_test (test_keep_all),
    cmocka_unit_test (test_cut),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
