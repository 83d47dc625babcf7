/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The opening scan: which clusters are referenced, where their use ends, what
 * is free.
 *
 * The file's length is not to be trusted as the end of use: a host that lost
 * power can leave an image marked clean whose entries name offsets beyond it,
 * and the next cluster allocated there would show up in two places.  So the
 * tables are read once after a writable open: L1 first (after that every L2
 * table is known and in-place writes go on), then the L2 tables, several at a
 * time and in file order, their holes skipped.  Changes wait for the end.  Of
 * a read-only image only L1 is walked.
 *
 * What is wrong, or can't be read, is named, and the image takes no more
 * writes; only if every table was read and nothing was wrong may free clusters
 * be reused and the tail be cut.  Loop only.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define WALKERS 4u              /* tables under way at a time */
#define CHUNK_BYTES (256u << 10)

struct table {
  uint64_t offset;              /* in the file */
  uint64_t l1_index;
};

/* Reads one table from start to end, chunk by chunk. */
struct walker {
  struct storage_io io;
  struct scan *scan;
  struct table table;
  uint64_t end;                 /* behind the table */
  /* What to do with n entries that were read, from entry 'first' on. */
  int (*chunk) (struct walker *walker, uint64_t first, size_t n);
  unsigned char *buf;
};

struct scan {
  struct job job;
  struct qed_image *image;
  struct walker walkers[WALKERS];
  struct table *tables;         /* those that L1 names, then in file order */
  size_t count, capacity;
  size_t next;                  /* the next one to be read */
  bool whole;                   /* nothing was wrong or unread so far */
};

static struct scan *
scan_of (struct job *job)
{
  return (struct scan *) job;
}

static int walk_l1 (struct job *job);
static int l1_walked (struct job *job);
static int walk_l2 (struct job *job);
static int conclude (struct job *job);

static const struct job_step scan_steps[] = {
  { "walk-l1",          walk_l1 },
  { "l1-walked",        l1_walked },    /* in-place writes may go on */
  { "walk-l2",          walk_l2 },
  { "conclude",         conclude },     /* changes may go on */
  { NULL, NULL }
};

/* ---- Reading a table ---- */

static void next_table (struct walker *walker);

static void
read_chunk (struct walker *walker, uint64_t offset)
{
  struct qed_image *image = walker->scan->image;

  walker->io.op = STORAGE_READ_DATA;
  walker->io.buf = walker->buf;
  walker->io.count = CHUNK_BYTES;
  walker->io.offset = offset;
  walker->io.limit = walker->end;
  storage_submit (image->loop, image->storage, &walker->io);
}

/* Another walker's failure, or a close, ends this one too. */
static int
digest_chunk (struct walker *walker)
{
  struct storage_io *io = &walker->io;
  struct scan *scan = walker->scan;

  if (io->error < 0) {
    log_error (&scan->image->options.log, "%s: cannot read the table at "
               "offset 0x%" PRIx64 ": %s", scan->image->path,
               walker->table.offset, strerror (-io->error));
    return io->error;
  }
  if (scan->job.error < 0 || image_close_wanted (scan->image))
    return -ECANCELED;
  if (io->count == 0)
    return 0;
  return walker->chunk (walker, (io->offset - walker->table.offset) / 8,
                        io->count / 8);
}

static void
chunk_done (struct storage_io *io)
{
  struct walker *walker = (struct walker *) io;
  int r = digest_chunk (walker);

  if (r < 0)
    job_io_end (&walker->scan->job, r);
  else if (io->count > 0 && io->offset + io->count < walker->end)
    read_chunk (walker, io->offset + io->count);
  else
    next_table (walker);
}

static void
start_table (struct walker *walker, struct table table)
{
  walker->table = table;
  walker->end = table.offset + walker->scan->image->geometry.table_bytes;
  read_chunk (walker, table.offset);
}

/* L1 is the only one of its kind; L2 tables come from the list. */
static void
next_table (struct walker *walker)
{
  struct scan *scan = walker->scan;

  if (scan->job.error == 0 && scan->next < scan->count &&
      atomic_load (&scan->image->scan_state) == SCAN_READING_L2)
    start_table (walker, scan->tables[scan->next++]);
  else
    job_io_end (&scan->job, 0);
}

/* ---- L1 ---- */

