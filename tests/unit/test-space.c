/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Where clusters come from: what is handed out is free, and is said to have
 * been used before whenever it might not read as zeros.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fake-storage.h"
#include "random.h"
#include "space.h"

#define CLUSTER UINT64_C (4096)
#define GROW_STEP ((UINT64_C (16) << 20) / CLUSTER) /* clusters */
#define ROOM (UINT64_C (256) << 20)

/* Header in cluster 0, an L1 table of two clusters behind it. */
static const struct format_header header = {
  .cluster_size = 4096, .table_size = 2, .header_size = 1,
  .l1_table_offset = 4096, .image_size = 1 << 20,
};
#define USED 3u                 /* clusters of an empty image */

static struct fake_storage *fake;
static struct space space;

/* An image in a file of 'length' bytes. */
static void
open_space (uint64_t length)
{
  struct format_geometry geometry;

  fake = fake_new (length, ROOM);
  format_geometry_init (&geometry, &header);
  assert_int_equal (space_init (&space, &geometry, &fake->storage, length),
                    0);
}

static void
close_space (void)
{
  space_destroy (&space);
  fake_free (fake);
}

static void
count_wake (struct qed_request *request)
{
  atomic_fetch_add ((_Atomic unsigned *) request->opaque, 1);
}

static int
grow (uint64_t n)
{
  struct qed_request request;
  _Atomic unsigned wakes = 0;
  int r;

  qed_request_init (&request, QED_OP_WRITE, NULL, 0, 0, 0);
  request.wake = count_wake;
  request.opaque = &wakes;
  r = space_grow (&space, &fake->storage, n, &request);
  wait_cancel (&request);
  return r;
}

static void
enter (uint64_t first, uint64_t n, bool table)
{
  bool shared;

  pthread_mutex_lock (&space.lock);
  assert_int_equal (space_enter (&space, first, n, table, &shared), 0);
  pthread_mutex_unlock (&space.lock);
  assert_false (shared);
}

static void
expect_run (const struct space_run *run, uint64_t first, uint64_t n,
            bool used_before)
{
  assert_true (run->first == first);
  assert_true (run->n == n);
  assert_int_equal (run->used_before, used_before);
}

/* ---- The end of the file ---- */

/* Nothing is handed out that the file doesn't cover; what it grew by is
 * fresh.
 */
static void
test_fresh (void **state)
{
  struct space_run run;

  (void) state;
  open_space (USED * CLUSTER);
  space_complete (&space);
  assert_int_equal (space_reserve (&space, 1, &run), -EAGAIN);
  assert_int_equal (grow (1), 0);
  assert_true (fake->length >= (USED + 1) * CLUSTER);
  assert_true (fake->length % CLUSTER == 0);
  assert_true (atomic_load (&space.length_bytes) == fake->length);
  assert_int_equal (space_reserve (&space, 5, &run), 0);
  expect_run (&run, USED, 5, false);
  assert_int_equal (space_reserve (&space, 2, &run), 0);
  expect_run (&run, USED + 5, 2, false);
  close_space ();
}

/* A file that is longer than its use: its tail is used before, and no run
 * is partly fresh.
 */
static void
test_tail (void **state)
{
  struct space_run run;

  (void) state;
  open_space ((USED + 4) * CLUSTER);
  space_complete (&space);
  assert_int_equal (space_reserve (&space, 3, &run), 0);
  expect_run (&run, USED, 3, true);
  assert_int_equal (grow (9), 0);
  assert_int_equal (space_reserve (&space, 9, &run), 0);
  expect_run (&run, USED + 3, 1, true);
  assert_int_equal (space_reserve (&space, 8, &run), 0);
  expect_run (&run, USED + 4, 8, false);
  close_space ();
}

/* A last cluster of which the file has only a part: somebody's bytes. */
static void
test_partial_cluster (void **state)
{
  struct space_run run;

  (void) state;
  open_space (USED * CLUSTER + 17);
  space_complete (&space);
  assert_int_equal (space_reserve (&space, 1, &run), -EAGAIN);
  assert_int_equal (grow (1), 0);
  assert_int_equal (space_reserve (&space, 2, &run), 0);
  expect_run (&run, USED, 1, true);
  assert_int_equal (space_reserve (&space, 2, &run), 0);
  expect_run (&run, USED + 1, 2, false);
  close_space ();
}

/* A table is in one piece; if only its start was used before, it all counts
 * as that.
 */
