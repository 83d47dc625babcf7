/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format.h"
#include "scene.h"
#include "steps.h"

struct run run;

char scene_log_directory[160];

#define PIECE (UINT64_C (1) << 20)

/* ---- Words ---- */

void
broken (const char *format, ...)
{
  va_list ap;

  fault_disarm ();
  fprintf (stderr, "fault-test: ");
  va_start (ap, format);
  vfprintf (stderr, format, ap);
  va_end (ap);
  fprintf (stderr, "\n");
  if (run.scene)
    fprintf (stderr, "to see it again: fault-test --trace --scene %s "
             "--call %s --error %d --times %u --nth %u\n", run.scene->name,
             fault_names[run.call], run.error, run.times, run.nth);
  exit (1);
}

void
must (bool it_is, const char *what)
{
  if (!it_is)
    broken ("%s: that failed though nothing should", what);
}

/* After the failure of a sync, or of the opening scan, the image itself says
 * no; else an error is that of the call, and one failure makes one error.
 */
void
note_error (struct qed_image *image, const char *what, int r)
{
  const bool reads = strcmp (what, "read") == 0;
  struct qed_status status = { .access = QED_ACCESS_WRITABLE };

  if (!run.armed || fault_hits () == 0)
    broken ("%s: %s, though nothing fails", what, strerror (-r));
  if (image)
    qed_status (image, &status);
  run.failures++;
  if (r == -run.error) {
    if (run.times == 1 && run.failures > 1 &&
        status.access == QED_ACCESS_WRITABLE)
      broken ("%s: %s, for the second time from one failure", what,
              strerror (-r));
    return;
  }
  if (run.call == FAULT_SYNC && r == -EIO)
    return;                     /* from then on every sync fails */
  if (image == NULL && run.call != FAULT_SYNC && r == -EROFS)
    return;                     /* its opening scan has failed */
  if ((status.access == QED_ACCESS_FAILED && r == -EIO) ||
      ((status.access == QED_ACCESS_DAMAGED ||
        status.access == QED_ACCESS_NOT_SCANNED ||
        status.access == QED_ACCESS_NEED_CHECK) &&
       r == (reads ? -EIO : -EROFS)))
    return;
  broken ("%s: %s, where %s has failed", what, strerror (-r),
          strerror (run.error));
}

static void
engine_says (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  if (level == QED_LOG_TRACE && run.call != FAULT_LOG)
    steps_note (message, run.armed ? fault_hits () : 0);
  if (run.trace)
    fprintf (stderr, "%u: %s\n", (unsigned) level, message);
}

/* ---- Files ---- */

static void
clear_directory (const char *path)
{
  struct dirent *entry;
  DIR *dir = opendir (path);

  must (dir != NULL, "opendir");
  while ((entry = readdir (dir)) != NULL)
    if (entry->d_name[0] != '.')
      unlinkat (dirfd (dir), entry->d_name, 0);
  closedir (dir);
}

void
clear_files (void)
{
  clear_directory (".");
  clear_directory (scene_log_directory);
}

static int
open_file (const char *path, int flags)
{
  int fd = open (path, flags | O_CLOEXEC, 0600);

  must (fd >= 0, path);
  return fd;
}

void
make_image (const char *path, uint64_t size, const char *backing, bool raw)
{
  struct qed_create_options options;

  qed_create_options_init (&options);
  options.path = path;
  options.size = size;
  options.cluster_size = CLUSTER;
  options.table_size = 1;
  options.backing = backing;
  options.backing_raw = raw;
  must (qed_create (&options) == 0, "create");
}

void
make_raw (const char *path, uint64_t size, unsigned char byte)
{
  unsigned char *content = malloc (size);
  int fd = open_file (path, O_RDWR | O_CREAT | O_TRUNC);

  must (content != NULL, "malloc");
  memset (content, byte, size);
  must (pwrite (fd, content, size, 0) == (ssize_t) size, path);
  close (fd);
  free (content);
}

uint64_t
peek64 (const char *path, uint64_t at)
{
  unsigned char buf[8];
  int fd;

  fault_spare (true);
  fd = open_file (path, O_RDONLY);
  must (pread (fd, buf, sizeof buf, (off_t) at) == sizeof buf, path);
  close (fd);
  fault_spare (false);
  return format_get64 (buf);
}

void
poke64 (const char *path, uint64_t at, uint64_t value)
{
  unsigned char buf[8];
  int fd = open_file (path, O_RDWR);

  format_put64 (buf, value);
  must (pwrite (fd, buf, sizeof buf, (off_t) at) == sizeof buf, path);
  close (fd);
}

