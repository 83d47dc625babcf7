/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/magic.h>

#include "file-bytes.h"
#include "killed-image.h"

char path[256], log_path[192], messages[4096];
const char *directories[2];
union log_file pending_log;
bool may_grow = true;

static char directory[64];

int __real_pending_file_resize (struct pending_file *file, size_t size);
int __wrap_pending_file_resize (struct pending_file *file, size_t size);

int
__wrap_pending_file_resize (struct pending_file *file, size_t size)
{
  return may_grow || size < file->size
    ? __real_pending_file_resize (file, size) : -ENOSPC;
}

const char *failing;
int failing_error;

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

char calls[64];
bool recording;

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

int
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

struct qed_image *
open_image (bool read_only)
{
  struct qed_image *image;

  assert_int_equal (try_open (read_only, &image), 0);
  assert_int_equal (qed_start (image), 0);
  qed_wait_scanned (image);
  return image;
}

void
write_cluster (struct qed_image *image, uint64_t n, unsigned char fill)
{
  unsigned char data[CLUSTER];

  memset (data, fill, sizeof data);
  assert_int_equal (qed_request_sync (image, QED_OP_WRITE, data, sizeof data,
                                      n * CLUSTER, 0), 0);
}

void
expect_cluster (struct qed_image *image, uint64_t n, unsigned char fill)
{
  unsigned char data[CLUSTER], expected[CLUSTER];

  memset (expected, fill, sizeof expected);
  assert_int_equal (qed_request_sync (image, QED_OP_READ, data, sizeof data,
                                      n * CLUSTER, 0), 0);
  assert_memory_equal (data, expected, sizeof data);
}

void
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

void
read_log (void)
{
  int fd = open (log_path, O_RDONLY);

  assert_true (fd >= 0);
  assert_int_equal (read (fd, &pending_log, PENDING_BYTES), PENDING_BYTES);
  close (fd);
}

void
write_log (size_t size)
{
  int fd = open (log_path, O_WRONLY | O_TRUNC);

  assert_true (fd >= 0);
  assert_int_equal (write (fd, &pending_log, size), size);
  close (fd);
}

struct pending_record *
record_at (unsigned half, unsigned slot)
{
  return pending_slot (&pending_log, half, slot);
}

void
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

void
clear_log (uint64_t first, uint64_t second)
{
  memset (pending_log.bytes + PENDING_HEAD_BYTES, 0,
          PENDING_BYTES - PENDING_HEAD_BYTES);
  pending_log.head.generation[0] = first;
  pending_log.head.generation[1] = second;
}

int
killed_setup (void **state)
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

int
killed_teardown (void **state)
{
  (void) state;
  unlink (path);
  unlink (log_path);
  return 0;
}

void
write_three (struct qed_image *image)
{
  write_cluster (image, 3, 0x33);
  write_cluster (image, 4, 0x44);
  write_cluster (image, 1000, 0x55);
}

void
expect_three (unsigned char third, unsigned char fourth,
              unsigned char thousandth)
{
  struct qed_image *image = open_image (false);

  expect_cluster (image, 3, third);
  expect_cluster (image, 4, fourth);
  expect_cluster (image, 1000, thousandth);
  assert_true (qed_writable (image));
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (peek_file64 (path, FORMAT_AT_AUTOCLEAR), 0);
  assert_int_equal (access (log_path, F_OK), -1);
}

int
killed_run (int (*run) (void))
{
  struct statfs fs;
  int r;

  strcpy (directory, "/dev/shm/qed-test-pending.XXXXXX");
  if (mkdtemp (directory) == NULL || statfs (directory, &fs) == -1 ||
      fs.f_type != TMPFS_MAGIC) {
    fprintf (stderr, "skipped: /dev/shm is not tmpfs\n");
    rmdir (directory);
    return 77;
  }
  snprintf (path, sizeof path, "%s.qed", directory);    /* syncs are quick */
  r = run ();
  rmdir (directory);
  return r;
}
