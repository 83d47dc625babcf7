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

/* Of a zero command: a server that has to write them is to give a sign of life
 * now and then.
 */
#define ZERO_MAX (UINT64_C (32) << 20)

/* For servers that have no such command. */
static unsigned char zeros[UINT64_C (256) << 10];

/* Kept of one answer. */
#define EXTENTS_MAX 16384u

void
nbd_flight_init (struct nbd_flight *flight)
{
  fetch_list_init (&flight->ended);
  flight->commands = 0;
  flight->bytes = 0;
}

static bool
has_data (const struct fetch *fetch)
{
  return fetch->op == FETCH_READ || fetch->op == FETCH_WRITE;
}

bool
nbd_flight_has_room (const struct nbd_flight *flight,
                     const struct fetch *fetch)
{
  if (flight->commands == 0)
    return true;
  return flight->commands < COMMANDS_MAX &&
    (!has_data (fetch) || flight->bytes + fetch->count <= BYTES_MAX);
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

/* A fetch's bytes as the server takes them: aligned, and inside the export.
 * Changes are aligned already.
 */
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

  if (fetch_changes (fetch->op))
    range = (struct range) { fetch->offset, fetch->offset + fetch->count };
  else if (fetch->op != FETCH_READ && range.to - range.from > RANGE_MAX)
    range.to = range.from + RANGE_MAX;
  if (range.to > export->size)
    range.to = export->size;
  return range;
}

static int64_t
start_zero (struct nbd_link *link, const struct fetch *fetch, uint64_t at,
            uint64_t count, nbd_completion_callback completion)
{
  bool fast = fetch->op == FETCH_PUNCH && link->export.can_fast_zero;

  return link->export.can_zero
    ? nbd_aio_zero (link->nbd, count, at, completion,
                    fast ? LIBNBD_CMD_FLAG_FAST_ZERO : 0)
    : nbd_aio_pwrite (link->nbd, zeros, count, at, completion, 0);
}

/* One command; libnbd lets go of it also if it can't be started. */
static int64_t
start_command (struct nbd_link *link, struct fetch *fetch,
               const struct range *range, uint64_t at, uint64_t count)
{
  struct nbd_handle *nbd = link->nbd;
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
  case FETCH_WRITE:
    return nbd_aio_pwrite (nbd, fetch->buf + (at - range->from), count, at,
                           completion, 0);
  case FETCH_ZERO:
  case FETCH_PUNCH:
    return start_zero (link, fetch, at, count, completion);
  case FETCH_FLUSH:
    return nbd_aio_flush (nbd, completion, 0);
  case FETCH_EXTENTS:
    break;
  }
  return nbd_aio_block_status (nbd, count, at, (nbd_extent_callback) {
      .callback = extents_answered, .user_data = fetch }, completion, 0);
}

/* How much a command can do at most. */
static uint64_t
command_max (const struct nbd_export *export, enum fetch_op op)
{
  switch (op) {
  case FETCH_READ:
  case FETCH_WRITE:
  case FETCH_CACHE:
    return export->maximum;
  case FETCH_ZERO:
  case FETCH_PUNCH:
    if (export->can_zero)
      return ZERO_MAX;
    return export->maximum < sizeof zeros ? export->maximum : sizeof zeros;
  case FETCH_EXTENTS:
  case FETCH_FLUSH:
    break;
  }
  return UINT64_MAX;
}

/* As many commands as the limits make of it.  They may be answered already
 * while others are started.
 */
static void
start_commands (struct nbd_link *link, struct fetch *fetch,
                const struct range *range)
{
  uint64_t at = range->from, n, most = command_max (&link->export, fetch->op);

  do {
    n = range->to - at < most ? range->to - at : most;
    if (start_command (link, fetch, range, at, n) == -1 &&
        nbd_link_is_alive (link))
      fetch->error = nbd_get_errno () == ENOMEM ? -ENOMEM : -EIO;
    at += n;
  } while (at < range->to && fetch->error == 0);
}

/* Forget what another connection has brought. */
static void
reset (struct fetch *fetch)
{
  fetch->error = 0;
  fetch->answered = 0;
  if (fetch->op == FETCH_READ) {
    free (fetch->buf);
    fetch->buf = NULL;
  }
  free (fetch->extents);
  fetch->extents = NULL;
  fetch->extent_count = 0;
}

static bool
is_possible (const struct nbd_export *export, enum fetch_op op)
{
  switch (op) {
  case FETCH_CACHE:
    return export->can_cache;
  case FETCH_EXTENTS:
    return export->has_extents;
  case FETCH_PUNCH:
    return export->can_zero;
  case FETCH_FLUSH:
    return export->can_flush;
  case FETCH_READ:
  case FETCH_WRITE:
  case FETCH_ZERO:
    break;
  }
  return true;
}

/* Memory for what is read. */
static void
make_buffer (struct fetch *fetch, const struct range *range)
{
  fetch->buf = malloc (range->to - range->from);
  if (fetch->buf)
    fetch->data = fetch->buf + (fetch->offset - range->from);
  else
    fetch->error = -ENOMEM;
}

void
nbd_flight_send (struct nbd_flight *flight, struct nbd_link *link,
                 struct fetch *fetch)
{
  struct range range = aligned (&link->export, fetch);

  reset (fetch);
  fetch->flight = flight;
  fetch->commands = 1;          /* ours, until all are started */
  if (has_data (fetch))
    flight->bytes += fetch->count;
  if (fetch->op == FETCH_READ)
    make_buffer (fetch, &range);
  if (!is_possible (&link->export, fetch->op)) {
    if (fetch->op == FETCH_PUNCH || fetch->op == FETCH_FLUSH)
      fetch->error = -EOPNOTSUPP;
  }
  else if (fetch->error == 0)
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
  if (has_data (fetch))
    flight->bytes -= fetch->count;
  if (fetch->op == FETCH_EXTENTS && fetch->error == 0 &&
      fetch->extent_count == 0)
    fetch->error = assume_data (fetch);
  return fetch;
}
