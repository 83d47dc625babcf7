/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The file that a pending log lies in: directories that can't be used, calls
 * that fail, and that nothing is left behind then.  The linker leads the
 * system calls of the engine here (--wrap).
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <linux/magic.h>

#include <cmocka.h>

#include "kept-message.h"
#include "pending-file.h"

/* ---- Calls that fail ---- */

static const char *failing;
static int failing_error;       /* 0: nothing is read */
static unsigned failing_skip;

/* The call fails once, after it was made so often. */
static void
fail_after (const char *call, int error, unsigned skip)
{
  failing = call;
  failing_error = error;
  failing_skip = skip;
}

static bool
is_due (const char *call)
{
  if (failing == NULL || strcmp (call, failing) != 0 || failing_skip-- > 0)
    return false;
  failing = NULL;
  errno = failing_error;
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

static bool on_ramfs, of_others;

WRAP (void *, MAP_FAILED, mmap, (void *p, size_t n, int protection, int flags,
                                 int fd, off_t offset),
      (p, n, protection, flags, fd, offset))
WRAP (void *, NULL, malloc, (size_t n), (n))
WRAP (ssize_t, failing_error ? -1 : 0, read, (int fd, void *buf, size_t n),
      (fd, buf, n))
WRAP (int, -1, ftruncate, (int fd, off_t length), (fd, length))
WRAP (int, failing_error, posix_fallocate, (int fd, off_t at, off_t n),
      (fd, at, n))
WRAP (int, -1, unlinkat, (int dir, const char *name, int flags),
      (dir, name, flags))
WRAP (FILE *, NULL, fopen, (const char *name, const char *mode), (name, mode))
WRAP (ssize_t, 1, getrandom, (void *buf, size_t n, unsigned flags),
      (buf, n, flags))

int __real_openat (int dir, const char *name, int flags, ...);
int __wrap_openat (int dir, const char *name, int flags, mode_t mode);

int
__wrap_openat (int dir, const char *name, int flags, mode_t mode)
{
  return is_due ("openat") ? -1 : __real_openat (dir, name, flags, mode);
}

int __wrap_asprintf (char **p, const char *format, ...);

int
__wrap_asprintf (char **p, const char *format, ...)
{
  va_list ap;
  int r;

  if (is_due ("asprintf"))
    return -1;
  va_start (ap, format);
  r = vasprintf (p, format, ap);
  va_end (ap);
  return r;
}

int __real_fstat (int fd, struct stat *st);
int __wrap_fstat (int fd, struct stat *st);
int __real_fstatfs (int fd, struct statfs *fs);
int __wrap_fstatfs (int fd, struct statfs *fs);
uid_t __wrap_geteuid (void);

int
__wrap_fstat (int fd, struct stat *st)
{
  int r = is_due ("fstat") ? -1 : __real_fstat (fd, st);

  st->st_uid = of_others ? 1001 : 1000;
  return r;
}

int
__wrap_fstatfs (int fd, struct statfs *fs)
{
  int r = is_due ("fstatfs") ? -1 : __real_fstatfs (fd, fs);

  if (on_ramfs)
    fs->f_type = RAMFS_MAGIC;
  return r;
}

static uid_t user;

uid_t
__wrap_geteuid (void)
{
  return user;
}

/* ---- The directory ---- */

#define SIZE 8192u
#define MAX 65536u

static char top[64], directory[96];
static const char *directories[3];
static struct qed_options options;
static enum qed_log_level warning = QED_LOG_WARNING;
static const struct qed_file_id id = { 12, 3456 };

static const char *
log_path (void)
{
  static char path[160];

  snprintf (path, sizeof path, "%s/12-3456", directory);
  return path;
}

static int
set_up (void **state)
{
  (void) state;
  failing = NULL;
  on_ramfs = of_others = false;
  user = 1000;
  forget_message ();
  directories[0] = directory;
  directories[1] = NULL;
  qed_options_init (&options);
  options.path = "the.qed";
  options.pending_directories = directories;
  options.log.fn = keep_message;
  options.log.opaque = &warning;
  return mkdir (directory, 0700);
}

static int
tear_down (void **state)
{
  (void) state;
  unlink (log_path ());
  return rmdir (directory);
}

static int
create (struct pending_file *file)
{
  return pending_file_create (&options, &id, SIZE, MAX, file);
}

static void
expect_created (struct pending_file *file)
{
  static const unsigned char zeros[SIZE];
  struct stat st;

  assert_int_equal (create (file), 0);
  assert_int_equal (stat (log_path (), &st), 0);
  assert_int_equal (st.st_size, SIZE);
  assert_int_equal (st.st_mode & 0777, 0600);
  assert_memory_equal (file->memory, zeros, SIZE);
}

/* With a reason, and without a file. */
static void
expect_refused (int error, const char *reason)
{
  struct pending_file file;

  assert_int_equal (create (&file), error);
  assert_null (file.memory);
  assert_null (failing);
  if (strstr (said, reason) == NULL)
    fail_msg ("not '%s': %s", reason, said);
  assert_int_equal (access (log_path (), F_OK), -1);
}

/* ---- Making it ---- */

static void
test_impossible (void **state)
{
  struct storage storage = { .inode = 3456 };

  (void) state;
  options.lock = true;
  assert_null (pending_file_impossible (&options, &storage));
  options.lock = false;
  assert_string_equal (pending_file_impossible (&options, &storage),
                       "lock=off");
  storage.inode = 0;
  assert_non_null (strstr (pending_file_impossible (&options, &storage),
                           "no regular file"));
  storage.inode = 3456;
  storage.fixed = true;
  assert_non_null (strstr (pending_file_impossible (&options, &storage),
                           "no regular file"));
}

static void
test_bad_directories (void **state)
{
  (void) state;
  options.pending_directories = NULL;
  expect_refused (-ENOENT, "there is no directory for it");
  options.pending_directories = directories;
  directories[0] = "/proc/self/nothing";
  directories[1] = "/";
  expect_refused (-EPERM, "; /: it is not this user's alone (mode 0700)");
  assert_non_null (strstr (said, "(/proc/self/nothing: No such file"));
  directories[0] = directory;
  directories[1] = NULL;
  assert_int_equal (chmod (directory, 0750), 0);
  expect_refused (-EPERM, "mode 0700");
  assert_int_equal (chmod (directory, 0700), 0);
  of_others = true;
  expect_refused (-EPERM, "mode 0700");
  fail_after ("fstat", EIO, 0);
  expect_refused (-EIO, strerror (EIO));
  of_others = false;
  fail_after ("fstatfs", ENOSYS, 0);
  expect_refused (-ENOSYS, strerror (ENOSYS));
}

/* A name without any slash is made beside us, and refused there, as no disk
 * will do.
 */
static void
test_not_tmpfs (void **state)
{
  char name[] = "/tmp/test-pending-file.XXXXXX";
  struct statfs fs;

  (void) state;
  assert_non_null (mkdtemp (name));
  assert_int_equal (statfs (name, &fs), 0);
  directories[0] = "test-pending-file.dir";
  assert_int_equal (chdir (name), 0);
  if (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC)
    expect_refused (-EMEDIUMTYPE, "it is not on tmpfs");
  assert_int_equal (chdir ("/"), 0);
  snprintf (said, sizeof said, "%s/%s", name, directories[0]);
  rmdir (said);
  assert_int_equal (rmdir (name), 0);
}

/* Root uses another user's; ramfs is as good; and the second directory is
 * used if the first is not there.
 */
static void
test_good_directories (void **state)
{
  struct pending_file file;

  (void) state;
  of_others = true;
  user = 0;
  expect_created (&file);
  pending_file_close (&file, true);
  of_others = false;
  user = 1000;
  on_ramfs = true;
  directories[0] = "/proc/self/nothing";
  directories[1] = directory;
  expect_created (&file);
  assert_string_equal (said, "");
  pending_file_close (&file, false);
  assert_int_equal (access (log_path (), F_OK), 0);
  pending_file_close (&file, true);     /* of none */
  assert_int_equal (access (log_path (), F_OK), 0);
}

/* It is made, with its parent, and for nobody else. */
static void
test_new_directory (void **state)
{
  char parent[128], path[160];
  struct pending_file file;
  struct stat st;

  (void) state;
  snprintf (parent, sizeof parent, "%s/new", directory);
  snprintf (path, sizeof path, "%s/logs", parent);
  directories[0] = path;
  assert_int_equal (create (&file), 0);
  assert_int_equal (stat (path, &st), 0);
  assert_int_equal (st.st_mode & 0777, 0700);
  pending_file_close (&file, true);
  assert_int_equal (rmdir (path), 0);
  assert_int_equal (rmdir (parent), 0);
}

static void
test_create_fails (void **state)
{
  static const struct {
    const char *call;
    int error;
  } calls[] = {
    { "openat", EMFILE },
    { "posix_fallocate", ENOSPC },
    { "mmap", ENODEV },
    { "asprintf", ENOMEM },
  };
  struct pending_file file;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    fail_after (calls[i].call, calls[i].error, 0);
    expect_refused (-calls[i].error, strerror (calls[i].error));
  }

  /* What has the name and can't be removed is not used. */
  expect_created (&file);
  pending_file_close (&file, false);
  fail_after ("unlinkat", EACCES, 0);
  assert_int_equal (create (&file), -EACCES);
  expect_created (&file);               /* in place of the old one */
  pending_file_close (&file, true);
}

