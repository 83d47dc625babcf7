/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Putting back what a repair overwrote (undo.h): what is in the file, whether
 * it is this image's, and the records.
 */

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
#include "image.h"
#include "log.h"
#include "undo-restore.h"

/* ---- The file ---- */

static void
decode_header (struct undo_restore *restore, const unsigned char *header)
{
  struct undo_end *end = &restore->end;

  restore->length = format_get64 (header + UNDO_AT_LENGTH);
  restore->l1_sum = format_get64 (header + UNDO_AT_L1_SUM);
  memcpy (restore->identity, header + UNDO_AT_IDENTITY, UNDO_IDENTITY_BYTES);
  end->end = format_get64 (header + UNDO_AT_END);
  end->flags = format_get64 (header + UNDO_AT_FLAGS);
  end->left_length = format_get64 (header + UNDO_AT_LEFT_LENGTH);
  end->left_sum = format_get64 (header + UNDO_AT_LEFT_SUM);
  end->back_sum = format_get64 (header + UNDO_AT_BACK_SUM);
}

static int
check_version (struct undo_restore *restore, const unsigned char *header)
{
  const struct qed_log *log = &restore->options->log;
  uint64_t version = format_get64 (header + UNDO_AT_VERSION);

  if (memcmp (header, undo_magic, sizeof undo_magic) != 0)
    log_error (log, "%s: not an undo file of a repair: name the file that "
               "qedctl check --repair --undo made", restore->path);
  else if (version != UNDO_VERSION)
    log_error (log, "%s: an undo file of version %" PRIu64 ", of which this "
               "program knows nothing but %u: use the qedctl of the version "
               "that made it", restore->path, version, UNDO_VERSION);
  else
    return 0;
  return -EINVAL;
}

static int
read_file_header (struct undo_restore *restore)
{
  unsigned char header[UNDO_HEADER] = { 0 };
  off_t end = lseek (restore->fd, 0, SEEK_END);
  int r = end == -1 ? -errno : end < (off_t) sizeof header ? 0
    : file_read (restore->fd, header, sizeof header, 0);

  if (r < 0) {
    log_error (&restore->options->log, "%s: cannot read the undo file: %s",
               restore->path, strerror (-r));
    return r;
  }
  r = check_version (restore, header);
  if (r < 0)
    return r;
  restore->size = (uint64_t) end;
  decode_header (restore, header);
  return 0;
}

/* What stands at 'at' in the undo file: a record; one whose data is not what
 * was saved; or nothing that could be one.
 */
enum standing { WHOLE, DAMAGED, NONE };

static enum standing
read_record (struct undo_restore *restore, uint64_t at,
             struct undo_record *record)
{
  unsigned char *buf = restore->buf;

