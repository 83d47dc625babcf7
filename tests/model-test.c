/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Random work against an NBD server, checked against a flat model.
 *
 *   model-test [OPTIONS] URI        (model-test --help lists the options)
 *
 * One thread keeps several requests in flight on each of several connections:
 * reads and writes of one byte to a few MiB, aligned and not, across clusters,
 * tables and the end of the image, overlapping what is in flight, flushes, FUA
 * writes, block status.  The sequence (operation, offset, length, connection)
 * follows from the seed, the options and what the server says it can; only
 * which requests meet in flight is the server's doing.  model.h says what a
 * read may return.  At the end everything is read once more.
 *
 * With --save the model is kept, so that after a restart of the server
 * --load --verify-only can check that all is still there; after kill -9,
 * --crash accepts the loss of what wasn't flushed.  --initial FILE says what
 * the disk holds at first, as over a backing file.
 *
 * Exit status: 0 all as expected; 1 wrong data, or a request failed;
 * 2 usage, or no connection.
 */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libnbd.h>

#include "model-options.h"
#include "model-work.h"
#include "model.h"
#include "pattern.h"

#define WHOLE_LIMIT (UINT64_C (1) << 29) /* larger images: verify in part */
#define SAMPLES 64              /* untouched places to look at, then */

struct connection {
  struct nbd_handle *h;
  unsigned in_flight;
  bool dead;
};

/* One request. */
struct slot {
  const struct op *op;          /* NULL: free */
  struct connection *connection;
  uint64_t number;              /* of the operation, for messages */
  uint64_t offset, count;
  unsigned char *buf;
  uint64_t issued;              /* reads, flushes, block status; else 0 */
  uint32_t seq;                 /* changes: their record */
  uint32_t *extents;            /* block status: length, flags, ... */
  size_t n_extents;             /* numbers in there */
  bool one;                     /* REQ_ONE */
  bool fua;
  bool answered;
  int error;
};

struct op {
  const char *name;
  unsigned weight;
  int (*can) (struct nbd_handle *h);    /* NULL: always */
  const bool *wanted;                   /* NULL: always */
  int64_t (*start) (struct slot *slot, nbd_completion_callback done);
  bool (*finish) (struct slot *slot);
};

static struct model *model;
static struct connection *connections;
static struct slot *slots;
static uint64_t n_slots;
static bool can_fua, flush_covers_all;
static bool failed;                     /* wrong data or an error */
static bool server_gone;
static uint64_t bytes_read, bytes_written;

/* ---- Operations: to add one, add a row to the table -------------------- */

static int64_t
start_read (struct slot *slot, nbd_completion_callback done)
{
  slot->issued = model_tick (model);
  return nbd_aio_pread (slot->connection->h, slot->buf, slot->count,
                        slot->offset, done, 0);
}

static bool
finish_read (struct slot *slot)
{
  bytes_read += slot->count;
  return model_check (model, slot->offset, slot->count, slot->buf,
                      slot->issued, options.crash, stderr);
}

static uint32_t
fua_flag (const struct slot *slot)
{
  return slot->fua ? LIBNBD_CMD_FLAG_FUA : 0;
}

static int64_t
start_write (struct slot *slot, nbd_completion_callback done)
{
  slot->seq = model_issue (model, MODEL_WRITE, slot->offset, slot->count);
  model_fill (model, slot->seq, slot->buf);
  return nbd_aio_pwrite (slot->connection->h, slot->buf, slot->count,
                         slot->offset, done, fua_flag (slot));
}

/* Write a buffer of zeros, as a guest does that doesn't know better. */
static int64_t
start_blank (struct slot *slot, nbd_completion_callback done)
{
  slot->seq = model_issue (model, MODEL_ZERO, slot->offset, slot->count);
  memset (slot->buf, 0, slot->count);
  return nbd_aio_pwrite (slot->connection->h, slot->buf, slot->count,
                         slot->offset, done, fua_flag (slot));
}

static int64_t
start_zero (struct slot *slot, nbd_completion_callback done)
{
  uint32_t flags = fua_flag (slot);

  if (work_random (2))
    flags |= LIBNBD_CMD_FLAG_NO_HOLE;
  slot->seq = model_issue (model, MODEL_ZERO, slot->offset, slot->count);
  return nbd_aio_zero (slot->connection->h, slot->count, slot->offset, done,
                       flags);
}

static int64_t
start_trim (struct slot *slot, nbd_completion_callback done)
{
  slot->seq = model_issue (model, MODEL_TRIM, slot->offset, slot->count);
  return nbd_aio_trim (slot->connection->h, slot->count, slot->offset, done,
                       fua_flag (slot));
}

