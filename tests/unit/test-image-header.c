/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Changes of the header's size and backing file name: in which order they
 * reach the storage (O9), what is left where a call fails, and what of the
 * header stays.
 */

#include <errno.h>
#include <string.h>

#include "fake-image.h"

#define EXPECT_CALLS(...) \
  do { \
    const struct fake_call expected_[] = { __VA_ARGS__ }; \
    expect_calls (expected_, sizeof expected_ / sizeof expected_[0]); \
  } while (0)

#define HEADER { FAKE_WRITE, 0, 512 }
#define SYNC { FAKE_SYNC, 0, 0 }
#define PAGE(at) { FAKE_WRITE, at, 4096 }
#define ZERO(at, bytes) { FAKE_ZERO, at, bytes }
#define CUT(length) { FAKE_RESIZE, length, 0 }

#define TABLE AT_END
#define FIRST (AT_END + CLUSTER)
#define SECOND (AT_END + 2 * CLUSTER)

#define MIB (UINT64_C (1) << 20)

/* ---- Helpers ---- */

/* Open it as a rebase without looking into files does. */
static int
open_alone (void)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = "fake";
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.clean_after = 0;
  options.skip_backing = true;
  options.need_write = true;
  options.log.fn = log_quietly;
  fake->closed = false;
  fake_forget (fake);
  return image_open_storage (&options, &fake->storage, &image);
}

static void
set_size (uint64_t size)
{
  fake_poke64 (fake, FORMAT_AT_IMAGE_SIZE, size);
}

static uint64_t
size_on_disk (void)
{
  return fake_peek64 (fake, FORMAT_AT_IMAGE_SIZE);
}

static int
resize (uint64_t size)
{
  struct qed_resize what = { .size = size, .shrink = true, .force = true };
  int r = resize_image (image, &what, NULL);

  assert_true (what.is == image->header.image_size);
  return r;
}

static int
rebase (const char *name, bool raw)
{
  struct qed_rebase what = {
    .backing = name, .format = raw ? QED_REBASE_RAW : QED_REBASE_PROBE,
    .unsafe = true,
  };

  return rebase_image (image, &what, NULL);
}

/* Clusters of two guest addresses lie in the file. */
static void
make_entries (uint64_t first, uint64_t second)
{
  unsigned char data[2 * CLUSTER];

  memset (data, 0x55, sizeof data);
  fake->length = SECOND + CLUSTER;
  fake_poke (fake, data, sizeof data, FIRST);
  fake_poke64 (fake, AT_L1, TABLE);
  fake_poke64 (fake, TABLE + first / CLUSTER * 8, FIRST);
  fake_poke64 (fake, TABLE + second / CLUSTER * 8, SECOND);
}

/* The name that the fields lead to. */
static void
expect_name (const char *name, bool raw)
{
  unsigned char sector[512];
  char found[64] = "";
  uint32_t offset, size;
  uint64_t features;

  fake_peek (fake, sector, sizeof sector, 0);
  features = format_get64 (sector + FORMAT_AT_FEATURES);
  offset = format_get32 (sector + FORMAT_AT_BACKING_OFFSET);
  size = format_get32 (sector + FORMAT_AT_BACKING_SIZE);
  assert_int_equal ((features & QED_F_BACKING_FILE) != 0, name != NULL);
  assert_int_equal ((features & QED_F_BACKING_FORMAT_NO_PROBE) != 0, raw);
  assert_int_equal (image->header.features, features);
  assert_int_equal (image->header.backing_filename_offset, offset);
  assert_int_equal (image->header.backing_filename_size, size);
  if (name == NULL) {
    assert_int_equal (offset, 0);
    assert_int_equal (size, 0);
    return;
  }
  assert_true (size < sizeof found);
  fake_peek (fake, found, size, offset);
  assert_string_equal (found, name);
}

/* Bytes of the header cluster that have this value. */
static unsigned
count_bytes (unsigned char value)
{
  unsigned char cluster[CLUSTER];
  unsigned n = 0, i;

  fake_peek (fake, cluster, sizeof cluster, 0);
  for (i = FORMAT_HEADER_BYTES; i < CLUSTER; i++)
    n += cluster[i] == value;
  return n;
}

/* What others keep leaves free no more than this. */
static void
fill_header (uint32_t from, uint32_t to)
{
  unsigned char others[CLUSTER];

  memset (others, 0xee, sizeof others);
  fake_poke (fake, others, from - FORMAT_HEADER_BYTES, FORMAT_HEADER_BYTES);
  fake_poke (fake, others, CLUSTER - to, to);
}

/* ---- The size ---- */

static void
test_grow (void **state)
{
  (void) state;
  set_size (MIB);
  assert_int_equal (open_alone (), 0);
  assert_int_equal (resize (3 * MIB), 0);
  EXPECT_CALLS (SYNC, HEADER, SYNC);
  assert_int_equal (size_on_disk (), 3 * MIB);
  assert_false (need_check ());
  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (SYNC);
}

