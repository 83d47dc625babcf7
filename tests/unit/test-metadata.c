/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The page cache of tables, on a storage in memory. */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake-storage.h"
#include "metadata.h"

#define WAYS 16u                /* pages of a set */
#define SETS 4u
#define PAGES 512u              /* in the file */

static struct fake_storage *fake;
static struct metadata md;
static struct metadata_batch batch;
static _Atomic unsigned became_dirty, wakes;
static struct qed_request request;

static uint64_t
value_of (uint64_t page, unsigned index)
{
  return (page * PAGE_ENTRIES + index + 1) << 12;
}

/* Where an L2 page lies; L1 pages lie behind them, in reverse order. */
static uint64_t
offset_of (uint64_t key)
{
  uint64_t page = key & ~(UINT64_C (3) << 62);

  return (key >> 63 ? 2 * PAGES - 1 - page : page) * PAGE_BYTES;
}

static void
count_dirty (void *opaque)
{
  (void) opaque;
  atomic_fetch_add (&became_dirty, 1);
}

static void
count_wake (struct qed_request *r)
{
  (void) r;
  atomic_fetch_add (&wakes, 1);
}

static int
setup (void **state)
{
  uint64_t page;
  unsigned i;

  (void) state;
  fake = fake_new (2 * PAGES * PAGE_BYTES, 2 * PAGES * PAGE_BYTES);
  for (page = 0; page < PAGES; page++)
    for (i = 0; i < PAGE_ENTRIES; i++)
      fake_poke64 (fake, page * PAGE_BYTES + i * 8, value_of (page, i));
  assert_int_equal (metadata_init (&md, &fake->storage,
                                   SETS * WAYS * PAGE_BYTES), 0);
  md.became_dirty = count_dirty;
  assert_int_equal (metadata_batch_init (&batch, 64), 0);
  atomic_store (&became_dirty, 0);
  atomic_store (&wakes, 0);
  qed_request_init (&request, QED_OP_READ, NULL, 0, 0, 0);
  request.wake = count_wake;
  return 0;
}

static int
teardown (void **state)
{
  (void) state;
  wait_cancel (&request);
  metadata_batch_destroy (&batch);
  metadata_destroy (&md);
  fake_free (fake);
  return 0;
}

/* The n-th L2 page of set 0. */
static uint64_t
key_in_set (unsigned n)
{
  return METADATA_KEY_L2 ((uint64_t) n * SETS);
}

static int
load (uint64_t key)
{
  return metadata_load (&md, key, offset_of (key), &request);
}

static bool
cached (uint64_t key)
{
  uint64_t entry;

  return metadata_get (&md, key, 0, &entry);
}

static void
change (uint64_t key, unsigned index, uint64_t value)
{
  struct page *page = metadata_lock_page (&md, key);

  assert_non_null (page);
  page_publish (&md, page, index, value);
  metadata_unlock_page (&md, page);
}

static void
expect_entry (uint64_t key, unsigned index, uint64_t expected)
{
  uint64_t entry;

  assert_true (metadata_get (&md, key, index, &entry));
  assert_true (entry == expected);
}

/* What write-back does with a batch. */
static void
write_batch (void)
{
  size_t i;

  for (i = 0; i < batch.count; i++)
    fake_poke (fake, batch.buf + i * PAGE_BYTES, PAGE_BYTES,
               batch.offsets[i]);
}

/* ---- Loading and eviction ---- */

static void
test_load (void **state)
{
  const uint64_t key = METADATA_KEY_L2 (7);
  uint64_t entry;

  (void) state;
  assert_false (metadata_get (&md, key, 3, &entry));
  assert_null (metadata_lock_page (&md, key));
  assert_int_equal (load (key), 0);
  expect_entry (key, 0, value_of (7, 0));
  expect_entry (key, 511, value_of (7, 511));
  assert_false (cached (METADATA_KEY_L1 (7)));  /* another page */
  assert_int_equal (fake_calls (fake, FAKE_READ), 1);
  assert_int_equal (load (key), 0);             /* cached */
  assert_int_equal (fake_calls (fake, FAKE_READ), 1);
  assert_int_equal (load (METADATA_KEY_L1 (7)), 0);
  expect_entry (METADATA_KEY_L1 (7), 3, 0);
  expect_entry (key, 3, value_of (7, 3));
}

static void
test_load_error (void **state)
{
  const uint64_t key = METADATA_KEY_L2 (7);

  (void) state;
  fake_rule_add (fake, FAKE_READ, 0, UINT64_MAX, -EIO, 1);
  assert_int_equal (load (key), -EIO);
  assert_false (cached (key));
  assert_int_equal (load (key), 0);
  expect_entry (key, 1, value_of (7, 1));
}

