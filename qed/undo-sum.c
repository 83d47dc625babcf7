/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* By what an undo file knows its image again, and what was left of it. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "undo.h"

#define SUM_START UINT64_C (0xcbf29ce484222325)

/* FNV-1a: against torn records, not against malice. */
uint64_t
undo_check_sum (uint64_t offset, uint64_t count, const unsigned char *data)
{
  uint64_t sum = SUM_START ^ offset ^ (count << 32);
  uint64_t i;

  for (i = 0; i < count; i++)
    sum = (sum ^ data[i]) * UNDO_SUM_PRIME;
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
int
undo_find_l1 (struct storage *image, uint64_t *offset, uint64_t *bytes)
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
    if (entry != 0) {
      sum = ((sum ^ (at + i)) * UNDO_SUM_PRIME ^ entry) * UNDO_SUM_PRIME;
      sum ^= sum >> 29;         /* high bits count in all that follow */
    }
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
int
undo_skip_hole (struct storage *image, uint64_t offset, uint64_t bytes,
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

bool
undo_is_zero (const unsigned char *buf, uint64_t n)
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
  int r = buf ? undo_find_l1 (image, &offset, &bytes) : -ENOMEM;

  *sum = SUM_START;
  for (done = 0; r == 0 && done < bytes; done += n) {
    if (overlay == NULL)
      r = undo_skip_hole (image, offset, bytes, &done);
    if (r < 0 || done == bytes)
      break;
    n = bytes - done < UNDO_PIECE_BYTES ? bytes - done : UNDO_PIECE_BYTES;
    r = read_piece (image, buf, n, offset + done);
    if (r == 0 && overlay)
      r = overlay (opaque, offset + done, buf, n);
    if (r == 0 && !undo_is_zero (buf, n))
      *sum = sum_entries (*sum, done, buf, n);
  }
  free (buf);
  return r;
}

/* ---- What was left of it ---- */

int
undo_sum_range (struct storage *image, uint64_t offset, uint64_t count,
                unsigned char *buf, uint64_t *sum)
{
  uint64_t done, n;
  int r = 0;

  *sum = SUM_START;
  for (done = 0; r == 0 && done < count; done += n) {
    r = undo_skip_hole (image, offset, count, &done);
    if (r < 0 || done == count)
      break;
    n = count - done < UNDO_PIECE_BYTES ? count - done : UNDO_PIECE_BYTES;
    r = image->ops->pread (image, buf, n, offset + done);
    memset (buf + n, 0, -n & 7);
    if (r == 0)
      *sum = sum_entries (*sum, done, buf, (n + 7) & ~UINT64_C (7));
  }
  return r;
}

/* What is to be summed of the tables. */
struct tables {
  struct storage *image;
  uint64_t table_bytes;
  uint64_t length;              /* of the file */
  uint64_t left;                /* they can't be more than that together */
  unsigned char *buf;
  uint64_t sum;
};

static int
sum_named (struct tables *tables, const unsigned char *l1, uint64_t n)
{
  uint64_t i, entry, sum;
  int r = 0;

  for (i = 0; i < n && r == 0; i += 8) {
    entry = format_get64 (l1 + i);
    if (entry == 0 || tables->left < tables->table_bytes ||
        entry >= tables->length ||
        tables->length - entry < tables->table_bytes)
      continue;
    tables->left -= tables->table_bytes;
    r = undo_sum_range (tables->image, entry, tables->table_bytes, tables->buf,
                        &sum);
    tables->sum = (tables->sum ^ sum) * UNDO_SUM_PRIME;
  }
  return r;
}

/* Any change of an entry is one of these, or of L1. */
static int
sum_tables (struct storage *image, uint64_t length, unsigned char *buf,
            uint64_t *sum)
{
  struct tables tables = {
    .image = image, .length = length, .left = length, .buf = buf,
  };
  unsigned char l1[4096];
  uint64_t offset, bytes, done, n;
  int r = undo_find_l1 (image, &offset, &bytes);

  if (r == 0)
    r = undo_sum_range (image, offset, bytes, buf, &tables.sum);
  tables.table_bytes = bytes;
  for (done = 0; r == 0 && done < bytes; done += n) {
    r = undo_skip_hole (image, offset, bytes, &done);
    if (r < 0 || done == bytes)
      break;
    n = bytes - done < sizeof l1 ? bytes - done : sizeof l1;
    r = image->ops->pread (image, l1, n, offset + done);
    if (r == 0)
      r = sum_named (&tables, l1, n);
  }
  *sum = tables.sum;
  return r;
}

int
undo_sum_rest (struct storage *image, uint64_t from, uint64_t to,
               unsigned char *buf, uint64_t *sum)
{
  uint64_t first = 0, entries = 0, behind = SUM_START;
  int r = undo_sum_range (image, 0, FORMAT_SECTOR, buf, &first);

  if (r == 0)
    r = sum_tables (image, to, buf, &entries);
  if (r == 0 && to > from)
    r = undo_sum_range (image, from, to - from, buf, &behind);
  *sum = ((first ^ entries) * UNDO_SUM_PRIME) ^ behind;
  return r;
}
