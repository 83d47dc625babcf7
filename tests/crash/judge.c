/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "judge.h"
#include "pending.h"
#include "sim-pending.h"
#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"
#include "workload.h"

#define READ_SECTORS 64u        /* at most, in one request */

/* ---- The content ---- */

static void
judge_sector (const struct walk *walk, const struct promise *promise,
              const struct verdict *verdict, uint64_t sector,
              const unsigned char *data)
{
  uint32_t found = stamp_read (data, sector);
  bool good = verdict->running
    ? promise_allows_read (promise, sector, found, verdict->time,
                           verdict->time)
    : promise_allows_crash (promise, sector, found, verdict->time);

  if (!good && sector * SECTOR < walk->image_size)
    sim_violation ("%s: guest sector 0x%" PRIx64 " holds %s", verdict->what,
                   sector, stamp_to_text (data));
}

/* Over a backing file zeros say as much as anything else. */
static void
judge_all_of_it (const struct disk *disk, const struct walk *walk,
                 const struct promise *promise, const struct verdict *verdict)
{
  uint64_t per_cluster = walk->cluster_size / SECTOR, s;
  size_t i;

  for (i = 0; i < walk->entry_count; i++)
    for (s = walk->entries[i].cluster * per_cluster;
         s < (walk->entries[i].cluster + 1) * per_cluster &&
         s * SECTOR < walk->image_size; s++)
      judge_sector (walk, promise, verdict, s, walk_sector (disk, walk, s));
}

/* All that isn't zeros in the clusters that the tables name. */
static void
judge_clusters (const struct disk *disk, const struct walk *walk,
                const struct promise *promise, const struct verdict *verdict)
{
  uint64_t per_cluster = walk->cluster_size / SECTOR, b, s, limit;
  const struct walk_entry *entry;
  const unsigned char *data;
  size_t i;

  for (i = 0; i < walk->entry_count; i++) {
    entry = &walk->entries[i];
    if (entry->offset == 0 || entry->past_end)
      continue;
    limit = (entry->offset + walk->cluster_size) / BLOCK;
    for (b = disk_next_block (disk, entry->offset / BLOCK, limit); b < limit;
         b = disk_next_block (disk, b + 1, limit))
      for (s = b * BLOCK_SECTORS; s < (b + 1) * BLOCK_SECTORS; s++) {
        data = disk_sector (disk, s);
        if (data)
          judge_sector (walk, promise, verdict, entry->cluster * per_cluster +
                        s - entry->offset / SECTOR, data);
      }
  }
}

/* Without NEED_CHECK the tables are those of the last clean moment (O1,
 * O7).
 */
static void
judge_unmarked (const struct disk *disk, const struct walk *walk,
                const struct verdict *verdict)
{
  const struct walk *was = verdict->reference;
  const struct walk_use *use;
  size_t i;

  if (walk->debris_count > 0)
    sim_violation ("%s: the entry at 0x%" PRIx64 " is past the end (0x%"
                   PRIx64 ") and NEED_CHECK is clear", verdict->what,
                   walk->debris[0], disk_length (disk));
  for (i = 0; !verdict->replayed && i < walk->use_count &&
         i < was->use_count; i++) {
    use = &walk->uses[i];
    if (use->cluster != was->uses[i].cluster || use->who != was->uses[i].who)
      break;
  }
  if (!verdict->replayed &&
      (i < walk->use_count || i < was->use_count ||
       walk->entry_count != was->entry_count))
    sim_violation ("%s: the tables have changed and NEED_CHECK is clear",
                   verdict->what);
}

/* What is others' stays; unknown autoclear bits go before anything else is
 * written.
 */
static void
judge_header (const struct disk *disk, const struct walk *walk,
              const struct promise *promise, const struct verdict *verdict)
{
  const struct sector_record *record = promise->records;
  uint64_t unknown = walk->autoclear_features & ~PENDING_TOKEN;

  if (!walk_same_header (walk, verdict->reference))
    sim_violation ("%s: bytes of the header were changed that aren't ours",
                   verdict->what);
  if (walk->features & WALK_NEED_CHECK && unknown != 0)
    sim_violation ("%s: NEED_CHECK is set, and the autoclear features are "
                   "still 0x%" PRIx64, verdict->what, unknown);
  if (!(walk->features & WALK_NEED_CHECK) &&
      walk->autoclear_features & PENDING_TOKEN) /* O10 */
    sim_violation ("%s: NEED_CHECK is clear, and the log's autoclear features "
                   "are still there", verdict->what);
  for (; record < promise->records + promise->record_count; record++)
    if (unknown != 0 &&
        record->sector * SECTOR < walk->image_size &&
        stamp_read (walk_sector (disk, walk, record->sector),
                    record->sector) != record->base)
      sim_violation ("%s: data was written, and the autoclear features are "
                     "still 0x%" PRIx64, verdict->what, unknown);
}

