/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "metadata.h"
#include "tablewalk.h"

#define SLICE_SECONDS .1        /* of a pause: a cancel is seen so soon */
#define REST_SECONDS .001       /* no shorter pause is made to be polite */

/* Reads one table, or a part of L1, chunk by chunk. */
struct walker {
  struct storage_io io;
  struct tablewalk *walk;
  struct walk_table *table;     /* NULL: L1 */
  uint64_t start;               /* of the table, in the file */
  uint64_t end;                 /* of what is to be read of it */
  uint64_t asked;               /* from where the last read was to be */
  uint64_t fine_until;          /* up to here page by page, since a chunk
                                 * could not be read */
  struct loop_timer pause;      /* for the rate */
  double until;                 /* then it goes on */
  uint64_t rate;                /* that this was reckoned with */
  double worked;                /* so long, since it last left the loop alone */
  unsigned char *buf;
};

static void next_table (struct walker *walker);

/* ---- Chunks ---- */

static void
read_chunk (struct walker *walker, uint64_t offset)
{
  struct tablewalk *walk = walker->walk;

  walker->io.op = STORAGE_READ_DATA;
  walker->io.buf = walker->buf;
  walker->io.count = offset < walker->fine_until
    ? PAGE_BYTES : TABLEWALK_CHUNK_BYTES;
  walker->io.offset = walker->asked = offset;
  walker->io.limit = walker->end;
  storage_submit (walk->loop, walk->storage, &walker->io);
}

static int
give_entries (struct walker *walker)
{
  struct tablewalk *walk = walker->walk;
  uint64_t first = (walker->io.offset - walker->start) / 8;
  size_t n = walker->io.count / 8;

  return walker->table
    ? walk->l2_entries (walk, walker->table, first, walker->buf, n)
    : walk->l1_entries (walk, first, walker->buf, n);
}

/* What lies between the place that was asked for and the data that was read,
 * or the table's end.
 */
static int
give_hole (struct walker *walker)
{
  struct tablewalk *walk = walker->walk;
  uint64_t end = walker->io.count > 0 ? walker->io.offset : walker->end;

  if (walk->hole == NULL || end <= walker->asked)
    return 0;
  return walk->hole (walk, walker->table,
                     (walker->asked - walker->start) / 8,
                     (end - walker->asked) / 8);
}

/* A failed chunk is read again page by page; a failed page is told.  A server
 * that is gone is the end.
 */
static int
digest_error (struct walker *walker)
{
  struct storage_io *io = &walker->io;

  if (io->error == -ENOTCONN || io->error == -ENOMEM)
    return io->error;
  if (io->count > PAGE_BYTES) {
    walker->fine_until = io->offset + io->count;
    io->count = 0;              /* from the same place on */
    return 0;
  }
  return walker->walk->unreadable (walker->walk, walker->table, io->offset,
                                   io->error);
}

static bool
is_cancelled (const struct tablewalk *walk)
{
  return walk->control && atomic_load (&walk->control->cancel);
}

static bool
is_paused (const struct tablewalk *walk)
{
  return walk->control && atomic_load (&walk->control->pause);
}

/* Another walker's failure ends this one too. */
static int
digest_chunk (struct walker *walker)
{
  struct tablewalk *walk = walker->walk;
  int r = walk->job->error < 0 || is_cancelled (walk) ? -ECANCELED
    : walk->may_go_on (walk);

  if (r == 0)
    r = give_hole (walker);     /* an error may lie behind it */
  if (r == 0 && walker->io.error < 0)
    return digest_error (walker);
  if (r == 0 && walker->io.count > 0)
    r = give_entries (walker);
  return r;
}

static uint64_t
rate_now (const struct tablewalk *walk)
{
  return walk->control ? atomic_load (&walk->control->rate) : 0;
}

/* How long the next read has to wait after one of so many bytes: what was read
 * lately makes it late, what was not read in the past does not make it early.
 */
static double
rate_seconds (struct tablewalk *walk, size_t bytes)
{
  double now = loop_now ();
  uint64_t rate;

  if (is_paused (walk))
    return SLICE_SECONDS;
  rate = rate_now (walk);
  if (rate == 0)
    return 0;
  if (walk->due < now || walk->rate != rate)
    walk->due = now;
  walk->rate = rate;
  walk->due += (double) bytes / (double) rate;
  return walk->due - now;
}

/* What the entries cost the loop is paid back: a thread that always has work is
 * served last when others want the processor, and clients' flushes with it.
 */
static double
rest_seconds (struct walker *walker)
{
  double seconds = walker->worked * walker->walk->width;

  if (!walker->walk->polite || seconds < REST_SECONDS)
    return 0;
  walker->worked = 0;
  return seconds;
}

static double
pause_seconds (struct walker *walker)
{
  double rate = rate_seconds (walker->walk, walker->io.count);
  double rest = rest_seconds (walker);

  return rate > rest ? rate : rest;
}

