/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The pending log (O10) in real files: a child opens an image, works on it and
 * kills itself; then the log is looked at, changed, and the image opened
 * again.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/magic.h>

#include <cmocka.h>

#include "format.h"
#include "pending.h"
#include "qed.h"

#define CLUSTER UINT64_C (4096)
#define ENTRIES UINT64_C (512)  /* of a table, which is a page */
#define CLUSTERS UINT64_C (16384)
#define SIZE (CLUSTERS * CLUSTER)

static char directory[64], path[256], log_path[192];
static const char *directories[2];
static union {
  struct pending_head head;
  unsigned char bytes[PENDING_BYTES];
} pending_log;
static char messages[4096];
static bool may_grow = true;    /* the log, if there is space */

int __real_pending_file_resize (struct pending_file *file, size_t size);
int __wrap_pending_file_resize (struct pending_file *file, size_t size);

int
__wrap_pending_file_resize (struct pending_file *file, size_t size)
{
  return may_grow || size < file->size
    ? __real_pending_file_resize (file, size) : -ENOSPC;
}

/* What is to fail once: a call, and with what. */
static const char *failing;
static int failing_error;

static bool
is_due (const char *call)
{
  if (failing == NULL || strcmp (call, failing) != 0)
    return false;
  failing = NULL;
  errno = -failing_error;
  return true;
}

#define WRAP(type, failed, name, parameters, arguments) \
  type __real_##name parameters; \
  type __wrap_##name parameters; \
  type \
  __wrap_##name parameters \
  { \
    return is_due (#name) ? failed : __real_##name arguments; \
  }

WRAP (int, failing_error, pending_file_read,
      (const struct qed_options *options, const struct qed_file_id *id,
       unsigned n, size_t max, void **buf, size_t *size),
      (options, id, n, max, buf, size))
WRAP (int, failing_error, pending_file_boot_id,
      (unsigned char id[PENDING_BOOT_BYTES]), (id))

/* The calls, while 'recording': s a sync, else what is written: h the header,
 * l L1, t a table.
 */
static char calls[64];
static bool recording;

static void
note_call (char call)
{
  size_t n = strlen (calls);

  if (recording && n + 1 < sizeof calls)
    calls[n] = call;
}

int __real_fdatasync (int fd);
int __wrap_fdatasync (int fd);
ssize_t __real_pwrite (int fd, const void *buf, size_t n, off_t offset);
ssize_t __wrap_pwrite (int fd, const void *buf, size_t n, off_t offset);

int
__wrap_fdatasync (int fd)
{
  note_call ('s');
  return is_due ("fdatasync") ? -1 : __real_fdatasync (fd);
}

ssize_t
__wrap_pwrite (int fd, const void *buf, size_t n, off_t offset)
{
  const uint64_t cluster = (uint64_t) offset / CLUSTER;

  note_call (cluster == 0 ? 'h' : cluster == 1 ? 'l' : 't');
  return is_due ("pwrite") ? -1 : __real_pwrite (fd, buf, n, offset);
}

/* ---- Helpers ---- */

static void
keep_message (void *opaque, enum qed_log_level level, const char *message)
{
  size_t n = strlen (messages);

  (void) opaque;
  (void) level;
  snprintf (messages + n, sizeof messages - n, "%s\n", message);
}

static int
try_open (bool read_only, struct qed_image **image)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = keep_message;
  options.read_only = read_only;
  options.clean_after = 0;
  options.pending = QED_PENDING_LOG;
  options.pending_directories = directories;
  messages[0] = '\0';
  return qed_open (&options, image);
}

static struct qed_image *
open_image (bool read_only)
{
  struct qed_image *image;

  assert_int_equal (try_open (read_only, &image), 0);
  assert_int_equal (qed_start (image), 0);
  qed_wait_scanned (image);
  return image;
}

static void
write_cluster (struct qed_image *image, uint64_t n, unsigned char fill)
{
  unsigned char data[CLUSTER];

  memset (data, fill, sizeof data);
  assert_int_equal (qed_request_sync (image, QED_OP_WRITE, data, sizeof data,
                                      n * CLUSTER, 0), 0);
}

