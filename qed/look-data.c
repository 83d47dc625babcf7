/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a look at the tables leaves open: which clusters leak, and whether all
 * data can be read.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "look.h"

/* ---- Leaks ---- */

/* Clusters from..to-1 hold data: those that no one refers to leak. */
static void
leaks_within (struct look *look, uint64_t from, uint64_t to,
              void (*leak) (struct look *look,
                            const struct qed_problem *problem))
{
  struct bitmap *used = &look->space->used;
  unsigned bits = look->image->geometry.cluster_bits;
  struct qed_problem problem = { .code = QED_PROBLEM_LEAK };
  uint64_t end;

  while ((from = bitmap_next_clear (used, from, to)) < to) {
    end = bitmap_next_set (used, from, to);
    look->counts[QED_PROBLEM_LEAK] += end - from;
    problem.where = from << bits;
    problem.bytes = (end - from) << bits;
    if (leak)
      leak (look, &problem);
    from = end;
  }
}

/* Clusters from..limit-1, without holes. */
static int
leaks_between (struct look *look, uint64_t from, uint64_t limit,
               void (*leak) (struct look *look,
                             const struct qed_problem *problem))
{
  struct qed_image *image = look->image;
  struct storage *s = image->storage;
  unsigned bits = image->geometry.cluster_bits;
  uint64_t next = from, start, end;
  int r = 0;

  while (r == 0 &&
         (next = bitmap_next_clear (&look->space->used, next, limit)) <
         limit) {
    r = s->ops->next_data (s, next << bits, &start, &end);
    if (r < 0 || start >> bits >= limit || start == UINT64_MAX)
      break;
    end = end >> bits >= limit ? limit
      : (end + image->geometry.cluster_size - 1) >> bits;
    leaks_within (look, start >> bits > next ? start >> bits : next, end,
                  leak);
    next = end;
    r = qed_progress_tell (&look->options->progress, next, limit);
  }
  return r;
}

/* Behind its last cluster in use a file is too long; a device just has room,
 * and a part of a cluster at its end is none that could be used.
 */
static uint64_t
file_end (const struct look *look)
{
  const uint64_t size = look->image->geometry.cluster_size;
  const uint64_t length = atomic_load (&look->space->length_bytes);
  const uint64_t whole = length / size;

  if (look->image->storage->fixed)
    return look->space->end < whole ? look->space->end : whole;
  return whole + (length % size > 0);
}

/* What a damaged table names may lie behind it. */
static uint64_t
used_below (const struct look *look, uint64_t limit)
{
  struct space *space = look->space;
  uint64_t behind = 0, at = limit;

  while (at < space->end &&
         (at = bitmap_next_set (&space->used, at, space->end)) < space->end) {
    behind++;
    at++;
  }
  return space->used.count - behind;
}

int
look_leaks (struct look *look,
            void (*leak) (struct look *look,
                          const struct qed_problem *problem))
{
  const uint64_t base = look->space->base;
  const uint64_t before = look->counts[QED_PROBLEM_LEAK];
  const uint64_t end = file_end (look);
  uint64_t limit = look->online ? look->space->end : end, kept;
  int r;

  if (!look->leaks_known)
    return 0;
  if (look->image->storage->fixed)
    limit = end;
  r = leaks_between (look, base, limit, leak);
  kept = base + used_below (look, limit) +
    look->counts[QED_PROBLEM_LEAK] - before;
  if (limit > kept)
    look->counts[QED_PROBLEM_FREE] += limit - kept;
  /* What a served file has grown by for its next clusters isn't free yet. */
  return r < 0 || !look->online ? r
    : leaks_between (look, limit, end, leak);
}

uint64_t
look_leaks_end (const struct look *look)
{
  const uint64_t end = file_end (look);

  return look->image->storage->fixed || end > look->space->end ? end
    : look->space->end;
}

/* ---- Data ---- */

#define PIECE_BYTES (UINT64_C (1) << 20)

static void
sleep_seconds (double seconds)
{
  struct timespec t = { .tv_sec = (time_t) seconds };

  t.tv_nsec = (long) ((seconds - (double) t.tv_sec) * 1e9);
  nanosleep (&t, NULL);
}

/* Cluster by cluster, where a bigger piece could not be read. */
static void
read_finely (struct look *look, unsigned char *buf, uint64_t at,
             uint64_t bytes)
{
  struct qed_image *image = look->image;
  uint64_t n, end = at + bytes, size = image->geometry.cluster_size;
  struct qed_problem problem = { .code = QED_PROBLEM_DATA_UNREADABLE };

  for (; at < end; at += n) {
    n = size - at % size < end - at ? size - at % size : end - at;
    if (n > PIECE_BYTES)
      n = PIECE_BYTES;
    problem.error = qed_request_sync (image, QED_OP_READ, buf, n, at, 0);
    problem.where = UINT64_MAX;
    problem.guest = at;
    problem.guest_bytes = n;
    if (problem.error < 0)
      look_add_problem (look, &problem);
  }
}

/* Nobody who changes his mind has to wait longer. */
#define PAUSE_SECONDS .1

/* Shorter sleeps last longer than they should, by too much. */
#define NAP_SECONDS .01

/* Keep to the rate, and wait while the check is paused.  What was read lately
 * makes the next read late, what was not read in the past does not make it
 * early.
 */
