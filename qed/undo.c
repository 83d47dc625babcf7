/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "file.h"
#include "format.h"
#include "log.h"
#include "undo.h"

static const unsigned char magic[8] = "QEDUNDO";
#define UNDO_VERSION 1u
#define RECORD_BYTES 24u        /* before its data */

/* FNV-1a: against torn records, not against malice. */
static uint64_t
check_sum (uint64_t offset, uint64_t count, const unsigned char *data)
{
  uint64_t sum = UINT64_C (0xcbf29ce484222325) ^ offset ^ (count << 32);
  uint64_t i;

  for (i = 0; i < count; i++)
    sum = (sum ^ data[i]) * UINT64_C (0x100000001b3);
  return sum;
}

/* By what an image is known again: its magic and sizes, and the places of L1
 * and of the end of the disk.
 */
#define IDENTITY_BYTES 32u

static int
read_identity (struct storage *image, unsigned char *identity)
{
  unsigned char header[FORMAT_HEADER_BYTES];
  int r = image->ops->pread (image, header, sizeof header, 0);

  memcpy (identity, header, FORMAT_AT_FEATURES);
  memcpy (identity + FORMAT_AT_FEATURES, header + FORMAT_AT_L1,
          IDENTITY_BYTES - FORMAT_AT_FEATURES);
  return r;
}

/* ---- Saving ---- */

#define AT_IDENTITY 24

static int
write_file_header (struct undo_file *undo, struct storage *image)
{
  unsigned char header[UNDO_HEADER] = { 0 };
  int r = read_identity (image, header + AT_IDENTITY);

  memcpy (header, magic, sizeof magic);
  format_put64 (header + 8, UNDO_VERSION);
  format_put64 (header + 16, undo->length);
  if (r == 0)
    r = file_write (undo->fd, header, sizeof header, 0);
  if (r == 0 && fsync (undo->fd) == -1)
    r = -errno;
  undo->end = sizeof header;
  return r;
}

