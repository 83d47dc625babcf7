/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See life.h. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "image.h"
#include "life.h"
#include "one-thread.h"
#include "probe.h"

/* A request's bytes: that of nbdkit's that are in memory, and others. */
#define BUFFER_BYTES ((size_t) 1 << 20)
#define RANGE_MAX (UINT64_C (1) << 24)

#define EXTENTS_MAX 4096u
#define PROGRESS_MAX 4096u

struct life {
  struct sparse *disk;
  struct qed_options options;
  struct qed_image *image;      /* NULL: it is closed */
  bool started;
  unsigned char *buffer;
};

/* Messages are made, to be read by the sanitizers. */
static void
take_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  if (strchr (message, '\n'))
    fuzz_fail ("a message of more than one line: %s", message);
  if (getenv ("FUZZ_LOG"))
    fprintf (stderr, "%d: %s\n", (int) level, message);
}

/* ---- What the engine looks for in the drivers ---- */

static struct sparse *the_disk;
static struct sparse base;

int
storage_file_open (const struct qed_options *options,
                   struct storage **storage)
{
  *storage = sparse_open (the_disk, options->read_only);
  return 0;
}

/* The backing files: one is raw, the other is the image once more. */
int
storage_file_open_fd (int fd, const char *path,
                      const struct qed_options *options,
                      struct storage **storage)
{
  const char *end = strrchr (path, '.');
  struct stat st;

  (void) options;
  if (fstat (fd, &st) == -1)
    abort ();
  close (fd);
  *storage = sparse_open (end && strcmp (end, ".qed") == 0 ? the_disk : &base,
                          true);
  (*storage)->device = st.st_dev;
  (*storage)->inode = st.st_ino;
  return 0;
}

int
storage_nbd_open (const char *uri, const char *about, unsigned flags,
                  const struct qed_log *log, struct storage **storage)
{
  (void) about;
  (void) flags;
  (void) log;
  (void) storage;
  fuzz_fail ("%s: a server is asked, which the policy forbids", uri);
}

/* ---- Opening and closing ---- */

static void
close_image (struct life *life)
{
  if (life->image)
    qed_close (life->image);
  life->image = NULL;
  life->disk->guest = false;
}

static bool
open_image (struct life *life, bool read_only, enum qed_check_mode check,
            bool start)
{
  close_image (life);
  life->options.read_only = read_only;
  life->options.check = check;
  if (qed_open (&life->options, &life->image) < 0) {
    life->image = NULL;
    return false;
  }
  life->started = start && qed_start (life->image) == 0;
  if (start && !life->started)
    close_image (life);
  return life->image != NULL;
}

/* For requests: as it is, or opened for writing. */
static bool
have_image (struct life *life)
{
  return (life->image && life->started) ||
    open_image (life, false, QED_CHECK_AUTO, true);
}

/* ---- Requests ---- */

struct range {
  uint64_t offset, count;
};

/* Near the start, the end, or a cluster's border; three bytes of argument. */
static struct range
choose_range (const struct life *life, uint64_t arg, uint64_t max)
{
  uint64_t size = qed_size (life->image);
  uint64_t cluster = qed_cluster_size (life->image);
  uint64_t table = life->image->geometry.entries * cluster;
  uint64_t n = arg >> 4 & 0xff, count = arg >> 12;
  struct range range;

  switch (arg & 7) {
  case 0:  range.offset = n * 512; break;
  case 1:  range.offset = size - n * 512; break;
  case 2:  range.offset = size - n * cluster; break;
  case 3:  range.offset = n * table; break;
  case 4:  range.offset = n * table - 512; break;
  default: range.offset = n * cluster; break;
  }
  range.count = arg & 8 ? count * cluster / 4 : count * 512;
  if (range.offset > size)
    range.offset = 0;
  if (range.count > size - range.offset)
    range.count = size - range.offset;
  if (range.count > max)
    range.count = max;
  return range;
}