/* Tables take room in the file: more are only in a hostile, sparse one. */
#define TABLES_MAX ((size_t) 1 << 22)

static int
add_table (struct scan *scan, uint64_t offset, uint64_t l1_index)
{
  struct table *tables;
  size_t capacity;

  if (scan->count == TABLES_MAX)
    return -EFBIG;
  if (scan->count == scan->capacity) {
    capacity = scan->capacity ? scan->capacity * 2 : 64;
    tables = realloc (scan->tables, capacity * sizeof *tables);
    if (tables == NULL)
      return -ENOMEM;
    scan->tables = tables;
    scan->capacity = capacity;
  }
  scan->tables[scan->count].offset = offset;
  scan->tables[scan->count++].l1_index = l1_index;
  return 0;
}

/* Enter clusters as referenced. */
static int
enter (struct scan *scan, uint64_t offset, uint64_t bytes, bool table,
       bool *shared)
{
  struct space *space = &scan->image->space;
  unsigned bits = scan->image->geometry.cluster_bits;
  int r;

  pthread_mutex_lock (&space->lock);
  r = space_enter (space, offset >> bits, bytes >> bits, table, shared);
  pthread_mutex_unlock (&space->lock);
  return r;
}

static int
l1_entry (struct scan *scan, uint64_t index, uint64_t entry)
{
  struct qed_image *image = scan->image;
  uint64_t at = image->geometry.l1_offset + index * 8;
  enum format_entry class =
    format_classify_l1 (&image->geometry, entry,
                        atomic_load (&image->space.length_bytes));
  bool shared;
  int r;

  if (class != FORMAT_ALLOCATED) {
    scan->whole = false;
    image_damage (image, "L1 entry %" PRIu64 " (file offset 0x%" PRIx64
                  ") is %s", index, at, format_entry_to_text (class));
    return 0;
  }
  r = enter (scan, entry, image->geometry.table_bytes, true, &shared);
  if (r < 0)
    return r;
  if (shared) {
    scan->whole = false;
    image_damage (image, "the L2 table at offset 0x%" PRIx64 ", named by L1 "
                  "entry %" PRIu64 ", overlaps another", entry, index);
    return 0;
  }
  return add_table (scan, entry, index);
}

static int
l1_chunk (struct walker *walker, uint64_t first, size_t n)
{
  uint64_t entry;
  size_t i;
  int r = 0;

  for (i = 0; i < n && r == 0; i++) {
    entry = format_get64 (walker->buf + i * 8);
    if (entry != 0)
      r = l1_entry (walker->scan, first + i, entry);
  }
  return r;
}

static int
walk_l1 (struct job *job)
{
  struct scan *scan = scan_of (job);
  struct table l1 = { .offset = scan->image->geometry.l1_offset };

  scan->walkers[0].chunk = l1_chunk;
  job_io_begin (job);
  start_table (&scan->walkers[0], l1);
  return JOB_WAIT;
}

static int
compare_tables (const void *a, const void *b)
{
  const struct table *s = a, *t = b;

  return s->offset < t->offset ? -1 : s->offset > t->offset;
}

static int
l1_walked (struct job *job)
{
  struct scan *scan = scan_of (job);

  if (scan->count > 0)
    qsort (scan->tables, scan->count, sizeof *scan->tables, compare_tables);
  atomic_store (&scan->image->scan_state, SCAN_READING_L2);
  wait_wake_all (&scan->image->scanned);
  return JOB_NEXT;
}

/* ---- L2 ---- */

/* The guest offset that an entry of a table describes. */
static uint64_t
guest_offset (const struct walker *walker, uint64_t index)
{
  const struct format_geometry *g = &walker->scan->image->geometry;

  return ((walker->table.l1_index << g->entries_bits) + index)
    << g->cluster_bits;
}

/* An entry that names a cluster.  With the space locked. */
static int
l2_entry (struct walker *walker, uint64_t entry, const char **wrong)
{
  struct qed_image *image = walker->scan->image;
  enum format_entry class =
    format_classify_l2 (&image->geometry, entry,
                        atomic_load (&image->space.length_bytes));
  bool shared = false;
  int r = 0;

  *wrong = NULL;
  if (class == FORMAT_ALLOCATED)
    r = space_enter (&image->space, entry >> image->geometry.cluster_bits, 1,
                     false, &shared);
  else
    *wrong = format_entry_to_text (class);
  if (shared)
    *wrong = "a cluster that is in use elsewhere";
  return r;
}

