/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Opening what may hold an image: see file.h. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "file.h"
#include "log.h"

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

static int
failed (const char *path, const struct qed_log *log)
{
  const int err = errno;

  log_error (log, "%s: cannot open: %s", path, strerror (err));
  return -err;
}

int
file_open (const char *path, int flags, const struct qed_log *log,
           struct file_facts *facts)
{
  struct stat st;
  int fd, r;

  /* Before it is opened: opening alone may do something (a watchdog). */
  if (stat (path, &st) == -1)
    return failed (path, log);
  if ((r = check_type (path, st.st_mode, log)) < 0)
    return r;
  if (S_ISBLK (st.st_mode) && flags == O_RDWR)
    flags |= O_EXCL;
  fd = open (path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd == -1)
    return failed (path, log);
  if (fstat (fd, &st) == -1) {
    r = failed (path, log);
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
    r = failed (path, log);
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
