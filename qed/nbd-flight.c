/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "nbd-flight.h"

/* More than servers work on in parallel, and a bound for what withdrawn
 * requests leave behind.
 */
#define COMMANDS_MAX 128u
#define BYTES_MAX (UINT64_C (64) << 20)

/* Of block status and cache commands. */
#define RANGE_MAX (UINT64_C (1) << 30)

/* Kept of one answer. */
#define EXTENTS_MAX 16384u

void
nbd_flight_init (struct nbd_flight *flight)
{
  fetch_list_init (&flight->ended);
  flight->commands = 0;
  flight->bytes = 0;
}

bool
nbd_flight_has_room (const struct nbd_flight *flight,
                     const struct fetch *fetch)
{
  if (flight->commands == 0)
    return true;
  return flight->commands < COMMANDS_MAX &&
    (fetch->op != FETCH_READ || flight->bytes + fetch->count <= BYTES_MAX);
}

/* ---- What libnbd calls ------------------------------------------------- */

static int
command_completed (void *opaque, int *error)
{
  struct fetch *fetch = opaque;

  fetch->answered++;
  if (*error != 0 && fetch->error == 0)
    fetch->error = -*error;
  return 1;                     /* libnbd forgets it by itself */
}

static void
let_go (struct fetch *fetch)
{
  struct nbd_flight *flight = fetch->flight;

  if (--fetch->commands == 0)
    fetch_list_append (&flight->ended, fetch);
}

/* Comes once for each command, whatever becomes of it.  Without an answer
 * before, the connection is gone.
 */
static void
command_released (void *opaque)
{
  struct fetch *fetch = opaque;

  if (fetch->answered > 0)
    fetch->answered--;
  else if (fetch->error == 0)
    fetch->error = -ENOTCONN;
  fetch->flight->commands--;
  let_go (fetch);
}

static enum qed_extent
kind_of (uint32_t flags)
{
  if (!(flags & LIBNBD_STATE_ZERO))
    return QED_EXTENT_DATA;
  return flags & LIBNBD_STATE_HOLE ? QED_EXTENT_HOLE : QED_EXTENT_ZERO;
}

static void
add_extent (struct fetch *fetch, uint64_t bytes, enum qed_extent kind)
{
  struct fetch_extent *next = fetch->extents + fetch->extent_count;

  if (fetch->extent_count > 0 && next[-1].kind == kind)
    next[-1].bytes += bytes;
  else {
    *next = (struct fetch_extent) { bytes, kind };
    fetch->extent_count++;
  }
}

/* Pairs of length and flags, from 'offset'; what a server says of other bytes
 * than those that were asked for is left out.
 */