static void
test_resize (void **state)
{
  struct pending_file file;
  struct stat st;

  (void) state;
  expect_created (&file);
  fail_after ("posix_fallocate", ENOSPC, 0);
  assert_int_equal (pending_file_resize (&file, MAX), -ENOSPC);
  assert_int_equal (file.size, SIZE);
  assert_int_equal (pending_file_resize (&file, MAX), 0);
  assert_int_equal (file.size, MAX);
  ((char *) file.memory)[MAX - 1] = 1;
  fail_after ("ftruncate", EIO, 0);
  assert_int_equal (pending_file_resize (&file, SIZE), -EIO);
  assert_int_equal (file.size, MAX);
  assert_int_equal (pending_file_resize (&file, SIZE), 0);
  assert_int_equal (stat (log_path (), &st), 0);
  assert_int_equal (st.st_size, SIZE);
  assert_int_equal (pending_file_resize (&file, MAX), 0);
  assert_int_equal (((char *) file.memory)[MAX - 1], 0);
  pending_file_close (&file, true);
}

/* ---- Reading it ---- */

static int
read_log (void **buf, size_t *size)
{
  return pending_file_read (&options, &id, 0, MAX, buf, size);
}

static void
expect_unread (int error)
{
  void *buf;
  size_t size;

  assert_int_equal (read_log (&buf, &size), error);
  free (buf);
}