static void
expect_cluster (struct qed_image *image, uint64_t n, unsigned char fill)
{
  unsigned char data[CLUSTER], expected[CLUSTER];

  memset (expected, fill, sizeof expected);
  assert_int_equal (qed_request_sync (image, QED_OP_READ, data, sizeof data,
                                      n * CLUSTER, 0), 0);
  assert_memory_equal (data, expected, sizeof data);
}

/* Work in a child, which does not survive it. */
static void
die_after (void (*work) (struct qed_image *image))
{
  int status;
  pid_t pid = fork ();

  assert_true (pid >= 0);
  if (pid == 0) {
    work (open_image (false));
    kill (getpid (), SIGKILL);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFSIGNALED (status) && WTERMSIG (status) == SIGKILL);
}

static void
read_log (void)
{
  int fd = open (log_path, O_RDONLY);

  assert_true (fd >= 0);
  assert_int_equal (read (fd, &pending_log, PENDING_BYTES), PENDING_BYTES);
  close (fd);
}

static void
write_log (size_t size)
{
  int fd = open (log_path, O_WRONLY | O_TRUNC);

  assert_true (fd >= 0);
  assert_int_equal (write (fd, &pending_log, size), size);
  close (fd);
}

static struct pending_record *
record_at (unsigned half, unsigned slot)
{
  return pending_slot (&pending_log, half, slot);
}

static void
put_record (unsigned half, unsigned slot, uint64_t where, uint64_t value,
            uint64_t count)
{
  struct pending_record *record = record_at (half, slot);

  record->where = where;
  record->value = value;
  record->count = count;
  record->check = pending_check (record, pending_log.head.generation[half],
                                 slot);
}

/* Empty, with these generations. */
static void
clear_log (uint64_t first, uint64_t second)
{
  memset (pending_log.bytes + PENDING_HEAD_BYTES, 0,
          PENDING_BYTES - PENDING_HEAD_BYTES);
  pending_log.head.generation[0] = first;
  pending_log.head.generation[1] = second;
}

static uint64_t
read_field (uint64_t offset)
{
  unsigned char buf[8];
  int fd = open (path, O_RDONLY);

  assert_true (fd >= 0);
  assert_int_equal (pread (fd, buf, sizeof buf, (off_t) offset), 8);
  close (fd);
  return format_get64 (buf);
}

static int
setup (void **state)
{
  struct qed_create_options options;
  struct stat st;

  (void) state;
  qed_create_options_init (&options);
  options.path = path;
  options.size = SIZE;
  options.cluster_size = CLUSTER;
  options.table_size = 1;
  options.force = true;
  assert_int_equal (qed_create (&options), 0);
  assert_int_equal (stat (path, &st), 0);
  snprintf (log_path, sizeof log_path, "%s/%" PRIu64 "-%" PRIu64, directory,
            (uint64_t) st.st_dev, (uint64_t) st.st_ino);
  directories[0] = directory;
  return 0;
}

static int
teardown (void **state)
{
  (void) state;
  unlink (path);
  unlink (log_path);
  return 0;
}

/* ---- What is whole is replayed ---- */

static void
write_three (struct qed_image *image)
{
  write_cluster (image, 3, 0x33);
  write_cluster (image, 4, 0x44);
  write_cluster (image, 1000, 0x55);
}

static void
expect_three (unsigned char third, unsigned char fourth,
              unsigned char thousandth)
{
  struct qed_image *image = open_image (false);

  expect_cluster (image, 3, third);
  expect_cluster (image, 4, fourth);
  expect_cluster (image, 1000, thousandth);
  assert_true (qed_writable (image));
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (read_field (FORMAT_AT_AUTOCLEAR), 0);
  assert_int_equal (access (log_path, F_OK), -1);
}

static void
test_replay (void **state)
{
  struct qed_image *image;

  (void) state;
  die_after (write_three);
  assert_true (read_field (FORMAT_AT_AUTOCLEAR) & PENDING_IN_USE);
  assert_int_equal (qed_pending_waiting (path, directories), 5);
  image = open_image (true);
  assert_non_null (strstr (messages, "5 acknowledged changes wait"));
  expect_cluster (image, 3, 0);
  assert_int_equal (qed_close (image), 0);
  expect_three (0x33, 0x44, 0x55);
  assert_int_equal (qed_pending_waiting (path, directories), 0);
}

