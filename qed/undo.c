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

static int
write_file_header (struct undo_file *undo, struct storage *image)
{
  unsigned char header[UNDO_HEADER] = { 0 };
  uint64_t sum = 0;
  int r = undo_read_identity (image, header + UNDO_AT_IDENTITY);

  if (r == 0 && !(undo->flags & UNDO_F_ENTRIES))
    r = undo_sum_l1 (image, NULL, NULL, &sum);
  memcpy (header, undo_magic, sizeof undo_magic);
  format_put64 (header + UNDO_AT_VERSION, UNDO_VERSION);
  format_put64 (header + UNDO_AT_LENGTH, undo->length);
  format_put64 (header + UNDO_AT_L1_SUM, sum);
  format_put64 (header + UNDO_AT_FLAGS, undo->flags);
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
  undo->flags = flags;
  if (r < 0)
    return r;
  undo->fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (undo->fd == -1)
    return -errno;
  r = write_file_header (undo, image);
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
  unsigned char record[UNDO_RECORD_BYTES] = { 0 };
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
undo_file_add_l1 (struct undo_file *undo, struct storage *image)
{
  unsigned char page[FORMAT_CLUSTER_SIZE_MIN];
  uint64_t offset, bytes, done;
  int r = undo_find_l1 (image, &offset, &bytes);

  for (done = 0; r == 0 && done < bytes; done += sizeof page) {
    r = undo_skip_hole (image, offset, bytes, &done);
    if (r < 0 || done == bytes)
      break;
    done -= done % sizeof page;
    r = image->ops->pread (image, page, sizeof page, offset + done);
    if (r == 0 && !undo_is_zero (page, sizeof page))
      r = undo_file_add (undo, offset + done, sizeof page, page);
  }
  return r;
}

int
undo_file_sync (struct undo_file *undo)
{
  return file_sync_data (undo->fd);
}

/* ---- Its end ---- */

/* Into the record, which stands at 'at'; *next is where the one behind it
 * does.
 */
static int
note_record (struct undo_file *undo, struct storage *image, uint64_t at,
             unsigned char *buf, uint64_t *next)
{
  unsigned char record[UNDO_RECORD_BYTES];
  uint64_t count, sum;
  int r = file_read (undo->fd, record, sizeof record, at);

  if (r < 0)
    return r;
  count = format_get64 (record + 8);
  *next = at + sizeof record + count;
  r = undo_sum_range (image, format_get64 (record), count, buf, &sum);
  if (r < 0)
    return r;
  format_put64 (record, sum);
  return file_write (undo->fd, record, 8, at + UNDO_AT_LEFT);
}

static int
note_records (struct undo_file *undo, struct storage *image,
              unsigned char *buf)
{
  uint64_t at = UNDO_HEADER;
  int r = 0;

  while (r == 0 && at < undo->end)
    r = note_record (undo, image, at, buf, &at);
  return r;
}

/* What the image holds now, wherever putting back would change it. */
static int
note_left (struct undo_file *undo, struct storage *image,
           struct undo_end *end)
{
  unsigned char *buf = malloc (UNDO_PIECE_BYTES);
  int r = buf ? image->ops->length (image, &end->left_length) : -ENOMEM;

  if (r == 0)
    r = note_records (undo, image, buf);
  if (r == 0)
    r = undo_sum_rest (image, undo->length, end->left_length, buf,
                       &end->left_sum);
  if (r == 0)
    end->flags |= UNDO_F_LEFT;
  free (buf);
  return r;
}

int
undo_write_end (int fd, const struct undo_end *end)
{
  unsigned char buf[UNDO_HEADER - UNDO_AT_END];
  int r = file_sync_data (fd);

  format_put64 (buf, end->end);
  format_put64 (buf + (UNDO_AT_FLAGS - UNDO_AT_END), end->flags);
  format_put64 (buf + (UNDO_AT_LEFT_LENGTH - UNDO_AT_END), end->left_length);
  format_put64 (buf + (UNDO_AT_LEFT_SUM - UNDO_AT_END), end->left_sum);
  format_put64 (buf + (UNDO_AT_BACK_SUM - UNDO_AT_END), end->back_sum);
  if (r == 0)
    r = file_write (fd, buf, sizeof buf, UNDO_AT_END);
  return r == 0 ? file_sync_data (fd) : r;
}

int
undo_file_finish (struct undo_file *undo, struct storage *image)
{
  struct undo_end end = { .end = undo->end, .flags = undo->flags };
  int noted = image ? note_left (undo, image, &end) : 0;
  int r = undo_write_end (undo->fd, &end);

  return r < 0 ? r : noted;
}
