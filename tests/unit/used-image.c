/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format.h"
#include "random.h"
#include "sync-request.h"
#include "used-image.h"

char path[80];
struct qed_image *image;
_Atomic int phase;
_Atomic unsigned failures, refused;
bool may_lose, twin;
_Atomic bool may_fail;

static char directory[] = "/tmp/test-online-tables.XXXXXX";
static char base[80];
static uint64_t entries;       /* of a table */
static bool with_base;
static _Atomic bool stop;

/* ---- The file ---- */

void
poke (uint64_t offset, uint64_t value, size_t bytes)
{
  unsigned char buf[8];
  int fd = open (path, O_RDWR);

  assert_true (fd >= 0);
  format_put64 (buf, value);
  assert_int_equal (pwrite (fd, buf, bytes, (off_t) offset), bytes);
  close (fd);
}

uint64_t
peek (uint64_t offset)
{
  unsigned char buf[8];
  int fd = open (path, O_RDONLY);

  assert_true (fd >= 0);
  assert_int_equal (pread (fd, buf, sizeof buf, (off_t) offset), 8);
  close (fd);
  return format_get64 (buf);
}

uint64_t
append (uint64_t n)
{
  int fd = open (path, O_RDWR);
  off_t end = lseek (fd, 0, SEEK_END);

  assert_true (end > 0);
  end = (off_t) (((uint64_t) end + CLUSTER - 1) & -CLUSTER);
  assert_int_equal (ftruncate (fd, end + (off_t) (n * CLUSTER)), 0);
  close (fd);
  return (uint64_t) end;
}

uint64_t
append_data (unsigned char byte)
{
  unsigned char buf[CLUSTER];
  uint64_t at = append (1);
  int fd = open (path, O_RDWR);

  memset (buf, byte, sizeof buf);
  assert_int_equal (pwrite (fd, buf, sizeof buf, (off_t) at), CLUSTER);
  close (fd);
  return at;
}

uint64_t
table_at (uint64_t l1_index)
{
  return peek (L1 + l1_index * 8);
}

static void
make_base (void)
{
  unsigned char *buf = malloc (1 << 20);
  int fd = open (base, O_RDWR | O_CREAT | O_TRUNC, 0600);
  uint64_t at, bytes = TABLES * entries * CLUSTER;

  assert_true (fd >= 0 && buf != NULL);
  memset (buf, BASE_BYTE, 1 << 20);
  for (at = 0; at < bytes; at += 1 << 20)
    assert_int_equal (pwrite (fd, buf, 1 << 20, (off_t) at), 1 << 20);
  close (fd);
  free (buf);
}

void
open_image (void)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.backing = QED_BACKING_ANY;
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.clean_after = 1;
  options.log.fn = log_quietly;
  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
}

uint64_t
guest (uint64_t table, uint64_t cluster)
{
  return (table * entries + cluster) * CLUSTER;
}

unsigned char
content (uint64_t table, uint64_t cluster)
{
  return (unsigned char) (1 + table * PER_TABLE + cluster);
}

void
make_image (unsigned table_size, bool over_base)
{
  struct qed_create_options options;
  unsigned char buf[CLUSTER];
  uint64_t table, cluster;

  entries = table_size * PER_CLUSTER;
  with_base = over_base;
  qed_create_options_init (&options);
  options.path = path;
  options.size = TABLES * entries * CLUSTER;
  options.cluster_size = CLUSTER;
  options.table_size = table_size;
  options.force = true;
  if (with_base) {
    make_base ();
    options.backing = base;
    options.backing_raw = true;
  }
  options.log.fn = log_quietly;
  assert_int_equal (qed_create (&options), 0);
  poke (AT_HEADER_SIZE, 2, 4);
  poke (AT_L1_OFFSET, L1, 8);
  append (1);
  open_image ();
  for (table = 0; table < FILLED; table++)
    for (cluster = 0; cluster < PER_TABLE; cluster++) {
      memset (buf, content (table, cluster), sizeof buf);
      assert_int_equal (sync_request (image, QED_OP_WRITE, buf, CLUSTER,
                                      guest (table, cluster), 0), 0);
    }
  assert_int_equal (qed_close (image), 0);
}

/* ---- The threads ---- */

