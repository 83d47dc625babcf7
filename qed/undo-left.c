/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Whether an image is what its repair, or the undoing of it, left (undo.h).
 * Only its tables, and where putting back would change it: data that the repair
 * has not touched may have been written to since.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "log.h"
#include "undo-restore.h"

/* What the image holds now. */
struct content {
  uint64_t length;
  uint64_t rest;                /* undo_sum_rest */
  uint64_t all;                 /* the sum of all sums */
  const struct undo_record *other;      /* the first one that is not as the
                                         * repair left it, or NULL */
};

static int
read_content (struct undo_restore *restore, struct content *now)
{
  struct storage *s = restore->storage;
  const struct undo_record *record;
  uint64_t sum;
  size_t i;
  int r = undo_sum_rest (s, restore->length, now->length, restore->buf,
                         &now->rest);

  now->all = now->rest;
  now->other = NULL;
  for (i = 0; i < restore->count && r == 0; i++) {
    record = &restore->records[i];
    r = undo_sum_range (s, record->offset, record->count, restore->buf, &sum);
    if (r == 0 && sum != record->left && now->other == NULL)
      now->other = record;
    if (r == 0)
      now->all = (now->all ^ sum) * UNDO_SUM_PRIME;
  }
  return r;
}

static bool
is_left_length (const struct undo_restore *restore, uint64_t length)
{
  const struct undo_end *end = &restore->end;

  return (end->flags & UNDO_F_LEFT && length == end->left_length) ||
    (end->flags & UNDO_F_BACK && length == restore->length);
}

static bool
is_left (const struct undo_restore *restore, const struct content *now)
{
  const struct undo_end *end = &restore->end;

  if (end->flags & UNDO_F_LEFT && now->length == end->left_length &&
      now->rest == end->left_sum && now->other == NULL)
    return true;
  return end->flags & UNDO_F_BACK && now->length == restore->length &&
    now->all == end->back_sum;
}

static int
was_used (const struct undo_restore *restore, const char *what, uint64_t where)
{
  log_error (&restore->options->log, "%s: was changed since the repair: %s "
             "0x%" PRIx64 ": what was written since would be lost, so nothing "
             "is put back from %s: go on with the image as it is, or undo the "
             "repair in a copy that was made before the image was used",
             restore->options->path, what, where, restore->path);
  return -EINVAL;
}

int
undo_check_left (struct undo_restore *restore)
{
  const uint64_t flags = restore->end.flags;
  struct storage *s = restore->storage;
  struct content now;
  int r;

  if (flags & UNDO_F_BEGUN || !(flags & (UNDO_F_LEFT | UNDO_F_BACK)))
    return 0;
  r = s->ops->length (s, &now.length);
  if (r == 0 && !is_left_length (restore, now.length))
    return was_used (restore, "another length,", now.length);
  if (r == 0)
    r = read_content (restore, &now);
  if (r < 0)
    return undo_cannot_tell (restore, r);
  if (is_left (restore, &now))
    return 0;
  return flags & UNDO_F_LEFT && now.other
    ? was_used (restore, "other content at", now.other->offset)
    : was_used (restore, "another header, or other content behind",
                restore->length);
}

int
undo_note_begin (struct undo_restore *restore)
{
  int r;

  restore->end.flags |= UNDO_F_BEGUN;
  r = undo_write_end (restore->fd, &restore->end);
  if (r < 0)
    log_error (&restore->options->log, "%s: cannot be written to: %s: nothing "
               "is put back: see to the storage, or take a copy of the undo "
               "file", restore->path, strerror (-r));
  return r;
}

int
undo_note_back (struct undo_restore *restore)
{
  struct undo_end *end = &restore->end;
  struct storage *s = restore->storage;
  struct content now;
  int r = s->ops->length (s, &now.length);

  if (r == 0)
    r = read_content (restore, &now);
  if (r < 0)
    return r;
  end->flags = (end->flags & ~(uint64_t) UNDO_F_BEGUN) | UNDO_F_BACK;
  end->back_sum = now.all;
  return undo_write_end (restore->fd, end);
}