/* The rest of the last cluster is zeroed, what lies behind is forgotten, both
 * durably before the size says so; NEED_CHECK stays as it is meanwhile.
 */
static void
test_grow_over_rubbish (void **state)
{
  unsigned char data[1024];

  (void) state;
  make_entries (MIB - CLUSTER, MIB + CLUSTER);
  fake_poke64 (fake, TABLE + (MIB + CLUSTER) / CLUSTER * 8,
               FORMAT_ENTRY_ZERO);
  set_size (MIB - 1024);
  assert_int_equal (open_alone (), 0);
  assert_int_equal (resize (2 * MIB), 0);
  EXPECT_CALLS (ZERO (FIRST + CLUSTER - 1024, 1024), HEADER, SYNC,
                PAGE (TABLE), SYNC, HEADER, SYNC);
  assert_true (need_check ());
  assert_int_equal (size_on_disk (), 2 * MIB);
  expect_byte (MIB - CLUSTER, 0x55);
  expect_byte (MIB - 1024, 0);
  assert_int_equal (fake_peek64 (fake, TABLE + (MIB + CLUSTER) / CLUSTER * 8),
                    0);
  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (SYNC, CUT (SECOND), HEADER, SYNC);
  assert_false (need_check ());
  assert_int_equal (size_on_disk (), 2 * MIB);
  fake_peek (fake, data, sizeof data, FIRST + CLUSTER - sizeof data);
  assert_true (data[0] == 0 && memcmp (data, data + 1, sizeof data - 1) == 0);
}

/* The header first; then what it cut off goes. */
static void
test_shrink (void **state)
{
  (void) state;
  make_entries (MIB - CLUSTER, MIB + CLUSTER);
  set_size (2 * MIB);
  assert_int_equal (open_alone (), 0);
  assert_int_equal (resize (MIB - 1024), 0);
  EXPECT_CALLS (SYNC, HEADER, SYNC, ZERO (FIRST + CLUSTER - 1024, 1024),
                HEADER, SYNC);
  assert_int_equal (size_on_disk (), MIB - 1024);
  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (PAGE (TABLE), SYNC, ZERO (SECOND, CLUSTER), CUT (SECOND),
                HEADER, SYNC);
  assert_false (need_check ());
  assert_int_equal (size_on_disk (), MIB - 1024);
  assert_int_equal (fake_peek64 (fake, TABLE + (MIB + CLUSTER) / CLUSTER * 8),
                    0);
}

/* Nothing is changed where it would lose data, or would be the same. */
static void
test_resize_refused (void **state)
{
  struct qed_resize what = { .size = MIB, .shrink = true };

  (void) state;
  make_entries (MIB - CLUSTER, MIB + CLUSTER);
  set_size (2 * MIB);
  assert_int_equal (open_alone (), 0);
  assert_int_equal (resize_image (image, &what, NULL), -ENOTEMPTY);
  assert_int_equal (what.is, 2 * MIB);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  what.size = 2 * MIB;
  assert_int_equal (close_image (), 0);

  assert_int_equal (open_alone (), 0);
  assert_int_equal (resize_image (image, &what, NULL), 0);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_SYNC), 0);
}

/* ---- Failures ---- */

static void
test_write_fails (void **state)
{
  (void) state;
  set_size (MIB);
  assert_int_equal (open_alone (), 0);
  fake_rule_add (fake, FAKE_WRITE, 0, 1, -EIO, 1);
  assert_int_equal (resize (2 * MIB), -EIO);
  EXPECT_CALLS (SYNC, HEADER);
  assert_int_equal (size_on_disk (), MIB);
  assert_int_equal (image->header.image_size, MIB);
  assert_int_equal (close_image (), 0);
}

/* O8: before or after the header was written, it is the end. */
static void
resize_sync_fails (unsigned n)
{
  struct header_change again = {
    .what = HEADER_IMAGE_SIZE, .image_size = 3 * MIB,
  };

  set_size (MIB);
  assert_int_equal (open_alone (), 0);
  fake_rule_add_full (fake, (struct fake_rule) {
      .op = FAKE_SYNC, .to = 1, .error = -EIO, .times = 1, .skip = n });
  assert_int_equal (resize (2 * MIB), -EIO);
  assert_int_equal (image->header.image_size, MIB);
  assert_false (qed_writable (image));
  fake_forget (fake);
  assert_int_equal (header_make_change (image, &again), -EIO);
  assert_int_equal (flush_image (), -EIO);
  assert_true (close_image () < 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
}

static void
test_sync_before_fails (void **state)
{
  (void) state;
  resize_sync_fails (0);
  assert_int_equal (size_on_disk (), MIB);
}

static void
test_sync_after_fails (void **state)
{
  (void) state;
  resize_sync_fails (1);
}

/* ---- The name ---- */

static void
test_rebase (void **state)
{
  (void) state;
  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase ("base.raw", true), 0);
  EXPECT_CALLS (SYNC, HEADER, SYNC, HEADER, SYNC);
  expect_name ("base.raw", true);
  assert_int_equal (close_image (), 0);
  EXPECT_CALLS (SYNC);

  /* The old one goes last. */
  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase ("other", false), 0);
  EXPECT_CALLS (SYNC, HEADER, SYNC, HEADER, SYNC, HEADER);
  expect_name ("other", false);
  assert_int_equal (count_bytes (0), CLUSTER - FORMAT_HEADER_BYTES - 5);
  assert_int_equal (close_image (), 0);

  /* The same name with another format stays where it is. */
  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase ("other", true), 0);
  EXPECT_CALLS (SYNC, HEADER, SYNC);
  expect_name ("other", true);
  assert_int_equal (close_image (), 0);

  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase (NULL, false), 0);
  EXPECT_CALLS (SYNC, HEADER, SYNC, HEADER);
  expect_name (NULL, false);
  assert_int_equal (count_bytes (0), CLUSTER - FORMAT_HEADER_BYTES);
  assert_int_equal (close_image (), 0);
}

