/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A local file as storage: calls that are interrupted, short or refused, files
 * that are no images, locks, and what a file system without holes or locks
 * gets.  The linker leads some system calls of the engine here (--wrap), where
 * the next ones can be made to fail.
 */

#include <dirent.h>
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
#include <unistd.h>

#include <cmocka.h>

#include <linux/fs.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "file.h"
#include "lock.h"
#include "log.h"
#include "storage.h"

/* ---- Calls that fail ---- */

static struct {
  const char *call;
  int error;                    /* an errno; 0: short, or a lie (see there) */
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

REAL_AND_WRAP (int, fallocate, int fd, int mode, off_t offset, off_t n)
{
  return is_due ("fallocate") ? -1 : __real_fallocate (fd, mode, offset, n);
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
  return is_due ("lseek") ? -1 : __real_lseek (fd, offset, whence);
}

/* A lie: it is a block device, of 1 MiB. */
static bool are_devices;

/* As some file systems do: stat says another device than /proc. */
static bool are_elsewhere;

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

static char directory[] = "/tmp/test-storage-file.XXXXXX";
static char path[64], other[64];
static char said[1024];         /* the last message */
static struct qed_options options;

static void
keep_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  (void) level;
  snprintf (said, sizeof said, "%s", message);
}

static int
setup (void **state)
{
  int fd;

  (void) state;
  memset (&plan, 0, sizeof plan);
  are_devices = are_elsewhere = false;
  said[0] = '\0';
  qed_options_init (&options);
  options.path = path;
  options.log.fn = keep_message;
  fd = open (path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd == -1)
    return -1;
  return close (fd);
}

static struct storage *
open_file (void)
{
  struct storage *s;

  assert_int_equal (storage_file_open (&options, &s), 0);
  return s;
}

#define SIZE 8192u
static unsigned char noise[SIZE];

static void
expect_noise (struct storage *s, uint64_t offset)
{
  unsigned char buf[SIZE];

  assert_int_equal (s->ops->pread (s, buf, SIZE, offset), 0);
  assert_memory_equal (buf, noise, SIZE);
}

/* ---- Data ---- */

/* What is interrupted or short is continued; any other error is told. */
static void
test_transfers (void **state)
{
  struct storage *s = open_file ();
  unsigned char buf[SIZE];

  (void) state;
  fail_next ("pwrite", EINTR, 0, 2);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 512), 0);
  assert_int_equal (plan.times, 0);
  fail_next ("pread", EINTR, 0, 2);
  expect_noise (s, 512);
  assert_int_equal (plan.times, 0);
  fail_next ("pwrite", 0, 0, 3);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 20000), 0);
  fail_next ("pread", 0, 0, 3);
  expect_noise (s, 20000);
  fail_next ("pread", EIO, 0, 1);
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), -EIO);
  fail_next ("pwrite", ENOSPC, 0, 1);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), -ENOSPC);
  fail_next ("pwrite", 0, 0, 1);        /* nothing of it, and no error */
  assert_int_equal (s->ops->pwrite (s, noise, 1, 0), -EIO);
  s->ops->close (s);
}

static void
test_beyond_end (void **state)
{
  struct storage *s = open_file ();
  unsigned char buf[16], zeros[8] = { 0 };

  (void) state;
  assert_int_equal (s->ops->pwrite (s, noise, 8, 0), 0);
  memset (buf, 1, sizeof buf);
  assert_int_equal (s->ops->pread (s, buf, sizeof buf, 0), 0);
  assert_memory_equal (buf, noise, 8);
  assert_memory_equal (buf + 8, zeros, 8);
  s->ops->close (s);
}

static void
test_vectors (void **state)
{
  struct storage *s = open_file ();
  struct iovec iov[IOV_MAX + 1];
  const struct iovec two[] = { { noise, 5000 }, { noise + 5000, SIZE - 5000 } };
  int i;

  (void) state;
  assert_int_equal (s->ops->pwritev (s, two, 2, 0), 0);
  expect_noise (s, 0);
  fail_next ("pwritev", 0, 0, 1);
  assert_int_equal (s->ops->pwritev (s, two, 2, 10000), 0);
  expect_noise (s, 10000);
  fail_next ("pwritev", EINTR, 0, 1);
  assert_int_equal (s->ops->pwritev (s, two, 2, 20000), 0);
  expect_noise (s, 20000);
  fail_next ("pwritev", EIO, 0, 1);
  assert_int_equal (s->ops->pwritev (s, two, 2, 0), -EIO);

  /* More than one call takes. */
  for (i = 0; i <= IOV_MAX; i++)
    iov[i] = (struct iovec) { noise + i, 1 };
  assert_int_equal (s->ops->pwritev (s, iov, IOV_MAX + 1, 30000), 0);
  assert_int_equal (s->ops->pwrite (s, noise + IOV_MAX + 1,
                                    SIZE - IOV_MAX - 1,
                                    30000 + IOV_MAX + 1), 0);
  expect_noise (s, 30000);
  fail_next ("pwrite", EIO, 1, 1);
  assert_int_equal (s->ops->pwritev (s, iov, IOV_MAX + 1, 30000), -EIO);
  s->ops->close (s);
}

