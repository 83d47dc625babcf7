/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Putting back what a repair overwrote (undo.h). */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "file.h"
#include "format.h"
#include "log.h"
#include "undo.h"

struct record {
  uint64_t at;                  /* of its data, in the undo file */
  uint64_t offset, count;       /* in the image */
};

struct restore {
  const char *path;             /* of the undo file */
  const struct qed_options *options;
  struct storage *storage;      /* the image */
  int fd;
  uint64_t size;                /* of the undo file */
  uint64_t end;                 /* where its records end, or 0: not known */
  uint64_t length;              /* of the image before */
  uint64_t l1_sum, flags;
  unsigned char identity[UNDO_IDENTITY_BYTES];
  unsigned char *buf;

  struct record *records;
  size_t count, capacity;
  size_t damaged;               /* that can't be put back */
  uint64_t damaged_at;          /* the first of them, in the undo file */
};

/* ---- The file ---- */

static int
read_file_header (struct restore *restore)
{
  unsigned char header[UNDO_HEADER];
  off_t end = lseek (restore->fd, 0, SEEK_END);
  int r = end == -1 ? -errno : end < (off_t) sizeof header ? -EINVAL
    : file_read (restore->fd, header, sizeof header, 0);

  if (r == 0 && (memcmp (header, undo_magic, sizeof undo_magic) != 0 ||
                 format_get64 (header + UNDO_AT_VERSION) != UNDO_VERSION))
    r = -EINVAL;
  if (r == -EINVAL)
    log_error (&restore->options->log, "%s: not an undo file of a repair: "
               "name the file that qedctl check --repair --undo made",
               restore->path);
  else if (r < 0)
    log_error (&restore->options->log, "%s: cannot read the undo file: %s",
               restore->path, strerror (-r));
  if (r < 0)
    return r;
  restore->size = (uint64_t) end;
  restore->length = format_get64 (header + UNDO_AT_LENGTH);
  restore->l1_sum = format_get64 (header + UNDO_AT_L1_SUM);
  restore->end = format_get64 (header + UNDO_AT_END);
  restore->flags = format_get64 (header + UNDO_AT_FLAGS);
  memcpy (restore->identity, header + UNDO_AT_IDENTITY, UNDO_IDENTITY_BYTES);
  return 0;
}

/* What stands at 'at' in the undo file: a record; one whose data is not what
 * was saved; or nothing that could be one.
 */
enum standing { WHOLE, DAMAGED, NONE };

static enum standing
read_record (struct restore *restore, uint64_t at, struct record *record)
{
  unsigned char *buf = restore->buf;

  record->count = 0;
  if (at > restore->size || restore->size - at < UNDO_RECORD_BYTES ||
      file_read (restore->fd, buf, UNDO_RECORD_BYTES, at) < 0)
    return NONE;
  record->at = at + UNDO_RECORD_BYTES;
  record->offset = format_get64 (buf);
  record->count = format_get64 (buf + 8);
  if (record->count == 0 || record->count > UNDO_PIECE_BYTES ||
      record->offset > restore->length ||
      record->count > restore->length - record->offset ||
      restore->size - record->at < record->count)
    return NONE;
  if (file_read (restore->fd, buf + UNDO_RECORD_BYTES, record->count,
                 record->at) < 0 ||
      undo_check_sum (record->offset, record->count,
                      buf + UNDO_RECORD_BYTES) != format_get64 (buf + 16))
    return DAMAGED;
  return WHOLE;
}

static int
add_record (struct restore *restore, const struct record *record)
{
  size_t capacity = restore->capacity ? restore->capacity * 2 : 256;
  struct record *more;

  if (restore->count == restore->capacity) {
    more = realloc (restore->records, capacity * sizeof *more);
    if (more == NULL)
      return -ENOMEM;
    restore->records = more;
    restore->capacity = capacity;
  }
  restore->records[restore->count++] = *record;
  return 0;
}

static void
note_damage (struct restore *restore, uint64_t at, size_t n)
{
  if (n > 0 && restore->damaged == 0)
    restore->damaged_at = at;
  restore->damaged += n;
}

/* Where the repair has not ended, what is not whole at the end of the file is
 * torn: the write that it was made for did not happen.
 */
static int
list_records (struct restore *restore)
{
  uint64_t at = UNDO_HEADER, first = 0;
  struct record record;
  size_t suspects = 0;          /* from 'first' on */
  enum standing standing;
  int r = 0;

  while (r == 0 && at != restore->end &&
         (standing = read_record (restore, at, &record)) != NONE) {
    if (standing == DAMAGED && suspects++ == 0)
      first = at;
    else if (standing == WHOLE) {
      note_damage (restore, first, suspects);
      suspects = 0;
      r = add_record (restore, &record);
    }
    at = record.at + record.count;
  }
  if (restore->end != 0) {
    note_damage (restore, first, suspects);
    note_damage (restore, at, at != restore->end);
  }
  return r;
}

/* ---- The image ---- */

