/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* File locks: which bytes a role holds, also on NFS, and whom the kernel names
 * as the holder of one.  The linker leads some calls of the engine here
 * (--wrap); time passes only while someone sleeps.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "lock.h"

static char path[] = "/tmp/test-lock.XXXXXX";
static struct stat st;          /* of the file */
static int ours, theirs;        /* two opens of it */
static char holder[LOCK_HOLDER_SIZE];

/* ---- What the calls are made to say ---- */

static enum { LOCAL, NFS, UNKNOWN } file_system;
static const char *line;        /* in place of a "lock:" line of the file */
static const char *hidden;      /* names that end so can't be opened */
static enum { SAME, GONE, OTHER_DEVICE, OTHER_INODE } found;

int __real_fstatfs (int fd, struct statfs *fs);
int __wrap_fstatfs (int fd, struct statfs *fs);

int
__wrap_fstatfs (int fd, struct statfs *fs)
{
  int r = __real_fstatfs (fd, fs);

  if (file_system == NFS)
    fs->f_type = NFS_SUPER_MAGIC;
  errno = EIO;
  return file_system == UNKNOWN ? -1 : r;
}

char *__real_fgets (char *buf, int n, FILE *fp);
char *__wrap_fgets (char *buf, int n, FILE *fp);

char *
__wrap_fgets (char *buf, int n, FILE *fp)
{
  char inode[32], *p = __real_fgets (buf, n, fp);

  snprintf (inode, sizeof inode, ":%llu ", (unsigned long long) st.st_ino);
  if (p && line && strncmp (p, "lock:", 5) == 0 && strstr (p, inode))
    snprintf (buf, (size_t) n, "%s", line);
  return p;
}

int __real_openat (int dir, const char *name, int flags);
int __wrap_openat (int dir, const char *name, int flags);

int
__wrap_openat (int dir, const char *name, int flags)
{
  size_t n = strlen (name), h = hidden ? strlen (hidden) : n + 1;

  errno = ENOENT;
  return n >= h && strcmp (name + n - h, hidden) == 0
    ? -1 : __real_openat (dir, name, flags);
}

int __real_fstatat (int dir, const char *name, struct stat *to, int flags);
int __wrap_fstatat (int dir, const char *name, struct stat *to, int flags);

int
__wrap_fstatat (int dir, const char *name, struct stat *to, int flags)
{
  int r = __real_fstatat (dir, name, to, flags);

  to->st_dev += found == OTHER_DEVICE;
  to->st_ino += found == OTHER_INODE;
  errno = ENOENT;
  return found == GONE ? -1 : r;
}

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
  assert_in_range (time->tv_nsec, 10000000, 50000000);
  sleeps++;
  now.tv_nsec += time->tv_nsec;
  now.tv_sec += now.tv_nsec / 1000000000;
  now.tv_nsec %= 1000000000;
  return 0;
}

static int
set_up (void **state)
{
  (void) state;
  file_system = LOCAL;
  line = hidden = NULL;
  found = SAME;
  sleeps = 0;
  ours = open (path, O_RDWR | O_CLOEXEC);
  theirs = open (path, O_RDWR | O_CLOEXEC);
  return ours == -1 || theirs == -1 || fstat (ours, &st) == -1;
}

static int
tear_down (void **state)
{
  (void) state;
  close (ours);
  close (theirs);
  return 0;
}

/* ---- Which bytes ---- */

/* What another one meets: 'r' or 'w' for bytes 100..103, 200..203. */
static void
expect_bytes (const char *use, const char *unshare)
{
  unsigned i;

  for (i = 0; i < 8; i++) {
    struct flock lock = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET,
      .l_start = (i < 4 ? 100 : 200) + i % 4, .l_len = 1,
    };
    char wanted = (i < 4 ? use : unshare)[i % 4];

    assert_int_equal (fcntl (theirs, F_OFD_GETLK, &lock), 0);
    assert_int_equal (lock.l_type == F_RDLCK ? 'r' : lock.l_type == F_WRLCK
                      ? 'w' : '-', wanted);
  }
}

static void
test_bytes (void **state)
{
  (void) state;
  assert_int_equal (lock_take (ours, true, holder), 0);
  expect_bytes ("rr-r", "-r-r");
  assert_int_equal (lock_take (ours, false, holder), 0);
  expect_bytes ("r---", "-r-r");
  lock_drop (ours);
  expect_bytes ("----", "----");
  assert_string_equal (holder, "");
  assert_int_equal (sleeps, 0);
}