/* Where there are no holes zeros are written, and the next time at once. */
static void
expect_no_punch (int error)
{
  struct storage *s = open_file ();
  unsigned char buf[SIZE], zeros[4096] = { 0 };

  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  fail_next ("fallocate", error, 0, 1);
  assert_int_equal (s->ops->punch (s, 0, 4096), -EOPNOTSUPP);
  expect_noise (s, 0);
  fail_next ("fallocate", EIO, 0, 1);
  assert_int_equal (s->ops->zero (s, 0, 4096), 0);
  assert_int_equal (plan.times, 1);     /* it was not tried again */
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), 0);
  assert_memory_equal (buf, zeros, 4096);
  assert_memory_equal (buf + 4096, noise + 4096, 4096);
  fail_next ("pwrite", ENOSPC, 0, 1);
  assert_int_equal (s->ops->zero (s, 0, 4096), -ENOSPC);
  fail_next (NULL, 0, 0, 0);
  assert_int_equal (s->ops->zero (s, 0, UINT64_C (3) << 20), 0);
  s->ops->close (s);
}

static void
test_no_holes (void **state)
{
  static const int errors[] = { EOPNOTSUPP, ENOSYS, ENODEV, EINVAL };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof errors / sizeof errors[0]; i++)
    expect_no_punch (errors[i]);
}

static void
test_holes (void **state)
{
  struct storage *s = open_file ();
  unsigned char buf[SIZE], zeros[SIZE] = { 0 };

  (void) state;
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  fail_next ("fallocate", EINTR, 0, 2);
  assert_int_equal (s->ops->punch (s, 0, SIZE), 0);
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), 0);
  assert_memory_equal (buf, zeros, SIZE);
  fail_next ("fallocate", EIO, 0, 1);
  assert_int_equal (s->ops->zero (s, 0, SIZE), -EIO);
  s->ops->close (s);
}

static void
test_reserve (void **state)
{
  static const int never[] = { EOPNOTSUPP, ENOSYS, ENODEV, EINVAL };
  struct storage *s = open_file ();
  uint64_t length;
  size_t i;

  (void) state;
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  fail_next ("fallocate", EINTR, 0, 2);
  assert_int_equal (s->ops->reserve (s, 0, SIZE), 0);
  assert_int_equal (s->ops->reserve (s, SIZE, 4096), 0);
  expect_noise (s, 0);
  assert_int_equal (s->ops->length (s, &length), 0);
  assert_int_equal (length, SIZE);
  fail_next ("fallocate", ENOSPC, 0, 1);
  assert_int_equal (s->ops->reserve (s, 0, SIZE), -ENOSPC);
  assert_int_equal (s->ops->reserve (s, 0, SIZE), 0);
  s->ops->close (s);
  for (i = 0; i < sizeof never / sizeof never[0]; i++) {
    s = open_file ();
    fail_next ("fallocate", never[i], 0, 1);
    assert_int_equal (s->ops->reserve (s, 0, 4096), -EOPNOTSUPP);
    fail_next ("fallocate", EIO, 0, 1);
    assert_int_equal (s->ops->reserve (s, 0, 4096), -EOPNOTSUPP);
    assert_int_equal (plan.times, 1);   /* it was not tried again */
    fail_next (NULL, 0, 0, 0);
    assert_int_equal (s->ops->punch (s, 0, 4096), 0);
    s->ops->close (s);
  }
}

/* ---- The file as a whole ---- */

static void
test_length (void **state)
{
  struct storage *s = open_file ();
  uint64_t length;

  (void) state;
  fail_next ("ftruncate", EINTR, 0, 2);
  assert_int_equal (s->ops->resize (s, 12345), 0);
  assert_int_equal (s->ops->length (s, &length), 0);
  assert_true (length == 12345);
  fail_next ("ftruncate", ENOSPC, 0, 1);
  assert_int_equal (s->ops->resize (s, 1), -ENOSPC);
  assert_int_equal (s->ops->resize (s, (uint64_t) INT64_MAX + 1), -EFBIG);
  fail_next ("fstat", EIO, 0, 1);
  assert_int_equal (s->ops->length (s, &length), -EIO);
  s->ops->close (s);
}

