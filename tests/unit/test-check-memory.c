/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Memory that a check and a repair can't have: for what they note of clusters,
 * call by call, and for the page of a table that they want to see again.  Each
 * time: they end, say so, and nothing of the disk is lost.  And what changes
 * between two looks of a check at a served image.
 */

#include <errno.h>
#include <string.h>

#include "bitmap.h"
#include "check.h"
#include "fake-image.h"
#include "repair.h"
#include "space.h"

#define AT(n) ((n) * CLUSTER)
#define WIDE (2 * TABLE_SPAN)           /* what a table of two describes */

/* ---- The calls that fail ---- */

static unsigned bits_left, runs_left;   /* so many pass, then one fails */
static bool cache_full;
static unsigned loads;
static void (*before_load) (void), (*before_leaks) (void);

int __real_bitmap_set (struct bitmap *bitmap, uint64_t bit, bool *was);
int __wrap_bitmap_set (struct bitmap *bitmap, uint64_t bit, bool *was);
int __real_space_enter (struct space *space, uint64_t first, uint64_t n,
                        bool table, bool *shared);
int __wrap_space_enter (struct space *space, uint64_t first, uint64_t n,
                        bool table, bool *shared);
int __real_metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
                          struct qed_request *request);
int __wrap_metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
                          struct qed_request *request);

static bool
is_due (unsigned *left)
{
  return *left > 0 && --*left == 0;
}

int __real_space_add_unnamed (struct space *space, struct bitmap *used);
int __wrap_space_add_unnamed (struct space *space, struct bitmap *used);

int
__wrap_bitmap_set (struct bitmap *bitmap, uint64_t bit, bool *was)
{
  return is_due (&bits_left) ? -ENOMEM : __real_bitmap_set (bitmap, bit, was);
}

int
__wrap_space_enter (struct space *space, uint64_t first, uint64_t n,
                    bool table, bool *shared)
{
  return is_due (&runs_left) ? -ENOMEM
    : __real_space_enter (space, first, n, table, shared);
}

/* Nothing hangs that asks again: it gets room in the end, which is wrong. */
int
__wrap_metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
                      struct qed_request *request)
{
  if (before_load)
    before_load ();
  if (cache_full && ++loads < 1000)
    return -ENOBUFS;
  return __real_metadata_load (md, key, offset, request);
}

int
__wrap_space_add_unnamed (struct space *space, struct bitmap *used)
{
  if (before_leaks)
    before_leaks ();
  return __real_space_add_unnamed (space, used);
}

/* ---- A repair that moves tables of two clusters ---- */

static void
fill (uint64_t cluster, unsigned char byte)
{
  unsigned char buf[CLUSTER];

  memset (buf, byte, sizeof buf);
  fake_poke (fake, buf, sizeof buf, AT (cluster));
}

/* Only gaps of one cluster, before and between the tables: they can only be
 * packed, where data and other tables are in the way.
 */
static void
make_packed (void)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 2, .header_size = 1,
    .l1_table_offset = AT_L1, .image_size = 16 * TABLE_SPAN,
  };
  const uint64_t tables[] = { 4, 7, 10, 13 };
  unsigned i;

  fake->length = AT (16);
  for (i = 0; i < 16; i++)
    fill (i, 0);
  fake_format (fake, &header);
  fake->length = AT (16);
  for (i = 0; i < 4; i++)
    fake_poke64 (fake, AT_L1 + i * 8, AT (tables[i]));
  fake_poke64 (fake, AT (4) + 8, AT (3));
  fake_poke64 (fake, AT (10) + 8, AT (15));
  fill (3, 3);
  fill (15, 15);
}

/* From when it is open the n-th call fails. */
static int
repair (unsigned *left, unsigned n)
{
  struct qed_check_options check;
  struct qed_check_result result;
  struct qed_options options;
  struct look look = { .options = &check };
  int r;

  qed_check_options_init (&check);
  check.repair = QED_REPAIR_ALL;
  memset (&result, 0, sizeof result);
  qed_options_init (&options);
  options.path = "fake";
  options.examine = true;
  options.clean_after = 0;
  options.log.fn = log_quietly;
  assert_int_equal (image_open_storage (&options, &fake->storage, &image), 0);
  assert_int_equal (qed_start (image), 0);
  *left = n;
  look.image = image;
  look.space = &image->space;
  r = look_run (&look);
  if (r == 0)
    r = repair_run (&look, &result);
  look_free (&look);
  *left = 0;
  assert_int_equal (close_image (), 0);
  return r;
}

static void
expect_content (void)
{
  start_image ();
  assert_true (qed_writable (image));
  expect_byte (CLUSTER, 3);
  expect_byte (2 * WIDE + CLUSTER, 15);
  assert_int_equal (close_image (), 0);
}

