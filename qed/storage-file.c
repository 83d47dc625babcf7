/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage driver for a local file or block device. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/fs.h>

#include "file.h"
#include "lock.h"
#include "log.h"
#include "storage.h"

struct storage_file {
  struct storage storage;
  int fd;
  bool block_device;
  bool locked;
  bool need_write;              /* as in struct qed_options */
  _Atomic bool no_punch;        /* the file system cannot punch holes */
  _Atomic bool no_reserve;      /* nor reserve space */
};

/* A path that leads to another file each time its lock was taken. */
#define REPLACED_MAX 20u

#define BLOCK UINT64_C (4096)   /* whatever a device punches divides it */
#define ZEROS_SIZE 65536u
static const unsigned char zeros[ZEROS_SIZE];

static struct storage_file *
file_of (struct storage *s)
{
  return (struct storage_file *) s;
}

/* ---- Data ---- */

static int
file_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  int fd = file_of (s)->fd;
  ssize_t r;

  while (count > 0) {
    r = pread (fd, buf, count, (off_t) offset);
    if (r < 0) {
      if (errno == EINTR)
        continue;
      return -errno;
    }
    if (r == 0) {               /* beyond the end */
      memset (buf, 0, count);
      return 0;
    }
    buf = (char *) buf + r;
    count -= (size_t) r;
    offset += (uint64_t) r;
  }
  return 0;
}

static int
file_pwrite (struct storage *s, const void *buf, size_t count,
             uint64_t offset)
{
  int fd = file_of (s)->fd;
  ssize_t r;

  while (count > 0) {
    r = pwrite (fd, buf, count, (off_t) offset);
    if (r < 0) {
      if (errno == EINTR)
        continue;
      return -errno;
    }
    if (r == 0)
      return -EIO;
    buf = (const char *) buf + r;
    count -= (size_t) r;
    offset += (uint64_t) r;
  }
  return 0;
}

/* One system call where it takes everything, else what is left piecewise. */
static int
file_pwritev (struct storage *s, const struct iovec *iov, int n,
              uint64_t offset)
{
  ssize_t r = n <= IOV_MAX
    ? pwritev (file_of (s)->fd, iov, n, (off_t) offset) : 0;
  size_t written = r > 0 ? (size_t) r : 0, skip;
  int i, e;

  if (r < 0 && errno != EINTR)
    return -errno;
  for (i = 0; i < n; i++) {
    skip = written < iov[i].iov_len ? written : iov[i].iov_len;
    written -= skip;
    e = file_pwrite (s, (const char *) iov[i].iov_base + skip,
                     iov[i].iov_len - skip, offset + skip);
    if (e < 0)
      return e;
    offset += iov[i].iov_len;
  }
  return 0;
}

/* *never is set, and asked, if this file can't do that at all. */
static int
change_space (struct storage_file *file, int mode, uint64_t offset,
              uint64_t count, _Atomic bool *never)
{
  int r;

  if (*never)
    return -EOPNOTSUPP;
  do
    r = fallocate (file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t) offset,
                   (off_t) count);
  while (r < 0 && errno == EINTR);
  if (r == 0)
    return 0;
  if (errno == EINVAL && file->storage.fixed)   /* a part of its block */
    return -EOPNOTSUPP;
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != ENODEV &&
      errno != EINVAL)
    return -errno;
  *never = true;
  return -EOPNOTSUPP;
}

static int
file_punch (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage_file *file = file_of (s);

  /* The last cluster that can be addressed has a byte more than any file. */
  if (count > INT64_MAX - offset)
    count = INT64_MAX - offset;
  return change_space (file, FALLOC_FL_PUNCH_HOLE, offset, count,
                       &file->no_punch);
}

static int
file_reserve (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage_file *file = file_of (s);

  return change_space (file, 0, offset, count, &file->no_reserve);
}

static int
write_zeros (struct storage *s, uint64_t offset, uint64_t count)
{
  size_t n;
  int r;

  while (count > 0) {
    n = count < ZEROS_SIZE ? (size_t) count : ZEROS_SIZE;
    r = file_pwrite (s, zeros, n, offset);
    if (r < 0)
      return r;
    offset += n;
    count -= n;
  }
  return 0;
}

/* A device punches whole blocks: what lies before and behind them is written.
 */
