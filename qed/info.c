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
#include "qed.h"

/* The name's place was validated; its text is shown as it is, so that a
 * strange name can be looked at.  Only NUL has no place in a string.
 */
static int
read_backing (int fd, const char *path, const struct format_header *header,
              const struct qed_log *log, char **name)
{
  const size_t size = header->backing_filename_size;
  char *p;
  int r;

  p = calloc (1, size + 1);
  if (p == NULL) {
    log_error (log, "%s: out of memory", path);
    return -ENOMEM;
  }
  r = file_read (fd, p, size, header->backing_filename_offset);
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
read_header (int fd, const char *path, uint64_t file_size,
             const struct qed_log *log, struct format_header *header)
{
  unsigned char buf[FORMAT_HEADER_BYTES] = { 0 };
  char error[FORMAT_ERROR_SIZE];
  int r;

  /* A shorter file is refused by format_decode_header. */
  if (file_size >= sizeof buf) {
    r = file_read (fd, buf, sizeof buf, 0);
    if (r < 0) {
      log_error (log, "%s: cannot read the header at offset 0: %s", path,
                 strerror (-r));
      return r;
    }
  }
  r = format_decode_header (buf, file_size, header, error);
  if (r < 0)
    log_error (log, "%s: %s", path, error);
  return r;
}

int
qed_info_read (const char *path, const struct qed_log *log,
               struct qed_info *info)
{
  struct format_header header;
  struct file_facts facts;
  int fd, r;

  memset (info, 0, sizeof *info);
  fd = file_open (path, NULL, O_RDONLY, log, &facts);
  if (fd < 0)
    return fd;
  r = read_header (fd, path, facts.size, log, &header);
  if (r < 0)
    goto out;

  info->image_size = header.image_size;
  info->max_image_size = format_max_image_size (header.cluster_size,
                                                header.table_size);
  info->file_size = facts.size;
  info->disk_size = facts.disk_size;
  info->cluster_size = header.cluster_size;
  info->table_size = header.table_size;
  info->header_size = header.header_size;
  info->features = header.features;
  info->compat_features = header.compat_features;
  info->autoclear_features = header.autoclear_features;
  info->l1_table_offset = header.l1_table_offset;
  if (header.features & QED_F_BACKING_FILE)
    r = read_backing (fd, path, &header, log, &info->backing);

 out:
  close (fd);
  return r;
}

void
qed_info_free (struct qed_info *info)
{
  free (info->backing);
  info->backing = NULL;
}
