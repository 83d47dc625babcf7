/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The page cache under load: readers without a lock, publishers, eviction and
 * write-back at once, with far more pages than there is room for.
 *
 * Each entry says which one it is, and how often it was changed.  So a reader
 * knows if it ever got another page's entry, or an older one than before.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fake-storage.h"
#include "metadata.h"
#include "random.h"

#define PAGES 160u              /* the cache has room for 64 */
#define INDEXES 8u              /* of each page, that many are looked at */
#define READERS 3u
#define READS 60000u
#define VERSION(entry) ((entry) >> 40)
#define NAME(entry) ((entry) & ((UINT64_C (1) << 40) - 1))

static struct fake_storage *fake;
static struct metadata md;
static _Atomic bool stop, published;    /* the publishers: end, have ended */
static _Atomic unsigned wrong_page, went_back, failed, changes, rounds;

static uint64_t
name_of (uint64_t page, unsigned index)
{
  return (page * INDEXES + index + 1) << 12;
}

static void
count_wake (struct qed_request *request)
{
  atomic_store ((_Atomic bool *) request->opaque, true);
}

/* Until it is there, or the cache has no room.  As a request does it. */
static bool
bring_in (uint64_t page)
{
  struct qed_request request;
  _Atomic bool woken = false;
  int r;

  qed_request_init (&request, QED_OP_READ, NULL, 0, 0, 0);
  request.wake = count_wake;
  request.opaque = &woken;
  r = metadata_load (&md, METADATA_KEY_L2 (page), page * PAGE_BYTES,
                     &request);
  while (r == QED_WAIT && !atomic_load (&woken))
    sched_yield ();
  wait_cancel (&request);
  if (r < 0 && r != -ENOBUFS)
    atomic_fetch_add (&failed, 1);
  return r != -ENOBUFS;
}

static uint64_t
read_one (uint64_t page, unsigned index)
{
  uint64_t entry;

  while (!metadata_get (&md, METADATA_KEY_L2 (page), index, &entry))
    if (!bring_in (page))
      sched_yield ();
  return entry & ~ENTRY_MARKS;
}

static void *
reader (void *arg)
{
  static _Thread_local uint64_t last[PAGES][INDEXES];
  uint64_t random = *(uint64_t *) arg, entry, page;
  unsigned i, index;

  for (i = 0; i < READS; i++) {
    /* Some pages are hot. */
    page = random_below (&random, random_below (&random, 2) ? PAGES : 10);
    index = (unsigned) random_below (&random, INDEXES);
    entry = read_one (page, index);
    if (NAME (entry) != name_of (page, index))
      atomic_fetch_add (&wrong_page, 1);
    if (VERSION (entry) < last[page][index])
      atomic_fetch_add (&went_back, 1);
    last[page][index] = VERSION (entry);
  }
  return NULL;
}

static void *
publisher (void *arg)
{
  uint64_t random = *(uint64_t *) arg, page, entry;
  struct page *locked;
  unsigned index;

  while (!atomic_load (&stop)) {
    page = random_below (&random, PAGES);
    index = (unsigned) random_below (&random, INDEXES);
    locked = metadata_pressed (&md) ? NULL
      : metadata_lock_page (&md, METADATA_KEY_L2 (page));
    if (locked == NULL) {
      bring_in (page);
      sched_yield ();
      continue;
    }
    entry = page_get (locked, index);
    page_publish (&md, locked, index,
                  (entry + (UINT64_C (1) << 40)) | ENTRY_CHECKED);
    metadata_unlock_page (&md, locked);
    atomic_fetch_add (&changes, 1);
  }
  return NULL;
}

/* Every third batch fails. */
static void
write_back_once (struct metadata_batch *batch)
{
  bool ok = atomic_fetch_add (&rounds, 1) % 3 != 0;
  const struct storage_ops *ops = fake->storage.ops;
  size_t i;

  metadata_copy_dirty (&md, METADATA_L2, 20, batch);
  for (i = 0; i < batch->count && ok; i++)
    if (ops->pwrite (&fake->storage, batch->buf + i * PAGE_BYTES, PAGE_BYTES,
                     batch->offsets[i]) < 0)
      abort ();
  metadata_batch_done (&md, batch, ok);
}

static void *
writer_back (void *arg)
{
  struct metadata_batch *batch = arg;

  while (!atomic_load (&published) || metadata_dirty (&md, METADATA_L2) > 0) {
    write_back_once (batch);
    sched_yield ();
  }
  return NULL;
}

static void
start (void)
{
  uint64_t page;
  unsigned i;

  fake = fake_new (PAGES * PAGE_BYTES, PAGES * PAGE_BYTES);
  for (page = 0; page < PAGES; page++)
    for (i = 0; i < INDEXES; i++)
      fake_poke64 (fake, page * PAGE_BYTES + i * 8, name_of (page, i));
  assert_int_equal (metadata_init (&md, &fake->storage, 64 * PAGE_BYTES), 0);
}

/* Every change arrived on the disk, none was lost. */
static void
check_disk (void)
{
  uint64_t page, entry, sum = 0;
  unsigned i;

  for (page = 0; page < PAGES; page++) {
    for (i = 0; i < INDEXES; i++) {
      entry = fake_peek64 (fake, page * PAGE_BYTES + i * 8);
      assert_true (NAME (entry) == name_of (page, i));
      sum += VERSION (entry);
    }
  }
  assert_true (sum == changes);
}

static void
test_threads (void **state)
{
  static uint64_t seeds[READERS + 2];
  pthread_t readers[READERS], publishers[2], writer;
  struct metadata_batch batch;
  unsigned i;

  (void) state;
  start ();
  assert_int_equal (metadata_batch_init (&batch, 20), 0);
  for (i = 0; i < READERS + 2; i++)
    seeds[i] = i + 1;
  assert_int_equal (pthread_create (&writer, NULL, writer_back, &batch), 0);
  for (i = 0; i < 2; i++)
    assert_int_equal (pthread_create (&publishers[i], NULL, publisher,
                                      &seeds[READERS + i]), 0);
  for (i = 0; i < READERS; i++)
    assert_int_equal (pthread_create (&readers[i], NULL, reader, &seeds[i]),
                      0);
  for (i = 0; i < READERS; i++)
    pthread_join (readers[i], NULL);
  atomic_store (&stop, true);
  for (i = 0; i < 2; i++)
    pthread_join (publishers[i], NULL);
  atomic_store (&published, true);
  pthread_join (writer, NULL);
  assert_int_equal (wrong_page, 0);
  assert_int_equal (went_back, 0);
  assert_int_equal (failed, 0);
  assert_true (changes > 0);
  check_disk ();
  metadata_batch_destroy (&batch);
  metadata_destroy (&md);
  fake_free (fake);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_threads),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