static void
test_table (void **state)
{
  struct space_run run;

  (void) state;
  open_space ((USED + 1) * CLUSTER);
  space_complete (&space);
  assert_int_equal (space_reserve_table (&space, 2, &run), -EAGAIN);
  assert_int_equal (grow (2), 0);
  assert_int_equal (space_reserve_table (&space, 2, &run), 0);
  expect_run (&run, USED, 2, true);
  assert_int_equal (space_reserve_table (&space, 2, &run), 0);
  expect_run (&run, USED + 2, 2, false);
  assert_true (space_is_table (&space, USED + 3));
  assert_false (space_is_table (&space, USED + 4));
  assert_false (space_is_table (&space, 1));    /* L1 is no L2 table */
  space_release (&space, &run);
  assert_false (space_is_table (&space, USED + 3));
  close_space ();
}

/* ---- Inside ---- */

/* Gaps are used when the scan saw everything, and not before. */
static void
test_reuse (void **state)
{
  struct space_run run;

  (void) state;
  open_space (20 * CLUSTER);
  enter (5, 2, true);
  enter (9, 1, false);
  assert_int_equal (space_reserve (&space, 1, &run), 0);
  expect_run (&run, 10, 1, true);
  space_complete (&space);
  assert_int_equal (space_reserve (&space, 9, &run), 0);
  expect_run (&run, 3, 2, true);
  assert_int_equal (space_reserve (&space, 1, &run), 0);
  expect_run (&run, 7, 1, true);
  space_release (&space, &run);
  assert_int_equal (space_reserve (&space, 9, &run), 0);
  expect_run (&run, 7, 2, true);
  assert_int_equal (space_reserve (&space, 9, &run), 0);
  expect_run (&run, 11, 9, true);
  close_space ();
}

static void
test_shared (void **state)
{
  bool shared;

  (void) state;
  open_space (20 * CLUSTER);
  enter (5, 2, true);
  pthread_mutex_lock (&space.lock);
  assert_int_equal (space_enter (&space, 6, 2, true, &shared), 0);
  assert_true (shared);
  assert_int_equal (space_enter (&space, 1, 1, false, &shared), 0);
  assert_true (shared);         /* with the L1 table */
  pthread_mutex_unlock (&space.lock);
  close_space ();
}

/* Clusters scattered over a sparse file don't take memory without bounds. */
static void
test_scattered (void **state)
{
  uint64_t i = 1;
  bool shared;
  int r = 0;

  (void) state;
  open_space (INT64_MAX - 511);
  while (r == 0) {
    r = space_enter (&space, i * BITMAP_CHUNK_BITS, 1, false, &shared);
    assert_true (++i < 4000000);
  }
  assert_int_equal (r, -EFBIG);
  assert_true (i > 100000);
  close_space ();
}

/* ---- Cutting ---- */

/* What a cut took away is fresh only when the cut is durable. */
static void
test_cut (void **state)
{
  struct space_run run;
  uint64_t length;

  (void) state;
  open_space (20 * CLUSTER);
  enter (5, 1, false);
  space_complete (&space);
  assert_true (space_cut_wanted (&space, &length));
  assert_true (length == 6 * CLUSTER);
  space_was_cut (&space, length);
  assert_true (atomic_load (&space.length_bytes) == length);
  assert_false (space_cut_wanted (&space, &length));

  assert_int_equal (space_reserve (&space, 9, &run), 0);
  expect_run (&run, 3, 2, true);
  assert_int_equal (space_reserve (&space, 9, &run), -EAGAIN);
  assert_int_equal (grow (1), 0);
  assert_int_equal (space_reserve (&space, 1, &run), 0);
  expect_run (&run, 6, 1, true);

  assert_true (space_cut_wanted (&space, &length));
  space_was_cut (&space, length);
  space_cut_is_durable (&space);
  assert_int_equal (grow (1), 0);
  assert_int_equal (space_reserve (&space, 1, &run), 0);
  expect_run (&run, 7, 1, false);
  close_space ();
}

/* A tail that was used and could not be cut is not fresh. */
static void
test_cut_failed (void **state)
{
  struct space_run run;
  uint64_t length;

  (void) state;
  open_space (USED * CLUSTER);
  space_complete (&space);
  assert_int_equal (grow (4), 0);
  assert_int_equal (space_reserve (&space, 2, &run), 0);
  expect_run (&run, USED, 2, false);
  space_release (&space, &run);
  assert_true (space_cut_wanted (&space, &length));
  assert_true (length == USED * CLUSTER);

  assert_int_equal (space_reserve (&space, 4, &run), 0);
  expect_run (&run, USED, 2, true);
  assert_int_equal (space_reserve (&space, 4, &run), 0);
  assert_true (run.first == USED + 2 && !run.used_before);
  close_space ();
}