static int
extents_answered (void *opaque, const char *context, uint64_t offset,
                  uint32_t *entries, size_t count, int *error)
{
  struct fetch *fetch = opaque;
  uint64_t end = fetch->offset + fetch->count, start;
  size_t i;

  if (fetch->extents || count < 2 ||
      strcmp (context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
    return 0;
  if (count > 2 * EXTENTS_MAX)
    count = 2 * EXTENTS_MAX;
  fetch->extents = calloc (count / 2, sizeof *fetch->extents);
  if (fetch->extents == NULL) {
    *error = ENOMEM;
    return -1;
  }
  for (i = 0; i + 1 < count && offset < end; i += 2) {
    start = offset < fetch->offset ? fetch->offset : offset;
    offset += entries[i];
    if (offset > start)
      add_extent (fetch, (offset < end ? offset : end) - start,
                  kind_of (entries[i + 1]));
  }
  return 0;
}

/* ---- Sending ----------------------------------------------------------- */

/* A fetch's bytes as the server takes them: aligned, and inside the export. */
struct range {
  uint64_t from, to;
};

static struct range
aligned (const struct nbd_export *export, const struct fetch *fetch)
{
  uint64_t mask = export->minimum - 1;
  struct range range = {
    .from = fetch->offset & ~mask,
    .to = (fetch->offset + fetch->count + mask) & ~mask,
  };

  if (fetch->op != FETCH_READ && range.to - range.from > RANGE_MAX)
    range.to = range.from + RANGE_MAX;
  if (range.to > export->size)
    range.to = export->size;
  return range;
}

/* One command; libnbd lets go of it also if it can't be started. */
static int64_t
start_command (struct nbd_handle *nbd, struct fetch *fetch,
               const struct range *range, uint64_t at, uint64_t count)
{
  nbd_completion_callback completion = {
    .callback = command_completed, .user_data = fetch,
    .free = command_released,
  };

  fetch->commands++;
  fetch->flight->commands++;
  switch (fetch->op) {
  case FETCH_READ:
    return nbd_aio_pread (nbd, fetch->buf + (at - range->from), count, at,
                          completion, 0);
  case FETCH_CACHE:
    return nbd_aio_cache (nbd, count, at, completion, 0);
  case FETCH_EXTENTS:
    break;
  }
  return nbd_aio_block_status (nbd, count, at, (nbd_extent_callback) {
      .callback = extents_answered, .user_data = fetch }, completion, 0);
}

/* As many commands as the server's limit makes of it.  They may be answered
 * already while others are started.
 */
static void
start_commands (struct nbd_link *link, struct fetch *fetch,
                const struct range *range)
{
  uint64_t at = range->from, n;

  while (at < range->to && fetch->error == 0) {
    n = range->to - at;
    if (fetch->op != FETCH_EXTENTS && n > link->export.maximum)
      n = link->export.maximum;
    if (start_command (link->nbd, fetch, range, at, n) == -1 &&
        nbd_link_is_alive (link))
      fetch->error = nbd_get_errno () == ENOMEM ? -ENOMEM : -EIO;
    at += n;
  }
}

/* Forget what another connection has brought. */
static void
reset (struct fetch *fetch)
{
  fetch->error = 0;
  fetch->answered = 0;
  free (fetch->buf);
  fetch->buf = NULL;
  free (fetch->extents);
  fetch->extents = NULL;
  fetch->extent_count = 0;
}

static bool
is_possible (const struct nbd_export *export, enum fetch_op op)
{
  return op == FETCH_READ ||
    (op == FETCH_CACHE ? export->can_cache : export->has_extents);
}

void
nbd_flight_send (struct nbd_flight *flight, struct nbd_link *link,
                 struct fetch *fetch)
{
  struct range range = aligned (&link->export, fetch);

  reset (fetch);
  fetch->flight = flight;
  fetch->commands = 1;          /* ours, until all are started */
  if (fetch->op == FETCH_READ) {
    flight->bytes += fetch->count;
    fetch->buf = malloc (range.to - range.from);
    if (fetch->buf)
      fetch->data = fetch->buf + (fetch->offset - range.from);
    else
      fetch->error = -ENOMEM;
  }
  if (is_possible (&link->export, fetch->op))
    start_commands (link, fetch, &range);
  let_go (fetch);
}

/* ---- What has ended ---------------------------------------------------- */

/* A server that can't say what is a hole has data everywhere. */
static int
assume_data (struct fetch *fetch)
{
  if (fetch->extents == NULL)
    fetch->extents = calloc (1, sizeof *fetch->extents);
  if (fetch->extents == NULL)
    return -ENOMEM;
  add_extent (fetch, fetch->count, QED_EXTENT_DATA);
  return 0;
}

struct fetch *
nbd_flight_next_ended (struct nbd_flight *flight)
{
  struct fetch *fetch = fetch_list_take_first (&flight->ended);

  if (fetch == NULL)
    return NULL;
  if (fetch->op == FETCH_READ)
    flight->bytes -= fetch->count;
  if (fetch->op == FETCH_EXTENTS && fetch->error == 0 &&
      fetch->extent_count == 0)
    fetch->error = assume_data (fetch);
  return fetch;
}
