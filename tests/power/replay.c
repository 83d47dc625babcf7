/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "replay.h"
#include "sim.h"
#include "stamp.h"

void
replay_die (const char *fmt, ...)
{
  va_list args;

  fprintf (stderr, "power-judge: ");
  va_start (args, fmt);
  vfprintf (stderr, fmt, args);
  va_end (args);
  fputc ('\n', stderr);
  exit (2);
}

/* ---- Files ---- */

void
replay_write_file (const struct disk *disk, const char *path)
{
  uint64_t limit = (disk_length (disk) + BLOCK - 1) / BLOCK, b, s;
  const unsigned char *data;
  int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  if (fd < 0 || ftruncate (fd, (off_t) disk_length (disk)) < 0)
    replay_die ("%s: %s", path, strerror (errno));
  for (b = disk_next_block (disk, 0, limit); b < limit;
       b = disk_next_block (disk, b + 1, limit))
    for (s = b * BLOCK_SECTORS; s < (b + 1) * BLOCK_SECTORS; s++) {
      data = disk_sector (disk, s);
      if (data && pwrite (fd, data, SECTOR, (off_t) (s * SECTOR)) != SECTOR)
        replay_die ("%s: %s", path, strerror (errno));
    }
  if (close (fd) < 0)
    replay_die ("%s: %s", path, strerror (errno));
}

static void
read_piece (struct disk *disk, int fd, off_t from, off_t to,
            const char *path)
{
  static const unsigned char zeros[SECTOR];
  unsigned char buf[BLOCK];
  uint64_t s;
  off_t at;

  for (at = from; at < to; at += BLOCK) {
    memset (buf, 0, sizeof buf);
    if (pread (fd, buf, BLOCK, at) < 0)
      replay_die ("%s: %s", path, strerror (errno));
    for (s = 0; s < BLOCK_SECTORS; s++)
      if (memcmp (buf + s * SECTOR, zeros, SECTOR) != 0)
        disk_poke (disk, (uint64_t) at / SECTOR + s, buf + s * SECTOR);
  }
}

struct disk *
replay_read_file (const char *path)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  struct disk *disk;
  struct stat st;
  off_t data, hole = 0;

  if (fd < 0 || fstat (fd, &st) < 0)
    replay_die ("%s: %s", path, strerror (errno));
  disk = disk_create (true, (uint64_t) st.st_size, UINT64_MAX);
  while ((data = lseek (fd, hole, SEEK_DATA)) >= 0) {
    hole = lseek (fd, data, SEEK_HOLE);
    read_piece (disk, fd, data / BLOCK * BLOCK, hole, path);
  }
  close (fd);
  return disk;
}

static unsigned char *
read_whole (const char *session, const char *name, size_t *count)
{
  char path[4096];
  unsigned char *data;
  struct stat st;
  FILE *f;

  snprintf (path, sizeof path, "%s/%s", session, name);
  f = fopen (path, "r");
  if (f == NULL || fstat (fileno (f), &st) < 0)
    replay_die ("%s: %s", path, strerror (errno));
  *count = (size_t) st.st_size;
  data = malloc (*count + 1);
  if (data == NULL || fread (data, 1, *count, f) != *count)
    replay_die ("%s can't be read", path);
  fclose (f);
  return data;
}

/* ---- The events ---- */

static struct event *
new_event (struct replay *replay, uint64_t number, enum event_kind kind)
{
  struct event *event;

  if (replay->count % 1024 == 0) {
    replay->events = realloc (replay->events, (replay->count + 1024) *
                              sizeof *replay->events);
    if (replay->events == NULL)
      abort ();
  }
  event = &replay->events[replay->count++];
  *event = (struct event) { .number = number, .kind = kind };
  return event;
}

/* The kernel splits a large write between pages, and buffers begin anywhere:
 * so in the middle of a sector, which counts as the next part's.  After the
 * last there may be none: the server was killed meanwhile.
 */
struct joined {
  struct joined *next;
  uint64_t offset;              /* behind this one the next part begins, */
  unsigned rest;                /* which takes so many bytes of it, */
  const unsigned char *bytes;   /* these; NULL: it did */
  struct record record;         /* whole sectors, and then their bytes */
};

static struct joined *
find_part (struct replay *replay, uint64_t offset)
{
  struct joined *part = replay->joined;

  while (part && (part->offset != offset || part->bytes == NULL))
    part = part->next;
  if (part == NULL)
    replay_die ("the server wrote at 0x%" PRIx64 ", in the middle of a sector",
                offset);
  return part;
}