/* Across sectors, between what others keep there. */
static void
test_rebase_between (void **state)
{
  (void) state;
  fill_header (1020, 1034);
  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase ("backing-file.r", false), 0);
  EXPECT_CALLS (SYNC, { FAKE_WRITE, 512, 1024 }, SYNC, HEADER, SYNC);
  expect_name ("backing-file.r", false);
  assert_int_equal (count_bytes (0xee), CLUSTER - FORMAT_HEADER_BYTES - 14);
  assert_int_equal (close_image (), 0);

  /* There's no room for two. */
  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase ("b", false), -ENOSPC);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
}

/* Bytes of a name that lie in two sectors are one write, which may tear: the
 * fields don't lead there before it is durable.
 */
static void
test_name_sync_fails (void **state)
{
  (void) state;
  fill_header (1020, 1040);
  assert_int_equal (open_alone (), 0);
  fake_rule_add_full (fake, (struct fake_rule) {
      .op = FAKE_SYNC, .to = 1, .error = -EIO, .times = 1, .skip = 1 });
  assert_int_equal (rebase ("backing-file.r", false), -EIO);
  EXPECT_CALLS (SYNC, { FAKE_WRITE, 512, 1024 }, SYNC);
  assert_int_equal (fake_peek64 (fake, FORMAT_AT_FEATURES), 0);
  assert_int_equal (image->header.features, 0);
  assert_true (close_image () < 0);
}

/* It is over the new one all the same. */
static void
test_wipe_fails (void **state)
{
  char old[5];

  (void) state;
  fill_header (1020, 1084);
  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase ("first", false), 0);
  assert_int_equal (close_image (), 0);
  assert_int_equal (open_alone (), 0);
  fake_rule_add (fake, FAKE_WRITE, 1020, 1024, -EIO, FAKE_ALWAYS);
  assert_int_equal (rebase ("second", false), 0);
  EXPECT_CALLS (SYNC, { FAKE_WRITE, 1024, 512 }, SYNC, HEADER, SYNC,
                { FAKE_WRITE, 512, 1024 });
  expect_name ("second", false);
  fake_peek (fake, old, sizeof old, 1020);
  assert_memory_equal (old, "first", sizeof old);
  assert_int_equal (close_image (), 0);
}

static void
test_compat (void **state)
{
  (void) state;
  set_size (MIB);
  fake_poke64 (fake, FORMAT_AT_COMPAT, 4);
  assert_int_equal (open_alone (), 0);
  assert_int_equal (rebase ("base.raw", false), -ENOTSUP);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);

  assert_int_equal (open_alone (), 0);
  assert_int_equal (resize (2 * MIB), 0);
  assert_int_equal (close_image (), 0);
  assert_int_equal (fake_peek64 (fake, FORMAT_AT_COMPAT), 4);
}

/* need_write: no falling back to reading. */
static void
test_need_check (void **state)
{
  (void) state;
  format_image (QED_F_NEED_CHECK, 1);
  assert_int_equal (open_alone (), -EROFS);
  assert_true (fake->closed);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_grow),
    FAKE_IMAGE_TEST (test_grow_over_rubbish),
    FAKE_IMAGE_TEST (test_shrink),
    FAKE_IMAGE_TEST (test_resize_refused),
    FAKE_IMAGE_TEST (test_write_fails),
    FAKE_IMAGE_TEST (test_sync_before_fails),
    FAKE_IMAGE_TEST (test_sync_after_fails),
    FAKE_IMAGE_TEST (test_rebase),
    FAKE_IMAGE_TEST (test_rebase_between),
    FAKE_IMAGE_TEST (test_name_sync_fails),
    FAKE_IMAGE_TEST (test_wipe_fails),
    FAKE_IMAGE_TEST (test_compat),
    FAKE_IMAGE_TEST (test_need_check),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