/* What was handed out and given back at the end is cut as well. */
static void
test_cut_released (void **state)
{
  struct space_run one, two;
  uint64_t length;

  (void) state;
  open_space (USED * CLUSTER);
  space_complete (&space);
  assert_int_equal (grow (4), 0);
  assert_int_equal (space_reserve (&space, 1, &one), 0);
  assert_int_equal (space_reserve (&space, 2, &two), 0);
  space_release (&space, &two);
  assert_true (space_cut_wanted (&space, &length));
  assert_true (length == (one.first + 1) * CLUSTER);
  space_release (&space, &one);
  assert_true (space_cut_wanted (&space, &length));
  assert_true (length == USED * CLUSTER);
  close_space ();
}

/* ---- Growing ---- */

/* Where there's no room for a whole step, just what is needed; else the
 * reason.
 */
static void
test_grow_errors (void **state)
{
  (void) state;
  open_space (USED * CLUSTER);
  fake_rule_add (fake, FAKE_RESIZE, 0, UINT64_MAX, -ENOSPC, 1);
  assert_int_equal (grow (2), 0);
  assert_true (fake->length == (USED + 2) * CLUSTER);
  fake_rule_add (fake, FAKE_RESIZE, 0, UINT64_MAX, -ENOSPC, 2);
  assert_int_equal (grow (3), -ENOSPC);
  fake_rule_add (fake, FAKE_RESIZE, 0, UINT64_MAX, -EFBIG, 2);
  assert_int_equal (grow (3), -ENOSPC);
  fake_rule_add (fake, FAKE_RESIZE, 0, UINT64_MAX, -EIO, 1);
  assert_int_equal (grow (3), -EIO);
  assert_true (fake->length == (USED + 2) * CLUSTER);
  assert_true (atomic_load (&space.length_bytes) == fake->length);
  assert_int_equal (grow (3), 0);
  assert_true (fake->length >= (USED + 3) * CLUSTER);
  fake_forget (fake);
  assert_int_equal (grow (3), 0);       /* long enough now */
  assert_int_equal (fake_calls (fake, FAKE_RESIZE), 0);
  close_space ();
}

/* A storage whose length is given: what it has and no more. */
static void
test_cannot_grow (void **state)
{
  struct format_geometry geometry;
  struct space_run run;
  uint64_t length;

  (void) state;
  fake = fake_new ((USED + 4) * CLUSTER + 17, ROOM);
  fake->storage.can_grow = false;
  format_geometry_init (&geometry, &header);
  assert_int_equal (space_init (&space, &geometry, &fake->storage,
                                fake->length), 0);
  space_complete (&space);
  assert_int_equal (space_reserve_table (&space, 2, &run), 0);
  expect_run (&run, USED, 2, true);
  assert_int_equal (space_reserve (&space, 5, &run), 0);
  expect_run (&run, USED + 2, 2, true);
  assert_int_equal (space_reserve (&space, 1, &run), -ENOSPC);
  assert_int_equal (space_reserve_table (&space, 2, &run), -ENOSPC);
  space_release (&space, &run); /* still the two of before */
  assert_int_equal (space_reserve_table (&space, 2, &run), 0);
  expect_run (&run, USED + 2, 2, true);
  assert_true (space_is_table (&space, USED + 2));
  assert_false (space_cut_wanted (&space, &length));
  close_space ();
}

static int held_result;

static void *
grow_in_thread (void *arg)
{
  (void) arg;
  held_result = grow (1);
  return NULL;
}

/* One grows; another waits for him and is woken. */
static void
test_grow_together (void **state)
{
  struct qed_request request;
  _Atomic unsigned wakes = 0;
  pthread_t thread;

  (void) state;
  open_space (USED * CLUSTER);
  fake_rule_add (fake, FAKE_RESIZE, 0, UINT64_MAX, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, grow_in_thread, NULL), 0);
  fake_wait_held (fake, 1);
  qed_request_init (&request, QED_OP_WRITE, NULL, 0, 0, 0);
  request.wake = count_wake;
  request.opaque = &wakes;
  assert_int_equal (space_grow (&space, &fake->storage, 1, &request),
                    QED_WAIT);
  assert_int_equal (wakes, 0);
  fake_let_go (fake);
  pthread_join (thread, NULL);
  assert_int_equal (held_result, 0);
  assert_int_equal (wakes, 1);
  assert_int_equal (space_grow (&space, &fake->storage, 1, &request), 0);
  wait_cancel (&request);
  close_space ();
}

