/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Pending logs that are not replayed, or not now: what isn't whole, or another
 * image's, or names what can't be.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "killed-image.h"

/* ---- What isn't is not ---- */

static void
refused (const char *reason)
{
  struct qed_image *image = open_image (false);

  assert_non_null (strstr (messages, reason));
  expect_cluster (image, 3, 0);
  expect_cluster (image, 1000, 0);
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (access (log_path, F_OK), -1);
}

static void
damage_record (void)
{
  record_at (0, 1)->value += CLUSTER;
}

static void
damage_generation (void)
{
  record_at (0, 1)->check += UINT64_C (1) << PENDING_CHECK_BITS;
}

static void
damage_magic (void)
{
  pending_log.head.magic++;
}

static void
damage_checksum (void)
{
  pending_log.head.image_size++;
}

static void
resum (void)
{
  pending_log.head.checksum = pending_checksum (&pending_log.head);
}

static void
change_boot (void)
{
  pending_log.head.boot[3] ^= 1;
  resum ();
}

static void
change_inode (void)
{
  pending_log.head.inode++;
  resum ();
}

static void
change_geometry (void)
{
  pending_log.head.image_size += 512;
  resum ();
}

static void
change_version (void)
{
  pending_log.head.version++;
  resum ();
}

static void
change_record_bytes (void)
{
  pending_log.head.record_bytes += 8;
  resum ();
}

static void
change_records (void)
{
  pending_log.head.records *= 2;
  resum ();
}

static void
change_device (void)
{
  pending_log.head.device++;
  resum ();
}

static void
change_cluster_size (void)
{
  pending_log.head.cluster_size *= 2;
  resum ();
}

static void
change_table_bytes (void)
{
  pending_log.head.table_bytes *= 2;
  resum ();
}

static void
change_l1_offset (void)
{
  pending_log.head.l1_offset += CLUSTER;
  resum ();
}

static void
change_token (void)
{
  pending_log.head.token ^= UINT64_C (1) << 40;
  resum ();
}

/* What counts and is no part of the head's sum. */
static void
overflow_generation (void)
{
  pending_log.head.generation[0] = UINT64_C (1) << 40;
}

static void
equal_generations (void)
{
  pending_log.head.generation[1] = pending_log.head.generation[0];
}

static void
damage_younger_half (void)
{
  pending_log.head.generation[1] = pending_log.head.generation[0] + 1;
  put_record (1, 0, 3, 0, 1);
  record_at (1, 0)->value = FORMAT_ENTRY_ZERO;
}

static void
no_parts (void)
{
  pending_log.head.parts = 0;
}

static void
too_many_parts (void)
{
  pending_log.head.parts = PENDING_PARTS + 1;
}

static void
test_refused (void **state)
{
  static const struct {
    void (*change) (void);
    const char *reason;
  } cases[] = {
    { damage_record, "a record is damaged" },
    { damage_generation, "a record is damaged" },
    { damage_magic, "not whole" },
    { damage_checksum, "not whole" },
    { change_version, "of another version" },
    { change_record_bytes, "of another version" },
    { change_records, "of another version" },
    { overflow_generation, "a record is damaged" },
    { equal_generations, "a record is damaged" },
    { damage_younger_half, "a record is damaged" },
    { no_parts, "cut off" },
    { too_many_parts, "cut off" },
    { change_boot, "started anew" },
    { change_device, "another image's" },
    { change_cluster_size, "another image's" },
    { change_table_bytes, "another image's" },
    { change_l1_offset, "another image's" },
    { change_inode, "another image's" },
    { change_geometry, "another image's" },
    { change_token, "another program" },
  };
  unsigned i;

  for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    killed_setup (state);
    die_after (write_three);
    read_log ();
    cases[i].change ();
    write_log (PENDING_BYTES);
    refused (cases[i].reason);
    killed_teardown (state);
  }
  killed_setup (state);
  die_after (write_three);
  read_log ();
  write_log (PENDING_BYTES - 1);
  refused ("cut off");
  killed_setup (state);
  die_after (write_three);
  assert_int_equal (truncate (log_path, (off_t) (PENDING_BYTES_MAX + 1)), 0);
  refused ("too long");
}

/* The image is not opened, with what to do about it. */
static void
not_opened (const char *call, int error, const char *advice)
{
  struct qed_image *image;

  failing = call;
  failing_error = error;
  assert_int_equal (try_open (false, &image), error);
  assert_null (failing);
  if (strstr (messages, advice) == NULL)
    fail_msg ("%s, %d: %s", call, error, messages);
}

/* A log that can't be read, or be written to the image, just now is there the
 * next time.
 */