static void
go_on (struct walker *walker)
{
  bool failed = walker->io.error < 0;

  walker->io.error = 0;
  if ((walker->io.count > 0 || failed) &&
      walker->io.offset + walker->io.count < walker->end)
    read_chunk (walker, walker->io.offset + walker->io.count);
  else
    next_table (walker);
}

static void
sleep_slice (struct walker *walker)
{
  double left = walker->until - loop_now ();

  loop_timer_start (walker->walk->loop, &walker->pause,
                    left < 0 ? 0 : left < SLICE_SECONDS ? left
                    : SLICE_SECONDS);
}

static void
pause_over (struct loop_timer *timer)
{
  struct walker *walker = (struct walker *)
    ((char *) timer - offsetof (struct walker, pause));
  struct tablewalk *walk = walker->walk;
  int r = walk->job->error < 0 || is_cancelled (walk) ? -ECANCELED
    : walk->may_go_on (walk);

  if (is_paused (walk))
    walker->until = loop_now () + SLICE_SECONDS;
  if (r < 0)
    job_io_end (walk->job, r);
  else if (is_paused (walk) ||
           (rate_now (walk) == walker->rate && walker->until > loop_now ()))
    sleep_slice (walker);
  else
    go_on (walker);
}

static void
chunk_done (struct storage_io *io)
{
  struct walker *walker = (struct walker *) io;
  struct tablewalk *walk = walker->walk;
  double begun = loop_now (), seconds = 0;
  int r = digest_chunk (walker);

  walker->worked += loop_now () - begun;
  if (r == 0)
    seconds = pause_seconds (walker);
  if (r < 0)
    job_io_end (walk->job, r);
  else if (seconds > 0) {
    walker->until = loop_now () + seconds;
    walker->rate = rate_now (walk);
    sleep_slice (walker);
  }
  else
    go_on (walker);
}

/* ---- Tables ---- */

static void
start_table (struct walker *walker, struct walk_table *table)
{
  const struct format_geometry *geometry = walker->walk->geometry;

  walker->table = table;
  walker->start = table ? table->offset : geometry->l1_offset;
  walker->end = walker->start + geometry->table_bytes;
  walker->fine_until = 0;
  walker->io.data_end = 0;
}

static void
next_table (struct walker *walker)
{
  struct tablewalk *walk = walker->walk;

  if (walk->job->error == 0 && walk->next < walk->count) {
    start_table (walker, &walk->tables[walk->next++]);
    read_chunk (walker, walker->start);
  }
  else
    job_io_end (walk->job, 0);
}

/* How much of L1 each walker reads.  A file has no need of more than one. */
static uint64_t
l1_part (const struct tablewalk *walk)
{
  uint64_t bytes = walk->geometry->table_bytes;
  uint64_t chunks = (bytes + TABLEWALK_CHUNK_BYTES - 1) /
    TABLEWALK_CHUNK_BYTES;

  return walk->storage->ops->submit
    ? (chunks + walk->width - 1) / walk->width * TABLEWALK_CHUNK_BYTES : bytes;
}

void
tablewalk_l1 (struct tablewalk *walk)
{
  uint64_t part = l1_part (walk), at = walk->geometry->l1_offset;
  uint64_t end = at + walk->geometry->table_bytes;
  struct walker *walker;

  walk->count = walk->next = 0;
  for (walker = walk->walkers; at < end; at += part, walker++) {
    job_io_begin (walk->job);
    start_table (walker, NULL);
    if (end - at > part)
      walker->end = at + part;
    read_chunk (walker, at);
  }
}

void
tablewalk_l2 (struct tablewalk *walk, struct walk_table *tables, size_t count)
{
  unsigned i;

  walk->tables = tables;
  walk->count = count;
  walk->next = 0;
  for (i = 0; i < walk->width && walk->next < count; i++) {
    job_io_begin (walk->job);
    start_table (&walk->walkers[i], &tables[walk->next++]);
    read_chunk (&walk->walkers[i], walk->walkers[i].start);
  }
}

/* ---- Life ---- */

int
tablewalk_init (struct tablewalk *walk)
{
  struct walker *walker;
  unsigned i;
  int r = 0;

  walk->walkers = calloc (walk->width, sizeof *walk->walkers);
  for (i = 0; walk->walkers && i < walk->width && r == 0; i++) {
    walker = &walk->walkers[i];
    walker->walk = walk;
    walker->io.done = chunk_done;
    walker->buf = malloc (TABLEWALK_CHUNK_BYTES);
    if (walker->buf == NULL)
      r = -ENOMEM;
    else
      r = loop_timer_init (walk->loop, &walker->pause, pause_over);
  }
  if (walk->walkers == NULL)
    r = -ENOMEM;
  if (r < 0)
    tablewalk_destroy (walk);
  return r;
}

void
tablewalk_destroy (struct tablewalk *walk)
{
  unsigned i;

  for (i = 0; walk->walkers && i < walk->width; i++) {
    loop_timer_destroy (walk->loop, &walk->walkers[i].pause);
    free (walk->walkers[i].buf);
  }
  free (walk->walkers);
  walk->walkers = NULL;
}