/* All pages pass through one set; never more than its ways are cached. */
static void
test_evict (void **state)
{
  unsigned i, j, n = 0;

  (void) state;
  for (i = 0; i < PAGES / SETS; i++) {
    assert_int_equal (load (key_in_set (i)), 0);
    for (j = 0; j < 512; j += 73)
      expect_entry (key_in_set (i), j, value_of (i * SETS, j));
  }
  for (i = 0; i < PAGES / SETS; i++)
    n += cached (key_in_set (i));
  assert_int_equal (n, WAYS);
}

/* Of pages that were used again none goes while there are others. */
static void
test_second_chance (void **state)
{
  unsigned i;

  (void) state;
  for (i = 0; i <= WAYS; i++)
    assert_int_equal (load (key_in_set (i)), 0);
  assert_true (cached (key_in_set (5)));        /* looked up */
  metadata_unlock_page (&md, metadata_lock_page (&md, key_in_set (9)));
  for (i = 0; i < WAYS - 4; i++)
    assert_int_equal (load (key_in_set (100 + i)), 0);
  assert_true (cached (key_in_set (5)));
  assert_true (cached (key_in_set (9)));
}

/* ---- Dirty pages ---- */

static void
test_dirty_stays (void **state)
{
  unsigned i;

  (void) state;
  for (i = 0; i < WAYS; i++) {
    assert_int_equal (load (key_in_set (i)), 0);
    change (key_in_set (i), i, 0xabc000);
  }
  assert_int_equal (atomic_load (&became_dirty), 1);
  assert_int_equal (metadata_dirty (&md, METADATA_L2), WAYS);
  assert_int_equal (load (key_in_set (100)), -ENOBUFS);

  /* Nor while its copy is written. */
  metadata_copy_dirty (&md, METADATA_L2, 1, &batch);
  assert_int_equal (batch.count, 1);
  assert_int_equal (load (key_in_set (100)), -ENOBUFS);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_int_equal (load (key_in_set (100)), 0);
  assert_false (cached (key_in_set (0)));
  for (i = 1; i < WAYS; i++)
    expect_entry (key_in_set (i), i, 0xabc000);

  metadata_copy_dirty (&md, METADATA_L2, 1, &batch);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_int_equal (load (key_in_set (0)), 0);
  expect_entry (key_in_set (0), 0, 0xabc000);
}

/* What differs from the disk is not forgotten, nor what is being written. */
static void
test_forget (void **state)
{
  (void) state;
  assert_int_equal (load (key_in_set (0)), 0);
  assert_int_equal (load (key_in_set (1)), 0);
  change (key_in_set (0), 0, 0xabc000);
  assert_int_equal (metadata_forget (&md), -EBUSY);
  assert_true (cached (key_in_set (1)));
  metadata_copy_dirty (&md, METADATA_L2, 1, &batch);
  assert_int_equal (metadata_forget (&md), -EBUSY);
  assert_true (cached (key_in_set (0)));
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_int_equal (metadata_forget (&md), 0);
  assert_false (cached (key_in_set (0)));
  assert_int_equal (load (key_in_set (0)), 0);
  expect_entry (key_in_set (0), 0, 0xabc000);
}

/* Those longest dirty are copied first, sorted by their place; L1 and L2
 * apart.
 */
static void
test_copy_order (void **state)
{
  static const unsigned order[] = { 40, 3, 21, 8 };
  unsigned i;

  (void) state;
  for (i = 0; i < 4; i++) {
    assert_int_equal (load (METADATA_KEY_L2 (order[i])), 0);
    assert_int_equal (load (METADATA_KEY_L1 (order[i])), 0);
    change (METADATA_KEY_L2 (order[i]), 0, 0x1000);
    change (METADATA_KEY_L1 (order[i]), 0, 0x2000);
    change (METADATA_KEY_L2 (order[i]), 1, 0x1000);
  }
  assert_int_equal (metadata_dirty (&md, METADATA_L1), 4);
  assert_int_equal (metadata_dirty (&md, METADATA_L2), 4);
  metadata_copy_dirty (&md, METADATA_L2, 3, &batch);
  assert_int_equal (batch.count, 3);
  assert_true (batch.offsets[0] == 3 * PAGE_BYTES);
  assert_true (batch.offsets[1] == 21 * PAGE_BYTES);
  assert_true (batch.offsets[2] == 40 * PAGE_BYTES);
  assert_int_equal (metadata_dirty (&md, METADATA_L2), 1);
  metadata_batch_done (&md, &batch, true);
  metadata_copy_dirty (&md, METADATA_L1, 64, &batch);
  assert_int_equal (batch.count, 4);
  assert_true (batch.offsets[0] == offset_of (METADATA_KEY_L1 (40)));
  metadata_batch_done (&md, &batch, true);
  assert_int_equal (metadata_dirty (&md, METADATA_L1), 0);
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  assert_int_equal (batch.count, 1);
  assert_true (batch.offsets[0] == 8 * PAGE_BYTES);
  metadata_batch_done (&md, &batch, true);
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  assert_int_equal (batch.count, 0);
}

