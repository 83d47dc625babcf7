/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "undo.h"

const unsigned char undo_magic[8] = "QEDUNDO";

/* FNV-1a: against torn records, not against malice. */
uint64_t
undo_check_sum (uint64_t offset, uint64_t count, const unsigned char *data)
{
  uint64_t sum = UINT64_C (0xcbf29ce484222325) ^ offset ^ (count << 32);
  uint64_t i;

  for (i = 0; i < count; i++)
    sum = (sum ^ data[i]) * UINT64_C (0x100000001b3);
  return sum;
}

/* ---- Which image it is ---- */

/* Its magic and sizes, and the places of L1 and of the end of the disk. */
int
undo_read_identity (struct storage *image, unsigned char *identity)
{
  unsigned char header[FORMAT_HEADER_BYTES];
  int r = image->ops->pread (image, header, sizeof header, 0);

  memcpy (identity, header, FORMAT_AT_FEATURES);
  memcpy (identity + FORMAT_AT_FEATURES, header + FORMAT_AT_L1,
          UNDO_IDENTITY_BYTES - FORMAT_AT_FEATURES);
  return r;
}

/* Where the table lies. */
static int
find_l1 (struct storage *image, uint64_t *offset, uint64_t *bytes)
{
  unsigned char buf[FORMAT_HEADER_BYTES];
  char error[FORMAT_ERROR_SIZE];
  struct format_header header;
  int r = image->ops->pread (image, buf, sizeof buf, 0);

  if (r == 0)
    r = format_decode_header (buf, UINT64_MAX, &header, error);
  if (r < 0)
    return r;
  *offset = header.l1_table_offset;
  *bytes = (uint64_t) header.table_size * header.cluster_size;
  return 0;
}

/* Entries that say nothing count for nothing, their places do. */
static uint64_t
sum_entries (uint64_t sum, uint64_t at, const unsigned char *buf, uint64_t n)
{
  uint64_t i, entry;

  for (i = 0; i < n; i += 8) {
    entry = format_get64 (buf + i);
    if (entry != 0)
      sum = ((sum ^ (at + i)) * UINT64_C (0x100000001b3) ^ entry) *
        UINT64_C (0x100000001b3);
  }
  return sum;
}

static int
read_piece (struct storage *image, unsigned char *buf, uint64_t n,
            uint64_t offset)
{
  uint64_t start, end;
  int r = image->ops->next_data (image, offset, &start, &end);

  if (r == 0 && start >= offset + n)
    memset (buf, 0, n);
  else if (r == 0)
    r = image->ops->pread (image, buf, n, offset);
  return r;
}

/* A table may be of 1 GiB, and almost all of it a hole. */
static int
skip_hole (struct storage *image, uint64_t offset, uint64_t bytes,
           uint64_t *done)
{
  uint64_t start, end;
  int r = image->ops->next_data (image, offset + *done, &start, &end);

  if (r == 0 && start >= offset + bytes)
    *done = bytes;
  else if (r == 0 && start > offset + *done)
    *done = (start - offset) & ~UINT64_C (7);
  return r;
}

static bool
is_zero (const unsigned char *buf, uint64_t n)
{
  return buf[0] == 0 && memcmp (buf, buf + 1, n - 1) == 0;
}

int
undo_sum_l1 (struct storage *image,
             int (*overlay) (void *opaque, uint64_t at, unsigned char *buf,
                             uint64_t n),
             void *opaque, uint64_t *sum)
{
  uint64_t offset, bytes, done, n;
  unsigned char *buf = malloc (UNDO_PIECE_BYTES);
  int r = buf ? find_l1 (image, &offset, &bytes) : -ENOMEM;

  *sum = UINT64_C (0xcbf29ce484222325);
  for (done = 0; r == 0 && done < bytes; done += n) {
    if (overlay == NULL)
      r = skip_hole (image, offset, bytes, &done);
    if (r < 0 || done == bytes)
      break;
    n = bytes - done < UNDO_PIECE_BYTES ? bytes - done : UNDO_PIECE_BYTES;
    r = read_piece (image, buf, n, offset + done);
    if (r == 0 && overlay)
      r = overlay (opaque, offset + done, buf, n);
    if (r == 0 && !is_zero (buf, n))
      *sum = sum_entries (*sum, done, buf, n);
  }
  free (buf);
  return r;
}

/* ---- Saving ---- */

static int
write_file_header (struct undo_file *undo, struct storage *image,
                   uint64_t flags)
{
  unsigned char header[UNDO_HEADER] = { 0 };
  uint64_t sum = 0;
  int r = undo_read_identity (image, header + UNDO_AT_IDENTITY);

  if (r == 0)
    r = undo_sum_l1 (image, NULL, NULL, &sum);
  memcpy (header, undo_magic, sizeof undo_magic);
  format_put64 (header + UNDO_AT_VERSION, UNDO_VERSION);
  format_put64 (header + UNDO_AT_LENGTH, undo->length);
  format_put64 (header + UNDO_AT_L1_SUM, sum);
  format_put64 (header + UNDO_AT_FLAGS, flags);
  if (r == 0)
    r = file_write (undo->fd, header, sizeof header, 0);
  if (r == 0)
    r = file_sync_all (undo->fd);
  undo->end = sizeof header;
  return r;
}

int
undo_file_create (struct undo_file *undo, const char *path,
                  struct storage *image, uint64_t flags)
{
  int r = image->ops->length (image, &undo->length);

  undo->fd = -1;
  if (r < 0)
    return r;
  undo->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (undo->fd == -1)
    return -errno;
  r = write_file_header (undo, image, flags);
  if (r == 0)
    r = file_sync_directory (path);
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
  unsigned char record[UNDO_RECORD_BYTES];
  int r;

  format_put64 (record, offset);
  format_put64 (record + 8, count);
  format_put64 (record + 16, undo_check_sum (offset, count, data));
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
  return file_sync_data (undo->fd);
}

int
undo_file_finish (struct undo_file *undo)
{
  unsigned char end[8];
  int r = undo_file_sync (undo);

  format_put64 (end, undo->end);
  if (r == 0)
    r = file_write (undo->fd, end, sizeof end, UNDO_AT_END);
  return r == 0 ? undo_file_sync (undo) : r;
}