void
judge_state (const struct disk *disk, const struct walk *walk,
             const struct promise *promise, const struct verdict *verdict)
{
  bool marked = walk->features & WALK_NEED_CHECK;
  size_t i;

  if (walk->problem[0])
    sim_violation ("%s: %s (NEED_CHECK is %s)", verdict->what, walk->problem,
                   marked ? "set" : "clear");
  if (verdict->clean && marked)
    sim_violation ("%s: NEED_CHECK is set", verdict->what);
  if (walk->image_size != verdict->image_sizes[0] &&
      walk->image_size != verdict->image_sizes[1])
    sim_violation ("%s: the image has 0x%" PRIx64 " bytes, neither 0x%" PRIx64
                   " nor 0x%" PRIx64, verdict->what, walk->image_size,
                   verdict->image_sizes[0], verdict->image_sizes[1]);
  if (walk->beyond > 0 && !verdict->beyond)
    sim_violation ("%s: %zu entries are for what lies beyond the image",
                   verdict->what, walk->beyond);
  judge_header (disk, walk, promise, verdict);
  if (!marked)
    judge_unmarked (disk, walk, verdict);
  if (walk->table_past_end)     /* O4 */
    sim_violation ("%s: an L1 entry names a table past the end (0x%" PRIx64
                   ")", verdict->what, disk_length (disk));
  if (walk->features & WALK_BACKING) {
    if (walk->debris_count > 0) /* O3 */
      sim_violation ("%s: over a backing file the entry at 0x%" PRIx64
                     " is past the end (0x%" PRIx64 ")", verdict->what,
                     walk->debris[0], disk_length (disk));
    judge_all_of_it (disk, walk, promise, verdict);
  }
  judge_clusters (disk, walk, promise, verdict);
  for (i = 0; i < promise->record_count; i++)
    judge_sector (walk, promise, verdict, promise->records[i].sector,
                  walk_sector (disk, walk, promise->records[i].sector));
}

/* ---- After a clean close ---- */

static bool
is_hole (const struct disk *disk, const struct walk *walk, uint64_t cluster)
{
  uint64_t per_cluster = walk->cluster_size / SECTOR, s;

  for (s = cluster * per_cluster; s < (cluster + 1) * per_cluster; s++)
    if (disk_sector (disk, s))
      return false;
  return true;
}

/* What was free before may have stayed as it was; what wasn't is free now
 * only if it reads as zeros, or can't be punched.
 */
void
judge_closed (const struct disk *disk, const struct walk *walk,
              const struct disk *before, const struct walk *was, bool changed)
{
  uint64_t length = disk_length (disk), c;

  if (changed && disk_can_grow (disk) && length > walk->end_of_use)
    sim_violation ("the closed image is 0x%" PRIx64 " bytes long, its use "
                   "ends at 0x%" PRIx64, length, walk->end_of_use);
  for (c = 0; c < walk->end_of_use / walk->cluster_size; c++)
    if (disk_can_grow (disk) && !walk_is_used (walk, c) &&
        !is_hole (disk, walk, c) &&
        (walk_is_used (was, c) ||
         c * walk->cluster_size >= disk_length (before)))
      sim_violation ("cluster 0x%" PRIx64 " of the closed image leaked", c);
}

/* ---- Through the engine ---- */

struct reader {
  struct disk *disk;
  const struct walk *walk;
  const struct promise *promise;
  struct random *random;
  struct qed_image *image;
  bool repairs;                 /* at open, so that debris reads as zeros */
  uint64_t *sectors;            /* those written to, in order */
  size_t count;
};

/* Debris isn't followed. */
static bool
is_debris (const struct walk *walk, uint64_t cluster)
{
  const struct walk_entry *entry = walk_find (walk, cluster);

  return entry && entry->past_end;
}

