/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Make an image.
 *
 * Layout: the header in cluster 0 (the backing name follows its fields), the
 * L1 table from cluster 1, the end.  The header's first sector is written
 * last, after everything else is durable: a crash leaves an image or
 * something that no one takes for one.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/stat.h>

#include "file.h"
#include "format.h"
#include "lock.h"
#include "log.h"
#include "qed.h"
#include "storage.h"

#define ZERO_CHUNK (1u << 20)

struct creation {
  const struct qed_create_options *options;
  const struct qed_log *log;
  struct format_header header;
  uint64_t end;                 /* the length of the empty image */
  int fd;
  struct storage *storage;      /* an export, instead of a file */
  bool created;                 /* the file is ours to remove again */
  bool fixed_length;            /* a device, or an export */
  uint64_t old_size;            /* of an existing file or device */
};

void
qed_create_options_init (struct qed_create_options *options)
{
  memset (options, 0, sizeof *options);
  options->cluster_size = QED_CLUSTER_SIZE_DEFAULT;
  options->table_size = QED_TABLE_SIZE_DEFAULT;
}

bool
qed_backing_is_nbd (const char *name)
{
  return format_backing_kind (name) == FORMAT_BACKING_NBD;
}

/* Report a failed system call or helper; returns 'r'. */
static int
failed (struct creation *c, int r, const char *what)
{
  log_error (c->log, "%s: cannot %s: %s", c->options->path, what,
             strerror (-r));
  return r;
}

/* ---- Validate ---------------------------------------------------------- */

static int
check_backing (struct creation *c)
{
  const struct qed_create_options *o = c->options;
  char error[FORMAT_ERROR_SIZE];
  size_t len;
  int r;

  if (o->backing == NULL) {
    if (!o->backing_raw)
      return 0;
    log_error (c->log, "%s: a format is given for a backing file, but no "
               "backing file", o->path);
    return -EINVAL;
  }
  len = strlen (o->backing);
  r = format_check_backing_name (o->backing, len, error);
  if (r < 0) {
    log_error (c->log, "%s: %s", o->path, error);
    return r;
  }
  if (len > o->cluster_size - FORMAT_HEADER_BYTES) {
    log_error (c->log, "%s: the backing file name of %zu bytes does not fit "
               "into the header cluster: at most %" PRIu32 " do", o->path, len,
               o->cluster_size - FORMAT_HEADER_BYTES);
    return -EINVAL;
  }
  r = format_check_backing_kind (o->backing, error);
  if (r < 0)
    log_error (c->log, "%s: the backing file %s: %s", o->path, o->backing,
               error);
  return r;
}

/* All that can be known before the file is touched. */
static int
check_options (struct creation *c)
{
  const struct qed_create_options *o = c->options;
  struct format_header *h = &c->header;
  char error[FORMAT_ERROR_SIZE];
  int r;

  r = format_check_geometry (o->cluster_size, o->table_size, o->size, error);
  if (r < 0) {
    log_error (c->log, "%s: %s", o->path, error);
    return r;
  }
  if ((r = check_backing (c)) < 0)
    return r;

  memset (h, 0, sizeof *h);
  h->cluster_size = o->cluster_size;
  h->table_size = o->table_size;
  h->header_size = 1;
  h->l1_table_offset = o->cluster_size;
  h->image_size = o->size;
  if (o->backing != NULL) {
    h->features |= QED_F_BACKING_FILE;
    if (o->backing_raw || qed_backing_is_nbd (o->backing))
      h->features |= QED_F_BACKING_FORMAT_NO_PROBE;
    h->backing_filename_offset = FORMAT_HEADER_BYTES;
    h->backing_filename_size = strlen (o->backing);
  }
  c->end = h->l1_table_offset + (uint64_t) o->table_size * o->cluster_size;
  return 0;
}

/* ---- Open -------------------------------------------------------------- */

