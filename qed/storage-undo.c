/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
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
#define PIECE_BYTES (UINT64_C (1) << 20)

struct storage_undo {
  struct storage storage;
  struct storage *below;
  pthread_mutex_t lock;         /* protects the file */
  int fd;
  uint64_t end;                 /* of the undo file */
  uint64_t length;              /* of the image before: what lies behind has
                                 * no old value */
  unsigned char *buf;           /* a record of a whole piece */
};

static struct storage_undo *
undo_of (struct storage *s)
{
  return (struct storage_undo *) s;
}

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

/* ---- Saving ---- */

/* With the lock held. */
static int
append (struct storage_undo *undo, uint64_t offset, uint64_t count)
{
  unsigned char *data = undo->buf + RECORD_BYTES;
  int r = undo->below->ops->pread (undo->below, data, count, offset);

  if (r < 0)
    return r;
  format_put64 (undo->buf, offset);
  format_put64 (undo->buf + 8, count);
  format_put64 (undo->buf + 16, check_sum (offset, count, data));
  r = file_write (undo->fd, undo->buf, RECORD_BYTES + count, undo->end);
  if (r == 0)
    undo->end += RECORD_BYTES + count;
  return r;
}

/* What the range holds, holes too: they may be written to. */
static int
save (struct storage_undo *undo, uint64_t offset, uint64_t count)
{
  uint64_t end, n;
  int r = 0;

  if (offset >= undo->length)
    return 0;
  end = count < undo->length - offset ? offset + count : undo->length;
  pthread_mutex_lock (&undo->lock);
  for (; offset < end && r == 0; offset += n) {
    n = end - offset < PIECE_BYTES ? end - offset : PIECE_BYTES;
    r = append (undo, offset, n);
  }
  if (r == 0 && fdatasync (undo->fd) == -1)
    r = -errno;
  pthread_mutex_unlock (&undo->lock);
  return r;
}

/* The same for what is only made zeros: holes need not be saved. */
static int
save_data (struct storage_undo *undo, uint64_t offset, uint64_t count)
{
  uint64_t limit = offset + count, start, end;
  int r = 0;

  while (offset < limit && r == 0) {
    r = undo->below->ops->next_data (undo->below, offset, &start, &end);
    if (r < 0 || start >= limit)
      break;
    if (start < offset)
      start = offset;
    if (end > limit)
      end = limit;
    r = save (undo, start, end - start);
    offset = end;
  }
  return r;
}

/* ---- The operations ---- */

static int
undo_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->pread (below, buf, count, offset);
}

static int
undo_pwrite (struct storage *s, const void *buf, size_t count,
             uint64_t offset)
{
  struct storage *below = undo_of (s)->below;
  int r = save (undo_of (s), offset, count);

  return r < 0 ? r : below->ops->pwrite (below, buf, count, offset);
}

static int
undo_pwritev (struct storage *s, const struct iovec *iov, int n,
              uint64_t offset)
{
  struct storage *below = undo_of (s)->below;
  uint64_t count = 0;
  int i, r;

  for (i = 0; i < n; i++)
    count += iov[i].iov_len;
  r = save (undo_of (s), offset, count);
  return r < 0 ? r : below->ops->pwritev (below, iov, n, offset);
}

static int
undo_zero (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage *below = undo_of (s)->below;
  int r = save_data (undo_of (s), offset, count);

  return r < 0 ? r : below->ops->zero (below, offset, count);
}

static int
undo_punch (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage *below = undo_of (s)->below;
  int r = save_data (undo_of (s), offset, count);

  return r < 0 ? r : below->ops->punch (below, offset, count);
}

static void
undo_prefetch (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage *below = undo_of (s)->below;

  below->ops->prefetch (below, offset, count);
}

static int
undo_resize (struct storage *s, uint64_t length)
{
  struct storage_undo *undo = undo_of (s);
  struct storage *below = undo->below;
  int r = 0;

  if (length < undo->length)
    r = save_data (undo, length, undo->length - length);
  return r < 0 ? r : below->ops->resize (below, length);
}

static int
undo_length (struct storage *s, uint64_t *length)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->length (below, length);
}