uint64_t
length_of (const char *path)
{
  struct stat st;

  must (stat (path, &st) == 0, path);
  return (uint64_t) st.st_size;
}

bool
need_check (const char *path)
{
  return (peek64 (path, FORMAT_AT_FEATURES) & QED_F_NEED_CHECK) != 0;
}

unsigned char *
load (const char *path, size_t *bytes)
{
  unsigned char *content;
  int fd = open_file (path, O_RDONLY);

  *bytes = length_of (path);
  content = malloc (*bytes);
  must (content != NULL &&
        pread (fd, content, *bytes, 0) == (ssize_t) *bytes, path);
  close (fd);
  return content;
}

/* ---- An image that is open ---- */

void
scene_options (struct qed_options *options, const char *path)
{
  static const char *const logs[] = { scene_log_directory, NULL };

  qed_options_init (options);
  options->pending_directories = logs;
  options->path = path;
  options->lock = true;
  options->clean_after = 0;
  options->metadata_cache = QED_METADATA_CACHE_MIN;
  options->log.fn = engine_says;
  options->log.trace = true;
}

struct qed_image *
start (const char *path)
{
  return start_kept (path, QED_PENDING_OFF);
}

struct qed_image *
start_kept (const char *path, enum qed_pending_mode pending)
{
  struct qed_options options;
  struct qed_image *image;
  int r;

  scene_options (&options, path);
  options.pending = pending;
  options.clean_after = run.scene->slow ? 1 : 0;
  r = qed_open (&options, &image);
  if (r < 0) {
    note_error (NULL, "open", r);
    return NULL;
  }
  r = qed_start (image);
  if (r < 0) {
    note_error (NULL, "start", r);
    (void) qed_close (image);
    return NULL;
  }
  (void) qed_wait_scanned (image);
  return image;
}

static unsigned char buffer[PIECE];

int
do_op (struct qed_image *image, const struct op *op)
{
  static const char *const names[] = {
    [QED_OP_READ] = "read", [QED_OP_WRITE] = "write",
    [QED_OP_FLUSH] = "flush", [QED_OP_TRIM] = "trim", [QED_OP_ZERO] = "zero",
    [QED_OP_CLEAN] = "clean",
  };
  uint64_t wrong;
  int r;

  memset (buffer, op->byte, op->count);
  r = qed_request_sync (image, op->op, buffer, op->count, op->at, op->flags);
  if (r < 0)
    note_error (image, names[op->op], r);
  if (op->op == QED_OP_READ) {
    if (r == 0 && !guest_allows (buffer, op->at, op->count, &wrong))
      broken ("guest offset 0x%" PRIx64 " reads as 0x%02x", wrong,
              buffer[wrong - op->at]);
  }
  else if (op->op != QED_OP_FLUSH && op->op != QED_OP_CLEAN)
    guest_wrote (op->at, op->count, op->byte, r, op->flags & QED_FUA);
  else if (r == 0)
    guest_flushed ();
  return r;
}

/* The loop may be about to hear of a sync that no request has asked for. */
static bool
becomes_failed (struct qed_image *image)
{
  struct qed_status status;
  unsigned i;

  for (i = 0; i < 1000; i++) {
    qed_status (image, &status);
    if (status.state == QED_STATE_FAILED &&
        status.access == QED_ACCESS_FAILED)
      return true;
    usleep (1000);
  }
  return false;
}

/* O8: nothing is written any more, nor reported durable; reads go on. */
static void
see_failed (struct qed_image *image, const char *path)
{
  const struct op write = { QED_OP_WRITE, 0, 512, 99, 0 };
  const struct op flush = { QED_OP_FLUSH, 0, 0, 0, 0 };
  bool marked;

  fault_disarm ();
  if (!becomes_failed (image))
    broken ("a sync has failed, the image has not");
  marked = need_check (path);
  if (do_op (image, &write) != -EIO || do_op (image, &flush) != -EIO)
    broken ("a sync has failed, and then a request is answered well");
  if (do_op (image, &(struct op) { QED_OP_READ, 0, 512, 0, 0 }) != 0)
    broken ("a sync has failed, and then a read fails");
  if (qed_close (image) == 0)
    broken ("a sync has failed, and the image is closed well");
  if (need_check (path) != marked)
    broken ("a sync has failed, and the header is changed later");
}

