/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Read the header of an image, without lock and without writing: it may be in
 * use by someone else.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "log.h"
#include "pending.h"
#include "qed.h"
#include "storage.h"

/* A file of this host, or an export. */
struct source {
  const char *path;
  const struct qed_log *log;
  int fd;                       /* -1: it is an export */
  struct storage *storage;
  uint64_t size, disk_size;
};

static int
read_source (const struct source *source, void *buf, size_t count,
             uint64_t offset)
{
  return source->storage
    ? source->storage->ops->pread (source->storage, buf, count, offset)
    : file_read (source->fd, buf, count, offset);
}

/* The name's place was validated; its text is shown as it is, so that a
 * strange name can be looked at.  Only NUL has no place in a string.
 */
static int
read_backing (const struct source *source,
              const struct format_header *header, char **name)
{
  const char *path = source->path;
  const struct qed_log *log = source->log;
  const size_t size = header->backing_filename_size;
  char *p;
  int r;

  p = calloc (1, size + 1);
  if (p == NULL) {
    log_error (log, "%s: out of memory", path);
    return -ENOMEM;
  }
  r = read_source (source, p, size, header->backing_filename_offset);
  if (r < 0) {
    log_error (log, "%s: cannot read the backing file name at offset "
               "0x%" PRIx32 ": %s", path, header->backing_filename_offset,
               strerror (-r));
    goto err;
  }
  if (strlen (p) != size) {
    log_error (log, "%s: the backing file name at offset 0x%" PRIx32 " has a "
               "NUL at byte %zu of %zu", path,
               header->backing_filename_offset, strlen (p), size);
    r = -EINVAL;
    goto err;
  }
  *name = p;
  return 0;

 err:
  free (p);
  return r;
}

static int
read_header (const struct source *source, struct format_header *header)
{
  const char *path = source->path;
  const struct qed_log *log = source->log;
  unsigned char buf[FORMAT_HEADER_BYTES] = { 0 };
  char error[FORMAT_ERROR_SIZE];
  int r;

  /* A shorter file is refused by format_decode_header. */
  if (source->size >= sizeof buf) {
    r = read_source (source, buf, sizeof buf, 0);
    if (r < 0) {
      log_error (log, "%s: cannot read the header at offset 0: %s", path,
                 strerror (-r));
      return r;
    }
  }
  r = format_decode_header (buf, source->size, header, error);
  if (r < 0)
    log_error (log, "%s: %s", path, error);
  return r;
}

static int
open_export (struct source *source)
{
  struct qed_options options;
  int r;

  qed_options_init (&options);
  options.path = source->path;
  options.log = *source->log;
  options.examine = options.read_only = true;
  r = storage_open (&options, &source->storage);
  if (r == 0)
    r = source->storage->ops->length (source->storage, &source->size);
  source->disk_size = UINT64_MAX;
  return r;
}

static int
open_source (struct source *source)
{
  struct file_facts facts;

  if (qed_backing_is_nbd (source->path))
    return open_export (source);
  source->fd = file_open (source->path, NULL, O_RDONLY, source->log, &facts);
  if (source->fd < 0)
    return source->fd;
  source->size = facts.size;
  source->disk_size = facts.disk_size;
  return 0;
}

static void
close_source (struct source *source)
{
  if (source->storage)
    source->storage->ops->close (source->storage);
  if (source->fd >= 0)
    close (source->fd);
}

int
qed_info_read (const char *path, const struct qed_log *log,
               struct qed_info *info)
{
  struct source source = { .path = path, .log = log, .fd = -1 };
  struct format_header header;
  int r;

  memset (info, 0, sizeof *info);
  r = open_source (&source);
  if (r == 0)
    r = read_header (&source, &header);
  if (r < 0)
    goto out;

  info->image_size = header.image_size;
  info->max_image_size = format_max_image_size (header.cluster_size,
                                                header.table_size);
  info->file_size = source.size;
  info->disk_size = source.disk_size;
  info->cluster_size = header.cluster_size;
  info->table_size = header.table_size;
  info->header_size = header.header_size;
  info->features = header.features;
  info->compat_features = header.compat_features;
  info->autoclear_features = header.autoclear_features;
  info->l1_table_offset = header.l1_table_offset;
  if (header.features & QED_F_BACKING_FILE)
    r = read_backing (&source, &header, &info->backing);

 out:
  close_source (&source);
  return r;
}

uint64_t
qed_pending_waiting (const char *path, const char *const *directories)
{
  static const struct qed_log quiet;
  struct source source = { .path = path, .log = &quiet, .fd = -1 };
  struct format_header header;
  struct qed_options options;
  struct qed_file_id id;
  uint64_t count = 0;

  qed_options_init (&options);
  options.pending_directories = directories;
  if (!qed_backing_is_nbd (path) &&
      qed_file_identify (path, NULL, &id) == 0 &&
      open_source (&source) == 0 && read_header (&source, &header) == 0)
    count = pending_waiting (&options, &id, &header);
  close_source (&source);
  return count;
}

void
qed_info_free (struct qed_info *info)
{
  free (info->backing);
  info->backing = NULL;
}