static int
open_new (struct creation *c)
{
  const char *path = c->options->path;

  c->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (c->fd >= 0) {
    c->created = true;
    return 0;
  }
  if (errno == EEXIST && !c->options->force) {
    log_error (c->log, "%s: exists already: remove it, or overwrite it with "
               "--force", path);
    return -EEXIST;
  }
  return failed (c, -errno, "create");
}

/* A name that is not absolute is relative to the image's directory.  An
 * overlay that overwrites its own backing file would lose everything, and
 * one that was not there before could never be opened.
 */
static int
check_backing_is_other (struct creation *c)
{
  const char *backing = c->options->backing;
  const char *slash = strrchr (c->options->path, '/');
  struct stat st, backing_st;
  char *path;
  int r;

  if (backing == NULL || qed_backing_is_nbd (backing))
    return 0;
  if (backing[0] == '/' || slash == NULL)
    r = asprintf (&path, "%s", backing);
  else
    r = asprintf (&path, "%.*s/%s", (int) (slash - c->options->path),
                  c->options->path, backing);
  if (r < 0)
    return failed (c, -ENOMEM, "compare with the backing file");
  r = stat (path, &backing_st);
  free (path);
  if (r == -1)
    return 0;                   /* not there: another file at least */
  if (fstat (c->fd, &st) == -1)
    return failed (c, -errno, "stat");
  if (st.st_dev == backing_st.st_dev && st.st_ino == backing_st.st_ino) {
    log_error (c->log, "%s: would be its own backing file",
               c->options->path);
    return -EINVAL;
  }
  return 0;
}

static int
check_room (struct creation *c)
{
  if (c->old_size >= c->end)
    return 0;
  log_error (c->log, "%s: there are %" PRIu64 " bytes, an empty image of this "
             "geometry takes %" PRIu64 ": choose smaller clusters or tables",
             c->options->path, c->old_size, c->end);
  return -ENOSPC;
}

/* A guest's disk is left alone, and everything else without 'force'. */
static int
open_export (struct creation *c)
{
  const char *uri = c->options->path;
  int r;

  if (c->options->backing) {
    log_error (c->log, "%s: an image on an NBD server can't have a backing "
               "file", uri);
    return -EINVAL;
  }
  if (!c->options->force) {
    log_error (c->log, "%s: what this export holds would be lost: overwrite "
               "it with --force, if nobody uses it", uri);
    return -EEXIST;
  }
  r = storage_nbd_open (uri, NULL, STORAGE_NBD_WRITE | STORAGE_NBD_ONCE,
                        c->log, &c->storage);
  if (r < 0)
    return r;
  if (c->storage->guest_disk) {
    log_error (c->log, "%s: this is a disk that a server of ours serves: "
               "nothing is written to it", uri);
    return -EINVAL;
  }
  c->fixed_length = true;
  r = c->storage->ops->length (c->storage, &c->old_size);
  return r < 0 ? r : check_room (c);
}

static int
open_existing (struct creation *c)
{
  struct file_facts facts;
  int r = 0;

  c->fd = file_open (c->options->path, NULL, O_RDWR, c->log, &facts);
  if (c->fd < 0)
    return c->fd;
  c->fixed_length = facts.block_device;
  c->old_size = facts.size;
  if (c->fixed_length)
    r = check_room (c);
  return r < 0 ? r : check_backing_is_other (c);
}

static int
open_file (struct creation *c)
{
  struct stat st;
  int r;

  if (qed_backing_is_nbd (c->options->path))
    return open_export (c);

  /* lstat: over a dangling link, open_new fails and says so. */
  if (c->options->force && lstat (c->options->path, &st) == 0)
    return open_existing (c);
  r = open_new (c);
  return r < 0 ? r : check_backing_is_other (c);
}

/* Nobody may have the file in use. */
static int
take_lock (struct creation *c)
{
  const char *path = c->options->path;
  char holder[LOCK_HOLDER_SIZE];
  int r;

  if (c->storage)               /* there are none */
    return 0;
  r = lock_take (c->fd, true, holder);
  if (r == -EAGAIN)
    log_error (c->log, "%s: is in use by %s: nothing was changed", path,
               holder[0] ? holder : "another process");
  if (r == 0 || r == -EAGAIN)
    return r;
  log_warning (c->log, "%s: cannot be locked (%s): make sure that no one else "
               "uses it", path, strerror (-r));
  return 0;
}

