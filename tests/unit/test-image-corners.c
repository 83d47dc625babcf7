/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What seldom happens to an image: a quota that is used up, a cache without
 * room, a caller who looks too early, an open that goes wrong half-way.
 */

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "fake-image.h"

#define RUBBISH_CLUSTERS 8u

/* ---- What the cache answers ---- */

static bool cache_full, cache_empty;    /* to what is not there; to all */
static int entry_error;                 /* of an entry that is read by itself */
static unsigned entry_reads;

int __real_metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
                          struct qed_request *request);
int __wrap_metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
                          struct qed_request *request);
bool __real_metadata_get (struct metadata *md, uint64_t key, unsigned index,
                          uint64_t *entry);
bool __wrap_metadata_get (struct metadata *md, uint64_t key, unsigned index,
                          uint64_t *entry);
int __real_metadata_read_entry (struct metadata *md, uint64_t offset,
                                unsigned index, uint64_t *entry);
int __wrap_metadata_read_entry (struct metadata *md, uint64_t offset,
                                unsigned index, uint64_t *entry);

int
__wrap_metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
                      struct qed_request *r)
{
  return cache_full ? -ENOBUFS : __real_metadata_load (md, key, offset, r);
}

bool
__wrap_metadata_get (struct metadata *md, uint64_t key, unsigned index,
                     uint64_t *entry)
{
  return !cache_empty && __real_metadata_get (md, key, index, entry);
}

int
__wrap_metadata_read_entry (struct metadata *md, uint64_t offset,
                            unsigned index, uint64_t *entry)
{
  entry_reads++;
  return entry_error ? entry_error
    : __real_metadata_read_entry (md, offset, index, entry);
}

/* One table with one cluster, both on disk. */
static void
fill_one (void)
{
  unsigned char data[CLUSTER];

  memset (data, 0x55, sizeof data);
  fake->length = AT_END + 2 * CLUSTER;
  fake_poke64 (fake, AT_L1, AT_END);
  fake_poke64 (fake, AT_END, AT_END + CLUSTER);
  fake_poke (fake, data, sizeof data, AT_END + CLUSTER);
}

/* All pages of it are in use, and none can go: entries are read one by one,
 * those of L1 too; where they can't be, the read fails and says so.
 */
static void
test_no_room (void **state)
{
  (void) state;
  fill_one ();
  start_image ();
  cache_full = cache_empty = true;
  entry_reads = 0;
  expect_byte (0, 0x55);
  assert_int_equal (entry_reads, 2);            /* of L1, and of the table */
  expect_byte (TABLE_SPAN, 0);                  /* no table: of L1 alone */
  assert_int_equal (entry_reads, 3);
  entry_error = -EIO;
  assert_int_equal (read_result (0), -EIO);
  entry_error = 0;
  expect_byte (0, 0x55);
  cache_full = cache_empty = false;
  expect_byte (0, 0x55);
  assert_int_equal (close_image (), 0);
}

/* ---- Storage that refuses ---- */

/* What was free is still free, and is used when the quota allows it. */
static void
test_quota (void **state)
{
  unsigned char rubbish[RUBBISH_CLUSTERS * CLUSTER];
  uint64_t length;

  (void) state;
  memset (rubbish, 0xee, sizeof rubbish);
  fake->length = length = AT_END + sizeof rubbish;
  fake_poke (fake, rubbish, sizeof rubbish, AT_END);
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_ZERO, 0, UINT64_MAX, -EDQUOT, 20);
  while (fake->rules[0].times > 0)
    assert_int_equal (write_byte (CLUSTER, 2, 0), -EDQUOT);
  fake_drop_rules (fake);
  assert_int_equal (write_byte (CLUSTER, 2, QED_FUA), 0);
  assert_true (fake_peek64 (fake, fake_peek64 (fake, AT_L1) + 8) ==
               fake_peek64 (fake, fake_peek64 (fake, AT_L1)) + CLUSTER);
  assert_true (fake->length == length);
  expect_byte (CLUSTER, 2);
  expect_byte (CLUSTER + 512, 0);
  assert_int_equal (close_image (), 0);
}

/* A sync that could not be tried is no failed one (O8). */
static void
test_away (void **state)
{
  (void) state;
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_SYNC, 0, UINT64_MAX, -ENOTCONN, 1);
  assert_int_equal (flush_image (), -EIO);
  assert_true (qed_writable (image));
  assert_int_equal (flush_image (), 0);
  assert_int_equal (write_byte (CLUSTER, 2, QED_FUA), 0);
  assert_int_equal (close_image (), 0);
  assert_false (need_check ());
}

/* ---- Requests ---- */

/* Who runs a request again before it was woken is told to wait, and the job
 * that serves it serves it once.
 */
static void
test_too_early (void **state)
{
  struct pending *p;

  (void) state;
  start_image ();
  fake_rule_add (fake, FAKE_WRITE, 0, 512, 0, 1);
  p = start_write (0, 1);
  fake_wait_held (fake, 1);
  assert_int_equal (p->result, QED_WAIT);
  assert_int_equal (qed_request_run (image, &p->request), QED_WAIT);
  assert_int_equal (qed_request_run (image, &p->request), QED_WAIT);
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, p), 0);
  expect_byte (0, 1);
  assert_int_equal (close_image (), 0);
}

static void *
write_table (void *result)
{
  *(int *) result = write_byte (TABLE_SPAN, 2, 0);
  return NULL;
}