static bool
finish_change (struct slot *slot)
{
  bytes_written += slot->count;
  model_complete (model, slot->seq, true, slot->fua);
  return true;
}

static int64_t
start_flush (struct slot *slot, nbd_completion_callback done)
{
  slot->issued = model_tick (model);
  return nbd_aio_flush (slot->connection->h, done, 0);
}

static bool
finish_flush (struct slot *slot)
{
  if (flush_covers_all)
    model_flushed (model, slot->issued);
  return true;
}

static int
note_extents (void *opaque, const char *context, uint64_t offset,
              uint32_t *entries, size_t n, int *error)
{
  struct slot *slot = opaque;

  (void) context;
  (void) error;
  /* A second reply, or one about another place, fails in finish_status. */
  if (slot->extents != NULL || offset != slot->offset)
    n = 0;
  free (slot->extents);
  slot->extents = malloc (n * sizeof *entries + 1);
  slot->n_extents = slot->extents != NULL ? n : 0;
  if (slot->n_extents > 0)
    memcpy (slot->extents, entries, n * sizeof *entries);
  return 0;
}

static int
can_status (struct nbd_handle *h)
{
  return nbd_can_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION);
}

static int64_t
start_status (struct slot *slot, nbd_completion_callback done)
{
  nbd_extent_callback extents = { note_extents, slot, NULL };

  slot->one = work_random (4) == 0;
  slot->issued = model_tick (model);
  memset (slot->buf, 0, slot->count);
  return nbd_aio_block_status (slot->connection->h, slot->count, slot->offset,
                               extents, done,
                               slot->one ? LIBNBD_CMD_FLAG_REQ_ONE : 0);
}

/* What is said to be zeros must read as zeros, at once and until it is
 * changed.
 */
static bool
finish_status (struct slot *slot)
{
  uint64_t at = slot->offset, end = at + slot->count, n;
  bool ok = slot->n_extents >= 2;

  for (size_t i = 0; i + 1 < slot->n_extents && ok; i += 2) {
    n = slot->extents[i];
    /* Only the last one may say more than was asked. */
    ok = n > 0 && at < end && n <= options.size - at
      && !(slot->one && (i > 0 || n > slot->count));
    if (n > end - at)
      n = end - at;
    if (ok && (slot->extents[i + 1] & LIBNBD_STATE_ZERO))
      ok = model_check (model, at, n, slot->buf, slot->issued, options.crash,
                        stderr);
    at += slot->extents[i];
  }
  return ok;
}

static int64_t
start_cache (struct slot *slot, nbd_completion_callback done)
{
  return nbd_aio_cache (slot->connection->h, slot->count, slot->offset, done,
                        0);
}

static bool
finish_cache (struct slot *slot)
{
  (void) slot;
  return true;
}

static const struct op ops[] = {
  { "read", 38, NULL, NULL, start_read, finish_read },
  { "write", 56, NULL, NULL, start_write, finish_change },
  { "blank", 3, NULL, NULL, start_blank, finish_change },
  { "flush", 3, nbd_can_flush, NULL, start_flush, finish_flush },
  { "zero", 12, nbd_can_zero, &options.zero, start_zero, finish_change },
  { "trim", 12, nbd_can_trim, &options.trim, start_trim, finish_change },
  { "block status", 20, can_status, &options.status, start_status,
    finish_status },
  { "cache", 2, nbd_can_cache, &options.cache, start_cache, finish_cache },
};
#define N_OPS (sizeof ops / sizeof ops[0])
static const struct op *const op_read = &ops[0];
static unsigned weights[N_OPS];         /* 0: the server can't */

/* ---- Requests in flight ------------------------------------------------- */

static int
request_answered (void *opaque, int *error)
{
  struct slot *slot = opaque;

  slot->answered = true;
  slot->error = *error;
  return 1;
}

/* No read older than this is under way any more. */
static void
update_horizon (void)
{
  uint64_t oldest = model_tick (model);

  for (uint64_t i = 0; i < n_slots; i++)
    if (slots[i].op != NULL && slots[i].issued > 0
        && slots[i].issued < oldest)
      oldest = slots[i].issued;
  model_set_horizon (model, oldest);
}

static void
fail (const struct slot *slot, const char *what)
{
  fprintf (stderr, "model-test: seed %" PRIu64 ", operation %" PRIu64
           ": %s 0x%" PRIx64 "+0x%" PRIx64 "%s: %s\n",
           options.seed, slot->number, slot->op->name, slot->offset,
           slot->count, slot->fua ? " FUA" : "", what);
  failed = true;
}

