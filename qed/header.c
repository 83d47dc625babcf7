/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Changes of the header: header.h has the rules. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "header.h"
#include "image.h"

static struct qed_image *
image_of (struct job *job)
{
  return (struct qed_image *)
    ((char *) job - offsetof (struct qed_image, job));
}

/* ---- Sectors ---- */

static void
header_io_done (struct storage_io *io)
{
  job_io_end (io->opaque, io->error);
}

static int
submit (struct job *job, enum storage_op op, void *buf, size_t count,
        uint64_t offset)
{
  struct qed_image *image = image_of (job);
  struct storage_io *io = &image->header_io;

  io->op = op;
  io->buf = buf;
  io->count = count;
  io->offset = offset;
  io->done = header_io_done;
  io->opaque = job;
  job_io_begin (job);
  storage_submit (image->loop, image->storage, io);
  return JOB_WAIT;
}

static int
submit_sector (struct job *job, enum storage_op op)
{
  struct qed_image *image = image_of (job);

  return submit (job, op, image->sector, sizeof image->sector, 0);
}

int
header_read (struct job *job)
{
  return submit_sector (job, STORAGE_READ);
}

int
header_write_features (struct job *job, uint64_t set, uint64_t clear)
{
  struct qed_image *image = image_of (job);
  unsigned char *field = image->sector + FORMAT_AT_FEATURES;

  image->header.features = (image->header.features | set) & ~clear;
  atomic_store (&image->need_check,
                (image->header.features & QED_F_NEED_CHECK) != 0);
  format_put64 (field, (format_get64 (field) | set) & ~clear);
  field = image->sector + FORMAT_AT_AUTOCLEAR;
  format_put64 (field, (format_get64 (field) & ~PENDING_TOKEN) |
                image->header.autoclear_features);
  return submit_sector (job, STORAGE_WRITE);
}

static void
sync_done (struct storage_io *io)
{
  struct job *job = io->opaque;

  job_io_end (job, image_sync_result (image_of (job), job->at->name,
                                      io->error));
}

int
header_sync (struct job *job)
{
  int r = submit (job, STORAGE_SYNC, NULL, 0, 0);

  image_of (job)->header_io.done = sync_done;
  return r;
}

/* ---- The size ---- */

static int set_size (struct job *job);
static int adopt (struct job *job);

static const struct job_step resize_steps[] = {
  { "write-back",       flush_step },   /* what the size makes visible */
  { "read-header",      header_read },
  { "set-size",         set_size },
  { "sync-header",      header_sync },
  { "adopt",            adopt },
  { NULL, NULL }
};

static int
set_size (struct job *job)
{
  struct qed_image *image = image_of (job);

  format_put64 (image->sector + FORMAT_AT_IMAGE_SIZE,
                image->header_change->image_size);
  return submit_sector (job, STORAGE_WRITE);
}

/* The header in memory follows. */
static int
adopt (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct format_header *header = &image->header;
  struct header_change *change = image->header_change;

  change->made = true;
  if (change->what == HEADER_IMAGE_SIZE) {
    header->image_size = change->image_size;
    return JOB_NEXT;
  }
  header->features = format_get64 (image->sector + FORMAT_AT_FEATURES);
  header->backing_filename_offset = change->offset;
  header->backing_filename_size = change->length;
  return JOB_NEXT;
}

/* ---- The backing file ---- */

static int read_place (struct job *job);
static int write_name (struct job *job);
static int sync_name (struct job *job);
static int set_backing (struct job *job);
static int read_old_name (struct job *job);
static int wipe_old_name (struct job *job);

static const struct job_step rebase_steps[] = {
  { "write-back",       flush_step },   /* the content under the new name */
  { "read-place",       read_place },
  { "write-name",       write_name },
  { "sync-name",        sync_name },
  { "read-header",      header_read },
  { "set-backing",      set_backing },  /* place and features together */
  { "sync-header",      header_sync },
  { "adopt",            adopt },
  { "read-old-name",    read_old_name },
  { "wipe-old-name",    wipe_old_name },
  { NULL, NULL }
};

