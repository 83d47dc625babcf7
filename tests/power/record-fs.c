/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A file system that shows the files of one directory, and records in order
 * what is done to one of them, the image.
 *
 *   record-fs DIRECTORY NAME SESSION MOUNTPOINT
 *
 * SESSION is where 'record' and 'counter' are written (record.h).  It runs in
 * the foreground until it is unmounted.
 *
 * Files are opened with direct I/O, so that each write of the server is seen
 * when it happens and not when the page cache likes; the kernel splits those
 * of more than its largest request, which then end one by one.  Locks are the
 * kernel's.  The engine takes the same path as on a file below: pwrite, punch,
 * lseek for holes, ftruncate, fdatasync; only its readahead hints do nothing,
 * and direct I/O makes writes to the file take turns.
 */

#define FUSE_USE_VERSION 35

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <dirent.h>

#include <fuse.h>
#include <linux/falloc.h>

#include "record.h"

static int directory = -1;
static const char *image;               /* its name, with a slash before it */
static _Atomic uint64_t *counter;
static int record_fd = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define IMAGE_BIT (UINT64_C (1) << 32)  /* of a file handle */

static int
fd_of (const struct fuse_file_info *fi)
{
  return (int) (fi->fh & UINT32_MAX);
}

static const char *
below (const char *path)
{
  return path[1] ? path + 1 : ".";
}

/* ---- The record ---- */

static void
put (const void *data, size_t count)
{
  ssize_t r;

  while (count > 0) {
    r = write (record_fd, data, count);
    if (r <= 0) {
      perror ("record-fs: the record can't be written");
      _exit (1);                /* a record with a gap is worth nothing */
    }
    data = (const char *) data + r;
    count -= (size_t) r;
  }
}

/* An event, under its number; 'data' is that of a write. */
static uint64_t
note (enum record_kind kind, uint64_t first, uint64_t offset, uint64_t count,
      const void *data)
{
  struct record record = { .first = first, .offset = offset, .count = count,
                           .kind = kind };

  pthread_mutex_lock (&lock);
  record.number = record_next (counter);
  put (&record, sizeof record);
  if (data)
    put (data, count);
  pthread_mutex_unlock (&lock);
  return record.number;
}

/* 0 for a file that isn't recorded. */
static uint64_t
begin (const struct fuse_file_info *fi, enum record_kind kind,
       uint64_t offset, uint64_t count, const void *data)
{
  return fi->fh & IMAGE_BIT ? note (kind, 0, offset, count, data) : 0;
}

static int
end (uint64_t first, int r)
{
  if (r >= 0 && first != 0)
    note (RECORD_END, first, 0, 0, NULL);
  return r;
}

/* ---- The file system ---- */

static void *
fs_init (struct fuse_conn_info *conn, struct fuse_config *config)
{
  (void) conn;
  config->use_ino = 1;
  config->attr_timeout = 0;
  return NULL;
}

static int
fs_getattr (const char *path, struct stat *st, struct fuse_file_info *fi)
{
  int r = fi ? fstat (fd_of (fi), st)
    : fstatat (directory, below (path), st, AT_SYMLINK_NOFOLLOW);

  return r < 0 ? -errno : 0;
}

static int
fs_readdir (const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
            struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
  int fd = openat (directory, below (path), O_RDONLY | O_DIRECTORY);
  DIR *dir = fd < 0 ? NULL : fdopendir (fd);
  struct dirent *entry;

  (void) offset;
  (void) fi;
  (void) flags;
  if (dir == NULL)
    return -errno;
  while ((entry = readdir (dir)) != NULL)
    if (fill (buf, entry->d_name, NULL, 0, 0) != 0)
      break;
  closedir (dir);
  return 0;
}

static int
fs_open (const char *path, struct fuse_file_info *fi)
{
  int fd = openat (directory, below (path), fi->flags & ~(O_TRUNC | O_APPEND));

  if (fd < 0)
    return -errno;
  fi->fh = (uint64_t) fd | (strcmp (path, image) == 0 ? IMAGE_BIT : 0);
  fi->direct_io = 1;
  return 0;
}

static int
fs_release (const char *path, struct fuse_file_info *fi)
{
  (void) path;
  close (fd_of (fi));
  return 0;
}

static int
fs_read (const char *path, char *buf, size_t count, off_t offset,
         struct fuse_file_info *fi)
{
  ssize_t r = pread (fd_of (fi), buf, count, offset);

  (void) path;
  return r < 0 ? -errno : (int) r;
}

/* What is written in part isn't recorded as done; the server then fails, or
 * continues, which is recorded.
 */
static int
fs_write (const char *path, const char *buf, size_t count, off_t offset,
          struct fuse_file_info *fi)
{
  uint64_t first = begin (fi, RECORD_WRITE, (uint64_t) offset, count, buf);
  ssize_t r = pwrite (fd_of (fi), buf, count, offset);

  (void) path;
  if (r < 0)
    return -errno;
  return end ((size_t) r == count ? first : 0, (int) r);
}

static int
fs_truncate (const char *path, off_t length, struct fuse_file_info *fi)
{
  uint64_t first;

  (void) path;
  if (fi == NULL)               /* by its name: no server of ours does so */
    return -EPERM;
  first = begin (fi, RECORD_LENGTH, (uint64_t) length, 0, NULL);
  return end (first, ftruncate (fd_of (fi), length) < 0 ? -errno : 0);
}

static int
fs_fallocate (const char *path, int mode, off_t offset, off_t count,
              struct fuse_file_info *fi)
{
  uint64_t first;

  (void) path;
  if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
      mode != (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
    return -EOPNOTSUPP;
  first = begin (fi, RECORD_ZERO, (uint64_t) offset, (uint64_t) count, NULL);
  return end (first, fallocate (fd_of (fi), mode, offset, count) < 0
              ? -errno : 0);
}

/* The files below are memory, mostly, and no power is cut for real: what
 * makes a sync one is that it is recorded.
 */
static int
fs_fsync (const char *path, int datasync, struct fuse_file_info *fi)
{
  (void) path;
  (void) datasync;
  return end (begin (fi, RECORD_SYNC, 0, 0, NULL), 0);
}

static off_t
fs_lseek (const char *path, off_t offset, int whence,
          struct fuse_file_info *fi)
{
  off_t r = lseek (fd_of (fi), offset, whence);

  (void) path;
  return r < 0 ? -errno : r;
}

static const struct fuse_operations operations = {
  .init = fs_init,
  .getattr = fs_getattr,
  .readdir = fs_readdir,
  .open = fs_open,
  .release = fs_release,
  .read = fs_read,
  .write = fs_write,
  .truncate = fs_truncate,
  .fallocate = fs_fallocate,
  .fsync = fs_fsync,
  .lseek = fs_lseek,
};

static char *
join (const char *a, const char *b)
{
  char *s;

  if (asprintf (&s, "%s/%s", a, b) < 0)
    abort ();
  return s;
}

int
main (int argc, char **argv)
{
  char *fuse_argv[] = { argv[0], (char *) "-f", argv[argc - 1], NULL };
  char *path;

  if (argc != 5) {
    fprintf (stderr, "usage: record-fs DIRECTORY NAME SESSION MOUNTPOINT\n");
    return 2;
  }
  directory = open (argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  image = join ("", argv[2]);
  path = join (argv[3], "record");
  record_fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
                    0600);
  free (path);
  path = join (argv[3], "counter");
  counter = record_map_counter (path);
  free (path);
  if (directory < 0 || record_fd < 0 || counter == NULL) {
    perror ("record-fs");
    return 1;
  }
  return fuse_main (3, fuse_argv, &operations, NULL);
}