static void
failed (const char *what, uint64_t at, int r, unsigned is, unsigned want)
{
  if (atomic_fetch_add (&failures, 1) < 10)
    fprintf (stderr, "%s at 0x%llx: %s, 0x%x, expected 0x%x\n", what,
             (unsigned long long) at, strerror (-r), is, want);
}

static unsigned char
nothing (void)
{
  return with_base ? BASE_BYTE : 0;
}

static void
read_filled (uint64_t *seed)
{
  uint64_t table = random_below (seed, FILLED + twin);
  uint64_t cluster = random_below (seed, PER_TABLE);
  uint64_t of = table == FILLED ? HURT : table;
  uint64_t at = guest (table == FILLED ? SPARE : table, cluster);
  unsigned char buf[CLUSTER], want = content (of, cluster);
  int before = atomic_load (&phase);
  int r = sync_request (image, QED_OP_READ, buf, CLUSTER, at, 0);
  bool loses = may_lose && of == HURT;

  if (may_fail && of == HURT && cluster == 0 && r == -EIO &&
      (before == DAMAGED || atomic_load (&phase) != before))
    return;
  if (loses && (r == -EIO || (r == 0 && buf[0] == nothing ())))
    return;
  if (r < 0 || buf[0] != want || buf[CLUSTER - 1] != want)
    failed ("reading", at, r, buf[0], want);
}

void
read_own (struct worker *w, uint64_t n)
{
  uint64_t at = guest (OWN, w->first + n);
  unsigned char buf[CLUSTER];
  int r = sync_request (image, QED_OP_READ, buf, CLUSTER, at, 0);

  if (r < 0 || buf[0] != w->own[n] || buf[CLUSTER - 1] != w->own[n])
    failed ("reading what was written", at, r, buf[0], w->own[n]);
}

static void
change_own (struct worker *w, uint64_t n)
{
  int before = atomic_load (&phase);
  bool zero = random_below (&w->seed, 4) == 0;
  unsigned char buf[CLUSTER];
  uint64_t at = guest (OWN, w->first + n);
  int r;

  memset (buf, (int) (1 + random_below (&w->seed, 255)), sizeof buf);
  r = sync_request (image, zero ? QED_OP_ZERO : QED_OP_WRITE, buf, CLUSTER, at,
                    random_below (&w->seed, 50) == 0 ? QED_FUA : 0);
  if (r == -EROFS && (before == DAMAGED || atomic_load (&phase) != before))
    atomic_fetch_add (&refused, 1);
  else if (r < 0)
    failed ("writing", at, r, 0, 0);
  else
    w->own[n] = zero ? 0 : buf[0];
}

static void *
work (void *arg)
{
  struct worker *w = arg;
  uint64_t n;

  while (!atomic_load (&stop)) {
    n = random_below (&w->seed, OWN_CLUSTERS);
    switch (random_below (&w->seed, 8)) {
    case 0: case 1: case 2:
      read_filled (&w->seed);
      break;
    case 3: case 4:
      read_own (w, n);
      break;
    default:
      change_own (w, n);
    }
  }
  return NULL;
}

struct worker workers[THREADS];

void
start_workers (void)
{
  unsigned i;

  atomic_store (&stop, false);
  atomic_store (&failures, 0);
  atomic_store (&refused, 0);
  for (i = 0; i < THREADS; i++) {
    memset (&workers[i], 0, sizeof workers[i]);
    memset (workers[i].own, nothing (), sizeof workers[i].own);
    workers[i].seed = i + 1;
    workers[i].first = i * OWN_CLUSTERS;
    assert_int_equal (pthread_create (&workers[i].thread, NULL, work,
                                      &workers[i]), 0);
  }
  usleep (20000);
}

void
stop_workers (void)
{
  unsigned i;

  usleep (20000);
  atomic_store (&stop, true);
  for (i = 0; i < THREADS; i++)
    pthread_join (workers[i].thread, NULL);
  assert_int_equal (failures, 0);
}

int
used_setup (void **state)
{
  (void) state;
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/image.qed", directory);
  snprintf (base, sizeof base, "%s/base.raw", directory);
  return 0;
}

int
used_teardown (void **state)
{
  (void) state;
  unlink (path);
  unlink (base);
  return rmdir (directory);
}
