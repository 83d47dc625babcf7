/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Opening what may hold an image: see file.h. */

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "file.h"
#include "log.h"

/* A lookup beneath a directory gives up when something is renamed just then;
 * and a file that another host's NFS client has leased from us (a delegation)
 * can't be opened until that has given it back, which it is told by the first
 * try.
 */
#define RENAME_TRIES 100
#define LEASE_SECONDS 2
#define LEASE_PAUSE_NS 20000000

/* 0 if an image can lie on a file of this type. */
static int
check_type (const char *path, mode_t mode, const struct qed_log *log)
{
  const char *type;

  switch (mode & S_IFMT) {
  case S_IFREG:
  case S_IFBLK:  return 0;
  case S_IFDIR:  type = "a directory"; break;
  case S_IFIFO:  type = "a FIFO"; break;
  case S_IFSOCK: type = "a socket"; break;
  case S_IFCHR:  type = "a character device"; break;
  default:       type = "of an unknown type"; break;
  }
  log_error (log, "%s: is %s: an image is a regular file or a block device",
             path, type);
  return (mode & S_IFMT) == S_IFDIR ? -EISDIR : -EINVAL;
}

/* What of a path lies below a directory, or NULL. */
static const char *
below (const char *directory, const char *path)
{
  size_t len = strlen (directory);

  if (strcmp (directory, "/") == 0)
    return path + 1;
  if (strncmp (directory, path, len) != 0 || path[len] != '/')
    return NULL;
  return path + len + 1;
}

/* openat2 below 'dir'; open if that is AT_FDCWD. */
static int
open_once (int dir, const char *path, const struct open_how *how)
{
  const int fd = dir == AT_FDCWD ? open (path, (int) how->flags)
    : (int) syscall (SYS_openat2, dir, path, how, sizeof *how);

  return fd == -1 ? -errno : fd;
}

static int
open_patiently (int dir, const char *path, const struct open_how *how)
{
  const struct timespec pause = { .tv_nsec = LEASE_PAUSE_NS };
  unsigned quick = dir == AT_FDCWD ? 1 : RENAME_TRIES;
  struct timespec end, now;
  int fd;

  clock_gettime (CLOCK_MONOTONIC, &end);
  end.tv_sec += LEASE_SECONDS;
  while ((fd = open_once (dir, path, how)) == -EAGAIN) {
    clock_gettime (CLOCK_MONOTONIC, &now);
    if (quick > 0)
      quick--;
    else if (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec &&
                                         now.tv_nsec < end.tv_nsec))
      nanosleep (&pause, NULL);
    else
      break;
  }
  return fd;
}

int
file_open_beneath (const char *path, const char *beneath, int flags)
{
  struct open_how how = {
    .flags = flags | O_CLOEXEC | (flags & O_PATH ? 0 : O_NONBLOCK | O_NOCTTY),
    .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
  };
  const char *rest;
  int dir, fd;

  if (beneath == NULL)
    return open_patiently (AT_FDCWD, path, &how);
  rest = below (beneath, path);
  if (rest == NULL)
    return -EXDEV;
  dir = open (beneath, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (dir == -1)
    return -errno;
  fd = open_patiently (dir, rest, &how);
  close (dir);
  return fd;
}

/* What stat says, of a file to be opened beneath a directory. */
static int
stat_beneath (const char *path, const char *beneath, struct stat *st)
{
  int fd = file_open_beneath (path, beneath, O_PATH), r;

  if (fd < 0)
    return fd;
  r = fstat (fd, st) == -1 ? -errno : 0;
  close (fd);
  return r;
}

int
qed_file_identify (const char *path, const char *beneath,
                   struct qed_file_id *id)
{
  static const struct qed_log quiet;
  struct stat st;
  int r = stat_beneath (path, beneath, &st);

  if (r < 0)
    return r;
  id->device = st.st_dev;
  id->inode = st.st_ino;
  return check_type (path, st.st_mode, &quiet) < 0 ? -EINVAL : 0;
}

static int
failed (const char *path, int error, const struct qed_log *log)
{
  log_error (log, "%s: cannot open: %s", path, error == -EXDEV
             ? "it is a symlink that leads out of the directory"
             : error == -EAGAIN
             ? "a client of this host's NFS server has it: try again"
             : strerror (-error));
  return error;
}

int
file_open (const char *path, const char *beneath, int flags,
           const struct qed_log *log, struct file_facts *facts)
{
  struct stat st;
  int fd, r;

  /* Before it is opened: opening alone may do something (a watchdog). */
  r = stat_beneath (path, beneath, &st);
  if (r < 0)
    return failed (path, r, log);
  if ((r = check_type (path, st.st_mode, log)) < 0)
    return r;
  if (S_ISBLK (st.st_mode) && flags == O_RDWR)
    flags |= O_EXCL;
  fd = file_open_beneath (path, beneath, flags);
  if (fd < 0)
    return failed (path, fd, log);
  if (fstat (fd, &st) == -1) {
    r = failed (path, -errno, log);
    goto err;
  }
  /* Again: the name may have changed hands. */
  if ((r = check_type (path, st.st_mode, log)) < 0)
    goto err;

  facts->block_device = S_ISBLK (st.st_mode);
  facts->size = st.st_size;
  facts->disk_size = (uint64_t) st.st_blocks * 512; /* stat's fixed unit */
  if (facts->block_device &&
      ioctl (fd, BLKGETSIZE64, &facts->size) == -1) {
    r = failed (path, -errno, log);
    goto err;
  }
  return fd;

 err:
  close (fd);
  return r;
}

int
file_read (int fd, void *buf, size_t count, uint64_t offset)
{
  char *p = buf;
  ssize_t r;

  while (count > 0) {
    r = pread (fd, p, count, offset);
    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -errno;
    if (r == 0)
      return -EIO;
    p += r;
    count -= r;
    offset += r;
  }
  return 0;
}

int
file_write (int fd, const void *buf, size_t count, uint64_t offset)
{
  const char *p = buf;
  ssize_t r;

  while (count > 0) {
    r = pwrite (fd, p, count, offset);
    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -errno;
    if (r == 0)
      return -EIO;
    p += r;
    count -= r;
    offset += r;
  }
  return 0;
}

int
file_sync_data (int fd)
{
  int r;

  do
    r = fdatasync (fd);
  while (r == -1 && errno == EINTR);
  return r == -1 ? -errno : 0;
}

int
file_sync_all (int fd)
{
  int r;

  do
    r = fsync (fd);
  while (r == -1 && errno == EINTR);
  return r == -1 ? -errno : 0;
}

int
file_set_length (int fd, uint64_t length)
{
  int r;

  if (length > INT64_MAX)
    return -EFBIG;
  do
    r = ftruncate (fd, (off_t) length);
  while (r == -1 && errno == EINTR);
  return r == -1 ? -errno : 0;
}

int
file_sync_directory (const char *path)
{
  char *copy = strdup (path);
  int fd, r;

  if (copy == NULL)
    return -ENOMEM;
  fd = open (dirname (copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  r = fd == -1 ? -errno : file_sync_all (fd);
  /* One that may be written but not read can't be synced, and some file
   * systems have no such sync.
   */
  if (r == (fd == -1 ? -EACCES : -EINVAL))
    r = 0;
  if (fd != -1)
    close (fd);
  free (copy);
  return r;
}
