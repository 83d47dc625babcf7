/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <linux/magic.h>

#include "log.h"
#include "pending-file.h"

#define NAME_SIZE 44

const char *
pending_file_impossible (const struct qed_options *options,
                         const struct storage *storage)
{
  if (storage->fixed || storage->inode == 0)
    return "it is no regular file";
  return options->lock ? NULL : "lock=off";
}

/* ---- The directory ---- */

/* With its parent, if it isn't there. */
static void
make_directory (const char *path)
{
  char parent[PATH_MAX];
  char *slash;

  snprintf (parent, sizeof parent, "%s", path);
  slash = strrchr (parent, '/');
  if (slash != NULL && slash != parent) {
    *slash = '\0';
    mkdir (parent, 0755);
  }
  mkdir (path, 0700);
}

/* A descriptor, or a negative errno. */
static int
open_directory (const char *path)
{
  int fd = open (path, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
  struct statfs fs;
  struct stat st;
  int r = 0;

  if (fd == -1)
    return -errno;
  if (fstat (fd, &st) == -1 || fstatfs (fd, &fs) == -1)
    r = -errno;
  else if ((st.st_uid != geteuid () && geteuid () != 0) ||
           (st.st_mode & 077) != 0)
    r = -EPERM;
  else if (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC)
    r = -EMEDIUMTYPE;
  if (r < 0)
    close (fd);
  return r < 0 ? r : fd;
}

static void
name_file (const struct qed_file_id *id, char name[NAME_SIZE])
{
  snprintf (name, NAME_SIZE, "%" PRIu64 "-%" PRIu64, id->device, id->inode);
}

/* ---- The file ---- */

/* A signal may be in the way on tmpfs. */
static int
reserve (const struct pending_file *file, size_t at, size_t count)
{
  int r;

  do
    r = -posix_fallocate (file->fd, (off_t) at, (off_t) count);
  while (r == -EINTR);
  return r;
}

/* What is mapped behind the end of the file is there for when it grows. */
static int
reserve_and_map (struct pending_file *file)
{
  int r = reserve (file, 0, file->size);

  if (r < 0)
    return r;
  file->memory = mmap (NULL, file->max, PROT_READ | PROT_WRITE, MAP_SHARED,
                       file->fd, 0);
  if (file->memory != MAP_FAILED)
    return 0;
  file->memory = NULL;
  return -errno;
}

/* Whoever has the name now, it is not what we make. */
static int
create_in (int directory, const char *name, struct pending_file *file)
{
  int r;

  if (unlinkat (directory, name, 0) == -1 && errno != ENOENT)
    return -errno;
  file->fd = openat (directory, name,
                     O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file->fd == -1)
    return -errno;
  r = reserve_and_map (file);
  if (r < 0) {
    close (file->fd);
    unlinkat (directory, name, 0);
  }
  return r;
}

static int
create_at (const char *path, const struct qed_file_id *id,
           struct pending_file *file)
{
  char name[NAME_SIZE];
  int directory, r;

  make_directory (path);
  directory = open_directory (path);
  if (directory < 0)
    return directory;
  name_file (id, name);
  r = create_in (directory, name, file);
  if (r == 0 && asprintf (&file->path, "%s/%s", path, name) < 0) {
    munmap (file->memory, file->max);
    close (file->fd);
    unlinkat (directory, name, 0);
    file->memory = file->path = NULL;
    r = -ENOMEM;
  }
  close (directory);
  return r;
}

static const char *
reason (int error)
{
  return error == -EMEDIUMTYPE ? "it is not on tmpfs"
    : error == -EPERM ? "it is not this user's alone (mode 0700)"
    : strerror (-error);
}

int
pending_file_create (const struct qed_options *options,
                     const struct qed_file_id *id, size_t size, size_t max,
                     struct pending_file *file)
{
  const char *const *directory = options->pending_directories;
  char why[1024] = "";
  int r = -ENOENT;
  size_t n;

  *file = (struct pending_file) { .size = size, .max = max };
  for (; directory != NULL && *directory != NULL; directory++) {
    r = create_at (*directory, id, file);
    if (r == 0)
      return 0;
    n = strlen (why);
    snprintf (why + n, sizeof why - n, "%s%s: %s", n > 0 ? "; " : "",
              *directory, reason (r));
  }
  log_warning (&options->log, "%s: no pending log can be had (%s)",
               options->path, why[0] ? why : "there is no directory for it");
  return r;
}

int
pending_file_resize (struct pending_file *file, size_t size)
{
  int r = 0;

  if (size > file->size)
    r = reserve (file, file->size, size - file->size);
  else if (ftruncate (file->fd, (off_t) size) == -1)
    r = -errno;
  if (r == 0)
    file->size = size;
  return r;
}

void
pending_file_close (struct pending_file *file, bool remove)
{
  if (file->memory == NULL)
    return;
  munmap (file->memory, file->max);
  close (file->fd);
  if (remove)
    unlink (file->path);
  free (file->path);
  memset (file, 0, sizeof *file);
}

static int
read_all (int fd, size_t max, void **buf, size_t *size)
{
  size_t done = 0;
  struct stat st;
  ssize_t r;

  if (fstat (fd, &st) == -1)
    return -errno;
  if (!S_ISREG (st.st_mode) || st.st_size == 0 || (uint64_t) st.st_size > max)
    return -EINVAL;
  *size = (size_t) st.st_size;
  *buf = malloc (*size);
  if (*buf == NULL)
    return -ENOMEM;
  for (; done < *size; done += (size_t) r) {
    r = read (fd, (char *) *buf + done, *size - done);
    if (r == -1 && errno == EINTR)
      r = 0;
    else if (r <= 0)
      return r == 0 ? -EINVAL : -errno;
  }
  return 0;
}

/* How many there are before the NULL; the n-th, or NULL. */
static const char *
nth_directory (const struct qed_options *options, unsigned n)
{
  const char *const *directory = options->pending_directories;

  if (directory == NULL)
    return NULL;
  while (*directory != NULL && n > 0) {
    directory++;
    n--;
  }
  return *directory;
}

int
pending_file_read (const struct qed_options *options,
                   const struct qed_file_id *id, unsigned n, size_t max,
                   void **buf, size_t *size)
{
  const char *path = nth_directory (options, n);
  char name[NAME_SIZE];
  int directory, fd, r;

  *buf = NULL;
  if (path == NULL)
    return -ERANGE;
  directory = open_directory (path);
  if (directory == -EMFILE || directory == -ENFILE || directory == -ENOMEM)
    return directory;
  if (directory < 0)
    return -ENOENT;
  name_file (id, name);
  fd = openat (directory, name,
               O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  r = fd == -1 ? -errno : read_all (fd, max, buf, size);
  if (fd != -1)
    close (fd);
  close (directory);
  return r;
}

void
pending_file_remove (const struct qed_options *options,
                     const struct qed_file_id *id)
{
  char name[NAME_SIZE];
  const char *path;
  int directory;
  unsigned n;

  name_file (id, name);
  for (n = 0; (path = nth_directory (options, n)) != NULL; n++) {
    directory = open_directory (path);
    if (directory < 0)
      continue;
    unlinkat (directory, name, 0);
    close (directory);
  }
}

/* ---- Identity ---- */

/* 36 characters, of which 32 are hexadecimal digits. */
int
pending_file_boot_id (unsigned char id[PENDING_BOOT_BYTES])
{
  FILE *fp = fopen ("/proc/sys/kernel/random/boot_id", "re");
  unsigned i, byte;
  int r = 0;

  if (fp == NULL)
    return -errno;
  for (i = 0; i < PENDING_BOOT_BYTES && r == 0; i++) {
    if (fscanf (fp, "%2x%*[-]", &byte) < 1)
      r = -EINVAL;
    id[i] = (unsigned char) byte;
  }
  fclose (fp);
  return r;
}

uint32_t
pending_file_random (void)
{
  uint32_t bits = 0;

  while (getrandom (&bits, sizeof bits, 0) != sizeof bits)
    ;
  return bits;
}