static void
test_sync (void **state)
{
  struct storage *s = open_file ();

  (void) state;
  fail_next ("fdatasync", EINTR, 0, 3);
  assert_int_equal (s->ops->sync (s), 0);
  assert_int_equal (plan.times, 0);
  fail_next ("fdatasync", EIO, 0, 1);
  assert_int_equal (s->ops->sync (s), -EIO);
  s->ops->close (s);
}

/* Where holes can't be found all may be data. */
static void
test_next_data (void **state)
{
  struct storage *s = open_file ();
  uint64_t start, end;

  (void) state;
  assert_int_equal (s->ops->resize (s, UINT64_C (3) << 20), 0);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 1 << 20), 0);
  assert_int_equal (s->ops->next_data (s, 0, &start, &end), 0);
  assert_true (start == 1 << 20 && end == (1 << 20) + SIZE);
  assert_int_equal (s->ops->next_data (s, 2 << 20, &start, &end), 0);
  assert_true (start == UINT64_MAX);

  fail_next ("lseek", EINVAL, 0, 1);
  assert_int_equal (s->ops->next_data (s, 4096, &start, &end), 0);
  assert_true (start == 4096 && end == UINT64_C (3) << 20);
  fail_next ("lseek", EINVAL, 0, 1);
  assert_int_equal (s->ops->next_data (s, 4 << 20, &start, &end), 0);
  assert_true (start == UINT64_MAX);
  fail_next ("lseek", EIO, 1, 1);       /* the end of the data */
  assert_int_equal (s->ops->next_data (s, 0, &start, &end), -EIO);
  s->ops->close (s);
}

/* ---- What is no image ---- */

static void
test_types (void **state)
{
  struct storage *s;
  int ends[2];

  (void) state;
  options.path = directory;
  assert_int_equal (storage_file_open (&options, &s), -EISDIR);
  assert_non_null (strstr (said, "a directory"));
  options.path = "/dev/null";
  assert_int_equal (storage_file_open (&options, &s), -EINVAL);
  assert_non_null (strstr (said, "a character device"));
  assert_int_equal (mkfifo (other, 0600), 0);
  options.path = other;
  assert_int_equal (storage_file_open (&options, &s), -EINVAL);
  assert_non_null (strstr (said, "a FIFO"));
  assert_int_equal (unlink (other), 0);

  assert_int_equal (pipe (ends), 0);
  assert_int_equal (storage_file_open_fd (ends[0], "pipe", &options, &s),
                    -EINVAL);
  assert_non_null (strstr (said, "not a regular file"));
  assert_int_equal (close (ends[0]), -1);       /* it was the storage's */
  close (ends[1]);
}

/* The name changes hands between the look and the open. */
static void
test_types_changed (void **state)
{
  struct storage *s;

  (void) state;
  options.need_write = true;
  fail_next ("fstat", 0, 1, 1);
  assert_int_equal (storage_file_open (&options, &s), -EINVAL);
  assert_non_null (strstr (said, "a FIFO"));
  fail_next ("fstat", EIO, 0, 1);
  assert_int_equal (storage_file_open (&options, &s), -EIO);
  fail_next ("fstat", EIO, 1, 1);
  assert_int_equal (storage_file_open (&options, &s), -EIO);
  assert_non_null (strstr (said, "cannot open"));
  fail_next ("fstat", EIO, 2, 1);       /* which file it is */
  assert_int_equal (storage_file_open (&options, &s), -EIO);
}

static void
test_missing (void **state)
{
  struct storage *s;

  (void) state;
  options.path = other;
  assert_int_equal (storage_file_open (&options, &s), -ENOENT);
  assert_int_equal (storage_file_test_lock (&options), -ENOENT);
  options.beneath = "/nowhere";
  assert_int_equal (storage_file_open (&options, &s), -EXDEV);
  options.path = "/nowhere/file";
  assert_int_equal (storage_file_open (&options, &s), -ENOENT);
}

/* With "/" as the directory all paths are inside. */
static void
test_beneath_root (void **state)
{
  struct storage *s;

  (void) state;
  options.beneath = "/";
  s = open_file ();
  s->ops->close (s);
}

