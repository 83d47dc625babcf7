/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See sim-storage.h.  What a file system doesn't promise isn't kept here:
 * long writes are seen piece by piece.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"
#include "yield.h"

#define PIECE_SECTORS 8u        /* shorter ones are written at once */
#define PUNCHED_MAX 64u
#define STALLS 30u              /* one in so many transfers */

struct sim_storage {
  struct storage storage;
  struct disk *disk;
  struct random random;
  struct {
    uint64_t offset, end;
  } punched[PUNCHED_MAX];       /* the last ones, as they come */
  unsigned punch_count;
};

struct disk *sim_storage_disk;
struct disk *sim_storage_backing_disk;
struct disk *sim_storage_below_disk;
uint64_t sim_storage_reused;
unsigned sim_storage_sync_fails;
bool sim_storage_sync_failed;

static struct sim_storage *
sim_of (struct storage *s)
{
  return (struct sim_storage *) s;
}

/* Now and then a caller's transfer takes so long that others do much
 * meanwhile.
 */
static void
stall (struct sim_storage *sim)
{
  double until = sim_now () +
    (double) random_below (&sim->random, 1000) / 1e3;

  if (fiber_kind_self () != FIBER_CALLER ||
      !random_one_in (&sim->random, STALLS))
    return;
  sim_trace ("this takes a while");
  while (sim_now () < until)
    fiber_wait (sim, until);
}

static int
sim_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  struct disk *disk = sim_of (s)->disk;
  const unsigned char *sector;
  size_t in, n;

  sim_yield ("pread");
  stall (sim_of (s));
  sim_trace ("read 0x%" PRIx64 "+0x%zx", offset, count);
  while (count > 0) {
    in = offset % SECTOR;
    n = count < SECTOR - in ? count : SECTOR - in;
    sector = disk_sector (disk, offset / SECTOR);
    if (sector)
      memcpy (buf, sector + in, n);
    else
      memset (buf, 0, n);
    buf = (char *) buf + n;
    count -= n;
    offset += n;
  }
  sim_yield ("pread-done");
  return 0;
}

/* How much of a long transfer happens before others see it. */
static uint64_t
piece (struct sim_storage *sim, uint64_t sectors)
{
  if (sectors <= PIECE_SECTORS || random_one_in (&sim->random, 2))
    return sectors;
  return random_between (&sim->random, 1, sectors);
}

/* A request writes there: to what was punched, if it was reused. */
static void
note_reuse (struct sim_storage *sim, uint64_t offset, uint64_t count)
{
  unsigned i;

  for (i = 0; i < PUNCHED_MAX; i++)
    if (offset < sim->punched[i].end &&
        sim->punched[i].offset < offset + count) {
      sim->punched[i].end = 0;
      sim_storage_reused++;
    }
}

static unsigned
begin_write (struct sim_storage *sim, const char *what, uint64_t offset,
             size_t count)
{
  unsigned op = disk_begin (sim->disk, offset == 0 ? DISK_HEADER
                            : fiber_kind_self () == FIBER_CALLER
                            ? DISK_DATA : DISK_TABLES);

  assert (!sim->storage.read_only);
  assert (offset % SECTOR == 0 && count % SECTOR == 0);
  note_reuse (sim, offset, count);
  sim_trace ("%s 0x%" PRIx64 "+0x%zx (operation %u)", what, offset, count,
             op);
  return op;
}

static void
write_pieces (struct sim_storage *sim, unsigned op, const unsigned char *buf,
              size_t count, uint64_t offset)
{
  uint64_t n;

  while (count > 0) {
    n = piece (sim, count / SECTOR);
    disk_write (sim->disk, op, offset / SECTOR, n, buf);
    sim_yield ("pwrite-piece");
    buf += n * SECTOR;
    offset += n * SECTOR;
    count -= n * SECTOR;
  }
}

static int
sim_pwrite (struct storage *s, const void *buf, size_t count, uint64_t offset)
{
  struct sim_storage *sim = sim_of (s);
  unsigned op;

  sim_yield ("pwrite");
  stall (sim);
  op = begin_write (sim, "write", offset, count);
  write_pieces (sim, op, buf, count, offset);
  disk_complete (sim->disk, op);
  return 0;
}

static int
sim_pwritev (struct storage *s, const struct iovec *iov, int n,
             uint64_t offset)
{
  struct sim_storage *sim = sim_of (s);
  size_t count = 0;
  unsigned op;
  int i;

  sim_yield ("pwritev");
  for (i = 0; i < n; i++)
    count += iov[i].iov_len;
  op = begin_write (sim, "writev", offset, count);
  for (i = 0; i < n; i++) {
    write_pieces (sim, op, iov[i].iov_base, iov[i].iov_len, offset);
    offset += iov[i].iov_len;
  }
  disk_complete (sim->disk, op);
  return 0;
}