static int
file_zero (struct storage *s, uint64_t offset, uint64_t count)
{
  uint64_t end = offset + count, first = (offset + BLOCK - 1) & -BLOCK;
  uint64_t last = end & -BLOCK;
  int r = file_punch (s, offset, count);

  if (r != -EOPNOTSUPP)
    return r;
  if (file_of (s)->no_punch || first >= last ||
      (first == offset && last == end))
    return write_zeros (s, offset, count);
  r = write_zeros (s, offset, first - offset);
  if (r == 0)
    r = file_punch (s, first, last - first);
  if (r == -EOPNOTSUPP)
    r = write_zeros (s, first, last - first);
  return r == 0 ? write_zeros (s, last, end - last) : r;
}

static void
file_prefetch (struct storage *s, uint64_t offset, uint64_t count)
{
  (void) posix_fadvise (file_of (s)->fd, (off_t) offset, (off_t) count,
                        POSIX_FADV_WILLNEED);
}

/* ---- The file as a whole ---- */

static int
file_resize (struct storage *s, uint64_t length)
{
  return file_set_length (file_of (s)->fd, length);
}

static int
file_length (struct storage *s, uint64_t *length)
{
  struct storage_file *file = file_of (s);
  struct stat st;

  if (file->block_device)
    return ioctl (file->fd, BLKGETSIZE64, length) < 0 ? -errno : 0;
  if (fstat (file->fd, &st) < 0)
    return -errno;
  *length = (uint64_t) st.st_size;
  return 0;
}

static int
file_sync (struct storage *s)
{
  return file_sync_data (file_of (s)->fd);
}

static int
file_next_data (struct storage *s, uint64_t offset, uint64_t *start,
                uint64_t *end)
{
  int fd = file_of (s)->fd;
  off_t data = lseek (fd, (off_t) offset, SEEK_DATA), hole;
  int r;

  *start = UINT64_MAX;
  *end = UINT64_MAX;
  if (data < 0 && errno == ENXIO)
    return 0;
  if (data < 0) {               /* unknown here: all of it may be data */
    r = file_length (s, end);
    if (r == 0 && offset < *end)
      *start = offset;
    return r;
  }
  hole = lseek (fd, data, SEEK_HOLE);
  if (hole < 0 && errno != ENXIO)
    return -errno;
  /* By now it may be a hole, or behind the end of the file. */
  *start = (uint64_t) data;
  *end = (uint64_t) (hole > data ? hole : data + 1);
  return 0;
}

static int
file_downgrade (struct storage *s)
{
  struct storage_file *file = file_of (s);
  char holder[LOCK_HOLDER_SIZE];
  int r = 0;

  s->read_only = true;
  s->can_grow = false;
  if (file->locked) {
    r = lock_take (file->fd, false, holder); /* gives up what only a writer
                                              * holds */
    file->locked = r == 0;
  }
  return r;
}

static void
file_close (struct storage *s)
{
  struct storage_file *file = file_of (s);

  if (file->locked)
    lock_drop (file->fd);
  close (file->fd);
  free (file);
}

static const struct storage_ops file_ops = {
  .pread = file_pread,
  .pwrite = file_pwrite,
  .pwritev = file_pwritev,
  .zero = file_zero,
  .punch = file_punch,
  .reserve = file_reserve,
  .prefetch = file_prefetch,
  .resize = file_resize,
  .length = file_length,
  .sync = file_sync,
  .next_data = file_next_data,
  .downgrade = file_downgrade,
  .close = file_close,
};

/* ---- Opening ---- */

/* A file that may not be written is served read-only; but a standby that looks
 * for the lock leaves it to others, then.
 */
static int
open_or_fall_back (struct storage_file *file,
                   const struct qed_options *options,
                   struct file_facts *facts)
{
  static const struct qed_log quiet;
  const struct qed_log *log = &options->log;
  const char *path = options->path, *beneath = options->beneath;
  int r = -EROFS;

  if (!file->storage.read_only)
    r = file_open (path, beneath, O_RDWR, &quiet, facts);
  if ((r == -EACCES || r == -EPERM || r == -EROFS) &&
      (file->storage.read_only || !options->quiet_lock)) {
    r = file_open (path, beneath, O_RDONLY, log, facts);
    if (r >= 0 && !file->storage.read_only)
      log_warning (log, "%s: the file may not be written: served read-only",
                   path);
    file->storage.read_only = true;
  }
  else if (r < 0 && (r != -EBUSY || !options->quiet_lock))
    r = file_open (path, beneath, O_RDWR, log, facts);
  return r;
}