static void
request (struct life *life, enum qed_op op, uint64_t arg)
{
  bool data = op == QED_OP_READ || op == QED_OP_WRITE;
  struct range range = choose_range (life, arg, data ? BUFFER_BYTES
                                     : RANGE_MAX);
  int r;

  if (op == QED_OP_FLUSH || op == QED_OP_CLEAN)
    range = (struct range) { 0, 0 };
  if (op == QED_OP_WRITE)
    memset (life->buffer, 1 + (int) (arg % 255), range.count);
  sparse_keep_tables (life->disk, &life->image->geometry);
  life->disk->guest = true;
  r = qed_request_sync (life->image, op, data ? life->buffer : NULL,
                        range.count, range.offset,
                        arg & 16 && op != QED_OP_READ ? QED_FUA : 0);
  life->disk->guest = false;
  if (r > 0)
    fuzz_fail ("a request returned %d", r);
  if (r == 0 && op == QED_OP_WRITE && !life->disk->full)
    probe_written (life->image, life->buffer, range.offset, range.count);
}

static void
ask_extents (struct life *life, uint64_t arg)
{
  struct range range = choose_range (life, arg, RANGE_MAX);
  enum qed_extent kind;
  uint64_t bytes, end = range.offset + range.count;
  unsigned i;

  for (i = 0; i < 64 && range.offset < end; i++) {
    if (qed_extent_sync (life->image, range.offset, end - range.offset, &kind,
                         &bytes) < 0)
      return;
    if (bytes == 0 || bytes > end - range.offset)
      fuzz_fail ("an extent of %" PRIu64 " bytes, of %" PRIu64, bytes,
                 end - range.offset);
    range.offset += bytes;
  }
}

/* ---- Checks ---- */

static struct qed_check_options
check_options (enum qed_repair repair, bool dry_run, const char *undo)
{
  struct qed_check_options check;

  qed_check_options_init (&check);
  check.repair = repair;
  check.dry_run = dry_run;
  check.undo = undo;
  check.found = probe_found;
  check.fixed = probe_fixed;
  check.lost = probe_lost;
  return check;
}

static int
check_closed (struct life *life, enum qed_repair repair, bool dry_run,
              bool data, const char *undo, struct qed_check_result *result)
{
  struct qed_check_options check = check_options (repair, dry_run, undo);
  int r;

  close_image (life);
  check.data = data;
  r = qed_check (&life->options, &check, result);
  if (r == 0 && qed_check_exit_code (r, result) > 3)
    fuzz_fail ("an exit code of %d", qed_check_exit_code (r, result));
  return r;
}

static void
check_online (struct life *life, enum qed_repair repair)
{
  struct qed_check_options check = check_options (repair, false, NULL);
  struct qed_check_result result;

  qed_check_online (life->image, &check, &result);
}

/* A repair, and then what it overwrote is put back. */
static void
repair_and_undo (struct life *life)
{
  char *undo = fuzz_path ("undo");
  struct qed_check_result result;

  if (check_closed (life, QED_REPAIR_ALL, false, false, undo, &result) == 0)
    qed_undo (undo, &life->options, NULL);
  unlink (undo);
  free (undo);
}

/* ---- The rest ---- */

/* What goes through a whole disk of 8 EiB can be stopped, and is. */
static int
stop_late (void *opaque, uint64_t done, uint64_t total)
{
  unsigned *calls = opaque;

  (void) done;
  (void) total;
  return ++*calls > PROGRESS_MAX ? -1 : 0;
}

static int
take_extent (void *opaque, const struct qed_map_extent *extent)
{
  unsigned *n = opaque;

  if (extent->length == 0)
    fuzz_fail ("an empty extent at 0x%" PRIx64, extent->start);
  return ++*n > EXTENTS_MAX ? -ECANCELED : 0;
}

static void
map_image (struct life *life)
{
  struct qed_map_request map = { .extent = take_extent };
  unsigned n = 0;

  if (!open_image (life, true, QED_CHECK_NEVER, false))
    return;
  map.opaque = &n;
  map.length = qed_size (life->image);
  qed_map (life->image, &map);
  close_image (life);
}