/* What changes after the copy belongs to the next one (M4). */
static void
test_change_while_writing (void **state)
{
  const uint64_t key = METADATA_KEY_L2 (7);

  (void) state;
  assert_int_equal (load (key), 0);
  change (key, 1, 0x5000);
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  change (key, 2, 0x6000);
  assert_int_equal (metadata_dirty (&md, METADATA_L2), 1);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + 8) == 0x5000);
  assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + 16) == value_of (7, 2));
  assert_int_equal (metadata_dirty (&md, METADATA_L2), 1);
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + 16) == 0x6000);
  assert_int_equal (metadata_dirty (&md, METADATA_L2), 0);
}

/* A write that failed: the page is dirty as before, once. */
static void
test_write_failed (void **state)
{
  const uint64_t key = METADATA_KEY_L2 (7);
  unsigned i;

  (void) state;
  assert_int_equal (load (key), 0);
  change (key, 1, 0x5000);
  for (i = 0; i < 3; i++) {
    metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
    assert_int_equal (batch.count, 1);
    if (i == 1)
      change (key, 2, 0x6000);
    metadata_batch_done (&md, &batch, false);
    assert_int_equal (batch.count, 0);
    assert_int_equal (metadata_dirty (&md, METADATA_L2), 1);
  }
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + 8) == 0x5000);
  assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + 16) == 0x6000);
}

static void
test_pressed (void **state)
{
  unsigned i;

  (void) state;
  for (i = 0; i <= SETS * WAYS / 2; i++) {
    assert_false (metadata_pressed (&md));
    assert_int_equal (load (METADATA_KEY_L2 (i)), 0);
    change (METADATA_KEY_L2 (i), 0, 0x1000);
  }
  assert_true (metadata_pressed (&md));
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  metadata_batch_done (&md, &batch, true);
  assert_false (metadata_pressed (&md));
}

/* ---- Entries ---- */

/* Values with reserved bits are shown as damaged and written back as they
 * were; our marks never reach the disk.
 */
static void
test_damaged (void **state)
{
  static const uint64_t bad[] = { 2, 0xfff, 0x10001, 0x7004, UINT64_MAX };
  const uint64_t key = METADATA_KEY_L2 (7);
  unsigned i;

  (void) state;
  for (i = 0; i < 5; i++)
    fake_poke64 (fake, 7 * PAGE_BYTES + i * 8, bad[i]);
  fake_poke64 (fake, 7 * PAGE_BYTES + 5 * 8, FORMAT_ENTRY_ZERO);
  assert_int_equal (load (key), 0);
  for (i = 0; i < 5; i++)
    expect_entry (key, i, ENTRY_DAMAGED);
  expect_entry (key, 5, FORMAT_ENTRY_ZERO);
  change (key, 6, 0x9000 | ENTRY_CHECKED);
  metadata_set_checked (&md, key, 9, value_of (7, 9));
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  for (i = 0; i < 5; i++)
    assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + i * 8) == bad[i]);
  assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + 40) == FORMAT_ENTRY_ZERO);
  assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + 48) == 0x9000);
  for (i = 7; i < PAGE_ENTRIES; i++)
    assert_true (fake_peek64 (fake, 7 * PAGE_BYTES + i * 8) ==
                 value_of (7, i));
}

/* The raw values belong to one page, not to who gets its memory next. */
static void
test_damaged_evicted (void **state)
{
  unsigned i;

  (void) state;
  fake_poke64 (fake, 0, 2);
  assert_int_equal (load (key_in_set (0)), 0);
  for (i = 1; i <= 2 * WAYS; i++)
    assert_int_equal (load (key_in_set (i)), 0);
  assert_false (cached (key_in_set (0)));
  fake_poke64 (fake, 0, 0xfff);
  assert_int_equal (load (key_in_set (0)), 0);
  change (key_in_set (0), 1, 0x3000);
  metadata_copy_dirty (&md, METADATA_L2, 64, &batch);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_true (fake_peek64 (fake, 0) == 0xfff);
  assert_true (fake_peek64 (fake, 8) == 0x3000);
}

static void
test_set_checked (void **state)
{
  const uint64_t key = METADATA_KEY_L2 (7), value = value_of (7, 1);

  (void) state;
  metadata_set_checked (&md, key, 1, value);    /* not cached: nothing */
  assert_int_equal (load (key), 0);
  metadata_set_checked (&md, key, 1, value + 0x1000);   /* it changed */
  expect_entry (key, 1, value);
  metadata_set_checked (&md, key, 1, value);
  expect_entry (key, 1, value | ENTRY_CHECKED);
  assert_int_equal (metadata_dirty (&md, METADATA_L2), 0);
}