/* What L1 would hold if everything had been put back. */
static int
overlay (void *opaque, uint64_t at, unsigned char *buf, uint64_t n)
{
  struct restore *restore = opaque;
  const struct record *record;
  uint64_t start, end;
  size_t i;
  int r = 0;

  for (i = restore->count; i > 0 && r == 0; i--) {
    record = &restore->records[i - 1];
    start = record->offset > at ? record->offset : at;
    end = record->offset + record->count < at + n
      ? record->offset + record->count : at + n;
    if (start < end)
      r = file_read (restore->fd, buf + (start - at), end - start,
                     record->at + (start - record->offset));
  }
  return r;
}

static int
is_other_image (struct restore *restore, const char *what)
{
  log_error (&restore->options->log, "%s: is not the image that %s was saved "
             "from, or was changed since: %s", restore->options->path,
             restore->path, what);
  return -EINVAL;
}

static int
cannot_tell (struct restore *restore, int error)
{
  log_error (&restore->options->log, "%s: cannot tell whether it is the image "
             "that %s was saved from: %s: nothing is put back",
             restore->options->path, restore->path, strerror (-error));
  return error;
}

/* What was saved of one image would destroy any other. */
static int
open_image (struct restore *restore)
{
  const struct qed_options *options = restore->options;
  struct qed_options repair = *options;
  unsigned char identity[UNDO_IDENTITY_BYTES];
  uint64_t sum;
  int r;

  repair.examine = true;
  r = storage_open (&repair, &restore->storage);
  if (r < 0)
    return r;
  if (restore->storage->read_only) {
    log_error (&options->log, "%s: cannot be written to", options->path);
    return -EROFS;
  }
  r = undo_read_identity (restore->storage, identity);
  if (r < 0)
    return cannot_tell (restore, r);
  if (memcmp (identity, restore->identity, sizeof identity) != 0)
    return is_other_image (restore, "its header differs");
  r = undo_sum_l1 (restore->storage, overlay, restore, &sum);
  if (r < 0)
    return cannot_tell (restore, r);
  if (sum != restore->l1_sum)
    return is_other_image (restore, restore->damaged > 0
                           ? "its L1 table would not be what it was (the undo "
                           "file is damaged, too)"
                           : "its L1 table would not be what it was");
  return 0;
}

static int
set_length (struct restore *restore)
{
  struct storage *s = restore->storage;
  uint64_t length;
  int r = s->ops->length (s, &length);

  if (r < 0 || length == restore->length ||
      (length > restore->length && restore->flags & UNDO_F_ENTRIES))
    return r;
  return s->ops->resize (s, restore->length);
}

static int
put_record (struct restore *restore, const struct record *record)
{
  struct storage *s = restore->storage;
  int r = file_read (restore->fd, restore->buf, record->count, record->at);

  return r == 0 ? s->ops->pwrite (s, restore->buf, record->count,
                                  record->offset) : r;
}

/* From the last record to the first: each byte ends with its oldest value. */
static int
put_back (struct restore *restore, const struct qed_progress *progress)
{
  struct storage *s = restore->storage;
  size_t n = restore->count, i;
  int r = set_length (restore);

  for (i = n; i > 0 && r == 0; i--) {
    r = put_record (restore, &restore->records[i - 1]);
    if (r == 0)
      r = qed_progress_tell (progress, n - i + 1, n);
  }
  if (r == 0)
    r = s->ops->sync (s);
  if (r < 0)
    log_error (&restore->options->log, "%s: cannot put everything back from "
               "%s: %s: run it again", restore->options->path, restore->path,
               strerror (-r));
  return r;
}

/* Nobody may take what was put back for all of it. */
static int
judge_damage (struct restore *restore)
{
  if (restore->damaged == 0)
    return 0;
  log_error (&restore->options->log, "%s: only a part was put back: %s is "
             "damaged from offset 0x%" PRIx64 " on: %zu records were good, and "
             "are back; %zu or more were not, and what they were made for is "
             "as the repair left it", restore->options->path, restore->path,
             restore->damaged_at, restore->count, restore->damaged);
  return -EBADMSG;
}

int
qed_undo (const char *path, const struct qed_options *options,
          const struct qed_progress *progress)
{
  struct restore restore = { .path = path, .options = options };
  int r;

  restore.buf = malloc (UNDO_RECORD_BYTES + UNDO_PIECE_BYTES);
  restore.fd = open (path, O_RDONLY | O_CLOEXEC);
  r = restore.fd == -1 ? -errno : restore.buf == NULL ? -ENOMEM : 0;
  if (r < 0)
    log_error (&options->log, "%s: cannot open the undo file: %s", path,
               strerror (-r));
  else
    r = read_file_header (&restore);
  if (r == 0)
    r = list_records (&restore);
  if (r == 0)
    r = open_image (&restore);
  if (r == 0)
    r = put_back (&restore, progress);
  if (r == 0)
    r = judge_damage (&restore);
  if (restore.storage)
    restore.storage->ops->close (restore.storage);
  if (restore.fd != -1)
    close (restore.fd);
  free (restore.records);
  free (restore.buf);
  return r;
}