static int
undo_sync (struct storage *s)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->sync (below);
}

static int
undo_next_data (struct storage *s, uint64_t offset, uint64_t *start,
                uint64_t *end)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->next_data (below, offset, start, end);
}

static int
undo_downgrade (struct storage *s)
{
  struct storage *below = undo_of (s)->below;
  int r = below->ops->downgrade (below);

  s->read_only = below->read_only;
  return r;
}

static void
undo_close (struct storage *s)
{
  struct storage_undo *undo = undo_of (s);

  undo->below->ops->close (undo->below);
  close (undo->fd);
  pthread_mutex_destroy (&undo->lock);
  free (undo->buf);
  free (undo);
}

static const struct storage_ops undo_ops = {
  .pread = undo_pread,
  .pwrite = undo_pwrite,
  .pwritev = undo_pwritev,
  .zero = undo_zero,
  .punch = undo_punch,
  .prefetch = undo_prefetch,
  .resize = undo_resize,
  .length = undo_length,
  .sync = undo_sync,
  .next_data = undo_next_data,
  .downgrade = undo_downgrade,
  .close = undo_close,
};

/* ---- Making one ---- */

static int
write_file_header (struct storage_undo *undo)
{
  unsigned char header[UNDO_HEADER] = { 0 };
  int r;

  memcpy (header, magic, sizeof magic);
  format_put64 (header + 8, UNDO_VERSION);
  format_put64 (header + 16, undo->length);
  r = file_write (undo->fd, header, sizeof header, 0);
  if (r == 0 && fsync (undo->fd) == -1)
    r = -errno;
  undo->end = sizeof header;
  return r;
}

int
storage_undo_open (struct storage *below, const char *path,
                   const struct qed_log *log, struct storage **storage)
{
  struct storage_undo *undo = calloc (1, sizeof *undo);
  int r = -ENOMEM;

  if (undo)
    undo->buf = malloc (RECORD_BYTES + PIECE_BYTES);
  if (undo == NULL || undo->buf == NULL)
    goto fail;
  undo->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  r = undo->fd == -1 ? -errno : below->ops->length (below, &undo->length);
  if (r == 0)
    r = write_file_header (undo);
  if (r < 0) {
    if (undo->fd != -1) {
      close (undo->fd);
      unlink (path);
    }
    goto fail;
  }
  pthread_mutex_init (&undo->lock, NULL);
  undo->below = below;
  undo->storage = *below;
  undo->storage.ops = &undo_ops;
  *storage = &undo->storage;
  return 0;

 fail:
  log_error (log, "%s: cannot make the undo file: %s%s", path, strerror (-r),
             r == -EEXIST ? ": give another name, it may be needed still"
             : "");
  if (undo)
    free (undo->buf);
  free (undo);
  return r;
}

/* ---- Putting back ---- */

struct restore {
  const char *path;             /* of the undo file */
  const struct qed_options *options;
  struct storage *storage;      /* the image */
  int fd;
  uint64_t size;                /* of the undo file */
  uint64_t length;              /* of the image before */
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
  if (*count == 0 || *count > PIECE_BYTES || *offset > restore->length ||
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

int
qed_undo (const char *path, const struct qed_options *options,
          const struct qed_progress *progress)
{
  struct restore restore = { .path = path, .options = options };
  int r;

  restore.buf = malloc (RECORD_BYTES + PIECE_BYTES);
  restore.fd = open (path, O_RDONLY | O_CLOEXEC);
  r = restore.fd == -1 ? -errno : restore.buf == NULL ? -ENOMEM : 0;
  if (r < 0)
    log_error (&options->log, "%s: cannot open the undo file: %s", path,
               strerror (-r));
  else
    r = read_file_header (&restore);
  if (r == 0)
    r = storage_file_open (options, &restore.storage);
  if (r == 0 && restore.storage->read_only) {
    log_error (&options->log, "%s: cannot be written to", options->path);
    r = -EROFS;
  }
  if (r == 0)
    r = put_back (&restore, progress);
  if (restore.storage)
    restore.storage->ops->close (restore.storage);
  if (restore.fd != -1)
    close (restore.fd);
  free (restore.buf);
  return r;
}