static void
test_read_entry (void **state)
{
  uint64_t entry;

  (void) state;
  assert_int_equal (metadata_read_entry (&md, 7 * PAGE_BYTES, 5, &entry), 0);
  assert_true (entry == value_of (7, 5));
  fake_poke64 (fake, 7 * PAGE_BYTES + 40, 3);
  assert_int_equal (metadata_read_entry (&md, 7 * PAGE_BYTES, 5, &entry), 0);
  assert_true (entry == ENTRY_DAMAGED);
  assert_false (cached (METADATA_KEY_L2 (7)));
  fake_rule_add (fake, FAKE_READ, 0, UINT64_MAX, -EIO, 1);
  assert_int_equal (metadata_read_entry (&md, 7 * PAGE_BYTES, 5, &entry),
                    -EIO);
}

/* ---- Two who want the same page ---- */

struct loader {
  uint64_t key;
  struct qed_request request;
  pthread_t thread;
  int result;
};

static void *
load_in_thread (void *arg)
{
  struct loader *l = arg;

  l->result = metadata_load (&md, l->key, offset_of (l->key), &l->request);
  return NULL;
}

static void
start_loader (struct loader *l, uint64_t key)
{
  qed_request_init (&l->request, QED_OP_READ, NULL, 0, 0, 0);
  l->request.wake = count_wake;
  l->key = key;
  assert_int_equal (pthread_create (&l->thread, NULL, load_in_thread, l), 0);
}

/* One reads, the other waits and is woken, whether the read succeeds or not.
 */
static void
load_together (int error)
{
  const uint64_t key = METADATA_KEY_L2 (7);
  struct loader loader;

  fake_rule_add (fake, FAKE_READ, 0, UINT64_MAX, 0, 1);
  start_loader (&loader, key);
  fake_wait_held (fake, 1);
  assert_false (cached (key));
  assert_null (metadata_lock_page (&md, key));
  assert_int_equal (load (key), QED_WAIT);
  assert_int_equal (atomic_load (&wakes), 0);
  if (error)
    fake_rule_add (fake, FAKE_READ, 0, UINT64_MAX, error, 1);
  fake_let_go (fake);
  pthread_join (loader.thread, NULL);
  assert_int_equal (loader.result, error);
  assert_int_equal (atomic_load (&wakes), 1);
  assert_int_equal (load (key), 0);
  expect_entry (key, 1, value_of (7, 1));
  assert_int_equal (atomic_load (&wakes), 1);
}

static void
test_load_together (void **state)
{
  (void) state;
  load_together (0);
}

static void
test_load_together_fails (void **state)
{
  (void) state;
  load_together (-EIO);
}

/* A set in which every page is being read has no room. */
static void
test_all_loading (void **state)
{
  struct loader loaders[WAYS];
  unsigned i;

  (void) state;
  fake_rule_add (fake, FAKE_READ, 0, UINT64_MAX, 0, 1);
  for (i = 0; i < WAYS; i++)
    start_loader (&loaders[i], key_in_set (i));
  fake_wait_held (fake, WAYS);
  assert_int_equal (load (key_in_set (50)), -ENOBUFS);
  fake_let_go (fake);
  for (i = 0; i < WAYS; i++) {
    pthread_join (loaders[i].thread, NULL);
    assert_int_equal (loaders[i].result, 0);
  }
  assert_int_equal (load (key_in_set (50)), 0);
}

static void
test_unwritten (void **state)
{
  (void) state;
  assert_false (metadata_is_unwritten (&md, key_in_set (0)));   /* not here */
  assert_int_equal (load (key_in_set (0)), 0);
  assert_false (metadata_is_unwritten (&md, key_in_set (0)));
  change (key_in_set (0), 1, 0xabc000);
  assert_true (metadata_is_unwritten (&md, key_in_set (0)));
  metadata_copy_dirty (&md, METADATA_L2, 1, &batch);
  assert_true (metadata_is_unwritten (&md, key_in_set (0)));
  assert_int_equal (metadata_forget (&md), -EBUSY);
  expect_entry (key_in_set (0), 1, 0xabc000);
  write_batch ();
  metadata_batch_done (&md, &batch, true);
  assert_false (metadata_is_unwritten (&md, key_in_set (0)));
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (test_load),
    TEST (test_load_error),
    TEST (test_evict),
    TEST (test_second_chance),
    TEST (test_dirty_stays),
    TEST (test_forget),
    TEST (test_unwritten),
    TEST (test_copy_order),
    TEST (test_change_while_writing),
    TEST (test_write_failed),
    TEST (test_pressed),
    TEST (test_damaged),
    TEST (test_damaged_evicted),
    TEST (test_set_checked),
    TEST (test_read_entry),
    TEST (test_load_together),
    TEST (test_load_together_fails),
    TEST (test_all_loading),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
