/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A guest for the power cuts: writes, FUA writes, zeroes, trims and flushes
 * over several connections, each with its numbers in SESSION/requests
 * (record.h).  What is written says which write it is (stamp.h).
 *
 *   power-client [OPTIONS] URI SESSION      (power-client --help lists them)
 *
 * One thread keeps a few requests in flight on each connection.  It works in
 * a few windows of the disk, the same in each session of an image, so that
 * there is something to overwrite, and to free and use again.
 *
 * Exit status: 0 all done, or the server was gone and --may-die was given; 1
 * a request failed; 2 usage, or no connection.
 */

#include <config.h>

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libnbd.h>

#include "random.h"
#include "record.h"
#include "stamp.h"

#define SECTOR_SIZE 512u
#define CONNECTIONS 3u
#define DEPTH 4u                /* requests in flight on each */
#define SECTORS_MAX 256u        /* of a write */
#define WINDOWS 10u
#define WINDOW_CLUSTERS 5u

struct slot {
  struct nbd_handle *h;         /* its connection */
  struct request *request;      /* NULL: free */
  bool answered;
  int error;
  unsigned char buf[SECTORS_MAX * SECTOR_SIZE];
};

static struct {
  const char *uri, *session;
  uint64_t seed, places, first, requests, cluster, pauses;
  bool may_die;
} options = { .seed = 1, .places = 1, .first = 1, .requests = 1000,
              .cluster = 65536 };

static struct nbd_handle *connections[CONNECTIONS];
static struct slot slots[CONNECTIONS * DEPTH];
static struct request *requests;
static uint64_t begun;                  /* of those */
static uint32_t next_write;
static _Atomic uint64_t *counter;
static uint64_t windows[WINDOWS];       /* sectors where they begin */
static uint64_t per_cluster;            /* sectors */
static bool gone, failed;

static void __attribute__ ((noreturn))
die (const char *what)
{
  fprintf (stderr, "power-client: %s: %s\n", what,
           nbd_get_errno () ? nbd_get_error () : strerror (errno));
  exit (2);
}

/* ---- What is asked for ---- */

static void
draw_windows (void)
{
  struct random random = { .state = random_mix (options.places) };
  int64_t size = nbd_get_size (connections[0]);
  uint64_t clusters = (uint64_t) size / options.cluster;
  unsigned i;

  if (size < 0 || clusters < WINDOW_CLUSTERS)
    die ("the disk is too small");
  per_cluster = options.cluster / SECTOR_SIZE;
  for (i = 0; i < WINDOWS; i++)
    windows[i] = random_below (&random, clusters - WINDOW_CLUSTERS + 1) *
      per_cluster;
}

static enum request_kind
draw_kind (struct random *random)
{
  static const struct {
    enum request_kind kind;
    unsigned weight;
  } kinds[] = {
    { REQUEST_WRITE, 66 }, { REQUEST_ZERO, 9 }, { REQUEST_TRIM, 9 },
    { REQUEST_HINT, 2 }, { REQUEST_FLUSH, 14 },
  };
  uint64_t n = random_below (random, 100);
  unsigned i;

  for (i = 0; n >= kinds[i].weight; i++)
    n -= kinds[i].weight;
  return kinds[i].kind;
}

/* A range within a window. */
static void
draw_range (struct random *random, struct request *request)
{
  uint64_t window = windows[random_below (random, WINDOWS)], at, n;
  uint64_t sectors = WINDOW_CLUSTERS * per_cluster, most;

  switch (request->kind) {
  case REQUEST_FLUSH:
    return;
  case REQUEST_TRIM:
    n = random_between (random, 1, 2);
    at = random_below (random, WINDOW_CLUSTERS - n + 1) * per_cluster;
    n *= per_cluster;
    break;
  case REQUEST_HINT:            /* not all of a cluster */
    at = random_below (random, WINDOW_CLUSTERS) * per_cluster + 1;
    n = random_between (random, 1, per_cluster - 2);
    break;
  default:
    most = random_one_in (random, 6) ? SECTORS_MAX : 16;
    if (most > sectors)
      most = sectors;
    n = random_between (random, 1, most);
    if (random_one_in (random, 5) && per_cluster <= SECTORS_MAX)
      n = per_cluster;
    at = random_below (random, sectors - n + 1);
    if (random_one_in (random, 3))
      at = at / per_cluster * per_cluster;
  }
  request->sector = window + at;
  request->count = n;
}