static void
test_read (void **state)
{
  struct pending_file file;
  void *buf;
  size_t size;

  (void) state;
  expect_unread (-ENOENT);
  expect_created (&file);
  memset (file.memory, 7, SIZE);
  assert_int_equal (read_log (&buf, &size), 0);
  assert_int_equal (size, SIZE);
  assert_memory_equal (buf, file.memory, SIZE);
  free (buf);
  assert_int_equal (pending_file_read (&options, &id, 1, MAX, &buf, &size),
                    -ERANGE);

  fail_after ("fstat", EIO, 1);         /* after the directory's */
  expect_unread (-EIO);
  fail_after ("malloc", ENOMEM, 0);
  expect_unread (-ENOMEM);
  fail_after ("read", EIO, 0);
  expect_unread (-EIO);
  fail_after ("read", 0, 0);            /* it was cut just now */
  expect_unread (-EINVAL);
  fail_after ("openat", EMFILE, 0);
  expect_unread (-EMFILE);
  assert_int_equal (ftruncate (file.fd, MAX + 1), 0);
  expect_unread (-EINVAL);
  assert_int_equal (ftruncate (file.fd, 0), 0);
  expect_unread (-EINVAL);
  of_others = true;                     /* nobody else's is looked at */
  expect_unread (-ENOENT);
  of_others = false;
  options.pending_directories = NULL;
  expect_unread (-ERANGE);
  options.pending_directories = directories;
  pending_file_close (&file, true);

  assert_int_equal (mkfifo (log_path (), 0600), 0);
  expect_unread (-EINVAL);
  assert_int_equal (unlink (log_path ()), 0);
  assert_int_equal (symlink ("/etc/passwd", log_path ()), 0);
  expect_unread (-ELOOP);
}