static int
pace (struct look *look, uint64_t bytes)
{
  const struct qed_check_control *control = look->options->control;
  double left, now = loop_now ();
  uint64_t rate;

  if (control == NULL)
    return 0;
  rate = atomic_load (&control->rate);
  if (look->due < now || look->rate != rate)
    look->due = now;
  look->rate = rate;
  look->due += rate > 0 ? (double) bytes / (double) rate : 0;
  while (!atomic_load (&control->cancel)) {
    left = atomic_load (&control->rate) == rate ? look->due - now : 0;
    if (left < NAP_SECONDS && !atomic_load (&control->pause))
      return 0;
    sleep_seconds (left > 0 && left < PAUSE_SECONDS ? left : PAUSE_SECONDS);
    now = loop_now ();
  }
  return -ECANCELED;
}

/* A place in the file that a request finds. */
struct place {
  struct qed_image *image;
  uint64_t at, bytes;           /* the guest's range; what of it is so */
  bool hole;
  uint64_t data_start, data_end;        /* in the file: data, as the last place
                                         * showed.  Holes that came since can
                                         * be read as well. */
};

/* The file's first data behind 'from'.  To find where it ends, file systems go
 * through all of it: they are asked once.
 */
static bool
find_data (struct place *place, struct storage *s, uint64_t from,
           uint64_t *start, uint64_t *end)
{
  if (from < place->data_start || from >= place->data_end) {
    if (s->ops->next_data (s, from, start, end) < 0)
      return false;
    place->data_start = *start;
    place->data_end = *end;
  }
  else {
    *start = from;
    *end = place->data_end;
  }
  return true;
}

/* Whether the range begins with a hole of the file, and how far that goes. */
static int
find_hole (struct qed_request *request, void *opaque)
{
  struct place *place = opaque;
  struct storage *s = place->image->storage;
  unsigned guard = guard_enter (&place->image->guards);
  uint64_t start = 0, end = 0;
  struct extent extent;
  int r = request_lookup (place->image, request, place->at, place->bytes,
                          &extent);

  if (r == 0 && extent.class == FORMAT_ALLOCATED &&
      find_data (place, s, extent.offset, &start, &end)) {
    place->hole = start > extent.offset;
    if (place->hole)
      end = start;
    if (extent.bytes > end - extent.offset)
      extent.bytes = end - extent.offset;
    if (place->bytes > extent.bytes)
      place->bytes = extent.bytes;
  }
  guard_leave (&place->image->guards, guard);
  return r;
}

/* Of 'n' bytes of data, leave out what are holes, which can always be read; a
 * server would have to be asked for each.
 */
static uint64_t
leave_holes (struct place *place, uint64_t at, uint64_t n, bool *data)
{
  place->at = at;
  place->bytes = n;
  place->hole = false;
  if (place->image->storage->ops->submit || sync_run (find_hole, place) < 0)
    return n;
  *data = !place->hole;
  return place->bytes;
}

/* What the guest's range begins with, within a page of the table; entries that
 * are wrong were named already.
 */
static uint64_t
next_piece (struct place *place, uint64_t at, bool *data)
{
  struct qed_image *image = place->image;
  uint64_t cluster = image->geometry.cluster_size, n;
  uint64_t page = cluster * PAGE_ENTRIES, left = qed_size (image) - at;
  enum qed_extent kind;

  *data = false;
  if (left > page - at % page)
    left = page - at % page;
  if (qed_extent_sync (image, at, left, &kind, &n) < 0)
    return cluster - at % cluster < left ? cluster - at % cluster : left;
  *data = kind == QED_EXTENT_DATA;
  if (*data)
    n = leave_holes (place, at, n, data);
  return *data && n > PIECE_BYTES ? PIECE_BYTES : n;
}

/* Behind what the table for 'at' describes, or can't describe since it isn't
 * there; or what of it is a hole of the file, if 'at' is in that; else 'at'.
 * Only the disk is asked, so no one else may use the image.  Without this one
 * would go through a hostile image for days.
 */
static uint64_t
skip_hole (struct qed_image *image, uint64_t at)
{
  const struct format_geometry *g = &image->geometry;
  uint64_t index = image_l1_index (image, at), table, where, start, end;
  struct storage *s = image->storage;

  if (!metadata_get (&image->metadata, METADATA_KEY_L1 (index / PAGE_ENTRIES),
                     index % PAGE_ENTRIES, &table))
    return at;
  end = g->entries;
  if (request_check_l1 (image, index, table, &table) == 0 && table != 0) {
    where = table + (image_cluster (image, at) & (g->entries - 1)) * 8;
    if (s->ops->next_data (s, where, &start, &end) < 0 ||
        start < where + PAGE_BYTES)
      return at;
    end = start < table + g->table_bytes
      ? (start - table) / PAGE_BYTES * PAGE_ENTRIES : g->entries;
  }
  end += index << g->entries_bits;
  return end < UINT64_MAX >> g->cluster_bits ? end << g->cluster_bits
    : UINT64_MAX;
}

int
look_data (struct look *look)
{
  struct qed_image *image = look->image;
  struct place place = { .image = image };
  uint64_t at, n, size = qed_size (image);
  unsigned char *buf = malloc (PIECE_BYTES);
  int r = buf ? 0 : -ENOMEM;
  bool data;

  for (at = 0; at < size && r == 0; at += n) {
    if (!look->online && image_l2_index (image, at) == 0 &&
        (n = skip_hole (image, at) - at) > 0)
      continue;
    n = next_piece (&place, at, &data);
    r = data ? qed_request_sync (image, QED_OP_READ, buf, n, at, 0) : 0;
    if (r == -ENOTCONN)         /* the server is gone */
      break;
    if (r < 0)
      read_finely (look, buf, at, n);
    r = pace (look, data ? n : 0);
    if (r == 0)
      r = qed_progress_tell (&look->options->progress, at, size);
  }
  free (buf);
  return r;
}