/* Take note of what the server answered. */
static void
reap (struct slot *slot)
{
  if (slot->error == 0) {
    if (!slot->op->finish (slot))
      fail (slot, "wrong data");
  }
  else if (options.may_die && slot->error == ESHUTDOWN)
    server_gone = true;
  else if (!server_gone)
    fail (slot, strerror (slot->error));
  slot->connection->in_flight--;
  free (slot->extents);
  free (slot->buf);
  slot->buf = NULL;
  slot->op = NULL;
  update_horizon ();
}

/* Connections may die, and requests be answered, while one is sent. */
static bool
have_answers (void)
{
  bool r = false;

  for (uint64_t i = 0; i < options.connections; i++)
    if (nbd_aio_is_dead (connections[i].h)
        || nbd_aio_is_closed (connections[i].h))
      connections[i].dead = server_gone = true;
  for (uint64_t i = 0; i < n_slots; i++)
    r |= slots[i].op != NULL
      && (slots[i].answered || slots[i].connection->dead);
  return r;
}

static void
poll_connections (void)
{
  struct pollfd fds[64];
  nfds_t n = options.connections;

  for (nfds_t i = 0; i < n; i++) {
    unsigned direction = connections[i].dead
      ? 0 : nbd_aio_get_direction (connections[i].h);

    fds[i].fd = connections[i].dead ? -1 : nbd_aio_get_fd (connections[i].h);
    fds[i].events = (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0)
      | (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
    fds[i].revents = 0;
  }
  if (poll (fds, n, 60000) == 0) {
    fprintf (stderr, "model-test: seed %" PRIu64 ": no answer for 60"
             " seconds\n", options.seed);
    exit (1);
  }
  for (nfds_t i = 0; i < n; i++)
    if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
      nbd_aio_notify_read (connections[i].h);
    else if (fds[i].revents & POLLOUT)
      nbd_aio_notify_write (connections[i].h);
}

/* Wait until something was answered, and take note of it. */
static void
wait_for_answers (void)
{
  while (!have_answers ())
    poll_connections ();
  for (uint64_t i = 0; i < n_slots; i++)
    if (slots[i].op != NULL
        && (slots[i].answered || slots[i].connection->dead)) {
      if (!slots[i].answered)
        slots[i].error = ENOTCONN;
      reap (&slots[i]);
    }
}

static void
start (const struct op *op, struct connection *connection, uint64_t number,
       uint64_t offset, uint64_t count, bool fua)
{
  struct slot *slot = slots;
  nbd_completion_callback done = { .callback = request_answered };

  while (connection->in_flight == options.depth && !server_gone)
    wait_for_answers ();
  if (server_gone)
    return;
  while (slot->op != NULL)
    slot++;
  *slot = (struct slot) {
    .op = op, .connection = connection, .number = number, .offset = offset,
    .count = count, .fua = fua, .buf = malloc (count > 0 ? count : 1),
  };
  if (slot->buf == NULL) {
    fprintf (stderr, "model-test: out of memory\n");
    exit (2);
  }
  connection->in_flight++;
  done.user_data = slot;
  if (op->start (slot, done) >= 0)
    return;
  if (nbd_aio_is_dead (connection->h))
    connection->dead = server_gone = true;
  else
    fprintf (stderr, "model-test: %s\n", nbd_get_error ());
  slot->answered = true;
  slot->error = nbd_get_errno () ? nbd_get_errno () : EIO;
  reap (slot);
}

static void
drain (void)
{
  for (uint64_t i = 0; i < options.connections; i++)
    while (connections[i].in_flight > 0)
      wait_for_answers ();
}

/* ---- The workload ------------------------------------------------------- */

static const struct op *
pick_op (void)
{
  unsigned sum = 0, pick, i = 0;

  for (i = 0; i < N_OPS; i++)
    sum += weights[i];
  pick = work_random (sum);
  for (i = 0; pick >= weights[i]; i++)
    pick -= weights[i];
  return &ops[i];
}

static void
run (void)
{
  time_t end = time (NULL) + options.seconds;
  uint64_t number;

  for (number = 1; !failed && !server_gone; number++) {
    const struct op *op = pick_op ();
    struct connection *connection
      = &connections[work_random (options.connections)];
    uint64_t count = op->start == start_flush ? 0 : work_count ();
    uint64_t offset = count ? work_offset (count) : 0;
    bool change = op->finish == finish_change;
    bool fua = work_random (20) == 0 && change && can_fua;

    if (options.seconds ? time (NULL) >= end : number > options.ops)
      break;
    if (change)
      work_done (offset, count);
    start (op, connection, number, offset, count, fua);
  }
  drain ();
  if (server_gone && !options.may_die) {
    fprintf (stderr, "model-test: the server went away\n");
    failed = true;
  }
  printf ("model-test: seed %" PRIu64 ": %" PRIu64 " operations, %" PRIu64
          " KiB written, %" PRIu64 " KiB read, %" PRIu64 " x %" PRIu64
          " in flight%s\n", options.seed, number - 1, bytes_written >> 10,
          bytes_read >> 10, options.connections, options.depth,
          server_gone ? "; then the server was gone" : "");
}

/* ---- Reading everything ------------------------------------------------- */

static void
verify_chunk (uint64_t offset)
{
  uint64_t count = MODEL_CHUNK;
  static unsigned next;

  if (offset >= options.size || failed)
    return;
  if (count > options.size - offset)
    count = options.size - offset;
  start (op_read, &connections[next++ % options.connections], 0, offset,
         count, false);
}

static void
verify (void)
{
  uint64_t chunks = (options.size + MODEL_CHUNK - 1) / MODEL_CHUNK;
  uint64_t offset = 0;

  if (options.size <= WHOLE_LIMIT)
    for (offset = 0; offset < options.size; offset += MODEL_CHUNK)
      verify_chunk (offset);
  else {
    for (; model_next_touched (model, offset, &offset); offset += MODEL_CHUNK)
      verify_chunk (offset);
    for (unsigned i = 0; i < SAMPLES; i++)
      verify_chunk (MODEL_CHUNK * work_random (chunks));
  }
  drain ();
  if (server_gone) {
    fprintf (stderr, "model-test: the server went away while all was read\n");
    failed = true;
  }
}

/* ---- Beginning ---------------------------------------------------------- */

static void
must_know (int64_t r)
{
  if (r >= 0)
    return;
  fprintf (stderr, "model-test: %s\n", nbd_get_error ());
  exit (2);
}

static void
connect_all (void)
{
  struct nbd_handle *h;
  int64_t block;

  connections = calloc (options.connections, sizeof *connections);
  n_slots = options.connections * options.depth;
  slots = calloc (n_slots, sizeof *slots);
  if (connections == NULL || slots == NULL)
    must_know (-1);
  for (uint64_t i = 0; i < options.connections; i++) {
    h = connections[i].h = nbd_create ();
    must_know (h == NULL ? -1 : nbd_add_meta_context
               (h, LIBNBD_CONTEXT_BASE_ALLOCATION));
    must_know (nbd_connect_uri (h, options.uri));
  }
  h = connections[0].h;
  for (size_t i = 0; i < N_OPS; i++)
    if ((ops[i].wanted == NULL || *ops[i].wanted)
        && (ops[i].can == NULL || ops[i].can (h) == 1))
      weights[i] = ops[i].weight;
  can_fua = nbd_can_fua (h) == 1;
  flush_covers_all = options.connections == 1 || nbd_can_multi_conn (h) == 1;
  block = nbd_get_block_size (h, LIBNBD_SIZE_MINIMUM);
  work_begin (options.seed, block > 1 ? block : 1);
  must_know (nbd_get_size (h));
  if (options.size == 0)
    options.size = nbd_get_size (h);
  if (options.size != (uint64_t) nbd_get_size (h) || options.size == 0) {
    fprintf (stderr, "model-test: the export has %" PRIi64 " bytes\n",
             nbd_get_size (h));
    exit (2);
  }
  if (!options.verify_only && nbd_is_read_only (h) != 0) {
    fprintf (stderr, "model-test: the export is read-only\n");
    exit (2);
  }
}

int
main (int argc, char **argv)
{
  model_options_parse (argc, argv);
  if (options.load != NULL) {
    model = model_load (options.load);
    options.size = model_size (model);
  }
  connect_all ();
  if (model == NULL)
    model = model_new (options.size, pattern_mix (options.seed));
  if (options.initial != NULL)
    model_set_initial (model, options.initial);
  update_horizon ();

  if (!options.verify_only)
    run ();
  if (server_gone)
    model_server_died (model);
  else if (!failed)
    verify ();
  if (options.crash && !server_gone && !failed)
    model_crash_seen (model);

  if (options.save != NULL)
    model_save (model, options.save);
  if (options.dump != NULL && !failed && !server_gone)
    model_dump (model, options.dump);
  for (uint64_t i = 0; i < options.connections; i++) {
    if (!connections[i].dead)
      nbd_shutdown (connections[i].h, 0);
    nbd_close (connections[i].h);
  }
  model_free (model);
  free (slots);
  free (connections);
  if (failed)
    fprintf (stderr, "model-test: FAILED with seed %" PRIu64 "\n",
             options.seed);
  return failed ? 1 : 0;
}