static int
open_file (struct storage_file *file, const struct qed_options *options)
{
  struct file_facts facts;
  int r;

  if (options->need_write)
    r = file_open (options->path, options->beneath, O_RDWR, &options->log,
                   &facts);
  else
    r = open_or_fall_back (file, options, &facts);
  if (r < 0)
    return r;
  file->fd = r;
  file->block_device = facts.block_device;
  file->storage.fixed = facts.block_device;
  file->storage.can_grow = !facts.block_device && !file->storage.read_only;
  return 0;
}

/* Which file it is. */
static int
identify (struct storage_file *file)
{
  struct stat st;

  if (fstat (file->fd, &st) == -1)
    return -errno;
  file->storage.device = st.st_dev;
  file->storage.inode = st.st_ino;
  return 0;
}

static int
take_lock (struct storage_file *file, const char *path, bool quiet,
           const struct qed_log *log)
{
  char holder[LOCK_HOLDER_SIZE];
  int r = lock_take (file->fd, !file->storage.read_only, holder);

  if (r == 0)
    file->locked = true;
  else if (r == -EAGAIN && quiet)
    ;
  else if (r == -EAGAIN)
    log_error (log, "%s: the image is in use%s%s: "
               "stop that program first%s", path,
               holder[0] ? " by " : "", holder,
               file->storage.read_only || file->need_write ? ""
               : ", or open it read-only");
  else
    log_error (log, "%s: the file system cannot lock the image: %s: "
               "use lock=off if no one else uses it", path, strerror (-r));
  return r;
}

/* The file is open: lock it, and make a storage of it. */
static int
finish_open (struct storage_file *file, const char *path, bool lock,
             bool quiet, const struct qed_log *log, struct storage **storage)
{
  int r = identify (file);

  if (r == 0 && lock)
    r = take_lock (file, path, quiet, log);
  if (r < 0) {
    close (file->fd);
    free (file);
    return r;
  }
  file->storage.ops = &file_ops;
  *storage = &file->storage;
  return 0;
}

static int
open_path (const struct qed_options *options, struct storage **storage)
{
  struct storage_file *file = calloc (1, sizeof *file);
  int r;

  if (file == NULL)
    return -ENOMEM;
  file->storage.read_only = options->read_only;
  file->need_write = options->need_write;
  r = open_file (file, options);
  if (r < 0) {
    free (file);
    return r;
  }
  return finish_open (file, options->path, options->lock, options->quiet_lock,
                      &options->log, storage);
}

/* Whether the path leads elsewhere now: the lock had to be waited for, and
 * whoever held it has put another file in its place.
 */
static bool
was_replaced (const struct qed_options *options, const struct storage *s)
{
  struct qed_file_id id;

  return options->lock &&
    (qed_file_identify (options->path, options->beneath, &id) < 0 ||
     id.device != s->device || id.inode != s->inode);
}

/* Clean pages only: what is dirty is our own. */
static void
drop_cached (int fd)
{
  (void) posix_fadvise (fd, 0, 0, POSIX_FADV_DONTNEED);
}

int
storage_file_open (const struct qed_options *options,
                   struct storage **storage)
{
  unsigned tries = 0;
  int r;

  while ((r = open_path (options, storage)) == 0 &&
         was_replaced (options, *storage)) {
    file_close (*storage);
    *storage = NULL;
    if (++tries == REPLACED_MAX) {
      log_error (&options->log, "%s: other files take its place again and "
                 "again: it is not opened", options->path);
      return -ESTALE;
    }
  }
  if (r == 0 && options->take_over)
    drop_cached (file_of (*storage)->fd);
  return r;
}

int
storage_file_test_lock (const struct qed_options *options)
{
  static const struct qed_log quiet;
  struct file_facts facts;
  int fd = file_open (options->path, options->beneath, O_RDONLY, &quiet,
                      &facts), r;

  if (fd < 0)
    return fd;
  r = lock_test (fd, true);
  close (fd);
  return r;
}

int
storage_file_open_fd (int fd, const char *path,
                      const struct qed_options *options,
                      struct storage **storage)
{
  const struct qed_log *log = &options->log;
  struct storage_file *file = calloc (1, sizeof *file);
  struct stat st;

  if (file == NULL) {
    close (fd);
    return -ENOMEM;
  }
  if (fstat (fd, &st) == -1 ||
      (!S_ISREG (st.st_mode) && !S_ISBLK (st.st_mode))) {
    log_error (log, "%s: not a regular file or block device", path);
    close (fd);
    free (file);
    return -EINVAL;
  }
  file->fd = fd;
  file->storage.read_only = true;
  file->block_device = S_ISBLK (st.st_mode);
  if (options->take_over)
    drop_cached (fd);
  return finish_open (file, path, options->lock, false, log, storage);
}