/* ---- Write ------------------------------------------------------------- */

static int
put (const struct creation *c, const void *buf, size_t count, uint64_t offset)
{
  return c->storage ? c->storage->ops->pwrite (c->storage, buf, count, offset)
    : file_write (c->fd, buf, count, offset);
}

static int
sync_data (const struct creation *c)
{
  return c->storage ? c->storage->ops->sync (c->storage)
    : file_sync_data (c->fd);
}

static int
write_zeroes (const struct creation *c, uint64_t offset, uint64_t count)
{
  char *buf;
  int r = 0;

  if (c->storage)
    return c->storage->ops->zero (c->storage, offset, count);
  buf = calloc (1, ZERO_CHUNK);
  if (buf == NULL)
    return -ENOMEM;
  while (r == 0 && count > 0) {
    const size_t n = count < ZERO_CHUNK ? count : ZERO_CHUNK;

    r = put (c, buf, n, offset);
    offset += n;
    count -= n;
  }
  free (buf);
  return r;
}

/* Header and L1 table become zeros, durably; what was there before is gone.
 * In a file they are a hole.  A device has no holes, and its header goes
 * first: it must not lead to a table half zeroed.
 */
static int
clear_space (struct creation *c)
{
  int r = 0;

  if (!c->fixed_length) {
    r = file_set_length (c->fd, 0);
    if (r == 0)
      r = file_set_length (c->fd, c->end);
    if (r < 0)
      return failed (c, r, "set the length");
  }
  else {
    r = write_zeroes (c, 0, FORMAT_SECTOR);
    if (r == 0)
      r = sync_data (c);
    if (r == 0)
      r = write_zeroes (c, FORMAT_SECTOR, c->end - FORMAT_SECTOR);
    if (r < 0)
      return failed (c, r, "zero the header and L1 table");
  }
  return 0;
}

static int
write_header (struct creation *c)
{
  const size_t used = FORMAT_HEADER_BYTES + c->header.backing_filename_size;
  const size_t size =
    (used + FORMAT_SECTOR - 1) / FORMAT_SECTOR * FORMAT_SECTOR;
  unsigned char *buf;
  int r;

  buf = calloc (1, size);
  if (buf == NULL)
    return failed (c, -ENOMEM, "write the header");
  format_encode_header (&c->header, buf);
  if (c->options->backing != NULL)
    memcpy (buf + FORMAT_HEADER_BYTES, c->options->backing,
            c->header.backing_filename_size);

  r = put (c, buf + FORMAT_SECTOR, size - FORMAT_SECTOR, FORMAT_SECTOR);
  if (r == 0)
    r = sync_data (c);
  /* From here on it is an image. */
  if (r == 0)
    r = put (c, buf, FORMAT_SECTOR, 0);
  if (r == 0)
    r = c->storage ? sync_data (c) : file_sync_all (c->fd);
  free (buf);
  return r < 0 ? failed (c, r, "write the header") : 0;
}

int
qed_create (const struct qed_create_options *options)
{
  struct creation c = {
    .options = options, .log = &options->log, .fd = -1,
  };
  int r;

  if ((r = check_options (&c)) < 0)
    return r;
  if ((r = open_file (&c)) < 0 ||
      (r = take_lock (&c)) < 0 ||
      (r = clear_space (&c)) < 0 ||
      (r = write_header (&c)) < 0)
    goto out;
  if (c.created && (r = file_sync_directory (options->path)) < 0)
    (void) failed (&c, r, "sync the directory");

 out:
  if (r < 0 && c.created)
    unlink (options->path);
  if (c.fd >= 0)
    close (c.fd);
  if (c.storage)
    c.storage->ops->close (c.storage);
  return r;
}