/* Read or write the sectors that so many bytes at 'offset' touch. */
static int
submit_around (struct job *job, enum storage_op op, uint32_t offset,
               uint32_t length)
{
  struct header_change *change = image_of (job)->header_change;
  uint32_t in = offset % FORMAT_SECTOR;
  size_t count = (in + length + FORMAT_SECTOR - 1) / FORMAT_SECTOR
    * FORMAT_SECTOR;

  assert (count <= sizeof change->sectors);
  return submit (job, op, change->sectors, count, offset - in);
}

/* A name that stays where it is needs no new place. */
static bool
writes_name (const struct header_change *change)
{
  return change->name && change->offset != change->old_offset;
}

static int
read_place (struct job *job)
{
  struct header_change *change = image_of (job)->header_change;

  return writes_name (change)
    ? submit_around (job, STORAGE_READ, change->offset, change->length)
    : JOB_NEXT;
}

static int
write_name (struct job *job)
{
  struct header_change *change = image_of (job)->header_change;

  if (!writes_name (change))
    return JOB_NEXT;
  memcpy (change->sectors + change->offset % FORMAT_SECTOR, change->name,
          change->length);
  return submit_around (job, STORAGE_WRITE, change->offset, change->length);
}

static int
sync_name (struct job *job)
{
  return writes_name (image_of (job)->header_change) ? header_sync (job)
    : JOB_NEXT;
}

static int
set_backing (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct header_change *change = image->header_change;
  unsigned char *sector = image->sector;
  uint64_t features = format_get64 (sector + FORMAT_AT_FEATURES) &
    ~(uint64_t) (QED_F_BACKING_FILE | QED_F_BACKING_FORMAT_NO_PROBE);

  if (change->name)
    features |= QED_F_BACKING_FILE;
  if (change->name && change->raw)
    features |= QED_F_BACKING_FORMAT_NO_PROBE;
  format_put64 (sector + FORMAT_AT_FEATURES, features);
  format_put32 (sector + FORMAT_AT_BACKING_OFFSET, change->offset);
  format_put32 (sector + FORMAT_AT_BACKING_SIZE, change->length);
  return submit_sector (job, STORAGE_WRITE);
}

static bool
wipes_old_name (const struct header_change *change)
{
  return change->old_length > 0 && change->offset != change->old_offset;
}

static int
read_old_name (struct job *job)
{
  struct header_change *change = image_of (job)->header_change;

  return wipes_old_name (change)
    ? submit_around (job, STORAGE_READ, change->old_offset,
                     change->old_length) : JOB_NEXT;
}

/* Its bytes are there for the next name. */
static int
wipe_old_name (struct job *job)
{
  struct header_change *change = image_of (job)->header_change;

  if (!wipes_old_name (change))
    return JOB_NEXT;
  memset (change->sectors + change->old_offset % FORMAT_SECTOR, 0,
          change->old_length);
  return submit_around (job, STORAGE_WRITE, change->old_offset,
                        change->old_length);
}

/* ---- A place for a name ---- */

#define SEARCH_CHUNK 4096u      /* header clusters are made of these */
#define SEARCH_MAX (UINT64_C (1) << 20)

static bool
has_name (const struct qed_image *image)
{
  return (image->header.features & QED_F_BACKING_FILE) != 0;
}

/* The longest run of bytes that hold nothing: zeros behind the fields that
 * aren't the old name's.  Short runs are likely to lie within what others
 * keep there.
 */
static int
longest_run (struct qed_image *image, uint32_t *start, uint32_t *length)
{
  const struct format_header *header = &image->header;
  uint64_t limit = image->geometry.header_bytes, at, end = 0, run = 0;
  unsigned char buf[SEARCH_CHUNK];
  bool used;
  int r;

  *length = 0;
  if (limit > SEARCH_MAX)
    limit = SEARCH_MAX;
  for (at = 0; at < limit; at++) {
    if (at % sizeof buf == 0) {
      r = image->storage->ops->pread (image->storage, buf, sizeof buf, at);
      if (r < 0)
        return r;
    }
    used = at < FORMAT_HEADER_BYTES || buf[at % sizeof buf] != 0 ||
      (has_name (image) && at >= header->backing_filename_offset &&
       at - header->backing_filename_offset < header->backing_filename_size);
    run = used ? 0 : run + 1;
    if (run > *length) {
      *length = (uint32_t) run;
      end = at + 1;
    }
  }
  *start = (uint32_t) (end - *length);
  return 0;
}

