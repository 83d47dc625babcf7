/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fetch-io.h"
#include "image.h"

/* Start at a page of a table, so that entries are read whole. */
#define PAGE_ALIGN UINT64_C (4096)

/* A hole that is smaller is read: that takes less time than to ask again. */
#define GAP_BYTES (UINT64_C (64) << 10)

/* What fetch_next_data asks for: as much as one command can tell. */
#define WINDOW_BYTES (UINT64_C (1) << 30)

static uint64_t
smaller (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

static uint64_t
page_up (uint64_t offset)
{
  return (offset + PAGE_ALIGN - 1) & ~(PAGE_ALIGN - 1);
}

/* ---- Data among extents ------------------------------------------------ */

struct span {
  uint64_t start, end;
};

/* The first data at or after span->start in the extents, which begin at 'at';
 * holes of less than 'gap' bytes within count as data.  False, and span->start
 * is what lies behind the extents, if there is none.
 */
static bool
find_data (const struct fetch_extent *extents, size_t count, uint64_t at,
           uint64_t gap, struct span *span)
{
  bool found = false;
  uint64_t end;
  size_t i;

  for (i = 0; i < count; i++, at = end) {
    end = at + extents[i].bytes;
    if (extents[i].kind != QED_EXTENT_DATA || end <= span->start)
      continue;
    if (found && at - span->end >= gap && at > span->end)
      return true;
    if (!found && at > span->start)
      span->start = at;
    found = true;
    span->end = end;
  }
  if (!found && at > span->start)
    span->start = at;
  return found;
}

/* ---- The loop's reads -------------------------------------------------- */

static void
finish (struct storage_io *io, int error)
{
  io->error = error;
  io->done (io);
}

static void
start_fetch (struct storage_io *io, enum fetch_op op, uint64_t offset,
             uint64_t count, void (*done) (struct fetch *fetch))
{
  int r = fetch_start (io->storage, op, offset, count, done, io);

  if (r < 0)
    finish (io, r);
}

static void
read_ended (struct fetch *fetch)
{
  struct storage_io *io = fetch->opaque;

  if (fetch->error == 0) {
    memcpy (io->buf, fetch->data, fetch->count);
    memset ((unsigned char *) io->buf + fetch->count, 0,
            io->count - fetch->count);
  }
  finish (io, fetch->error);
}

/* io->count bytes; what lies behind the end of the storage is zeros. */
static void
read_range (struct storage_io *io, uint64_t length)
{
  uint64_t n = io->offset < length ? smaller (io->count, length - io->offset)
    : 0;

  if (n > 0)
    start_fetch (io, FETCH_READ, io->offset, n, read_ended);
  else {
    memset (io->buf, 0, io->count);
    finish (io, 0);
  }
}

/* io->offset is data, as far as io->data_end. */
static void
read_known (struct storage_io *io, uint64_t length)
{
  uint64_t n = smaller (io->count, io->limit - io->offset);

  io->count = (size_t) smaller (n, page_up (io->data_end - io->offset));
  read_range (io, length);
}

static void
no_data (struct storage_io *io)
{
  io->count = 0;
  finish (io, 0);
}

static void seek_data (struct storage_io *io, uint64_t from, uint64_t length);

static void
extents_ended (struct fetch *fetch)
{
  struct storage_io *io = fetch->opaque;
  struct span span = { .start = fetch->offset };
  uint64_t length;
  bool found = true;

  if (fetch->error == -ENOTCONN) {
    finish (io, fetch->error);
    return;
  }
  (void) io->storage->ops->length (io->storage, &length);
  if (fetch->error < 0)         /* then reading has to tell */
    span.end = fetch->offset + fetch->count;
  else
    found = find_data (fetch->extents, fetch->extent_count, fetch->offset,
                       GAP_BYTES, &span);
  if (!found) {
    seek_data (io, span.start, length);
    return;
  }
  if (io->offset < (span.start & ~(PAGE_ALIGN - 1)))
    io->offset = span.start & ~(PAGE_ALIGN - 1);
  io->data_end = span.end;
  read_known (io, length);
}

/* Ask where data is, from here on. */
static void
seek_data (struct storage_io *io, uint64_t from, uint64_t length)
{
  uint64_t end = smaller (io->limit, length);

  if (from < end)
    start_fetch (io, FETCH_EXTENTS, from, end - from, extents_ended);
  else
    no_data (io);
}

void
fetch_io_start (struct storage *s, struct storage_io *io)
{
  uint64_t length;
  int r = s->ops->length (s, &length);

  io->storage = s;
  io->error = 0;
  if (r < 0)
    finish (io, r);
  else if (io->op == STORAGE_READ)
    read_range (io, length);
  else if (io->offset < io->data_end)
    read_known (io, length);
  else
    seek_data (io, io->offset, length);
}

/* ---- Plain calls ------------------------------------------------------- */

struct call {
  struct storage *storage;
  uint64_t offset, bytes;
  unsigned char *buf;
  struct fetch_window *window;
};

static int
run_read (struct qed_request *request, void *opaque)
{
  struct call *call = opaque;
  uint64_t done;
  int r = 0;

  while (call->bytes > 0 && r == 0) {
    r = fetch_read (call->storage, request, call->offset, call->bytes,
                    call->buf, &done);
    if (r == 0) {
      call->buf += done;
      call->offset += done;
      call->bytes -= done;
    }
  }
  if (r != QED_WAIT)
    fetch_drop (request);
  return r;
}

int
fetch_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  struct call call = { .storage = s, .offset = offset, .buf = buf };
  uint64_t length;
  int r = s->ops->length (s, &length);

  if (r < 0)
    return r;
  call.bytes = offset < length ? smaller (count, length - offset) : 0;
  memset ((unsigned char *) buf + call.bytes, 0, count - call.bytes);
  return sync_run (run_read, &call);
}

