/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Clusters when memory is short: an allocation that fails hands out nothing,
 * and what it would have handed out is free, also while a check holds back
 * what is freed.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fake-storage.h"
#include "space.h"

#define CLUSTER UINT64_C (4096)
#define LENGTH (UINT64_C (1) << 20)

static unsigned skip = UINT32_MAX;      /* so many allocations go well */

static bool
is_due (void)
{
  return skip != UINT32_MAX && skip-- == 0;
}

void *__real_malloc (size_t size);
void *__wrap_malloc (size_t size);
void *__real_calloc (size_t n, size_t size);
void *__wrap_calloc (size_t n, size_t size);
void *__real_realloc (void *old, size_t size);
void *__wrap_realloc (void *old, size_t size);

void *
__wrap_malloc (size_t size)
{
  return is_due () ? NULL : __real_malloc (size);
}

void *
__wrap_calloc (size_t n, size_t size)
{
  return is_due () ? NULL : __real_calloc (n, size);
}

void *
__wrap_realloc (void *old, size_t size)
{
  return is_due () ? NULL : __real_realloc (old, size);
}

static struct fake_storage *fake;
static struct space space;

static void
open_space (void)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 2, .header_size = 1,
    .l1_table_offset = CLUSTER, .image_size = 1 << 20,
  };
  struct format_geometry geometry;

  fake = fake_new (LENGTH, LENGTH);
  format_geometry_init (&geometry, &header);
  assert_int_equal (space_init (&space, &geometry, &fake->storage, LENGTH), 0);
  space_complete (&space);
}

/* The n-th allocation fails.  Returns whether there was one. */
static bool
fail_nth (unsigned n, bool held, bool table)
{
  struct space_run run, again;
  uint64_t count, tables, end;
  int r;

  open_space ();
  if (held)
    assert_int_equal (space_hold (&space), 0);
  count = space.used.count;
  tables = space.tables.count;
  end = space.end;
  skip = n;
  r = table ? space_reserve_table (&space, 2, &run)
    : space_reserve (&space, 2, &run);
  skip = UINT32_MAX;
  if (r < 0) {
    assert_int_equal (r, -ENOMEM);
    assert_true (space.used.count == count);
    assert_true (space.tables.count == tables);
    assert_true (space.recent.count == 0);
    assert_true (space.end == end);
  }
  assert_int_equal (table ? space_reserve_table (&space, 2, &again)
                    : space_reserve (&space, 2, &again), 0);
  if (r < 0)
    assert_true (space.used.count == count + again.n);
  else
    assert_true (again.first == run.first + run.n);
  assert_int_equal (space.recent.count > 0, held);
  if (held)
    space_release_hold (&space);
  space_destroy (&space);
  fake_free (fake);
  return r < 0;
}

static void
fail_each (bool held, bool table, unsigned least)
{
  unsigned n = 0;

  while (fail_nth (n, held, table))
    n++;
  assert_true (n >= least);
}

static void
test_reserve_held (void **state)
{
  (void) state;
  fail_each (true, false, 2);
}

static void
test_table (void **state)
{
  (void) state;
  fail_each (false, true, 2);
}

static void
test_table_held (void **state)
{
  (void) state;
  fail_each (true, true, 4);
}

/* Searches that would pass what is not there look at all of it, then.  Each
 * new chunk has them sort anew.
 */
static void
test_searches (void **state)
{
  struct bitmap bitmap;
  bool was;

  (void) state;
  bitmap_init (&bitmap);
  assert_int_equal (bitmap_set (&bitmap, 5, &was), 0);
  assert_int_equal (bitmap_set (&bitmap, 9000, &was), 0);
  skip = 0;
  assert_true (bitmap_next_set (&bitmap, 6, 20000) == 9000);
  assert_true (skip == UINT32_MAX);
  assert_int_equal (bitmap_set (&bitmap, 100000, &was), 0);
  skip = 0;
  assert_true (bitmap_end (&bitmap, 0, 9000) == 6);
  assert_true (skip == UINT32_MAX);
  assert_int_equal (bitmap_set (&bitmap, 200000, &was), 0);
  skip = 0;
  assert_true (bitmap_end (&bitmap, 0, 20000) == 9001);
  assert_true (skip == UINT32_MAX);
  bitmap_clear (&bitmap, 5);
  assert_true (bitmap_end (&bitmap, 0, 9000) == 0);
  bitmap_destroy (&bitmap);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_reserve_held),
    cmocka_unit_test (test_table),
    cmocka_unit_test (test_table_held),
    cmocka_unit_test (test_searches),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