/* Whether the image has that very name. */
static int
is_old_name (struct qed_image *image, const struct header_change *change,
             bool *same)
{
  const struct format_header *header = &image->header;
  unsigned char old[HEADER_NAME_BYTES];
  int r;

  *same = false;
  if (!has_name (image) || header->backing_filename_size != change->length)
    return 0;
  r = image->storage->ops->pread (image->storage, old, change->length,
                                  header->backing_filename_offset);
  *same = r == 0 && memcmp (old, change->name, change->length) == 0;
  return r;
}

static int
place (struct qed_image *image, struct header_change *change)
{
  uint32_t start, longest;
  bool same;
  int r = is_old_name (image, change, &same);

  if (r == 0 && same) {
    change->offset = image->header.backing_filename_offset;
    return 0;
  }
  if (r == 0)
    r = longest_run (image, &start, &longest);
  if (r < 0) {
    log_error (&image->options.log, "%s: cannot read the header: %s",
               image->path, strerror (-r));
    return r;
  }
  if (change->length > longest) {
    log_error (&image->options.log, "%s: the header has no room for a backing "
               "file name of %" PRIu32 " bytes beside the one that is there: "
               "at most %" PRIu32 " do", image->path, change->length, longest);
    return -ENOSPC;
  }
  change->offset = start;
  return 0;
}

int
header_find_place (struct qed_image *image, struct header_change *change)
{
  const struct qed_log *log = &image->options.log;
  char error[FORMAT_ERROR_SIZE];
  size_t length = change->name ? strlen (change->name) : 0;
  int r;

  change->offset = change->length = 0;
  if (image->header.compat_features != 0) {
    log_error (log, "%s: the header has unknown compatible features (offset "
               "0x%x): 0x%" PRIx64 ": its backing file name may only be "
               "rewritten by a program that knows them", image->path,
               FORMAT_AT_COMPAT, image->header.compat_features);
    return -ENOTSUP;
  }
  if (change->name == NULL)
    return 0;
  r = format_check_backing_name (change->name, length, error);
  if (r < 0) {
    log_error (log, "%s: %s", image->path, error);
    return r;
  }
  change->length = (uint32_t) length;
  return place (image, change);
}

/* ---- The job, and who waits for it ---- */

/* The old name that stays does no harm. */
static void
change_done (struct job *job)
{
  struct qed_image *image = image_of (job);
  struct header_change *change = image->header_change;
  int error = job->error;

  if (error < 0 && change->made) {
    log_warning (&image->options.log, "%s: cannot wipe the old backing file "
                 "name (offset 0x%" PRIx32 "): %s: its place stays in use",
                 image->path, change->old_offset, strerror (-error));
    error = 0;
  }
  else if (error < 0)
    log_error (&image->options.log, "%s: cannot change the header (%s: %s): "
               "%s", image->path, job->name, job->failed_at,
               strerror (-error));
  image->header_change = NULL;
  image_job_done (image, job, error);
}

void
header_start (struct qed_image *image)
{
  bool resize = image->header_change->what == HEADER_IMAGE_SIZE;
  struct job *job = &image->job;

  image->running = job;
  job->name = resize ? "resize" : "rebase";
  job->steps = resize ? resize_steps : rebase_steps;
  job->done = change_done;
  job_start (job);
}

struct wish {
  struct qed_image *image;
  struct header_change *change;
};

/* Damage that the scan finds comes first. */
static int
wait_for_change (struct qed_request *request, void *opaque)
{
  struct wish *wish = opaque;
  struct qed_image *image = wish->image;
  int r;

  if (request->phase != REQUEST_RUNS)
    return request_job_result (image, request);
  r = request_wait_scan (image, request, SCAN_DONE);
  if (r == 0)
    r = -atomic_load (&image->refuse);
  if (r != 0)
    return r;
  image->header_change = wish->change;
  return request_wait_job (image, &image->want_header, request);
}

int
header_make_change (struct qed_image *image, struct header_change *change)
{
  struct wish wish = { image, change };

  change->made = false;
  change->old_offset = change->old_length = 0;
  if (has_name (image)) {
    change->old_offset = image->header.backing_filename_offset;
    change->old_length = image->header.backing_filename_size;
  }
  return sync_run (wait_for_change, &wish);
}