static void
resize_image_by (struct life *life, uint64_t arg)
{
  struct qed_resize resize = {
    .how = arg & 1 ? QED_RESIZE_BY_LESS : QED_RESIZE_BY_MORE,
    .size = (arg >> 4 & 0xfff) << (arg & 8 ? 12 : 9),
    .shrink = true, .force = arg & 2,
  };
  unsigned calls = 0;
  const struct qed_progress progress = { stop_late, &calls };

  close_image (life);
  qed_resize (&life->options, &resize, &progress);
}

static void
rebase_image_to (struct life *life, uint64_t arg)
{
  static const char *const names[] = { NULL, "base.raw", "base.qed", "gone" };
  struct qed_rebase rebase = {
    .backing = names[arg & 3],
    .format = arg & 4 ? QED_REBASE_RAW : QED_REBASE_PROBE,
    .unsafe = arg & 8,
  };
  unsigned calls = 0;
  const struct qed_progress progress = { stop_late, &calls };

  close_image (life);
  qed_rebase (&life->options, &rebase, &progress);
}

enum step {
  STEP_OPEN, STEP_OPEN_READ_ONLY, STEP_OPEN_ALWAYS, STEP_CLOSE,
  STEP_READ, STEP_WRITE, STEP_ZERO, STEP_TRIM, STEP_FLUSH, STEP_CLEAN,
  STEP_FORGET, STEP_CACHE, STEP_EXTENTS, STEP_SETTLE,
  STEP_CHECK, STEP_CHECK_DATA, STEP_DRY_RUN, STEP_REPAIR_LEAKS,
  STEP_REPAIR_ALL, STEP_UNDO, STEP_CHECK_ONLINE, STEP_REPAIR_ONLINE,
  STEP_MAP, STEP_RESIZE, STEP_REBASE,
  STEPS,
};

/* Those for which it is closed, or open in a way of their own. */
static bool
run_on_closed (struct life *life, enum step step, uint64_t arg)
{
  struct qed_check_result result;

  switch (step) {
  case STEP_OPEN:
    open_image (life, false, QED_CHECK_AUTO, true);
    return true;
  case STEP_OPEN_READ_ONLY:
    open_image (life, true, QED_CHECK_AUTO, true);
    return true;
  case STEP_OPEN_ALWAYS:
    open_image (life, arg & 1, arg & 2 ? QED_CHECK_ALWAYS : QED_CHECK_NEVER,
                true);
    return true;
  case STEP_CLOSE:
    close_image (life);
    return true;
  case STEP_CHECK:
  case STEP_CHECK_DATA:
    check_closed (life, QED_REPAIR_NONE, false, step == STEP_CHECK_DATA, NULL,
                  &result);
    return true;
  case STEP_DRY_RUN:
    check_closed (life, arg & 1 ? QED_REPAIR_LEAKS : QED_REPAIR_ALL, true,
                  false, NULL, &result);
    return true;
  case STEP_REPAIR_LEAKS:
  case STEP_REPAIR_ALL:
    check_closed (life, step == STEP_REPAIR_ALL ? QED_REPAIR_ALL
                  : QED_REPAIR_LEAKS, false, false, NULL, &result);
    return true;
  case STEP_UNDO:
    repair_and_undo (life);
    return true;
  case STEP_MAP:
    map_image (life);
    return true;
  case STEP_RESIZE:
    resize_image_by (life, arg);
    return true;
  case STEP_REBASE:
    rebase_image_to (life, arg);
    return true;
  default:
    return false;
  }
}

static void
run_on_open (struct life *life, enum step step, uint64_t arg)
{
  static const enum qed_op ops[] = {
    QED_OP_READ, QED_OP_WRITE, QED_OP_ZERO, QED_OP_TRIM, QED_OP_FLUSH,
    QED_OP_CLEAN, QED_OP_FORGET, QED_OP_CACHE,
  };

  if (step >= STEP_READ && step <= STEP_CACHE)
    request (life, ops[step - STEP_READ], arg);
  else if (step == STEP_EXTENTS)
    ask_extents (life, arg);
  else if (step == STEP_SETTLE)
    one_thread_settle ();
  else
    check_online (life, step == STEP_REPAIR_ONLINE ? QED_REPAIR_ALL
                  : QED_REPAIR_NONE);
}