static void
test_device (void **state)
{
  struct storage *s;
  uint64_t length;
  int fd;

  (void) state;
  are_devices = true;
  s = open_file ();
  assert_true (s->fixed);
  assert_false (s->can_grow);
  assert_int_equal (s->ops->length (s, &length), 0);
  assert_true (length == 1 << 20);
  fail_next ("ioctl", EIO, 0, 1);
  assert_int_equal (s->ops->length (s, &length), -EIO);
  s->ops->close (s);
  options.read_only = true;
  fail_next ("ioctl", EIO, 0, 1);
  assert_int_equal (storage_file_open (&options, &s), -EIO);
  fd = open (path, O_RDONLY);
  assert_int_equal (storage_file_open_fd (fd, path, &options, &s), 0);
  s->ops->close (s);
}

/* ---- Locks ---- */

/* Seen from this process, too: locks are of open files. */
static void
test_in_use (void **state)
{
  struct storage *s = open_file (), *t;

  (void) state;
  assert_int_equal (storage_file_test_lock (&options), -EAGAIN);
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by test-storage"));
  assert_non_null (strstr (said, "or open it read-only"));
  options.need_write = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_null (strstr (said, "read-only"));
  options.need_write = false;
  options.read_only = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_null (strstr (said, "or open it"));
  said[0] = '\0';
  options.quiet_lock = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_string_equal (said, "");

  /* A reader leaves room for readers. */
  assert_int_equal (s->ops->downgrade (s), 0);
  assert_true (s->read_only);
  t = open_file ();
  assert_int_equal (storage_file_test_lock (&options), -EAGAIN);
  t->ops->close (t);
  s->ops->close (s);
  assert_int_equal (storage_file_test_lock (&options), 0);
}

static void
test_not_locked (void **state)
{
  struct storage *s, *t;

  (void) state;
  options.lock = false;
  s = open_file ();
  t = open_file ();
  assert_int_equal (s->ops->downgrade (s), 0);
  s->ops->close (s);
  t->ops->close (t);
}

/* File systems without locks, calls that are interrupted, errors at each of
 * the calls that it takes.
 */
static void
test_lock_errors (void **state)
{
  static const char *const calls[] = { "setlk", "getlk" };
  struct storage *s;
  unsigned i, n;
  int r;

  (void) state;
  for (i = 0; i < 2; i++) {
    fail_next (calls[i], EINTR, 0, 2);
    s = open_file ();
    assert_int_equal (plan.times, 0);
    s->ops->close (s);
    for (n = 0; n < 100; n++) {
      fail_next (calls[i], ENOLCK, n, 1);
      r = storage_file_open (&options, &s);
      if (plan.times > 0)
        break;
      assert_int_equal (r, -ENOLCK);
      assert_non_null (strstr (said, "lock=off"));
    }
    assert_in_range (n, 5, 50); /* then there were not so many */
    assert_int_equal (r, 0);
    s->ops->close (s);
  }
  fail_next ("getlk", ENOLCK, 0, 1);
  assert_int_equal (storage_file_test_lock (&options), -ENOLCK);
}

/* Said to be held, and given up meanwhile: it is tried again, also where
 * there is no source of randomness.
 */
static void
test_lock_again (void **state)
{
  struct storage *s, *t;

  (void) state;
  fail_next ("setlk", EACCES, 0, 1);
  s = open_file ();
  s->ops->close (s);
  fail_next ("setlk", EAGAIN, 0, 5);
  s = open_file ();
  s->ops->close (s);
  s = open_file ();
  fail_next ("getrandom", ENOSYS, 0, 1000);
  options.quiet_lock = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_true (plan.times < 1000);
  s->ops->close (s);
}

/* A lock on more than a byte, up to no end, also tells its holder. */
static void
test_lock_whole_file (void **state)
{
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  struct storage *s;
  int fd = open (path, O_RDWR);

  (void) state;
  assert_int_equal (fcntl (fd, F_OFD_SETLK, &lock), 0);
  assert_int_equal (storage_file_open (&options, &s), -EAGAIN);
  assert_non_null (strstr (said, "is in use by test-storage"));
  close (fd);
}

/* What can't be seen of a holder is left out of the message. */
static void
test_holder_unknown (void **state)
{
  static const char *const calls[] = {
    "opendir", "fdopendir", "openat", "fdopen", "fgets",
  };
  struct storage *s = open_file (), *t;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    fail_next (calls[i], EACCES, 0, UINT_MAX);
    assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
    if (strstr (said, "is in use: stop that program") == NULL)
      fail_msg ("without %s it said: %s", calls[i], said);
  }
  fail_next ("fstat", EIO, 5, 1);       /* of the file, when that is sought */
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  s->ops->close (s);
}

