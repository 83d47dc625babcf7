/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files that can't be opened just now, and calls on them that are interrupted
 * or fail.  The linker leads the system calls of the engine here (--wrap).
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include <linux/openat2.h>

#include "file.h"
#include "kept-message.h"

/* ---- Calls that fail ---- */

static struct {
  const char *call;
  int error;
  unsigned skip, times;
} plan;

static void
fail_next (const char *call, int error, unsigned skip, unsigned times)
{
  plan.call = call;
  plan.error = error;
  plan.skip = skip;
  plan.times = times;
}

static bool
is_due (const char *call)
{
  if (plan.call == NULL || strcmp (call, plan.call) != 0 || plan.times == 0)
    return false;
  if (plan.skip > 0) {
    plan.skip--;
    return false;
  }
  plan.times--;
  errno = plan.error;
  return true;
}

int __real_open (const char *name, int flags, ...);
int __wrap_open (const char *name, int flags, mode_t mode);

int
__wrap_open (const char *name, int flags, mode_t mode)
{
  return is_due ("open") ? -1 : __real_open (name, flags, mode);
}

/* Only openat2 is called so. */
long __real_syscall (long number, ...);
long __wrap_syscall (long number, int dir, const char *name,
                     const struct open_how *how, size_t size);

long
__wrap_syscall (long number, int dir, const char *name,
                const struct open_how *how, size_t size)
{
  assert_int_equal (number, SYS_openat2);
  return is_due ("openat2") ? -1
    : __real_syscall (number, dir, name, how, size);
}