static const struct record *
whole_sectors (struct replay *replay, const struct record *record)
{
  unsigned head = record->offset % SECTOR;
  struct joined *joined, *before = NULL;
  unsigned char *data;

  if (head == 0 && record->count % SECTOR == 0)
    return record;
  if (head)
    before = find_part (replay, record->offset);
  joined = malloc (sizeof *joined + head + record->count);
  if (joined == NULL)
    abort ();
  joined->record = *record;
  data = (unsigned char *) (&joined->record + 1);
  if (before)
    memcpy (data, before->bytes, head);
  memcpy (data + head, record + 1, record->count);
  joined->offset = record->offset + record->count;
  joined->record.offset -= head;
  joined->rest = (head + record->count) % SECTOR;
  joined->record.count = head + record->count - joined->rest;
  joined->bytes = joined->rest ? data + joined->record.count : NULL;
  if (before)
    before->bytes = NULL;
  joined->next = replay->joined;
  replay->joined = joined;
  return &joined->record;
}

static void
free_joined (struct joined *joined)
{
  struct joined *next;

  for (; joined; joined = next) {
    next = joined->next;
    free (joined);
  }
}

/* What was being written when the recorder ended has left no whole event. */
static void
load_record (struct replay *replay, const char *session)
{
  const struct record *record;
  size_t count, at = 0;

  replay->record = read_whole (session, "record", &count);
  while (at + sizeof *record <= count) {
    record = (const void *) (replay->record + at);
    at += sizeof *record;
    if (record->kind == RECORD_WRITE) {
      if (record->count > count - at)
        return;
      at += record->count;
      record = whole_sectors (replay, record);
    }
    new_event (replay, record->number, EVENT_RECORD)->record = record;
  }
}

static void
load_requests (struct replay *replay, const char *session)
{
  const struct request *request;
  size_t count;

  replay->requests = read_whole (session, "requests", &count);
  for (request = (const void *) replay->requests;
       count >= sizeof *request; request++, count -= sizeof *request) {
    new_event (replay, request->start, EVENT_REQUEST)->request = request;
    if (request->end != UINT64_MAX)
      new_event (replay, request->end, EVENT_ANSWER)->request = request;
  }
}

static int
compare_events (const void *a, const void *b)
{
  uint64_t n = ((const struct event *) a)->number;
  uint64_t m = ((const struct event *) b)->number;

  return n < m ? -1 : n > m;
}

/* What the image holds is what was there from the start. */
static void
begin_promise (struct replay *replay, uint32_t first)
{
  struct promise *promise = &replay->promise;
  const struct walk *walk = &replay->reference;
  uint64_t per_cluster = walk->cluster_size / SECTOR, s;
  uint32_t found;
  size_t i;

  promise_init (promise);
  promise->backing = walk->backing;
  while (promise->count < first)        /* of earlier sessions */
    promise_write (promise, WRITE_DATA, 0, 0);
  for (i = 0; i < walk->entry_count; i++)
    for (s = walk->entries[i].cluster * per_cluster;
         s < (walk->entries[i].cluster + 1) * per_cluster &&
         s * SECTOR < walk->image_size; s++) {
      found = stamp_read (walk_sector (replay->disk, walk, s), s);
      if (found == stamp_below (s))
        continue;
      promise_touch (promise, s);
      promise_rebase (&promise->records[promise->record_count - 1], found);
    }
}

void
replay_load (struct replay *replay, const char *session, uint32_t first)
{
  char path[4096];

  snprintf (path, sizeof path, "%s/begin", session);
  replay->disk = replay_read_file (path);
  walk_image (replay->disk, &replay->reference);
  if (replay->reference.problem[0])
    replay_die ("%s: %s", path, replay->reference.problem);
  begin_promise (replay, first);
  load_record (replay, session);
  load_requests (replay, session);
  if (replay->count == 0)
    replay_die ("%s: nothing was recorded", session);
  qsort (replay->events, replay->count, sizeof *replay->events,
         compare_events);
}

void
replay_destroy (struct replay *replay)
{
  walk_destroy (&replay->reference);
  promise_destroy (&replay->promise);
  disk_destroy (replay->disk);
  free (replay->events);
  free_joined (replay->joined);
  free (replay->record);
  free (replay->requests);
}

/* ---- One after the other ---- */

static bool
changes_header (const struct record *record)
{
  return record->kind == RECORD_WRITE && record->offset == 0;
}