/* A header of 2^31 clusters, and a file that is nearly as long as can be. */
static void
test_huge (void **state)
{
  const uint64_t base = UINT64_C (1) << 31, top = INT64_MAX / CLUSTER;
  const struct format_geometry geometry = {
    .cluster_size = CLUSTER, .cluster_bits = 12, .table_bytes = 2 * CLUSTER,
    .entries = 1024, .entries_bits = 10, .header_bytes = base * CLUSTER,
    .l1_offset = base * CLUSTER, .image_size = 1 << 20,
  };
  struct space_run run;

  (void) state;
  fake = fake_new (0, ROOM);
  assert_int_equal (space_init (&space, &geometry, &fake->storage,
                                INT64_MAX), 0);
  enter (top - 2, 1, false);
  space_complete (&space);
  assert_int_equal (space_reserve (&space, 10, &run), 0);
  expect_run (&run, base + 2, 10, true);
  assert_int_equal (space_reserve_table (&space, 1, &run), 0);
  expect_run (&run, top - 1, 1, true);
  assert_int_equal (space_reserve_table (&space, 1, &run), -EAGAIN);
  assert_int_equal (grow (1), -ENOSPC);
  close_space ();
}

/* ---- Random, against a naive model ---- */

#define MODEL 6000u             /* clusters */

struct model {
  uint64_t random;
  bool used[MODEL];
  bool dirty[MODEL];            /* may not read as zeros */
  struct space_run runs[MODEL];
  unsigned count;
};

static void
model_reserve (struct model *m)
{
  bool table = random_below (&m->random, 5) == 0, dirty = false;
  uint64_t want = 1 + random_below (&m->random, 20), i;
  struct space_run run;
  int r = table ? space_reserve_table (&space, 2, &run)
    : space_reserve (&space, want, &run);

  if (r == -EAGAIN) {
    assert_int_equal (grow (table ? 2 : want), 0);
    return;
  }
  assert_int_equal (r, 0);
  assert_true (run.n >= 1 && run.first + run.n <= MODEL);
  assert_true (table ? run.n == 2 : run.n <= want);
  assert_true ((run.first + run.n) * CLUSTER <= fake->length);
  for (i = run.first; i < run.first + run.n; i++) {
    assert_true (i >= USED && !m->used[i]);
    assert_int_equal (space_is_table (&space, i), table);
    dirty |= m->dirty[i];
    m->used[i] = m->dirty[i] = true;
  }
  assert_true (run.used_before || !dirty);
  m->runs[m->count++] = run;
}

static void
model_release (struct model *m)
{
  unsigned which = (unsigned) random_below (&m->random, m->count);
  struct space_run run = m->runs[which];
  uint64_t i;

  m->runs[which] = m->runs[--m->count];
  for (i = run.first; i < run.first + run.n; i++)
    m->used[i] = false;
  space_release (&space, &run);
}

static void
model_cut (struct model *m)
{
  uint64_t length, i;

  if (!space_cut_wanted (&space, &length))
    return;
  for (i = length / CLUSTER; i < MODEL; i++) {
    assert_false (m->used[i]);
    m->dirty[i] = false;
  }
  assert_int_equal (fake->storage.ops->resize (&fake->storage, length), 0);
  space_was_cut (&space, length);
  space_cut_is_durable (&space);
}

static void
test_random (void **state)
{
  static struct model m;
  unsigned i, n;

  (void) state;
  open_space ((USED + 50) * CLUSTER);
  space_complete (&space);
  memset (&m, 0, sizeof m);
  m.random = 7;
  for (i = 0; i < USED + 50; i++)
    m.dirty[i] = true;
  for (i = 0; i < 20000; i++) {
    n = (unsigned) random_below (&m.random, 100);
    if (n == 0)
      model_cut (&m);
    else if (m.count > 0 && (n < 40 || m.count > 200))
      model_release (&m);
    else
      model_reserve (&m);
  }
  close_space ();
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_fresh),
    cmocka_unit_test (test_tail),
    cmocka_unit_test (test_partial_cluster),
    cmocka_unit_test (test_table),
    cmocka_unit_test (test_reuse),
    cmocka_unit_test (test_shared),
    cmocka_unit_test (test_scattered),
    cmocka_unit_test (test_cut),
    cmocka_unit_test (test_cut_failed),
    cmocka_unit_test (test_cut_released),
    cmocka_unit_test (test_grow_errors),
    cmocka_unit_test (test_cannot_grow),
    cmocka_unit_test (test_grow_together),
    cmocka_unit_test (test_huge),
    cmocka_unit_test (test_random),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