#define WRAP(name, parameters, arguments) \
  int __real_##name parameters; \
  int __wrap_##name parameters; \
  int \
  __wrap_##name parameters \
  { \
    return is_due (#name) ? -1 : __real_##name arguments; \
  }

WRAP (fsync, (int fd), (fd))
WRAP (fdatasync, (int fd), (fd))
WRAP (ftruncate, (int fd, off_t length), (fd, length))

char *__real_strdup (const char *text);
char *__wrap_strdup (const char *text);

char *
__wrap_strdup (const char *text)
{
  return is_due ("strdup") ? NULL : __real_strdup (text);
}

/* Time passes only while someone sleeps. */
static struct timespec now;
static unsigned sleeps;

int __wrap_clock_gettime (clockid_t clock, struct timespec *ts);
int __wrap_nanosleep (const struct timespec *time, struct timespec *left);

int
__wrap_clock_gettime (clockid_t clock, struct timespec *ts)
{
  assert_int_equal (clock, CLOCK_MONOTONIC);
  *ts = now;
  return 0;
}

int
__wrap_nanosleep (const struct timespec *time, struct timespec *left)
{
  assert_null (left);
  assert_int_equal (time->tv_sec, 0);
  assert_in_range (time->tv_nsec, 1000000, 100000000);
  sleeps++;
  now.tv_nsec += time->tv_nsec;
  now.tv_sec += now.tv_nsec / 1000000000;
  now.tv_nsec %= 1000000000;
  return 0;
}

/* ---- The file ---- */

static char directory[] = "/tmp/test-file.XXXXXX";
static char path[64];
static const struct timespec start = { 100, 900000000 };

static const struct qed_log messages = { .fn = keep_message };

static int
set_up (void **state)
{
  (void) state;
  fail_next (NULL, 0, 0, 0);
  now = start;
  sleeps = 0;
  forget_message ();
  return 0;
}

/* ---- Opening ---- */

static void
expect_opened (const char *beneath)
{
  struct file_facts facts;
  int fd = file_open (path, beneath, O_RDWR, &messages, &facts);

  assert_true (fd >= 0);
  assert_false (facts.block_device);
  assert_int_equal (facts.size, 5);
  assert_int_equal (plan.times, 0);
  close (fd);
}

/* Leased to an NFS client: it is given back within two seconds, or not. */
static void
test_leased (void **state)
{
  struct file_facts facts;

  (void) state;
  fail_next ("open", EAGAIN, 0, 1);     /* what tells the client: no pause */
  expect_opened (NULL);
  assert_int_equal (sleeps, 0);
  fail_next ("open", EAGAIN, 0, 60);
  expect_opened (NULL);
  assert_int_equal (sleeps, 59);

  now = start;
  sleeps = 0;
  fail_next ("open", EAGAIN, 0, UINT_MAX);
  assert_int_equal (file_open (path, NULL, O_RDWR, &messages, &facts),
                    -EAGAIN);
  assert_in_range (sleeps, 50, 200);
  assert_int_equal (now.tv_sec - start.tv_sec, 2);
  assert_non_null (strstr (said, path));
  assert_non_null (strstr (said, "NFS server has it: try again"));
}

/* Renamed meanwhile, again and again. */
static void
test_renamed (void **state)
{
  (void) state;
  fail_next ("openat2", EAGAIN, 0, 100);
  expect_opened (directory);
  assert_int_equal (sleeps, 0);
  fail_next ("openat2", EAGAIN, 1, 101);        /* the second lookup */
  expect_opened (directory);
  assert_int_equal (sleeps, 1);
  fail_next ("openat2", EAGAIN, 0, UINT_MAX);
  assert_int_equal (file_open_beneath (path, directory, O_RDONLY), -EAGAIN);
}

static void
test_refused (void **state)
{
  struct file_facts facts;

  (void) state;
  fail_next ("open", EMFILE, 0, 1);
  assert_int_equal (file_open (path, NULL, O_RDWR, &messages, &facts),
                    -EMFILE);
  assert_non_null (strstr (said, "cannot open"));
  fail_next ("open", EACCES, 1, 1);             /* after it was looked at */
  assert_int_equal (file_open (path, NULL, O_RDWR, &messages, &facts),
                    -EACCES);
  fail_next ("openat2", ELOOP, 0, 1);
  assert_int_equal (file_open_beneath (path, directory, O_RDONLY), -ELOOP);
  fail_next ("open", ENFILE, 0, 1);             /* of the directory */
  assert_int_equal (file_open_beneath (path, directory, O_RDONLY), -ENFILE);
  assert_int_equal (sleeps, 0);
}

/* ---- Syncs and lengths ---- */

/* What is interrupted is done again; any other error is told. */
static void
test_syncs (void **state)
{
  static const struct {
    const char *call;
    int (*sync) (int fd);
  } syncs[] = {
    { "fdatasync", file_sync_data },
    { "fsync", file_sync_all },
  };
  int fd = open (path, O_RDWR);
  size_t i;

  (void) state;
  for (i = 0; i < sizeof syncs / sizeof syncs[0]; i++) {
    fail_next (syncs[i].call, EINTR, 0, 3);
    assert_int_equal (syncs[i].sync (fd), 0);
    assert_int_equal (plan.times, 0);
    fail_next (syncs[i].call, EIO, 0, 1);
    assert_int_equal (syncs[i].sync (fd), -EIO);
  }
  close (fd);
}

static void
test_length (void **state)
{
  int fd = open (path, O_RDWR);
  struct stat st;

  (void) state;
  fail_next ("ftruncate", EINTR, 0, 2);
  assert_int_equal (file_set_length (fd, 4096), 0);
  assert_int_equal (fstat (fd, &st), 0);
  assert_int_equal (st.st_size, 4096);
  fail_next ("ftruncate", ENOSPC, 0, 1);
  assert_int_equal (file_set_length (fd, 8192), -ENOSPC);
  assert_int_equal (file_set_length (fd, (uint64_t) INT64_MAX + 1), -EFBIG);
  assert_int_equal (file_set_length (fd, 5), 0);
  close (fd);
}

/* A directory that can't be read, or on a file system that can't sync one,
 * is no reason to fail; one whose sync fails is.
 */
static void
test_sync_directory (void **state)
{
  (void) state;
  assert_int_equal (file_sync_directory (path), 0);
  fail_next ("fsync", EINTR, 0, 2);
  assert_int_equal (file_sync_directory (path), 0);
  assert_int_equal (plan.times, 0);
  fail_next ("fsync", EINVAL, 0, 1);
  assert_int_equal (file_sync_directory (path), 0);
  assert_int_equal (plan.times, 0);
  fail_next ("fsync", EACCES, 0, 1);
  assert_int_equal (file_sync_directory (path), -EACCES);
  fail_next ("fsync", EIO, 0, 1);
  assert_int_equal (file_sync_directory (path), -EIO);
  fail_next ("open", EACCES, 0, 1);
  assert_int_equal (file_sync_directory (path), 0);
  assert_int_equal (plan.times, 0);
  fail_next ("open", EMFILE, 0, 1);
  assert_int_equal (file_sync_directory (path), -EMFILE);
  fail_next ("strdup", ENOMEM, 0, 1);
  assert_int_equal (file_sync_directory (path), -ENOMEM);
}

static int
set_up_all (void **state)
{
  FILE *fp;

  (void) state;
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/file", directory);
  fp = fopen (path, "we");
  return fp == NULL || fputs ("12345", fp) == EOF || fclose (fp) == EOF;
}

static int
tear_down_all (void **state)
{
  (void) state;
  unlink (path);
  return rmdir (directory);
}

#define TEST(f) cmocka_unit_test_setup (f, set_up)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_leased),
    TEST (test_renamed),
    TEST (test_refused),
    TEST (test_syncs),
    TEST (test_length),
    TEST (test_sync_directory),
  };

  return cmocka_run_group_tests (tests, set_up_all, tear_down_all);
}