static void
test_another_time (void **state)
{
  static const struct {
    int error;
    const char *advice;
  } cases[] = {
    { -ENOMEM, "see to memory and open files, then" },
    { -EMFILE, "see to memory and open files, then" },
    { -ENFILE, "see to memory and open files, then" },
    { -EIO, "see to the storage, then" },
  };
  unsigned i;

  (void) state;
  die_after (write_three);
  for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    not_opened ("pending_file_read", cases[i].error, cases[i].advice);
    not_opened ("pending_file_boot_id", cases[i].error, cases[i].advice);
    not_opened ("pwrite", cases[i].error, cases[i].advice);
  }
  not_opened ("pwrite", -ENOSPC, "make room, then open it again");
  not_opened ("pwrite", -EDQUOT, "make room, then open it again");
  assert_int_equal (access (log_path, F_OK), 0);
  expect_three (0x33, 0x44, 0x55);
}

/* Others' errors are no reason to wait. */
static void
test_unreadable (void **state)
{
  die_after (write_three);
  failing = "pending_file_read";
  failing_error = -EINVAL;
  refused ("can't be read, or is too long");

  killed_setup (state);
  die_after (write_three);
  failing = "pending_file_boot_id";
  failing_error = -EINVAL;
  refused ("started anew");
}

/* O8: what the entries lead to may be lost, so they are. */
static void
test_sync_fails (void **state)
{
  (void) state;
  die_after (write_three);
  not_opened ("fdatasync", -EIO, "is thrown away");
  assert_int_equal (access (log_path, F_OK), -1);
  refused ("it is not there");
}

/* Whole by its sums, with what can't be: nothing at all is written. */
static void
test_hostile (void **state)
{
  static const struct pending_record records[] = {
    { .where = 5, .value = CLUSTER + 1, .count = 1 },   /* reserved bits */
    { .where = 5, .value = CLUSTER / 2, .count = 1 },
    { .where = 5, .value = 2 * CLUSTER * CLUSTERS, .count = 1 },
    { .where = 5, .value = UINT64_MAX & -CLUSTER, .count = 2 },
    { .where = 5, .value = CLUSTER, .count = 1 },       /* L1 lies there */
    { .where = 5, .value = 0, .count = 0 },
    { .where = 5, .value = 0, .count = UINT64_MAX },
    { .where = 500, .value = 0, .count = 13 },          /* across two pages */
    { .where = CLUSTERS, .value = 0, .count = 1 },
    { .where = CLUSTERS - 1, .value = 0, .count = 2 },
    { .where = PENDING_L1 - 1, .value = 0, .count = 1 },
    { .where = PENDING_L1 | ENTRIES, .value = 0, .count = 1 },
    { .where = UINT64_MAX, .value = 0, .count = 1 },
    { .where = PENDING_L1, .value = 0, .count = 2 },
    { .where = PENDING_L1, .value = FORMAT_ENTRY_ZERO, .count = 1 },
    { .where = PENDING_L1, .value = CLUSTER, .count = 1 },
    { .where = PENDING_L1, .value = CLUSTERS * CLUSTER * 4, .count = 1 },
  };
  unsigned i;

  for (i = 0; i < sizeof records / sizeof records[0]; i++) {
    killed_setup (state);
    die_after (write_three);
    read_log ();
    put_record (0, 5, records[i].where, records[i].value, records[i].count);
    write_log (PENDING_BYTES);
    refused ("names what can't be");
    killed_teardown (state);
  }
}

/* An entry behind the end of the disk, in the page that describes its end, is
 * none of these: a repair drops such.
 */
static void
test_behind_disk (void **state)
{
  const uint64_t size = SIZE - 100 * CLUSTER;
  unsigned char field[8];
  int fd;

  (void) state;
  die_after (write_three);
  fd = open (path, O_WRONLY);
  format_put64 (field, size);
  assert_int_equal (pwrite (fd, field, sizeof field, FORMAT_AT_IMAGE_SIZE),
                    sizeof field);
  close (fd);
  read_log ();
  pending_log.head.image_size = size;
  resum ();
  put_record (0, 5, CLUSTERS - 50, 0, 1);
  write_log (PENDING_BYTES);
  expect_three (0x33, 0x44, 0x55);
}

static int
run (void)
{
  const struct CMUnitTest tests[] = {
    KILLED_TEST (test_refused),
    KILLED_TEST (test_another_time),
    KILLED_TEST (test_unreadable),
    KILLED_TEST (test_sync_fails),
    KILLED_TEST (test_hostile),
    KILLED_TEST (test_behind_disk),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}

int
main (void)
{
  return killed_run (run);
}