/* Its name is durable too. */
static int
sync_directory (const char *path)
{
  char *copy = strdup (path);
  int fd, r = 0;

  if (copy == NULL)
    return -ENOMEM;
  fd = open (dirname (copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd == -1 && errno == EACCES)      /* written to, but not read */
    ;
  else if (fd == -1 || (fsync (fd) == -1 && errno != EINVAL))
    r = -errno;
  if (fd != -1)
    close (fd);
  free (copy);
  return r;
}

int
undo_file_create (struct undo_file *undo, const char *path,
                  struct storage *image)
{
  int r = image->ops->length (image, &undo->length);

  if (r < 0)
    return r;
  undo->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (undo->fd == -1)
    return -errno;
  r = write_file_header (undo, image);
  if (r == 0)
    r = sync_directory (path);
  if (r < 0) {
    undo_file_close (undo);
    unlink (path);
  }
  return r;
}

void
undo_file_close (struct undo_file *undo)
{
  if (undo->fd != -1)
    close (undo->fd);
  undo->fd = -1;
}

int
undo_file_add (struct undo_file *undo, uint64_t offset, uint64_t count,
               const unsigned char *data)
{
  unsigned char record[RECORD_BYTES];
  int r;

  format_put64 (record, offset);
  format_put64 (record + 8, count);
  format_put64 (record + 16, check_sum (offset, count, data));
  r = file_write (undo->fd, record, sizeof record, undo->end);
  if (r == 0)
    r = file_write (undo->fd, data, count, undo->end + sizeof record);
  if (r == 0)
    undo->end += sizeof record + count;
  return r;
}

int
undo_file_sync (struct undo_file *undo)
{
  return fdatasync (undo->fd) == -1 ? -errno : 0;
}

/* ---- Putting back ---- */

struct restore {
  const char *path;             /* of the undo file */
  const struct qed_options *options;
  struct storage *storage;      /* the image */
  int fd;
  uint64_t size;                /* of the undo file */
  uint64_t length;              /* of the image before */
  unsigned char identity[IDENTITY_BYTES];
  unsigned char *buf;
};

static int
read_file_header (struct restore *restore)
{
  unsigned char header[UNDO_HEADER];
  off_t end = lseek (restore->fd, 0, SEEK_END);
  int r = end == -1 ? -errno : end < (off_t) sizeof header ? -EINVAL
    : file_read (restore->fd, header, sizeof header, 0);

  if (r == 0 && (memcmp (header, magic, sizeof magic) != 0 ||
                 format_get64 (header + 8) != UNDO_VERSION))
    r = -EINVAL;
  if (r < 0) {
    log_error (&restore->options->log, "%s: not an undo file of a repair: %s",
               restore->path, strerror (-r));
    return r;
  }
  restore->size = (uint64_t) end;
  restore->length = format_get64 (header + 16);
  memcpy (restore->identity, header + AT_IDENTITY, IDENTITY_BYTES);
  return 0;
}

/* The record at 'at': its bytes, or 0 where the file ends or a record is
 * torn.
 */
static uint64_t
read_record (struct restore *restore, uint64_t at, uint64_t *offset,
             uint64_t *count)
{
  unsigned char *buf = restore->buf;

  if (restore->size - at < RECORD_BYTES ||
      file_read (restore->fd, buf, RECORD_BYTES, at) < 0)
    return 0;
  *offset = format_get64 (buf);
  *count = format_get64 (buf + 8);
  if (*count == 0 || *count > UNDO_PIECE_BYTES || *offset > restore->length ||
      *count > restore->length - *offset ||
      restore->size - at - RECORD_BYTES < *count ||
      file_read (restore->fd, buf + RECORD_BYTES, *count,
                 at + RECORD_BYTES) < 0 ||
      check_sum (*offset, *count, buf + RECORD_BYTES) !=
      format_get64 (buf + 16))
    return 0;
  return RECORD_BYTES + *count;
}

/* How many records there are, and where each one is; to be freed. */
static int
list_records (struct restore *restore, uint64_t **list, size_t *n)
{
  uint64_t at = UNDO_HEADER, bytes, offset, count, *more;
  size_t capacity = 0;

  *list = NULL;
  *n = 0;
  while ((bytes = read_record (restore, at, &offset, &count)) > 0) {
    if (*n == capacity) {
      capacity = capacity ? capacity * 2 : 256;
      more = realloc (*list, capacity * sizeof **list);
      if (more == NULL)
        return -ENOMEM;
      *list = more;
    }
    (*list)[(*n)++] = at;
    at += bytes;
  }
  return 0;
}

/* From the last record to the first: each byte ends with its oldest value. */
static int
put_back (struct restore *restore, const struct qed_progress *progress)
{
  struct storage *s = restore->storage;
  uint64_t *list, offset, count, length;
  size_t n, i;
  int r = list_records (restore, &list, &n);

  if (r == 0)
    r = s->ops->length (s, &length);
  if (r == 0 && length != restore->length)
    r = s->ops->resize (s, restore->length);
  for (i = n; i > 0 && r == 0; i--) {
    if (read_record (restore, list[i - 1], &offset, &count) == 0)
      r = -EIO;
    else
      r = s->ops->pwrite (s, restore->buf + RECORD_BYTES, count, offset);
    if (r == 0)
      r = qed_progress_tell (progress, n - i + 1, n);
  }
  if (r == 0)
    r = s->ops->sync (s);
  free (list);
  if (r < 0)
    log_error (&restore->options->log, "%s: cannot put everything back from "
               "%s: %s: run it again", restore->options->path, restore->path,
               strerror (-r));
  return r;
}

/* What was saved of one image would destroy any other. */
static int
open_image (struct restore *restore)
{
  const struct qed_options *options = restore->options;
  struct qed_options repair = *options;
  unsigned char identity[IDENTITY_BYTES];
  int r;

  repair.examine = true;
  r = storage_open (&repair, &restore->storage);

  if (r < 0)
    return r;
  if (restore->storage->read_only) {
    log_error (&options->log, "%s: cannot be written to", options->path);
    return -EROFS;
  }
  r = read_identity (restore->storage, identity);
  if (r == 0 && memcmp (identity, restore->identity, IDENTITY_BYTES) == 0)
    return 0;
  log_error (&options->log, "%s: is not the image that %s was saved from: its "
             "header differs", options->path, restore->path);
  return -EINVAL;
}

int
qed_undo (const char *path, const struct qed_options *options,
          const struct qed_progress *progress)
{
  struct restore restore = { .path = path, .options = options };
  int r;

  restore.buf = malloc (RECORD_BYTES + UNDO_PIECE_BYTES);
  restore.fd = open (path, O_RDONLY | O_CLOEXEC);
  r = restore.fd == -1 ? -errno : restore.buf == NULL ? -ENOMEM : 0;
  if (r < 0)
    log_error (&options->log, "%s: cannot open the undo file: %s", path,
               strerror (-r));
  else
    r = read_file_header (&restore);
  if (r == 0)
    r = open_image (&restore);
  if (r == 0)
    r = put_back (&restore, progress);
  if (restore.storage)
    restore.storage->ops->close (restore.storage);
  if (restore.fd != -1)
    close (restore.fd);
  free (restore.buf);
  return r;
}