static void
repair_each (unsigned *left)
{
  unsigned n = 0;
  int r;

  do {
    make_packed ();
    r = repair (left, ++n);
    assert_true (r == 0 || r == -ENOMEM);
    expect_content ();
    assert_int_equal (repair (left, 0), 0);
    expect_content ();
    assert_true (fake->length == AT (13));      /* without gaps */
    assert_false (need_check ());
  } while (r != 0);
  assert_in_range (n, 10, 1000);
}

static void
test_bits (void **state)
{
  (void) state;
  repair_each (&bits_left);
}

static void
test_runs (void **state)
{
  (void) state;
  repair_each (&runs_left);
}

/* ---- A check of an image in use ---- */

static unsigned leaks;

static void
found (void *opaque, const struct qed_problem *problem)
{
  (void) opaque;
  if (problem->code == QED_PROBLEM_LEAK)
    leaks += (unsigned) (problem->bytes / CLUSTER);
}

static int
check_online (struct qed_check_result *result)
{
  struct qed_check_options check;

  qed_check_options_init (&check);
  check.found = found;
  leaks = 0;
  return qed_check_online (image, &check, result);
}

/* No alarm that isn't one, however the check ends. */
static void
test_online (void **state)
{
  struct qed_check_result result;
  unsigned n = 0;
  int r;

  (void) state;
  make_packed ();
  start_image ();
  do {
    bits_left = ++n;
    r = check_online (&result);
    assert_true (r == -ENOMEM || r == 0);
    assert_true (leaks <= 3);
    assert_true (qed_writable (image));
    bits_left = 0;
    expect_byte (CLUSTER, 3);
  } while (r != 0);
  assert_in_range (n, 2, 1000);
  assert_int_equal (result.leaks, 3);
  assert_int_equal (leaks, 3);
  assert_int_equal (close_image (), 0);
}

/* An entry that was read comes to name what seemed to leak: it does not, and
 * memory that is missing for that is no reason to tell it.
 */
static void
name_one (void)
{
  fake_poke64 (fake, AT (4) + 2 * 8, AT (6));
}

static void
test_named (void **state)
{
  struct qed_check_result result;
  unsigned n = 0;
  int r;

  (void) state;
  do {
    make_packed ();
    start_image ();
    before_leaks = name_one;
    bits_left = ++n;
    r = check_online (&result);
    before_leaks = NULL;
    bits_left = 0;
    assert_true (r == -ENOMEM || r == 0);
    assert_int_equal (leaks, r == 0 ? 2 : 0);
    assert_true (qed_writable (image));
    assert_int_equal (close_image (), 0);
  } while (r != 0);
  assert_int_equal (result.leaks, 2);
  assert_in_range (n, 4, 1000);
}

/* What seemed to be wrong is not when it is looked up again; if that can't be
 * done, it is.
 */
static void
mend (void)
{
  fake_poke64 (fake, AT (4) + 8 * 20, 0);
}

static void
forbid (void)
{
  fake_rule_add (fake, FAKE_READ, AT (4), AT (5), -EIO, 1);
  before_load = NULL;
}

static void
test_again (void **state)
{
  struct qed_check_result result;

  (void) state;
  make_packed ();
  start_image ();
  fake_poke64 (fake, AT (4) + 8 * 20, 12345);
  before_load = mend;
  assert_int_equal (check_online (&result), 0);
  before_load = NULL;
  assert_int_equal (result.corruptions, 0);
  assert_true (qed_writable (image));
  assert_int_equal (close_image (), 0);
}

static void
test_not_again (void **state)
{
  struct qed_check_result result;

  (void) state;
  make_packed ();
  start_image ();
  fake_poke64 (fake, AT (4) + 8 * 20, 12345);
  before_load = forbid;
  assert_int_equal (check_online (&result), 0);
  assert_null (before_load);
  assert_int_equal (result.corruptions, 1);
  assert_false (qed_writable (image));
  assert_int_equal (close_image (), 0);
}

/* What is wrong with an entry is looked up again on disk. */
static void
test_no_room (void **state)
{
  struct qed_check_result result;

  (void) state;
  make_packed ();
  start_image ();
  fake_poke64 (fake, AT (4) + 8 * 20, 12345);
  cache_full = true;
  loads = 0;
  assert_int_equal (check_online (&result), 0);
  cache_full = false;
  assert_in_range (loads, 1, 10);
  assert_int_equal (result.corruptions, 1);
  assert_false (qed_writable (image));
  assert_int_equal (close_image (), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_bits),
    FAKE_IMAGE_TEST (test_runs),
    FAKE_IMAGE_TEST (test_online),
    FAKE_IMAGE_TEST (test_named),
    FAKE_IMAGE_TEST (test_again),
    FAKE_IMAGE_TEST (test_not_again),
    FAKE_IMAGE_TEST (test_no_room),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