/* Sectors of one cluster. */
static void
read_through (struct reader *reader, uint64_t sector, uint64_t n)
{
  const struct walk *walk = reader->walk;
  bool debris = is_debris (walk, sector * SECTOR / walk->cluster_size);
  static const unsigned char zeros[SECTOR];
  unsigned char buf[READ_SECTORS * SECTOR];
  struct qed_request request;
  const unsigned char *data;
  uint64_t i;
  int r;

  memset (buf, 0xa5, sizeof buf);
  qed_request_init (&request, QED_OP_READ, buf, n * SECTOR, sector * SECTOR,
                    0);
  r = workload_request (reader->image, &request, 0);
  if (r != (debris && !reader->repairs ? -EIO : 0))
    sim_violation ("reopened: reading guest sector 0x%" PRIx64 ": %s; the "
                   "entry is %s", sector, r < 0 ? strerror (-r) : "success",
                   debris ? "past the end" : "good");
  for (i = 0; r == 0 && i < n; i++) {
    data = walk_sector (reader->disk, walk, sector + i);
    if (memcmp (buf + i * SECTOR, data ? data : zeros, SECTOR) != 0)
      sim_violation ("reopened: guest sector 0x%" PRIx64 " reads as %s, not "
                     "what the tables say", sector + i,
                     stamp_to_text (buf + i * SECTOR));
  }
}

static int
compare_sectors (const void *a, const void *b)
{
  uint64_t s = *(const uint64_t *) a, t = *(const uint64_t *) b;

  return s < t ? -1 : s > t;
}

/* Those that lie within the image. */
static void
sort_sectors (struct reader *reader)
{
  size_t n = reader->promise->record_count, i;
  uint64_t sector;

  reader->sectors = malloc ((n + 1) * sizeof *reader->sectors);
  if (reader->sectors == NULL)
    abort ();
  reader->count = 0;
  for (i = 0; i < n; i++) {
    sector = reader->promise->records[i].sector;
    if (sector * SECTOR < reader->walk->image_size)
      reader->sectors[reader->count++] = sector;
  }
  qsort (reader->sectors, reader->count, sizeof *reader->sectors,
         compare_sectors);
}

static void
read_all (struct reader *reader)
{
  uint64_t per_cluster = reader->walk->cluster_size / SECTOR, first, n;
  size_t i;

  for (i = 0; i < reader->count; i += n) {
    first = reader->sectors[i];
    n = 1;
    while (i + n < reader->count && n < READ_SECTORS &&
           reader->sectors[i + n] == first + n &&
           (first + n) % per_cluster != 0)
      n++;
    read_through (reader, first, n);
  }
}

/* What is written by the repair at open: it is as good as new. */
static void
judge_repair (struct reader *reader)
{
  struct walk walk;

  walk_image (reader->disk, &walk);
  if (walk.problem[0])
    sim_violation ("repaired at open: %s", walk.problem);
  if (walk.features & WALK_NEED_CHECK || walk.debris_count > 0)
    sim_violation ("repaired at open: NEED_CHECK is %s, %zu entries are "
                   "past the end", walk.features & WALK_NEED_CHECK
                   ? "set" : "clear", walk.debris_count);
  walk_destroy (&walk);
}

static void
reader_fiber (void *arg)
{
  struct reader *reader = arg;
  struct qed_options options;
  struct storage *storage = sim_storage_open (reader->disk, reader->random);
  struct qed_request ready;
  int r;

  qed_options_init (&options);
  if (!(reader->walk->features & WALK_NEED_CHECK)) {
    storage->read_only = true;
    storage->can_grow = false;
  }
  else if (random_one_in (reader->random, 2))
    options.check = QED_CHECK_NEVER;    /* it becomes read-only by itself */
  else
    reader->repairs = true;
  options.path = "reopened.qed";
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.backing = QED_BACKING_ANY;
  r = image_open_storage (&options, storage, &reader->image);
  if (r == 0)
    r = qed_start (reader->image);
  if (r < 0)
    sim_violation ("it can't be reopened: %s", strerror (-r));
  qed_request_init (&ready, QED_OP_READY, NULL, 0, 0, 0);
  workload_request (reader->image, &ready, 0);
  read_all (reader);
  r = qed_close (reader->image);
  if (r < 0)
    sim_violation ("reopened, closing it fails: %s", strerror (-r));
  if (reader->repairs)
    judge_repair (reader);
}