void
fetch_window_init (struct fetch_window *window)
{
  memset (window, 0, sizeof *window);
  pthread_mutex_init (&window->lock, NULL);
  atomic_init (&window->changes, 0);
}

void
fetch_window_destroy (struct fetch_window *window)
{
  free (window->extents);
  pthread_mutex_destroy (&window->lock);
}

static int
run_extents (struct qed_request *request, void *opaque)
{
  struct call *call = opaque;
  struct fetch_window *window = call->window;
  enum qed_extent kind;
  uint64_t done;
  int r = fetch_extent (call->storage, request, call->offset, call->bytes, 0,
                        &kind, &done);

  if (r == QED_WAIT)
    return r;
  if (r == 0) {
    window->extents = request->fetch->extents;
    window->count = request->fetch->extent_count;
    request->fetch->extents = NULL;
  }
  fetch_drop (request);
  return r;
}

/* Learn what lies from 'offset' on. */
static int
move_window (struct storage *s, struct fetch_window *window, uint64_t offset,
             uint64_t length)
{
  struct call call = {
    .storage = s, .offset = offset, .window = window,
    .bytes = smaller (WINDOW_BYTES, length - offset),
  };
  size_t i;
  int r;

  free (window->extents);
  window->extents = NULL;
  window->first = window->count = 0;
  window->start = window->end = offset;
  window->seen = atomic_load (&window->changes);
  r = sync_run (run_extents, &call);
  for (i = 0; i < window->count; i++)
    window->end += window->extents[i].bytes;
  return r;
}

/* Who asks goes forward: leave behind what was looked at. */
static void
shorten_window (struct fetch_window *window, uint64_t offset)
{
  uint64_t bytes;

  while (window->count > 0) {
    bytes = window->extents[window->first].bytes;
    if (window->start + bytes > offset)
      break;
    window->start += bytes;
    window->first++;
    window->count--;
  }
}

static int
look_in_window (struct storage *s, struct fetch_window *window,
                uint64_t length, struct span *span, bool *found)
{
  int r = 0;

  if (span->start < window->start || span->start >= window->end ||
      window->seen != atomic_load (&window->changes))
    r = move_window (s, window, span->start, length);
  if (r < 0)
    return r;
  shorten_window (window, span->start);
  *found = find_data (window->extents + window->first, window->count,
                      window->start, 0, span);
  return 0;
}

int
fetch_next_data (struct storage *s, struct fetch_window *window,
                 uint64_t offset, uint64_t *start, uint64_t *end)
{
  struct span span = { .start = offset };
  uint64_t length;
  bool found = false;
  int r = s->ops->length (s, &length);

  pthread_mutex_lock (&window->lock);
  while (r == 0 && !found && span.start < length)
    r = look_in_window (s, window, length, &span, &found);
  pthread_mutex_unlock (&window->lock);
  if (r < 0 && r != -ENOTCONN && r != -ENOMEM) {
    span.end = smaller (span.start + WINDOW_BYTES, length);
    found = true;               /* it can't tell */
    r = 0;
  }
  *start = found ? span.start : UINT64_MAX;
  *end = found ? span.end : UINT64_MAX;
  return r;
}