/* A server of version 3 finds no read locks. */
static void
test_nfs (void **state)
{
  (void) state;
  file_system = NFS;
  assert_int_equal (lock_take (ours, true, holder), 0);
  expect_bytes ("rw-w", "-w-w");
  assert_int_equal (lock_take (ours, false, holder), 0);
  expect_bytes ("r---", "-r-r");
  lock_drop (ours);
  file_system = UNKNOWN;
  assert_int_equal (lock_take (ours, true, holder), 0);
  expect_bytes ("rr-r", "-r-r");
}

/* Testing sets nothing. */
static void
test_only_test (void **state)
{
  (void) state;
  assert_int_equal (lock_test (ours, true), 0);
  expect_bytes ("----", "----");
  assert_int_equal (lock_take (ours, false, holder), 0);
  assert_int_equal (lock_test (theirs, false), 0);
  assert_int_equal (lock_test (theirs, true), -EAGAIN);
  assert_int_equal (lock_take (ours, true, holder), 0);
  assert_int_equal (lock_test (theirs, false), -EAGAIN);
}

/* ---- Who holds it ---- */

/* It is tried for a second, then who has it is said. */
static void
expect_held (bool named, const char *name)
{
  char expected[LOCK_HOLDER_SIZE] = "";
  time_t before = now.tv_sec;

  sleeps = 0;
  assert_int_equal (lock_take (ours, true, holder), -EAGAIN);
  assert_in_range (sleeps, 19, 101);
  assert_in_range (now.tv_sec - before, 1, 2);
  if (named)
    snprintf (expected, sizeof expected, "%sprocess %ld", name,
              (long) getpid ());
  assert_string_equal (holder, expected);
}

static void
test_holder (void **state)
{
  (void) state;
  assert_int_equal (lock_take (theirs, true, holder), 0);
  expect_held (true, "test-lock, ");
  hidden = "/comm";
  expect_held (true, "");
  hidden = "/fdinfo";
  expect_held (false, "");
}

/* A line of the kernel names the file and a range of bytes. */
static void
expect_line (bool named, unsigned device_off, unsigned inode_off,
             const char *range)
{
  char text[128];

  snprintf (text, sizeof text, "lock:\t1: OFDLCK  ADVISORY  READ -1 "
            "%02x:%02x:%llu %s\n", major (st.st_dev),
            minor (st.st_dev) + device_off,
            (unsigned long long) st.st_ino + inode_off, range);
  line = text;
  expect_held (named, "test-lock, ");
}

static void
test_lines (void **state)
{
  (void) state;
  assert_int_equal (lock_take (theirs, true, holder), 0);
  expect_line (true, 0, 0, "201 201");
  expect_line (true, 0, 0, "0 EOF");
  expect_line (false, 0, 0, "202 EOF");
  expect_line (false, 0, 0, "0 200");
  expect_line (false, 0, 1, "0 EOF");
  line = "lock: of another kind\n";
  expect_held (false, "");
}

/* As on btrfs: then what the descriptor leads to is looked at. */
static void
test_other_device (void **state)
{
  (void) state;
  assert_int_equal (lock_take (theirs, true, holder), 0);
  expect_line (true, 1, 0, "0 EOF");
  found = GONE;
  expect_line (false, 1, 0, "0 EOF");
  found = OTHER_DEVICE;
  expect_line (false, 1, 0, "0 EOF");
  found = OTHER_INODE;
  expect_line (false, 1, 0, "0 EOF");
}

/* Another process has it, and we a copy of its descriptor: it is named. */
static void
test_holder_is_other (void **state)
{
  char expected[32];
  pid_t child;

  (void) state;
  assert_int_equal (lock_take (theirs, true, holder), 0);
  child = fork ();
  assert_true (child >= 0);
  if (child == 0) {
    pause ();
    _exit (0);
  }
  assert_int_equal (lock_take (ours, true, holder), -EAGAIN);
  snprintf (expected, sizeof expected, "process %ld", (long) child);
  kill (child, SIGKILL);
  assert_int_equal (waitpid (child, NULL, 0), child);
  assert_non_null (strstr (holder, expected));
}

#define TEST(f) cmocka_unit_test_setup_teardown (f, set_up, tear_down)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_bytes),
    TEST (test_nfs),
    TEST (test_only_test),
    TEST (test_holder),
    TEST (test_lines),
    TEST (test_other_device),
    TEST (test_holder_is_other),
  };
  int fd = mkstemp (path), r;

  if (fd == -1)
    return 1;
  close (fd);
  r = cmocka_run_group_tests (tests, NULL, NULL);
  unlink (path);
  return r;
}