/* Its name is one line, or none. */
static void
test_holder_name (void **state)
{
  struct storage *s = open_file (), *t;
  char name[16];

  (void) state;
  assert_int_equal (prctl (PR_GET_NAME, name), 0);
  assert_int_equal (prctl (PR_SET_NAME, "odd\tname"), 0);
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by odd?name, process "));
  assert_int_equal (prctl (PR_SET_NAME, ""), 0);
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by process "));
  assert_int_equal (prctl (PR_SET_NAME, name), 0);
  s->ops->close (s);
}

static void
test_holder_elsewhere (void **state)
{
  struct storage *s = open_file (), *t;

  (void) state;
  are_elsewhere = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by test-storage"));
  s->ops->close (s);
}

/* A standby does not fall back to reading, and leaves a busy device to
 * others.
 */
static void
test_fall_back (void **state)
{
  struct storage *s;

  (void) state;
  options.take_over = true;
  s = open_file ();
  s->ops->close (s);
  if (getuid () != 0) {
    assert_int_equal (chmod (path, 0400), 0);
    s = open_file ();
    assert_true (s->read_only);
    assert_non_null (strstr (said, "served read-only"));
    s->ops->close (s);
    options.quiet_lock = true;
    assert_int_equal (storage_file_open (&options, &s), -EACCES);
    assert_int_equal (chmod (path, 0600), 0);
  }
}

/* ---- Plain files ---- */

static void
test_plain (void **state)
{
  unsigned char buf[SIZE];
  int fd = open (path, O_RDWR);

  (void) state;
  fail_next ("pwrite", EINTR, 0, 1);
  assert_int_equal (file_write (fd, noise, SIZE, 0), 0);
  fail_next ("pwrite", 0, 0, 1);
  assert_int_equal (file_write (fd, noise, SIZE, 0), 0);
  fail_next ("pread", EINTR, 0, 1);
  assert_int_equal (file_read (fd, buf, SIZE, 0), 0);
  fail_next ("pread", 0, 0, 1);
  assert_int_equal (file_read (fd, buf, SIZE, 0), 0);
  assert_memory_equal (buf, noise, SIZE);
  assert_int_equal (file_read (fd, buf, SIZE, 1), -EIO);
  fail_next ("pread", EBADF, 0, 1);
  assert_int_equal (file_read (fd, buf, SIZE, 0), -EBADF);
  fail_next ("pwrite", ENOSPC, 0, 1);
  assert_int_equal (file_write (fd, noise, SIZE, 0), -ENOSPC);
  fail_next ("pwrite", 0, 0, 1);
  assert_int_equal (file_write (fd, noise, 1, 0), -EIO);
  close (fd);
}

/* A message is one line, whatever it quotes; and one that can't be made is
 * told of.
 */
static void
test_messages (void **state)
{
  (void) state;
  log_error (&options.log, "%s", "a\nb\x7f");
  assert_string_equal (said, "a?b?");
  fail_next ("vasprintf", ENOMEM, 0, 1);
  log_error (&options.log, "lost");
  assert_string_equal (said, "out of memory, a message is lost");
  log_error (NULL, "to nobody");
  assert_string_equal (said, "out of memory, a message is lost");
}

static int
setup_all (void **state)
{
  unsigned i;

  (void) state;
  for (i = 0; i < SIZE; i++)
    noise[i] = (unsigned char) (i * 7 + i / 251 + 1);
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/file", directory);
  snprintf (other, sizeof other, "%s/other", directory);
  return 0;
}

static int
teardown_all (void **state)
{
  (void) state;
  unlink (path);
  return rmdir (directory);
}

#define TEST(f) cmocka_unit_test_setup (f, setup)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_transfers),
    TEST (test_beyond_end),
    TEST (test_vectors),
    TEST (test_no_holes),
    TEST (test_holes),
    TEST (test_reserve),
    TEST (test_length),
    TEST (test_sync),
    TEST (test_next_data),
    TEST (test_types),
    TEST (test_types_changed),
    TEST (test_missing),
    TEST (test_beneath_root),
    TEST (test_device),
    TEST (test_in_use),
    TEST (test_not_locked),
    TEST (test_lock_errors),
    TEST (test_lock_again),
    TEST (test_lock_whole_file),
    TEST (test_holder_unknown),
    TEST (test_holder_name),
    TEST (test_holder_elsewhere),
    TEST (test_fall_back),
    TEST (test_plain),
    TEST (test_messages),
  };

  return cmocka_run_group_tests (tests, setup_all, teardown_all);
}