/* Calls that a signal interrupts are made again. */
static void
test_interrupted (void **state)
{
  struct pending_file file;
  size_t size;
  void *buf;

  (void) state;
  fail_after ("posix_fallocate", EINTR, 0);
  expect_created (&file);
  assert_null (failing);
  fail_after ("posix_fallocate", EINTR, 0);
  assert_int_equal (pending_file_resize (&file, 2 * SIZE), 0);
  assert_null (failing);
  fail_after ("read", EINTR, 0);
  assert_int_equal (pending_file_read (&options, &id, 0, MAX, &buf, &size), 0);
  assert_null (failing);
  assert_int_equal (size, 2 * SIZE);
  free (buf);
  pending_file_close (&file, true);
}

/* In each directory, where there is one. */
static void
test_remove (void **state)
{
  struct pending_file file;

  (void) state;
  expect_created (&file);
  directories[0] = "/proc/self/nothing";
  directories[1] = directory;
  pending_file_remove (&options, &id);
  assert_int_equal (access (log_path (), F_OK), -1);
  pending_file_close (&file, true);
}

/* ---- Identity ---- */

static void
test_boot_id (void **state)
{
  unsigned char first[PENDING_BOOT_BYTES], second[PENDING_BOOT_BYTES];
  char text[64], expected[64], *p = expected;
  FILE *fp = fopen ("/proc/sys/kernel/random/boot_id", "re");
  unsigned i;

  (void) state;
  assert_non_null (fp);
  assert_non_null (fgets (text, sizeof text, fp));
  fclose (fp);
  assert_int_equal (pending_file_boot_id (first), 0);
  assert_int_equal (pending_file_boot_id (second), 0);
  assert_memory_equal (first, second, sizeof first);
  for (i = 0; i < sizeof first; i++)
    p += sprintf (p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                  first[i]);
  text[strcspn (text, "\n")] = '\0';
  assert_string_equal (text, expected);
  fail_after ("fopen", EACCES, 0);
  assert_int_equal (pending_file_boot_id (first), -EACCES);
}

/* A call that is interrupted is made again. */
static void
test_random (void **state)
{
  uint32_t all = 0, none = UINT32_MAX, bits;
  unsigned i;

  (void) state;
  fail_after ("getrandom", 0, 3);
  for (i = 0; i < 64; i++) {
    bits = pending_file_random ();
    all |= bits;
    none &= bits;
  }
  assert_null (failing);
  assert_true (all == UINT32_MAX && none == 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown (f, set_up, tear_down)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_impossible),
    TEST (test_bad_directories),
    TEST (test_not_tmpfs),
    TEST (test_good_directories),
    TEST (test_new_directory),
    TEST (test_create_fails),
    TEST (test_resize),
    TEST (test_read),
    TEST (test_interrupted),
    TEST (test_remove),
    TEST (test_boot_id),
    TEST (test_random),
  };
  struct statfs fs;
  int r;

  strcpy (top, "/dev/shm/qed-test-pending-file.XXXXXX");
  if (mkdtemp (top) == NULL || statfs (top, &fs) == -1 ||
      fs.f_type != TMPFS_MAGIC) {
    fprintf (stderr, "test-pending-file: skipped: /dev/shm is not tmpfs\n");
    rmdir (top);
    return 77;
  }
  snprintf (directory, sizeof directory, "%s/logs", top);
  r = cmocka_run_group_tests (tests, NULL, NULL);
  rmdir (top);
  return r;
}