static void
fill (struct slot *slot, uint32_t write)
{
  const struct request *request = slot->request;
  uint64_t i;

  for (i = 0; i < request->count; i++)
    stamp_fill (slot->buf + i * SECTOR_SIZE, request->sector + i, write);
}

/* ---- Requests ---- */

static int
answered (void *opaque, int *error)
{
  struct slot *slot = opaque;

  slot->answered = true;
  slot->error = *error;
  if (*error == 0)
    slot->request->end = record_next (counter);
  return 1;
}

static int64_t
start (struct slot *slot)
{
  const struct request *request = slot->request;
  nbd_completion_callback done = { .callback = answered, .user_data = slot };
  uint32_t flags = request->flags & REQUEST_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
  uint64_t offset = request->sector * SECTOR_SIZE;
  uint64_t count = request->count * SECTOR_SIZE;

  switch (request->kind) {
  case REQUEST_WRITE:
    return nbd_aio_pwrite (slot->h, slot->buf, count, offset, done, flags);
  case REQUEST_ZERO:
    return nbd_aio_zero (slot->h, count, offset, done, flags);
  case REQUEST_FLUSH:
    return nbd_aio_flush (slot->h, done, 0);
  default:
    return nbd_aio_trim (slot->h, count, offset, done, flags);
  }
}

static void
bring (struct slot *slot, struct random *random)
{
  struct request *request = &requests[begun++];

  request->kind = draw_kind (random);
  draw_range (random, request);
  if (request->kind != REQUEST_FLUSH && random_one_in (random, 12))
    request->flags |= REQUEST_FUA;
  request->end = UINT64_MAX;
  slot->request = request;
  slot->answered = false;
  if (request->kind == REQUEST_WRITE)
    fill (slot, next_write);
  next_write += request->kind != REQUEST_FLUSH;
  request->start = record_next (counter);
  if (start (slot) < 0)
    gone = true;
}

/* An error of a server that is about to end isn't one. */
static void
settle (void)
{
  struct slot *slot;

  for (slot = slots; slot < slots + CONNECTIONS * DEPTH; slot++) {
    if (slot->request == NULL || !slot->answered)
      continue;
    if (slot->error != 0 && slot->error != ENOTCONN &&
        slot->error != ESHUTDOWN) {
      fprintf (stderr, "power-client: request %td: %s\n",
               slot->request - requests, strerror (slot->error));
      failed = true;
    }
    slot->request = NULL;
  }
}

/* Also by a request that couldn't be sent. */
static bool
is_lost (struct nbd_handle *h)
{
  return nbd_aio_is_dead (h) || nbd_aio_is_closed (h);
}