/* O3 and O4, as for any write-back; then the header says that it is done. */
static void
test_synced (void **state)
{
  struct qed_image *image;

  (void) state;
  die_after (write_three);
  recording = true;
  assert_int_equal (try_open (false, &image), 0);
  recording = false;
  assert_string_equal (calls, "sttslshs");
  assert_int_equal (qed_close (image), 0);
  expect_three (0x33, 0x44, 0x55);
}

static void
work_again (struct qed_image *image)
{
  unsigned i;

  expect_cluster (image, 3, 0x33);
  for (i = 0; i < 3; i++) {
    assert_int_equal (qed_request_sync (image, QED_OP_TRIM, NULL,
                                        2 * CLUSTER, 3 * CLUSTER, 0), 0);
    write_cluster (image, 3, 0x66);
    write_cluster (image, 4, 0x77);
  }
  assert_int_equal (qed_request_sync (image, QED_OP_ZERO, NULL, CLUSTER,
                                      1000 * CLUSTER, 0), 0);
}

/* The last record of an entry counts. */
static void
test_order (void **state)
{
  (void) state;
  die_after (write_three);
  die_after (work_again);
  expect_three (0x66, 0x77, 0);
}

/* Of two halves the younger one comes last, wherever it lies. */
static void
test_halves (void **state)
{
  uint64_t three, four;
  unsigned younger;

  for (younger = 0; younger < 2; younger++) {
    setup (state);
    die_after (write_three);
    read_log ();
    three = record_at (0, 1)->value;
    four = record_at (0, 2)->value;
    clear_log (younger == 0 ? 9 : 8, younger == 1 ? 9 : 8);
    put_record (!younger, 0, PENDING_L1 | 0,
                three - CLUSTER < four ? three - CLUSTER : four, 1);
    put_record (!younger, 1, 3, 0, 2);
    put_record (younger, 0, 3, three, 1);
    put_record (younger, 1, 4, FORMAT_ENTRY_ZERO, 1);
    write_log (PENDING_BYTES);
    expect_three (0x33, 0, 0);
    teardown (state);
  }
}

/* A slot that was not completed, in this generation, is left out. */
static void
test_torn (void **state)
{
  (void) state;
  die_after (write_three);
  read_log ();
  record_at (0, 2)->check = 0;
  write_log (PENDING_BYTES);
  expect_three (0x33, 0, 0x55);

  setup (state);
  die_after (write_three);
  read_log ();
  clear_log (0, pending_log.head.generation[0]);        /* all of it */
  write_log (PENDING_BYTES);
  expect_three (0, 0, 0);
}

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
    setup (state);
    die_after (write_three);
    read_log ();
    cases[i].change ();
    write_log (PENDING_BYTES);
    refused (cases[i].reason);
    teardown (state);
  }
  setup (state);
  die_after (write_three);
  read_log ();
  write_log (PENDING_BYTES - 1);
  refused ("cut off");
  setup (state);
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

  setup (state);
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
    setup (state);
    die_after (write_three);
    read_log ();
    put_record (0, 5, records[i].where, records[i].value, records[i].count);
    write_log (PENDING_BYTES);
    refused ("names what can't be");
    teardown (state);
  }
}

/* ---- A log that grows, that is full, and none ---- */

static uint64_t
log_length (void)
{
  struct stat st;

  assert_int_equal (stat (log_path, &st), 0);
  return (uint64_t) st.st_size;
}

static uint64_t
records_used (struct qed_image *image)
{
  struct qed_status status;

  qed_status (image, &status);
  assert_int_equal (status.pending, QED_PENDING_LOGGED);
  assert_true (status.pending_records > 0);
  return status.pending_records;
}