static void
zero_pieces (struct sim_storage *sim, unsigned op, uint64_t offset,
             uint64_t count)
{
  uint64_t n;

  while (count > 0) {
    n = piece (sim, count / SECTOR);
    disk_zero (sim->disk, op, offset / SECTOR, n);
    sim_yield ("zero-piece");
    offset += n * SECTOR;
    count -= n * SECTOR;
  }
}

static int
sim_zero (struct storage *s, uint64_t offset, uint64_t count)
{
  struct sim_storage *sim = sim_of (s);
  unsigned op;

  sim_yield ("zero");
  stall (sim);
  assert (!s->read_only && offset % SECTOR == 0 && count % SECTOR == 0);
  note_reuse (sim, offset, count);
  op = disk_begin (sim->disk, DISK_ZERO);
  sim_trace ("zero 0x%" PRIx64 "+0x%" PRIx64 " (operation %u)", offset, count,
             op);
  zero_pieces (sim, op, offset, count);
  disk_complete (sim->disk, op);
  return 0;
}

/* Devices can't. */
static int
sim_punch (struct storage *s, uint64_t offset, uint64_t count)
{
  struct sim_storage *sim = sim_of (s);
  unsigned op, i = sim->punch_count++ % PUNCHED_MAX;

  sim_yield ("punch");
  assert (!s->read_only && offset % SECTOR == 0 && count % SECTOR == 0);
  sim->punched[i].offset = offset;
  sim->punched[i].end = offset + count;
  if (!disk_can_grow (sim->disk))
    return -EOPNOTSUPP;
  op = disk_begin (sim->disk, DISK_PUNCH);
  sim_trace ("punch 0x%" PRIx64 "+0x%" PRIx64 " (operation %u)", offset,
             count, op);
  zero_pieces (sim, op, offset, count);
  disk_complete (sim->disk, op);
  return 0;
}

static void
sim_prefetch (struct storage *s, uint64_t offset, uint64_t count)
{
  (void) s;
  (void) offset;
  (void) count;
  sim_yield ("prefetch");
}

static int
sim_resize (struct storage *s, uint64_t length)
{
  struct disk *disk = sim_of (s)->disk;
  unsigned op;

  sim_yield ("resize");
  assert (!s->read_only && length % SECTOR == 0);
  if (!disk_can_grow (disk))
    return -EINVAL;
  if (length > disk_limit (disk) && length > disk_length (disk)) {
    sim_trace ("resize 0x%" PRIx64 ": no space", length);
    return -ENOSPC;
  }
  op = disk_begin (disk, DISK_LENGTH);
  sim_trace ("resize 0x%" PRIx64 " (operation %u)", length, op);
  disk_resize (disk, op, length);
  sim_yield ("resize-done");
  disk_complete (disk, op);
  return 0;
}

static int
sim_length (struct storage *s, uint64_t *length)
{
  *length = disk_length (sim_of (s)->disk);
  return 0;
}

static int
sim_sync (struct storage *s)
{
  struct sim_storage *sim = sim_of (s);

  sim_yield ("sync");
  assert (!s->read_only);
  sim_trace ("sync begins");
  disk_sync_begin (sim->disk, &sim->random);
  sim_yield ("syncing");
  sim_yield ("syncing");
  if (sim->disk == sim_storage_disk && sim_storage_sync_fails > 0 &&
      --sim_storage_sync_fails == 0) {
    disk_sync_fail (sim->disk, &sim->random);
    sim_storage_sync_failed = true;
    sim_trace ("sync fails");
    return -EIO;
  }
  disk_sync_end (sim->disk);
  sim_trace ("sync ends");
  sim_yield ("sync-done");
  return 0;
}

static int
sim_next_data (struct storage *s, uint64_t offset, uint64_t *start,
               uint64_t *end)
{
  struct disk *disk = sim_of (s)->disk;
  uint64_t limit = (disk_length (disk) + BLOCK - 1) / BLOCK;
  uint64_t block = disk_next_block (disk, offset / BLOCK, limit);

  *start = *end = UINT64_MAX;
  if (block >= limit || offset >= disk_length (disk))
    return 0;
  *start = block * BLOCK > offset ? block * BLOCK : offset;
  while (block < limit && disk_has_block (disk, block))
    block++;
  *end = block * BLOCK;
  if (*end > disk_length (disk))
    *end = disk_length (disk);
  return 0;
}