/* Wait for something to happen on a connection, among those that are there. */
static void
turn (void)
{
  struct pollfd fds[CONNECTIONS];
  unsigned i, direction, here = 0;

  for (i = 0; i < CONNECTIONS; i++) {
    fds[i].fd = -1;
    fds[i].revents = 0;
    if (is_lost (connections[i])) {
      gone = true;
      continue;
    }
    here++;
    direction = nbd_aio_get_direction (connections[i]);
    fds[i].fd = nbd_aio_get_fd (connections[i]);
    fds[i].events =
      (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
      (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
  }
  if (here > 0 && poll (fds, CONNECTIONS, 30000) == 0) {
    fprintf (stderr, "power-client: the server doesn't answer\n");
    failed = true;
  }
  for (i = 0; i < CONNECTIONS; i++) {
    if ((fds[i].revents & (POLLIN | POLLHUP | POLLERR) &&
         nbd_aio_notify_read (connections[i]) < 0) ||
        (fds[i].revents == POLLOUT &&
         nbd_aio_notify_write (connections[i]) < 0))
      gone = true;
  }
  settle ();
}

static bool
busy (void)
{
  unsigned i;

  for (i = 0; i < CONNECTIONS * DEPTH; i++)
    if (slots[i].request)
      return true;
  return false;
}

static void
work (uint64_t until, struct random *random)
{
  unsigned i;

  while (!gone && !failed && (begun < until || busy ())) {
    for (i = 0; i < CONNECTIONS * DEPTH && begun < until && !gone; i++)
      if (slots[i].request == NULL)
        bring (&slots[i], random);
    if (!gone)
      turn ();
  }
}

/* What is on its way is not left alone: nbdkit before 1.34 ends at once if it
 * can't send a second reply.
 */
static void
drain (void)
{
  unsigned i, here = CONNECTIONS;

  while (gone && !failed && here > 0) {
    turn ();
    for (i = here = 0; i < CONNECTIONS; i++)
      here += !is_lost (connections[i]);
  }
}

/* Between its parts the guest is idle for longer than the server waits until
 * it cleans the image.
 */
static void
run (void)
{
  struct random random = { .state = random_mix (options.seed) };
  uint64_t part;

  for (part = 1; part <= options.pauses + 1 && !gone && !failed; part++) {
    work (options.requests * part / (options.pauses + 1), &random);
    if (!gone && !failed && part <= options.pauses)
      usleep (1400000);
  }
}

/* ---- The command line ---- */

static void
usage (FILE *out)
{
  fprintf (out, "power-client [OPTIONS] URI SESSION\n"
           "  --seed N      what is asked for [1]\n"
           "  --places N    where [1]\n"
           "  --first N     the number of the first write [1]\n"
           "  --requests N  so many [1000]\n"
           "  --cluster N   the image's cluster size [65536]\n"
           "  --pauses N    be idle so many times [0]\n"
           "  --may-die     the server may go away\n");
}

static void
parse (int argc, char **argv)
{
  static const struct option known[] = {
    { "seed", required_argument, NULL, 's' },
    { "places", required_argument, NULL, 'l' },
    { "first", required_argument, NULL, 'f' },
    { "requests", required_argument, NULL, 'r' },
    { "cluster", required_argument, NULL, 'c' },
    { "pauses", required_argument, NULL, 'p' },
    { "may-die", no_argument, NULL, 'd' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = getopt_long (argc, argv, "", known, NULL)) != -1)
    switch (c) {
    case 's': options.seed = strtoull (optarg, NULL, 0); break;
    case 'l': options.places = strtoull (optarg, NULL, 0); break;
    case 'f': options.first = strtoull (optarg, NULL, 0); break;
    case 'r': options.requests = strtoull (optarg, NULL, 0); break;
    case 'c': options.cluster = strtoull (optarg, NULL, 0); break;
    case 'p': options.pauses = strtoull (optarg, NULL, 0); break;
    case 'd': options.may_die = true; break;
    case 'h': usage (stdout); exit (0);
    default: usage (stderr); exit (2);
    }
  if (argc - optind != 2) {
    usage (stderr);
    exit (2);
  }
  options.uri = argv[optind];
  options.session = argv[optind + 1];
}

static void
save (void)
{
  char path[4096];
  FILE *f;

  snprintf (path, sizeof path, "%s/requests", options.session);
  f = fopen (path, "w");
  if (f == NULL || fwrite (requests, sizeof *requests, begun, f) != begun ||
      fclose (f) != 0)
    die (path);
}

int
main (int argc, char **argv)
{
  char path[4096];
  unsigned i;

  parse (argc, argv);
  snprintf (path, sizeof path, "%s/counter", options.session);
  counter = record_map_counter (path);
  requests = calloc (options.requests + 1, sizeof *requests);
  if (counter == NULL || requests == NULL)
    die (path);
  next_write = (uint32_t) options.first;
  for (i = 0; i < CONNECTIONS; i++) {
    connections[i] = nbd_create ();
    if (connections[i] == NULL ||
        nbd_connect_uri (connections[i], options.uri) < 0)
      die (options.uri);
  }
  for (i = 0; i < CONNECTIONS * DEPTH; i++)
    slots[i].h = connections[i % CONNECTIONS];
  draw_windows ();
  run ();
  drain ();
  save ();
  printf ("%" PRIu64 " requests, writes %" PRIu64 " to %" PRIu32 "%s\n",
          begun, options.first, next_write - 1, gone ? ", the server was gone"
          : "");
  return failed || (gone && !options.may_die);
}