void
do_ops (struct qed_image *image, const struct op *ops)
{
  struct op read = { QED_OP_READ, 0, 0, 0, 0 };

  for (; ops->op != QED_OP_READY; ops++) {
    (void) do_op (image, ops);
    if (ops->count > 0) {
      read.at = ops->at;
      read.count = ops->count;
      (void) do_op (image, &read);
    }
  }
}

void
finish_image (struct qed_image *image, const char *path)
{
  struct qed_file_id id = qed_identify (image);
  struct qed_status status;
  int r;

  if (run.armed && fault_hit_sync_of (id.device, id.inode)) {
    see_failed (image, path);
    return;
  }
  qed_status (image, &status);
  r = qed_close (image);
  if (r < 0 && (!run.armed || fault_hits () == 0))
    broken ("close: %s, though nothing fails", strerror (-r));
  if (r < 0) {
    run.failures++;
    return;
  }
  guest_flushed ();
  if (status.access == QED_ACCESS_WRITABLE && need_check (path))
    broken ("closed well, and NEED_CHECK is set");
}

void
fill (const char *path, const struct op *ops)
{
  struct qed_image *image = start (path);

  must (image != NULL, "open");
  do_ops (image, ops);
  finish_image (image, path);
}

/* What the model knows of it. */
static uint64_t
known_size (struct qed_image *image)
{
  return qed_size (image) < GUEST_BYTES ? qed_size (image) : GUEST_BYTES;
}

void
read_all (struct qed_image *image)
{
  struct op read = { QED_OP_READ, 0, PIECE, 0, 0 };
  const uint64_t size = known_size (image);

  for (read.at = 0; read.at < size; read.at += PIECE) {
    if (read.count > size - read.at)
      read.count = size - read.at;
    if (do_op (image, &read) < 0)
      broken ("guest offset 0x%" PRIx64 " can't be read", read.at);
  }
}

const struct op scene_old[] = {
  { QED_OP_WRITE, 0, 16 * KIB, 1, 0 },
  { QED_OP_WRITE, TABLE_SPAN, 16 * KIB, 2, 0 },
  END
};

void
scene_prepare_plain (void)
{
  make_image (IMAGE, GUEST_BYTES, NULL, false);
  fill (IMAGE, scene_old);
}

/* ---- Without failures ---- */

int
check_closed (const char *path, enum qed_repair repair, const char *undo,
              struct qed_check_result *result)
{
  struct qed_check_options check;
  struct qed_options options;

  scene_options (&options, path);
  qed_check_options_init (&check);
  check.repair = repair;
  check.undo = undo;
  return qed_check (&options, &check, result);
}

static void
judge_closed (const char *path)
{
  struct qed_check_result result;

  if (check_closed (path, QED_REPAIR_NONE, NULL, &result) < 0)
    broken ("the image can't be checked");
  if (result.errors > 0)
    broken ("the check found errors");
  if (!result.need_check && result.corruptions > 0)
    broken ("NEED_CHECK is not set, and the check found damage");
}

void
judge (const char *path)
{
  struct op ops[] = {
    { QED_OP_WRITE, 5 * CLUSTER, 512, 0x77, 0 },
    { QED_OP_WRITE, 0, 512, 0x78, QED_FUA },    /* the last sector */
    END,
  };
  struct qed_check_result result;
  struct qed_image *image;

  judge_closed (path);
  image = start (path);
  if (image == NULL)
    broken ("the image can't be opened again");
  if (!qed_writable (image))
    broken ("the image can't be written to when it is opened again");
  guest_reopened ();
  read_all (image);
  ops[1].at = known_size (image) - GUEST_SECTOR;
  do_ops (image, ops);
  finish_image (image, path);
  if (check_closed (path, QED_REPAIR_NONE, NULL, &result) < 0)
    broken ("in the end the image can't be checked");
  switch (qed_check_exit_code (0, &result)) {
  case 0:
    break;
  case 3:                       /* what could not be punched, or cut */
    if (run.call == FAULT_PUNCH || run.call == FAULT_RESIZE)
      break;
    broken ("in the end the check finds leaks");
  default:
    broken ("in the end the check finds damage");
  }
}

void
judge_logs (void)
{
  struct dirent *entry;
  DIR *dir = opendir (scene_log_directory);
  FILE *maps = fopen ("/proc/self/maps", "re");
  char line[1024];

  must (dir != NULL && maps != NULL, "looking for pending logs");
  while ((entry = readdir (dir)) != NULL)
    if (entry->d_name[0] != '.')
      broken ("a pending log is left");
  while (fgets (line, sizeof line, maps))
    if (strstr (line, scene_log_directory))
      broken ("a pending log is left mapped");
  closedir (dir);
  fclose (maps);
}