bool
replay_is_turn (const struct event *event)
{
  return event->kind == EVENT_RECORD &&
    (event->record->kind == RECORD_SYNC ||
     event->record->kind == RECORD_LENGTH || changes_header (event->record));
}

/* By its content: what isn't a guest's, and isn't zeros, is of a table. */
static enum disk_op_kind
kind_of (const struct record *record, uint64_t cluster_size)
{
  const unsigned char *data = (const unsigned char *) (record + 1), *end;
  uint64_t i;

  if (record->offset < cluster_size)
    return DISK_HEADER;
  for (end = data + record->count; data < end; data += SECTOR) {
    for (i = 0; i < SECTOR && data[i] == 0; i++)
      ;
    if (i < SECTOR)
      return stamp_is_one (data) ? DISK_DATA : DISK_TABLES;
  }
  return DISK_DATA;
}

/* NEED_CHECK is about to be cleared: the tables are as they should be. */
static void
note_clean_moment (struct replay *replay, const struct record *record)
{
  const unsigned char *now = disk_sector (replay->disk, 0);
  const unsigned char *data = (const unsigned char *) (record + 1);

  if (!changes_header (record) || now == NULL ||
      !(now[16] & WALK_NEED_CHECK) || data[16] & WALK_NEED_CHECK)
    return;
  walk_destroy (&replay->reference);
  walk_image (replay->disk, &replay->reference);
}

static struct event *
find_event (struct replay *replay, uint64_t number)
{
  struct event key = { .number = number };

  return bsearch (&key, replay->events, replay->count, sizeof key,
                  compare_events);
}

static void
sync_begin (struct replay *replay, struct event *event)
{
  replay->syncs++;
  event->dropped = replay->drop && replay->syncs % replay->drop == 0;
  if (!event->dropped)
    disk_sync_begin (replay->disk, &replay->random);
}

static void
operation_end (struct replay *replay, const struct event *event)
{
  const struct event *first = find_event (replay, event->record->first);

  if (first == NULL)
    replay_die ("event %" PRIu64 " ends what did not begin", event->number);
  if (first->record->kind != RECORD_SYNC)
    disk_complete (replay->disk, first->op);
  else if (!first->dropped)
    disk_sync_end (replay->disk);
}

static void
step_record (struct replay *replay, struct event *event)
{
  const struct record *record = event->record;
  struct disk *disk = replay->disk;

  switch (record->kind) {
  case RECORD_WRITE:
    note_clean_moment (replay, record);
    event->op = disk_begin (disk, kind_of (record,
                                           replay->reference.cluster_size));
    disk_write (disk, event->op, record->offset / SECTOR,
                record->count / SECTOR, (const unsigned char *) (record + 1));
    break;
  case RECORD_ZERO:
    event->op = disk_begin (disk, DISK_PUNCH);
    disk_zero (disk, event->op, record->offset / SECTOR,
               record->count / SECTOR);
    break;
  case RECORD_LENGTH:
    event->op = disk_begin (disk, DISK_LENGTH);
    disk_resize (disk, event->op, record->offset);
    break;
  case RECORD_SYNC:
    sync_begin (replay, event);
    break;
  default:
    operation_end (replay, event);
  }
}

static void
step_request (struct replay *replay, struct event *event)
{
  static const enum write_kind kinds[] = {
    [REQUEST_WRITE] = WRITE_DATA, [REQUEST_ZERO] = WRITE_ZEROS,
    [REQUEST_TRIM] = WRITE_TRIM, [REQUEST_HINT] = WRITE_HINT,
  };
  const struct request *request = event->request;

  if (request->kind != REQUEST_FLUSH)
    event->op = promise_write (&replay->promise, kinds[request->kind],
                               request->sector, request->count);
}

static void
step_answer (struct replay *replay, const struct event *event)
{
  const struct request *request = event->request;

  if (request->kind == REQUEST_FLUSH)
    promise_flushed (&replay->promise, request->start);
  else
    promise_written (&replay->promise,
                     find_event (replay, request->start)->op,
                     request->flags & REQUEST_FUA);
}

void
replay_step (struct replay *replay)
{
  struct event *event = &replay->events[replay->done++];

  sim_set_ticks (event->number);
  switch (event->kind) {
  case EVENT_RECORD: step_record (replay, event); break;
  case EVENT_REQUEST: step_request (replay, event); break;
  case EVENT_ANSWER: step_answer (replay, event); break;
  }
}