/* In an order in which neighbours share no record. */
static void
fill_image (struct qed_image *image)
{
  uint64_t i, n;

  for (i = 0; i < CLUSTERS + CLUSTERS / 4; i++) {
    n = i * 5003 % CLUSTERS;
    if (i >= CLUSTERS)
      assert_int_equal (qed_request_sync (image, QED_OP_TRIM, NULL, CLUSTER,
                                          n * CLUSTER, 0), 0);
    write_cluster (image, n, (unsigned char) (n % 255 + 1));
  }
}

static void
expect_filled (void)
{
  struct qed_image *image = open_image (false);
  uint64_t n;

  for (n = 0; n < CLUSTERS; n++)
    expect_cluster (image, n, (unsigned char) (n % 255 + 1));
  assert_int_equal (qed_close (image), 0);
}

/* An image that was made clean has a small log again. */
static void
fill_twice (struct qed_image *image)
{
  fill_image (image);
  assert_true (log_length () > PENDING_BYTES);
  assert_int_equal (qed_request_sync (image, QED_OP_CLEAN, NULL, 0, 0, 0), 0);
  assert_int_equal (log_length (), PENDING_BYTES);
  assert_int_equal (qed_request_sync (image, QED_OP_TRIM, NULL, SIZE, 0, 0),
                    0);
  fill_image (image);
}

static void
test_grown (void **state)
{
  (void) state;
  die_after (fill_twice);
  expect_filled ();
}

static void
fill_image_and_log (struct qed_image *image)
{
  may_grow = false;
  fill_image (image);
  assert_true (records_used (image) <= 2 * PENDING_RECORDS);
  assert_int_equal (log_length (), PENDING_BYTES);
}

static void
test_full (void **state)
{
  (void) state;
  die_after (fill_image_and_log);
  expect_filled ();
}

/* Each part has to be there. */
static void
test_part_missing (void **state)
{
  (void) state;
  die_after (fill_image);
  assert_true (log_length () > PENDING_BYTES);
  assert_int_equal (truncate (log_path, PENDING_BYTES), 0);
  assert_int_equal (qed_close (open_image (false)), 0);
  assert_non_null (strstr (messages, "cut off"));
}

static void
write_without (struct qed_image *image)
{
  struct qed_status status;

  write_three (image);
  work_again (image);
  qed_status (image, &status);
  assert_int_equal (status.pending, QED_PENDING_WRITTEN_BACK);
}

static void
test_no_log (void **state)
{
  (void) state;
  directories[0] = "/proc/self";
  die_after (write_without);
  expect_three (0x66, 0x77, 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (test_replay, setup, teardown),
    cmocka_unit_test_setup_teardown (test_synced, setup, teardown),
    cmocka_unit_test_setup_teardown (test_order, setup, teardown),
    cmocka_unit_test_setup_teardown (test_halves, setup, teardown),
    cmocka_unit_test_setup_teardown (test_torn, setup, teardown),
    cmocka_unit_test_setup_teardown (test_refused, setup, teardown),
    cmocka_unit_test_setup_teardown (test_another_time, setup, teardown),
    cmocka_unit_test_setup_teardown (test_unreadable, setup, teardown),
    cmocka_unit_test_setup_teardown (test_sync_fails, setup, teardown),
    cmocka_unit_test_setup_teardown (test_hostile, setup, teardown),
    cmocka_unit_test_setup_teardown (test_grown, setup, teardown),
    cmocka_unit_test_setup_teardown (test_full, setup, teardown),
    cmocka_unit_test_setup_teardown (test_part_missing, setup, teardown),
    cmocka_unit_test_setup_teardown (test_no_log, setup, teardown),
  };
  struct statfs fs;
  int r;

  strcpy (directory, "/dev/shm/qed-test-pending.XXXXXX");
  if (mkdtemp (directory) == NULL || statfs (directory, &fs) == -1 ||
      fs.f_type != TMPFS_MAGIC) {
    fprintf (stderr, "test-pending: skipped: /dev/shm is not tmpfs\n");
    rmdir (directory);
    return 77;
  }
  snprintf (path, sizeof path, "%s.qed", directory);    /* syncs are quick */
  r = cmocka_run_group_tests (tests, NULL, NULL);
  rmdir (directory);
  return r;
}