static void
run_step (struct life *life, struct fuzz_input *script)
{
  enum step step = (enum step) (fuzz_take (script, 1) % STEPS);
  uint64_t arg = fuzz_take (script, LIFE_STEP - 1);

  if (!run_on_closed (life, step, arg) && have_image (life))
    run_on_open (life, step, arg);
}

/* ---- The end ---- */

/* Where there is room a repair leaves no corruption, and leaks only where it
 * must not judge; then another leaves none of those either.
 */
static void
repair_at_last (struct life *life)
{
  struct qed_check_result result;
  int r;

  if (life->options.pending && open_image (life, false, QED_CHECK_AUTO, true))
    close_image (life);         /* what a log says is there from now on */
  probe_before (the_disk, &life->options);
  r = check_closed (life, QED_REPAIR_ALL, false, false, NULL, &result);
  if (r < 0 || life->disk->full || life->disk->device)
    return;                     /* no image; or there may be no room */
  if (result.corruptions > 0 || result.errors > 0)
    fuzz_fail ("a repair of everything left %" PRIu64 " corruptions and "
               "%" PRIu64 " errors", result.corruptions, result.errors);
  probe_after (the_disk, &life->options);
  r = check_closed (life, QED_REPAIR_LEAKS, false, false, NULL, &result);
  if (r == 0 && result.leaks > 0 && !life->disk->full)
    fuzz_fail ("a repair of leaks left %" PRIu64, result.leaks);
  r = check_closed (life, QED_REPAIR_NONE, false, false, NULL, &result);
  if (!life->disk->full && (r < 0 || qed_check_exit_code (r, &result) != 0))
    fuzz_fail ("what was repaired is not clean: %d", r);
}

static void
init_files (void)
{
  static const char *const names[] = { "base.raw", "base.qed" };
  char *path;
  int fd;
  unsigned i;

  for (i = 0; i < 2; i++) {
    path = fuzz_path (names[i]);
    fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd == -1)
      fuzz_fail ("cannot make %s", path);
    close (fd);
    free (path);
  }
  sparse_init (&base, UINT64_C (1) << 20);
  sparse_add_stale (&base, 0x10000, 0x80000);
}

/* As the header has it, if the engine could open that. */
static void
set_cluster (struct sparse *disk)
{
  unsigned char header[FORMAT_HEADER_BYTES];
  uint32_t size;

  if (disk->length < sizeof header)
    return;
  sparse_read (disk, header, sizeof header, 0);
  size = format_get32 (header + 4);
  if (size >= FORMAT_CLUSTER_SIZE_MIN && size <= FORMAT_CLUSTER_SIZE_MAX &&
      (size & (size - 1)) == 0)
    disk->cluster = size;
}

void
life_options (struct sparse *disk, struct qed_options *options)
{
  static char *path;

  if (path == NULL) {
    path = fuzz_path ("disk.qed");
    init_files ();
  }
  the_disk = disk;
  set_cluster (disk);
  qed_options_init (options);
  options->path = path;
  options->metadata_cache = QED_METADATA_CACHE_MIN;
  options->log.fn = take_message;
}

void
life_run (struct sparse *disk, struct fuzz_input script,
          enum qed_pending_mode pending)
{
  static unsigned char *buffer;
  struct life life = { .disk = disk };
  char *undo = fuzz_path ("disk.qed.undo");

  if (buffer == NULL)
    buffer = malloc (BUFFER_BYTES);
  life.buffer = buffer;
  life_options (disk, &life.options);
  life.options.pending = pending;
  probe_reset ();
  while (fuzz_left (&script) > 0)
    run_step (&life, &script);
  close_image (&life);
  repair_at_last (&life);
  close_image (&life);
  unlink (undo);
  free (undo);
}
