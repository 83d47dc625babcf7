/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/fs.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "file-calls.h"

/* ---- Calls that fail ---- */

struct plan plan;

void
fail_next (const char *call, int error, unsigned skip, unsigned times)
{
  plan.call = call;
  plan.error = error;
  plan.skip = skip;
  plan.times = times;
}

/* Whether it is this call's turn. */
static bool
is_due (const char *call)
{
  if (plan.call == NULL || strcmp (call, plan.call) != 0)
    return false;
  if (plan.skip > 0) {
    plan.skip--;
    return false;
  }
  if (plan.times == 0)
    return false;
  plan.times--;
  errno = plan.error;
  return true;
}

#define REAL_AND_WRAP(type, name, ...) \
  type __real_##name (__VA_ARGS__); \
  type __wrap_##name (__VA_ARGS__); \
  type __wrap_##name (__VA_ARGS__)

/* Short: half of it, which is nothing of a byte. */
REAL_AND_WRAP (ssize_t, pread, int fd, void *buf, size_t n, off_t offset)
{
  if (is_due ("pread")) {
    if (plan.error)
      return -1;
    n /= 2;
  }
  return __real_pread (fd, buf, n, offset);
}

REAL_AND_WRAP (ssize_t, pwrite, int fd, const void *buf, size_t n,
               off_t offset)
{
  if (is_due ("pwrite")) {
    if (plan.error)
      return -1;
    n /= 2;
  }
  return __real_pwrite (fd, buf, n, offset);
}

/* Short: half of the first piece. */
REAL_AND_WRAP (ssize_t, pwritev, int fd, const struct iovec *iov, int n,
               off_t offset)
{
  if (is_due ("pwritev")) {
    if (plan.error)
      return -1;
    return __real_pwrite (fd, iov[0].iov_base, iov[0].iov_len / 2, offset);
  }
  return __real_pwritev (fd, iov, n, offset);
}

bool punches_blocks, are_devices, are_elsewhere;

REAL_AND_WRAP (int, fallocate, int fd, int mode, off_t offset, off_t n)
{
  if (is_due ("fallocate"))
    return -1;
  if (punches_blocks && (offset | n) % 4096 != 0) {
    errno = EINVAL;
    return -1;
  }
  return __real_fallocate (fd, mode, offset, n);
}

REAL_AND_WRAP (int, ftruncate, int fd, off_t length)
{
  return is_due ("ftruncate") ? -1 : __real_ftruncate (fd, length);
}

REAL_AND_WRAP (int, fdatasync, int fd)
{
  return is_due ("fdatasync") ? -1 : __real_fdatasync (fd);
}

REAL_AND_WRAP (off_t, lseek, int fd, off_t offset, int whence)
{
  if (is_due ("lseek"))
    return errno != 0 ? -1 : offset;
  return __real_lseek (fd, offset, whence);
}

REAL_AND_WRAP (int, fstat, int fd, struct stat *st)
{
  int r;

  if (is_due ("fstat")) {
    if (plan.error)
      return -1;
    r = __real_fstat (fd, st);
    st->st_mode = (st->st_mode & ~(mode_t) S_IFMT) | S_IFIFO;
    return r;
  }
  r = __real_fstat (fd, st);
  if (are_devices)
    st->st_mode = (st->st_mode & ~(mode_t) S_IFMT) | S_IFBLK;
  if (are_elsewhere)
    st->st_dev += 7;
  return r;
}

int __wrap_ioctl (int fd, unsigned long request, uint64_t *size);
int
__wrap_ioctl (int fd, unsigned long request, uint64_t *size)
{
  (void) fd;
  assert_int_equal (request, BLKGETSIZE64);
  if (is_due ("ioctl"))
    return -1;
  *size = 1 << 20;
  return 0;
}

int __real_fcntl (int fd, int command, struct flock *lock);
int __wrap_fcntl (int fd, int command, struct flock *lock);
int
__wrap_fcntl (int fd, int command, struct flock *lock)
{
  return is_due (command == F_OFD_SETLK ? "setlk" : "getlk")
    ? -1 : __real_fcntl (fd, command, lock);
}

/* Who holds a lock is read from /proc. */
int __real_openat (int dir, const char *name, int flags);
int __wrap_openat (int dir, const char *name, int flags);
int
__wrap_openat (int dir, const char *name, int flags)
{
  return is_due ("openat") ? -1 : __real_openat (dir, name, flags);
}

REAL_AND_WRAP (DIR *, opendir, const char *name)
{
  return is_due ("opendir") ? NULL : __real_opendir (name);
}

REAL_AND_WRAP (DIR *, fdopendir, int fd)
{
  return is_due ("fdopendir") ? NULL : __real_fdopendir (fd);
}

REAL_AND_WRAP (FILE *, fdopen, int fd, const char *mode)
{
  return is_due ("fdopen") ? NULL : __real_fdopen (fd, mode);
}

REAL_AND_WRAP (char *, fgets, char *buf, int n, FILE *fp)
{
  return is_due ("fgets") ? NULL : __real_fgets (buf, n, fp);
}

REAL_AND_WRAP (int, fstatat, int dir, const char *name, struct stat *st,
               int flags)
{
  int r = __real_fstatat (dir, name, st, flags);

  if (are_elsewhere)
    st->st_dev += 7;
  return r;
}

REAL_AND_WRAP (ssize_t, getrandom, void *buf, size_t n, unsigned flags)
{
  return is_due ("getrandom") ? -1 : __real_getrandom (buf, n, flags);
}

REAL_AND_WRAP (int, vasprintf, char **p, const char *format, va_list ap)
{
  return is_due ("vasprintf") ? -1 : __real_vasprintf (p, format, ap);
}
/* ---- The file ---- */

char directory[] = "/tmp/test-storage.XXXXXX";
char path[64], other[64];
struct qed_options options;

int
file_setup (void **state)
{
  int fd;

  (void) state;
  memset (&plan, 0, sizeof plan);
  punches_blocks = are_devices = are_elsewhere = false;
  forget_message ();
  qed_options_init (&options);
  options.path = path;
  options.log.fn = keep_message;
  fd = open (path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd == -1)
    return -1;
  return close (fd);
}

struct storage *
open_file (void)
{
  struct storage *s;

  assert_int_equal (storage_file_open (&options, &s), 0);
  return s;
}

int
file_setup_all (void **state)
{
  (void) state;
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/file", directory);
  snprintf (other, sizeof other, "%s/other", directory);
  return 0;
}

int
file_teardown_all (void **state)
{
  (void) state;
  unlink (path);
  return rmdir (directory);
}