/* Who cleans waits for a change that is under way. */
static void
test_clean_waits (void **state)
{
  unsigned char rubbish[RUBBISH_CLUSTERS * CLUSTER];
  struct pending *clean;
  pthread_t thread;
  int result = -1;

  (void) state;
  memset (rubbish, 0xee, sizeof rubbish);
  fake->length = AT_END + sizeof rubbish;
  fake_poke (fake, rubbish, sizeof rubbish, AT_END);
  start_image ();
  assert_int_equal (write_byte (0, 1, 0), 0);
  fake_rule_add (fake, FAKE_ZERO, 0, UINT64_MAX, 0, 1);
  assert_int_equal (pthread_create (&thread, NULL, write_table, &result), 0);
  fake_wait_held (fake, 1);
  clean = pending_start (image, QED_OP_CLEAN, NULL, 0, 0, 0);
  assert_int_equal (clean->result, QED_WAIT);
  assert_true (need_check ());
  fake_let_go (fake);
  assert_int_equal (pending_finish (image, clean), 0);
  pthread_join (thread, NULL);
  assert_int_equal (result, 0);
  expect_byte (TABLE_SPAN, 2);
  assert_int_equal (flush_image (), 0);
  assert_int_equal (close_image (), 0);
  assert_false (need_check ());
}

static unsigned extents_left;

static int
take_extent (struct qed_request *request, uint64_t offset, uint64_t bytes,
             enum qed_extent kind)
{
  (void) request;
  (void) offset;
  (void) bytes;
  (void) kind;
  return extents_left-- > 0 ? 0 : -ENOMEM;
}

static int
list_extents (unsigned most, unsigned flags)
{
  struct qed_request request;
  int r;

  extents_left = most;
  qed_request_init (&request, QED_OP_EXTENTS, NULL, TABLE_SPAN, 0, flags);
  request.extent = take_extent;
  do
    r = qed_request_run (image, &request);
  while (r == QED_WAIT);
  return r;
}

/* Whoever takes the extents may have no room for them: for the first, for the
 * last.
 */
static void
test_extents_refused (void **state)
{
  (void) state;
  fill_one ();
  start_image ();
  assert_int_equal (list_extents (2, 0), 0);
  assert_int_equal (list_extents (1, QED_REQ_ONE), 0);
  assert_int_equal (list_extents (0, 0), -ENOMEM);
  assert_int_equal (list_extents (0, QED_REQ_ONE), -ENOMEM);
  assert_int_equal (list_extents (1, 0), -ENOMEM);
  assert_int_equal (close_image (), 0);
}

/* ---- Opening ---- */

static struct storage_ops ops;
static const struct storage_ops *real_ops;

static int
no_length (struct storage *s, uint64_t *length)
{
  (void) s;
  (void) length;
  return -EIO;
}

static int
no_downgrade (struct storage *s)
{
  (void) s;
  return -EAGAIN;
}

static int
no_start (struct storage *s, struct loop *loop, void (*stopped) (void *opaque),
          void *opaque)
{
  (void) s;
  (void) loop;
  (void) stopped;
  (void) opaque;
  return -ENOMEM;
}

static void
change_ops (void)
{
  real_ops = fake->storage.ops;
  ops = *real_ops;
  fake->storage.ops = &ops;
}

/* Then the storage is still the caller's. */
static void
test_not_opened (void **state)
{
  (void) state;
  change_ops ();
  ops.length = no_length;
  assert_int_equal (open_image (), -EIO);
  ops.length = real_ops->length;
  ops.downgrade = no_downgrade;
  format_image (QED_F_NEED_CHECK, 0);
  fake_check = QED_CHECK_NEVER;
  assert_int_equal (open_image (), -EAGAIN);
  fake_check = QED_CHECK_AUTO;
  format_image (0, 0);
  start_image ();
  expect_byte (0, 0);
  assert_int_equal (close_image (), 0);
}

/* A loop that can't begin leaves an image that can be closed, unchanged. */
static void
test_not_started (void **state)
{
  (void) state;
  change_ops ();
  ops.start = no_start;
  assert_int_equal (open_image (), 0);
  fake_forget (fake);
  assert_int_equal (qed_start (image), -ENOMEM);
  assert_int_equal (close_image (), 0);
  expect_calls (NULL, 0);
}

/* For a commit an image is longer than its header says, for as long as it is
 * open.
 */
static int
open_longer (uint64_t size)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = "fake";
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.log.fn = log_quietly;
  options.grow_to = size;
  fake->closed = false;
  return image_open_storage (&options, &fake->storage, &image);
}

static void
test_longer (void **state)
{
  (void) state;
  assert_int_equal (open_longer (IMAGE_SIZE - 512), 0);
  assert_true (qed_size (image) == IMAGE_SIZE);
  assert_int_equal (close_image (), 0);
  assert_int_equal (open_longer (IMAGE_SIZE + 512), 0);
  assert_true (qed_size (image) == IMAGE_SIZE + 512);
  assert_int_equal (close_image (), 0);
  assert_true (open_longer (UINT64_C (1) << 60) < 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_no_room),
    FAKE_IMAGE_TEST (test_quota),
    FAKE_IMAGE_TEST (test_away),
    FAKE_IMAGE_TEST (test_too_early),
    FAKE_IMAGE_TEST (test_clean_waits),
    FAKE_IMAGE_TEST (test_extents_refused),
    FAKE_IMAGE_TEST (test_not_opened),
    FAKE_IMAGE_TEST (test_not_started),
    FAKE_IMAGE_TEST (test_longer),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