static int
sim_downgrade (struct storage *s)
{
  s->read_only = true;
  s->can_grow = false;
  return 0;
}

static void
sim_close (struct storage *s)
{
  free (s);
}

static const struct storage_ops sim_ops = {
  .pread = sim_pread,
  .pwrite = sim_pwrite,
  .pwritev = sim_pwritev,
  .zero = sim_zero,
  .punch = sim_punch,
  .prefetch = sim_prefetch,
  .resize = sim_resize,
  .length = sim_length,
  .sync = sim_sync,
  .next_data = sim_next_data,
  .downgrade = sim_downgrade,
  .close = sim_close,
};

struct storage *
sim_storage_open (struct disk *disk, struct random *random)
{
  struct sim_storage *sim = calloc (1, sizeof *sim);

  if (sim == NULL)
    abort ();
  sim->storage.ops = &sim_ops;
  sim->storage.can_grow = disk_can_grow (disk);
  sim->storage.fixed = !sim->storage.can_grow;
  sim->disk = disk;
  sim->random = random_fork (random);
  return &sim->storage;
}

/* ---- The backing files ---- */

struct sim_backing {
  struct storage storage;
  enum stamp_file file;
};

static enum stamp_file
file_of (const struct storage *s)
{
  return ((const struct sim_backing *) s)->file;
}

static int
backing_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  const unsigned char *data;
  size_t i;

  assert (offset % SECTOR == 0 && count % SECTOR == 0);
  sim_yield ("backing-pread");
  sim_trace ("read 0x%" PRIx64 "+0x%zx of backing file %d", offset, count,
             (int) file_of (s));
  for (i = 0; i < count / SECTOR; i++) {
    data = stamp_file_data (file_of (s), offset / SECTOR + i);
    if (data)
      memcpy ((char *) buf + i * SECTOR, data, SECTOR);
    else
      memset ((char *) buf + i * SECTOR, 0, SECTOR);
  }
  sim_yield ("backing-pread-done");
  return 0;
}

static int
backing_length (struct storage *s, uint64_t *length)
{
  *length = SECTOR * (file_of (s) == STAMP_FIRST_FILE ? stamp_backing.sectors
                      : stamp_backing.second_sectors);
  return 0;
}

static int
backing_next_data (struct storage *s, uint64_t offset, uint64_t *start,
                   uint64_t *end)
{
  uint64_t block = stamp_next_block (file_of (s), offset / BLOCK);

  *start = *end = UINT64_MAX;
  if (block == UINT64_MAX)
    return 0;
  *start = block * BLOCK > offset ? block * BLOCK : offset;
  while (stamp_next_block (file_of (s), block) == block)
    block++;
  *end = block * BLOCK;
  return 0;
}

static const struct storage_ops backing_ops = {
  .pread = backing_pread,
  .prefetch = sim_prefetch,
  .length = backing_length,
  .next_data = backing_next_data,
  .close = sim_close,
};

int
storage_file_open_fd (int fd, const char *path,
                      const struct qed_options *options,
                      struct storage **storage)
{
  enum stamp_file file = strcmp (path, SIM_STORAGE_BACKING) == 0
    ? STAMP_FIRST_FILE : STAMP_SECOND_FILE;
  struct random random = { sim_ticks () };
  struct sim_backing *backing;

  (void) options;
  close (fd);
  if (file == STAMP_FIRST_FILE && sim_storage_below_disk) {
    *storage = sim_storage_open (sim_storage_below_disk, &random);
    (*storage)->read_only = true;
    return 0;
  }
  backing = calloc (1, sizeof *backing);
  if (backing == NULL)
    return -ENOMEM;
  backing->file = file;
  backing->storage.ops = &backing_ops;
  backing->storage.read_only = true;
  *storage = &backing->storage;
  return 0;
}

/* There is no network on the simulated machine. */
int
storage_nbd_open (const char *uri, const char *about, unsigned flags,
                  const struct qed_log *log, struct storage **storage)
{
  (void) uri;
  (void) about;
  (void) flags;
  (void) log;
  *storage = NULL;
  return -ENETUNREACH;
}

/* ---- What the engine looks for in storage-file.c ---- */

int
storage_file_open (const struct qed_options *options,
                   struct storage **storage)
{
  struct random random = { sim_ticks () };
  struct disk *disk = strcmp (options->path, SIM_STORAGE_BACKING) == 0
    ? sim_storage_backing_disk : sim_storage_disk;

  if (disk == NULL)
    return -ENOENT;
  *storage = sim_storage_open (disk, &random);
  (*storage)->read_only = options->read_only;
  return 0;
}
