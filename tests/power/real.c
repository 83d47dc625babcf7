/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libnbd.h>

#include "judge.h"
#include "real.h"
#include "replay.h"
#include "sim.h"
#include "stamp.h"

#define READ_SECTORS 128u       /* at most, in one request */

/* ---- Through the server ---- */

static struct nbd_handle *
serve (const struct real *real)
{
  char *argv[] = { (char *) real->nbdkit, (char *) "-s", (char *) "qed",
                   (char *) real->path, (char *) "check=auto",
                   (char *) "clean-after=0",
                   (char *) "pending-log=off",  /* it goes with the power */
                   NULL };
  struct nbd_handle *h = nbd_create ();

  if (h == NULL || nbd_connect_command (h, argv) < 0)
    sim_violation ("the plugin can't serve it: %s", nbd_get_error ());
  if (nbd_is_read_only (h) != 0)
    sim_violation ("the plugin serves it read-only");
  return h;
}

/* What the guest reads is what the tables said, but for entries that a repair
 * removes, and what it may rely on.
 */
static void
read_through (struct nbd_handle *h, const struct disk *disk,
              const struct walk *walk, const struct promise *promise,
              uint64_t time, uint64_t sector, uint64_t n)
{
  static const unsigned char zeros[SECTOR];
  static unsigned char buf[READ_SECTORS * SECTOR];
  const unsigned char *data, *found;
  uint64_t i;

  memset (buf, 0xa5, sizeof buf);
  if (nbd_pread (h, buf, n * SECTOR, sector * SECTOR, 0) < 0)
    sim_violation ("served: reading guest sector 0x%" PRIx64 ": %s", sector,
                   nbd_get_error ());
  for (i = 0; i < n; i++) {
    found = buf + i * SECTOR;
    data = walk_sector (disk, walk, sector + i);
    if (memcmp (found, data ? data : zeros, SECTOR) != 0)
      sim_violation ("served: guest sector 0x%" PRIx64 " reads as %s, not "
                     "what the tables say", sector + i,
                     stamp_to_text (found));
    if (!promise_allows_crash (promise, sector + i,
                               stamp_read (found, sector + i), time))
      sim_violation ("served: guest sector 0x%" PRIx64 " holds %s",
                     sector + i, stamp_to_text (found));
  }
}

static int
compare_sectors (const void *a, const void *b)
{
  uint64_t s = *(const uint64_t *) a, t = *(const uint64_t *) b;

  return s < t ? -1 : s > t;
}

static void
read_all (struct nbd_handle *h, const struct disk *disk,
          const struct walk *walk, const struct promise *promise,
          uint64_t time)
{
  size_t count = promise->record_count, i;
  uint64_t *sectors = malloc ((count + 1) * sizeof *sectors), n;

  if (sectors == NULL)
    abort ();
  for (i = 0; i < count; i++)
    sectors[i] = promise->records[i].sector;
  qsort (sectors, count, sizeof *sectors, compare_sectors);
  for (i = 0; i < count; i += n) {
    for (n = 1; i + n < count && n < READ_SECTORS &&
           sectors[i + n] == sectors[i] + n; n++)
      ;
    read_through (h, disk, walk, promise, time, sectors[i], n);
  }
  free (sectors);
}

/* ---- What it leaves ---- */

/* The exit status of a program that says nothing to us. */
static int
run (const char *program, const char *path)
{
  char command[8192];
  int status;

  snprintf (command, sizeof command, "%s '%s' >/dev/null 2>&1", program,
            path);
  status = system (command);
  return WIFEXITED (status) ? WEXITSTATUS (status) : -1;
}

/* QEMU calls what is free inside the file leaked: exit status 3. */
static void
judge_repaired (const struct real *real, const struct promise *promise,
                uint64_t time)
{
  struct disk *disk = replay_read_file (real->path);
  struct walk walk;
  struct verdict verdict = { .what = "repaired by the plugin", .time = time,
                             .clean = true, .reference = &walk };
  int r;

  walk_image (disk, &walk);
  verdict.image_sizes[0] = verdict.image_sizes[1] = walk.image_size;
  judge_state (disk, &walk, promise, &verdict);
  walk_destroy (&walk);
  disk_destroy (disk);
  r = run ("timeout 60 qedctl check", real->path);
  if (r != 0)
    sim_violation ("qedctl check of the repaired image ends with %d", r);
  r = run ("timeout 60 qemu-img check -f qed", real->path);
  if (r != 0 && r != 3)
    sim_violation ("qemu-img check of the repaired image ends with %d", r);
}

void
real_judge (const struct real *real, const struct disk *disk,
            const struct walk *walk, const struct promise *promise,
            uint64_t time)
{
  struct nbd_handle *h;

  replay_write_file (disk, real->path);
  h = serve (real);
  read_all (h, disk, walk, promise, time);
  nbd_shutdown (h, 0);
  nbd_close (h);                /* waits for the server's end */
  judge_repaired (real, promise, time);
  unlink (real->path);
}