  record->count = 0;
  if (at > restore->size || restore->size - at < UNDO_RECORD_BYTES ||
      file_read (restore->fd, buf, UNDO_RECORD_BYTES, at) < 0)
    return NONE;
  record->at = at + UNDO_RECORD_BYTES;
  record->offset = format_get64 (buf);
  record->count = format_get64 (buf + 8);
  record->left = format_get64 (buf + UNDO_AT_LEFT);
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
add_record (struct undo_restore *restore, const struct undo_record *record)
{
  size_t capacity = restore->capacity ? restore->capacity * 2 : 256;
  struct undo_record *more;

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

void
undo_note_damage (struct undo_restore *restore, uint64_t at, size_t n)
{
  if (n > 0 && restore->damaged == 0)
    restore->damaged_at = at;
  restore->damaged += n;
}

/* Where the repair has not ended, what is not whole at the end of the file is
 * torn: the write that it was made for did not happen.
 */
static int
list_records (struct undo_restore *restore)
{
  uint64_t at = UNDO_HEADER, first = 0;
  struct undo_record record;
  size_t suspects = 0;          /* from 'first' on */
  enum standing standing;
  int r = 0;

  while (r == 0 && at != restore->end.end &&
         (standing = read_record (restore, at, &record)) != NONE) {
    if (standing == DAMAGED && suspects++ == 0)
      first = at;
    else if (standing == WHOLE) {
      undo_note_damage (restore, first, suspects);
      suspects = 0;
      r = add_record (restore, &record);
    }
    at = record.at + record.count;
  }
  if (restore->end.end != 0) {
    undo_note_damage (restore, first, suspects);
    undo_note_damage (restore, at, at != restore->end.end);
  }
  return r;
}

/* ---- The image ---- */

/* What L1 would hold if everything had been put back. */
static int
overlay (void *opaque, uint64_t at, unsigned char *buf, uint64_t n)
{
  struct undo_restore *restore = opaque;
  const struct undo_record *record;
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

int
undo_other_image (const struct undo_restore *restore, const char *what)
{
  log_error (&restore->options->log, "%s: is not the image that %s was saved "
             "from, or was changed since: %s", restore->options->path,
             restore->path, what);
  return -EINVAL;
}

int
undo_cannot_tell (const struct undo_restore *restore, int error)
{
  log_error (&restore->options->log, "%s: cannot tell whether it is the image "
             "that %s was saved from: %s: nothing is put back",
             restore->options->path, restore->path, strerror (-error));
  return error;
}

/* In an image that may have been used since, what a killed server had
 * acknowledged comes first, as whenever it is opened.
 */
static int
open_image (struct undo_restore *restore)
{
  const struct qed_options *options = restore->options;
  struct qed_options repair = *options;
  int r;

  repair.examine = true;
  repair.skip_backing = true;
  if (restore->end.flags & UNDO_F_ENTRIES) {
    r = qed_open (&repair, &restore->image);
    if (r == 0)
      restore->storage = restore->image->storage;
  }
  else
    r = storage_open (&repair, &restore->storage);
  if (r == 0 && restore->storage->read_only) {
    log_error (&options->log, "%s: cannot be written to", options->path);
    r = -EROFS;
  }
  return r;
}

static void
close_image (struct undo_restore *restore)
{
  if (restore->image)
    qed_close (restore->image);
  else if (restore->storage)
    restore->storage->ops->close (restore->storage);
}

/* What was saved of one image would destroy any other. */
static int
check_identity (struct undo_restore *restore)
{
  unsigned char identity[UNDO_IDENTITY_BYTES];
  int r = undo_read_identity (restore->storage, identity);

  if (r < 0)
    return undo_cannot_tell (restore, r);
  return memcmp (identity, restore->identity, sizeof identity) != 0
    ? undo_other_image (restore, "its header differs") : 0;
}

static int
check_l1 (struct undo_restore *restore)
{
  uint64_t sum;
  int r = undo_sum_l1 (restore->storage, overlay, restore, &sum);

  if (r < 0)
    return undo_cannot_tell (restore, r);
  if (sum != restore->l1_sum)
    return undo_other_image (restore, restore->damaged > 0
                           ? "its L1 table would not be what it was (the undo "
                           "file is damaged, too)"
                           : "its L1 table would not be what it was");
  return 0;
}

/* ---- Putting back ---- */

int
undo_half_done (const struct undo_restore *restore, int error)
{
  log_error (&restore->options->log, "%s: cannot put everything back from %s: "
             "%s: run it again", restore->options->path, restore->path,
             strerror (-error));
  return error;
}

static int
set_length (struct undo_restore *restore)
{
  struct storage *s = restore->storage;
  uint64_t length;
  int r = s->ops->length (s, &length);

  if (r < 0 || length == restore->length)
    return r;
  return s->ops->resize (s, restore->length);
}

static int
put_record (struct undo_restore *restore, const struct undo_record *record)
{
  struct storage *s = restore->storage;
  int r = file_read (restore->fd, restore->buf, record->count, record->at);

  return r == 0 ? s->ops->pwrite (s, restore->buf, record->count,
                                  record->offset) : r;
}

/* From the last record to the first: each byte ends with its oldest value. */
static int
put_back (struct undo_restore *restore, const struct qed_progress *progress)
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
  if (r == 0 && restore->damaged == 0)
    r = undo_note_back (restore);
  return r < 0 ? undo_half_done (restore, r) : 0;
}

static int
undo_all (struct undo_restore *restore, const struct qed_progress *progress)
{
  int r = check_l1 (restore);

  if (r == 0)
    r = undo_check_left (restore);
  if (r == 0)
    r = undo_note_begin (restore);
  return r == 0 ? put_back (restore, progress) : r;
}

/* Nobody may take what was put back for all of it. */
static int
judge_damage (const struct undo_restore *restore, int r)
{
  if (restore->damaged == 0 || (r < 0 && r != -ESTALE))
    return r;
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
  struct undo_restore restore = { .path = path, .options = options };
  int r;

  restore.buf = malloc (UNDO_RECORD_BYTES + UNDO_PIECE_BYTES);
  restore.fd = open (path, O_RDWR | O_CLOEXEC);
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
    r = check_identity (&restore);
  if (r == 0)
    r = restore.end.flags & UNDO_F_ENTRIES
      ? undo_entries (&restore, progress) : undo_all (&restore, progress);
  r = judge_damage (&restore, r);
  close_image (&restore);
  if (restore.fd != -1)
    close (restore.fd);
  free (restore.records);
  free (restore.buf);
  return r;
}