void
judge_engine (struct disk *disk, const struct walk *walk,
              const struct promise *promise, struct random *random)
{
  struct reader reader = { .disk = disk, .walk = walk, .promise = promise,
                           .random = random };
  struct random schedule = random_fork (random);

  sort_sectors (&reader);
  sim_run (&schedule, reader_fiber, &reader);
  free (reader.sectors);
}

/* ---- After the death of the process (O10) ---- */

#define CUTS_MAX 2u             /* while a log is replayed */
#define KILLS_MAX 2u            /* one after the other */

struct survivor {
  struct disk *disk;
  struct random random;
  bool writes;                  /* entries are on their way */
  struct disk *cuts[CUTS_MAX];  /* what power cuts meanwhile leave */
  unsigned cut_count;
  unsigned kills;               /* so many may still come */
  struct disk *killed;          /* what another kill leaves, */
  void *log;                    /* and the log */
};

static struct survivor *survivor;

/* Before the first job there is only the replay. */
static void
replay_point (const char *job, const char *step)
{
  struct random *random = &survivor->random;

  survivor->writes |= strcmp (step, "pwrite-piece") == 0;
  if (job && strcmp (job, "replay") != 0)
    sim_at = NULL;
  else if (survivor->cut_count < CUTS_MAX &&
           random_one_in (random, survivor->writes ? 3 : 30))
    survivor->cuts[survivor->cut_count++] =
      disk_crash (survivor->disk, random);
  else if (survivor->kills > 0 && survivor->killed == NULL &&
           random_one_in (random, 12)) {
    survivor->killed = disk_survive (survivor->disk);
    survivor->log = sim_pending_copy ();
  }
}

static void
survivor_says (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  (void) level;
  sim_trace ("# %s", message);
}

static void
survivor_fiber (void *arg)
{
  struct survivor *s = arg;
  struct qed_options options;
  struct qed_request ready;
  struct qed_image *image;
  int r;

  qed_options_init (&options);
  options.path = "survivor.qed";
  options.log.fn = survivor_says;
  options.backing = QED_BACKING_ANY;
  r = image_open_storage (&options, sim_storage_open (s->disk, &s->random),
                          &image);
  if (r == 0)
    r = qed_start (image);
  if (r < 0)
    sim_violation ("after a kill it can't be opened: %s", strerror (-r));
  qed_request_init (&ready, QED_OP_READY, NULL, 0, 0, 0);
  workload_request (image, &ready, 0);
  r = qed_close (image);
  if (r < 0)
    sim_violation ("after a kill, closing it fails: %s", strerror (-r));
}

static void
judge_copy (struct disk *disk, const struct promise *promise,
            const struct verdict *verdict)
{
  struct walk walk;

  walk_image (disk, &walk);
  judge_state (disk, &walk, promise, verdict);
  walk_destroy (&walk);
}

static void
judge_kills (const struct disk *disk, const void *log, unsigned kills,
             const struct promise *promise, const struct verdict *verdict,
             struct random *random)
{
  struct verdict alive = *verdict;
  struct survivor s = { .disk = disk_survive (disk), .kills = kills,
                        .random = random_fork (random) };
  struct random schedule = random_fork (random);
  unsigned i;

  sim_pending_set (log);
  survivor = &s;
  sim_at = replay_point;
  sim_run (&schedule, survivor_fiber, &s);
  sim_at = NULL;
  alive.clean = alive.running = alive.replayed = true;
  judge_copy (s.disk, promise, &alive);
  for (i = 0; i < s.cut_count; i++) {
    judge_copy (s.cuts[i], promise, verdict);
    disk_destroy (s.cuts[i]);
  }
  disk_destroy (s.disk);
  if (s.killed) {
    judge_kills (s.killed, s.log, kills - 1, promise, verdict, random);
    disk_destroy (s.killed);
    free (s.log);
  }
}

void
judge_survival (const struct disk *disk, const void *log,
                const struct promise *promise, const struct verdict *verdict,
                struct random *random)
{
  judge_kills (disk, log, KILLS_MAX, promise, verdict, random);
}