static int
l2_chunk (struct walker *walker, uint64_t first, size_t n)
{
  struct scan *scan = walker->scan;
  struct space *space = &scan->image->space;
  const char *wrong;
  uint64_t entry;
  size_t i;
  int r = 0;

  pthread_mutex_lock (&space->lock);
  for (i = 0; i < n && r == 0; i++) {
    entry = format_get64 (walker->buf + i * 8);
    if (entry == 0 || entry == FORMAT_ENTRY_ZERO)
      continue;
    r = l2_entry (walker, entry, &wrong);
    if (wrong == NULL)
      continue;
    scan->whole = false;
    pthread_mutex_unlock (&space->lock);
    image_damage (scan->image, "the L2 entry for guest offset 0x%" PRIx64
                  " (file offset 0x%" PRIx64 ", value 0x%" PRIx64 ") is %s",
                  guest_offset (walker, first + i),
                  walker->table.offset + (first + i) * 8, entry, wrong);
    pthread_mutex_lock (&space->lock);
  }
  pthread_mutex_unlock (&space->lock);
  return r;
}

static int
walk_l2 (struct job *job)
{
  struct scan *scan = scan_of (job);
  unsigned i;

  if (scan->image->read_only)
    return JOB_NEXT;
  for (i = 0; i < WALKERS && scan->next < scan->count; i++) {
    scan->walkers[i].chunk = l2_chunk;
    job_io_begin (job);
    start_table (&scan->walkers[i], scan->tables[scan->next++]);
  }
  return i > 0 ? JOB_WAIT : JOB_NEXT;
}

/* ---- The end ---- */

static int
conclude (struct job *job)
{
  struct scan *scan = scan_of (job);

  if (scan->whole && !scan->image->read_only)
    space_complete (&scan->image->space);
  return JOB_NEXT;
}

static void
free_scan (struct scan *scan)
{
  unsigned i;

  for (i = 0; i < WALKERS; i++)
    free (scan->walkers[i].buf);
  free (scan->tables);
  free (scan);
}

/* An unread table may name clusters anywhere, also behind the end, where the
 * next allocation would go: nothing is changed then.
 */
static void
scan_done (struct job *job)
{
  struct scan *scan = scan_of (job);
  struct qed_image *image = scan->image;
  if (job->error < 0 && job->error != -ECANCELED) {
    log_error (&image->options.log, "%s: the opening scan failed (%s): %s: "
               "no writes are accepted", image->path, job->failed_at,
               job->error == -EFBIG ? "the clusters are scattered too widely"
               : strerror (-job->error));
    image_refuse (image, EROFS);
  }
  image->scan = NULL;
  free_scan (scan);
  atomic_store (&image->scan_state, SCAN_DONE);
  wait_wake_all (&image->scanned);
  image_kick (image);
}

static struct scan *
alloc_scan (struct qed_image *image)
{
  struct scan *scan = calloc (1, sizeof *scan);
  unsigned i;

  for (i = 0; scan && i < WALKERS; i++) {
    scan->walkers[i].scan = scan;
    scan->walkers[i].io.done = chunk_done;
    scan->walkers[i].buf = malloc (CHUNK_BYTES);
    if (scan->walkers[i].buf == NULL) {
      free_scan (scan);
      return NULL;
    }
  }
  if (scan) {
    scan->image = image;
    scan->whole = true;
    scan->job.name = "scan";
    scan->job.steps = scan_steps;
    scan->job.done = scan_done;
    scan->job.log = &image->options.log;
    scan->job.about = image->path;
  }
  return scan;
}

void
scan_start (struct qed_image *image)
{
  image->scan = alloc_scan (image);
  if (image->scan == NULL) {
    log_error (&image->options.log, "%s: no memory for the opening scan: no "
               "writes are accepted", image->path);
    image_refuse (image, EROFS);
    atomic_store (&image->scan_state, SCAN_DONE);
    wait_wake_all (&image->scanned);
    return;
  }
  atomic_store (&image->scan_state, SCAN_WALKING_L1);
  job_start (&image->scan->job);
}
