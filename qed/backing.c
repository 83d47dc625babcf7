/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backing-file.h"
#include "backing.h"
#include "file.h"
#include "image.h"

/* ---- Names ---- */

/* Turn a path that starts with '/' into one without "." and ".." and "//". */
static void
normalize (char *path)
{
  char *from = path, *to = path, *end;
  size_t len;

  while (*from) {
    while (*from == '/')
      from++;
    end = strchrnul (from, '/');
    len = (size_t) (end - from);
    if (len == 2 && from[0] == '.' && from[1] == '.') {
      while (to > path && *--to != '/')
        ;
    }
    else if (len > 0 && !(len == 1 && from[0] == '.')) {
      *to++ = '/';
      memmove (to, from, len);
      to += len;
    }
    from = end;
  }
  if (to == path)
    *to++ = '/';
  *to = '\0';
}

/* The directory of a file, without symlinks; to be freed. */
static char *
directory_of (const char *path)
{
  char *copy = strdup (path), *slash, *dir;

  if (copy == NULL)
    return NULL;
  slash = strrchr (copy, '/');
  if (slash == copy)
    slash++;
  if (slash)
    *slash = '\0';
  dir = realpath (slash ? copy : ".", NULL);
  free (copy);
  return dir;
}

/* The absolute path that a name in an image's header means; to be freed. */
static char *
resolve_name (const char *directory, const char *name)
{
  char *path;

  if (asprintf (&path, "%s/%s", name[0] == '/' ? "" : directory, name) < 0)
    return NULL;
  normalize (path);
  return path;
}

/* ---- Opening a file under the policy ---- */

/* Say why; -EPERM if the policy forbids it. */
static int
cannot_open (const struct qed_image *image, const char *path,
             const char *directory, int error)
{
  const struct qed_log *log = &image->options.log;

  if (error == -EINVAL)
    log_error (log, "%s: the backing file %s is neither a regular file nor a "
               "block device", image->path, path);
  else if (error == -EXDEV)
    log_error (log, "%s: the backing file %s is not inside %s: move it there, "
               "or allow it (backing=DIRECTORY or any; with qedctl, "
               "--allow-backing)",
               image->path, path, directory ? directory : "/");
  else
    log_error (log, "%s: cannot open the backing file %s: %s", image->path,
               path, strerror (-error));
  return error == -EXDEV ? -EPERM : error;
}

/* Its type is known before it is opened: opening alone may do something (a
 * watchdog).  'flags' are O_RDONLY or O_PATH.
 */
static int
open_file (const struct qed_image *image, const char *path,
           const char *directory, int flags)
{
  struct qed_file_id id;
  int fd = qed_file_identify (path, directory, &id);

  if (fd == 0)
    fd = file_open_beneath (path, directory, flags);
  return fd < 0 ? cannot_open (image, path, directory, fd) : fd;
}

static int
check_depth (const struct qed_image *image)
{
  const struct qed_image *above;
  unsigned depth = 0;

  for (above = image; above; above = above->overlay)
    depth++;
  if (depth <= BACKING_DEPTH_MAX)
    return 0;
  log_error (&image->options.log, "%s: more than %u backing files: commit "
             "some of them", image->path, BACKING_DEPTH_MAX);
  return -ELOOP;
}

/* The same file twice in a chain would never end. */
static int
check_loop (const struct qed_image *image, int fd, const char *path)
{
  const struct qed_image *above;
  struct stat st;

  if (fstat (fd, &st) == -1)
    return -errno;
  for (above = image; above; above = above->overlay)
    if (above->device == st.st_dev && above->inode == st.st_ino) {
      log_error (&image->options.log, "%s: the backing file %s is already in "
                 "the chain above: it would back itself", image->path, path);
      return -ELOOP;
    }
  return check_depth (image);
}

/* ---- Formats ---- */

/* How a backing file is opened. */
struct way {
  const char *path;
  const char *directory;        /* where it must be, or NULL */
  bool raw;                     /* it is not probed for a format */
  enum qed_backing_mode below;  /* the policy for what is beneath it, */
  const char *below_directory;  /* and where that must be */
};

static const struct {
  const char *name;
  unsigned at;
  const char *magic;
  unsigned length;
} foreign_formats[] = {
  { "qcow2", 0, "QFI\xfb", 4 },
  { "VMDK", 0, "KDMV", 4 },
  { "VMDK", 0, "COWD", 4 },
  { "VMDK", 0, "# Disk DescriptorFile", 21 },
  { "VHDX", 0, "vhdxfile", 8 },
  { "VHD", 0, "conectix", 8 },
  { "VDI", 64, "\x7f\x10\xda\xbe", 4 },
  { "LUKS", 0, "LUKS\xba\xbe", 6 },
  { "Parallels", 0, "WithoutFreeSpace", 16 },
  { "Parallels", 0, "WithouFreSpacExt", 16 },
  { "Bochs", 0, "Bochs Virtual HD Image", 22 },
};

enum backing_format { BACKING_RAW, BACKING_QED, BACKING_FOREIGN };

static enum backing_format
probe (const unsigned char *buf, const char **name)
{
  size_t i;

  if (format_get32 (buf) == FORMAT_MAGIC)
    return BACKING_QED;
  for (i = 0; i < sizeof foreign_formats / sizeof foreign_formats[0]; i++) {
    *name = foreign_formats[i].name;
    if (memcmp (buf + foreign_formats[i].at, foreign_formats[i].magic,
                foreign_formats[i].length) == 0)
      return BACKING_FOREIGN;
  }
  return BACKING_RAW;
}

static int
open_qed (struct qed_image *image, struct storage *storage,
          const struct way *way, struct backing *backing)
{
  struct qed_options options = image->options;
  int r;

  options.path = way->path;
  options.read_only = true;
  options.need_write = false;
  options.backing = way->below;
  options.backing_directory = way->below_directory;
  r = image_open_backing (&options, storage, image, &backing->qed);
  if (r == 0)
    backing->size = qed_size (backing->qed);
  return r;
}

/* Whether it is QED, or raw; anything else is refused. */
static int
recognise (const struct qed_image *image, struct storage *storage,
           const char *path, bool raw, bool *is_qed)
{
  unsigned char buf[FORMAT_SECTOR];
  enum backing_format format = BACKING_RAW;
  const char *name = NULL;
  int r = 0;

  if (!raw) {
    r = storage->ops->pread (storage, buf, sizeof buf, 0);
    if (r == 0)
      format = probe (buf, &name);
  }
  *is_qed = format == BACKING_QED;
  if (format == BACKING_FOREIGN) {
    log_error (&image->options.log, "%s: the backing file %s is a %s image: "
               "only raw and QED are supported; convert it (qemu-img convert)",
               image->path, path, name);
    r = -ENOTSUP;
  }
  else if (r < 0)
    log_error (&image->options.log, "%s: cannot read the backing file %s: %s",
               image->path, path, strerror (-r));
  return r;
}

/* 'storage' becomes the backing file's, also on failure. */
static int
open_format (struct qed_image *image, struct storage *storage,
             const struct way *way, struct backing *backing)
{
  bool is_qed;
  int r = recognise (image, storage, way->path, way->raw, &is_qed);

  if (r == 0 && is_qed)
    return open_qed (image, storage, way, backing);
  if (r == 0)
    r = storage->ops->length (storage, &backing->size);
  if (r < 0) {
    storage->ops->close (storage);
    return r;
  }
  backing->raw = storage;
  return 0;
}

/* ---- The whole ---- */

/* The name in the header; to be freed. */
static int
read_name (struct qed_image *image, char **name)
{
  size_t len = image->header.backing_filename_size;
  char error[FORMAT_ERROR_SIZE];
  int r;

  *name = calloc (1, len + 1);
  if (*name == NULL)
    return -ENOMEM;
  r = image->storage->ops->pread (image->storage, *name, len,
                                  image->header.backing_filename_offset);
  if (r < 0)
    log_error (&image->options.log, "%s: cannot read the backing file's name: "
               "%s", image->path, strerror (-r));
  else {
    r = format_check_backing_name (*name, len, error);
    if (r < 0)
      log_error (&image->options.log, "%s: %s", image->path, error);
  }
  if (r < 0) {
    free (*name);
    *name = NULL;
  }
  return r;
}

static int
check_kind (const struct qed_image *image, const char *name)
{
  char error[FORMAT_ERROR_SIZE];
  int r = format_check_backing_kind (name, error);

  if (r < 0)
    log_error (&image->options.log, "%s: the backing file %s: %s",
               image->path, name, error);
  return r;
}

/* A name in a stranger's file must not make a server connect to hosts that
 * only it can reach: a URI is allowed only where any file is.
 */
static int
check_policy (const struct qed_image *image, const char *name)
{
  const struct qed_log *log = &image->options.log;
  enum qed_backing_mode mode = image->options.backing;
  int r;

  if (mode == QED_BACKING_NONE) {
    log_error (log, "%s: the image has a backing file (%s), and backing=none "
               "allows no backing files", image->path, name);
    return -EPERM;
  }
  r = check_kind (image, name);
  if (r < 0)
    return r;
  if (mode != QED_BACKING_ANY &&
      format_backing_kind (name) == FORMAT_BACKING_NBD) {
    log_error (log, "%s: the backing file %s is on an NBD server: allow that "
               "with backing=any if you trust the image", image->path, name);
    return -EPERM;
  }
  return 0;
}

/* The path of the backing file; to be freed.  The policy "beside" means the
 * directory of the image on top, for the whole chain.
 */
static int
find_path (struct qed_image *image, const char *name, char **path)
{
  char *directory = directory_of (image->path);

  *path = directory ? resolve_name (directory, name) : NULL;
  if (*path && image->options.backing == QED_BACKING_BESIDE &&
      image->options.backing_directory == NULL) {
    image->backing_directory = directory;
    image->options.backing_directory = directory;
    directory = NULL;
  }
  free (directory);
  return *path ? 0 : -ENOMEM;
}

static int
new_backing (const char *path, struct backing **backing)
{
  *backing = calloc (1, sizeof **backing);
  if (*backing)
    (*backing)->path = strdup (path);
  if (*backing && (*backing)->path)
    return 0;
  free (*backing);
  *backing = NULL;
  return -ENOMEM;
}

static void
drop_backing (struct backing **backing)
{
  free ((*backing)->path);
  free (*backing);
  *backing = NULL;
}

/* What a server exports may be a guest's disk, into which the guest can write
 * any header: it is raw, and never probed.
 */
static int
open_uri (struct qed_image *image, const char *uri, struct backing **backing)
{
  int r = check_depth (image);

  if (r == 0)
    r = new_backing (uri, backing);
  if (r < 0)
    return r;
  r = storage_nbd_open (uri, image->path, 0, &image->options.log,
                        &(*backing)->raw);
  if (r == 0) {
    (*backing)->remote = true;
    r = (*backing)->raw->ops->length ((*backing)->raw, &(*backing)->size);
  }
  if (r < 0) {
    if ((*backing)->raw)
      (*backing)->raw->ops->close ((*backing)->raw);
    drop_backing (backing);
  }
  return r;
}

static int
open_path (struct qed_image *image, const struct way *way,
           struct backing **backing)
{
  struct storage *storage;
  int fd, r = new_backing (way->path, backing);

  if (r < 0)
    return r;
  r = fd = open_file (image, way->path, way->directory, O_RDONLY);
  if (fd >= 0) {
    r = check_loop (image, fd, way->path);
    if (r < 0)
      close (fd);
    else
      r = storage_file_open_fd (fd, way->path, &image->options, &storage);
  }
  if (r == 0)
    r = open_format (image, storage, way, *backing);
  if (r < 0)
    drop_backing (backing);
  return r;
}

static int
open_local (struct qed_image *image, const char *name,
            struct backing **backing)
{
  const struct qed_options *options = &image->options;
  struct way way = {
    .raw = image->header.features & QED_F_BACKING_FORMAT_NO_PROBE,
    .below = options->backing,
  };
  char *path;
  int r = find_path (image, name, &path);

  if (r < 0)
    return r;
  way.path = path;
  way.below_directory = options->backing_directory;
  if (options->backing != QED_BACKING_ANY)
    way.directory = options->backing_directory;
  r = open_path (image, &way, backing);
  free (path);
  return r;
}

int
backing_open (struct qed_image *image, struct backing **backing)
{
  char *name = NULL;
  int r = read_name (image, &name);

  *backing = NULL;
  if (r == 0)
    r = check_policy (image, name);
  if (r == 0)
    r = format_backing_kind (name) == FORMAT_BACKING_NBD
      ? open_uri (image, name, backing) : open_local (image, name, backing);
  free (name);
  return r;
}

/* The path that a name would mean if the image had it; both to be freed. */
static int
resolve_new (const struct qed_image *image, const char *name,
             char **directory, char **path)
{
  *directory = directory_of (image->path);
  *path = *directory ? resolve_name (*directory, name) : NULL;
  return *path ? 0 : -ENOMEM;
}

int
backing_open_name (struct qed_image *image, const char *name, bool raw,
                   struct backing **backing)
{
  struct way way = { .raw = raw, .below = image->options.backing };
  char *directory = NULL, *path = NULL;
  int r = check_kind (image, name);

  *backing = NULL;
  if (r < 0)
    return r;
  if (format_backing_kind (name) == FORMAT_BACKING_NBD)
    return open_uri (image, name, backing);
  if (way.below == QED_BACKING_BELOW)
    way.below_directory = image->options.backing_directory;
  r = resolve_new (image, name, &directory, &path);
  if (r == 0) {
    way.path = path;
    r = open_path (image, &way, backing);
  }
  free (directory);
  free (path);
  return r;
}

int
backing_check_name (const struct qed_image *image, const char *name)
{
  const struct qed_log *log = &image->options.log;
  char *directory = NULL, *path = NULL;
  struct qed_file_id id;
  int r = check_kind (image, name), found;

  if (r < 0)
    return r;
  if (format_backing_kind (name) == FORMAT_BACKING_NBD) {
    log_warning (log, "%s: the backing file %s is on an NBD server: a server "
                 "opens it only with backing=any", image->path, name);
    return 0;
  }
  r = resolve_new (image, name, &directory, &path);
  if (r < 0)
    goto out;
  found = qed_file_identify (path, NULL, &id);
  if (found < 0)
    log_warning (log, "%s: the backing file %s cannot be opened now (%s): "
                 "until it can, nor can the image", image->path, path,
                 strerror (-found));
  else if (id.device == image->device && id.inode == image->inode) {
    log_error (log, "%s: would be its own backing file", image->path);
    r = -ELOOP;
  }
  else if (qed_file_identify (path, directory, &id) == -EXDEV)
    log_warning (log, "%s: the backing file %s is not inside the image's "
                 "directory: a server opens it only with backing=DIRECTORY or "
                 "backing=any", image->path, path);
 out:
  free (directory);
  free (path);
  return r;
}

/* ---- For who opens it himself ---- */

static int
check_place (const struct qed_image *image, const char *path,
             const char *directory)
{
  int fd = open_file (image, path, directory, O_PATH), r;

  if (fd < 0)
    return fd;
  r = check_loop (image, fd, path);
  close (fd);
  return r;
}

int
backing_find (struct qed_image *image, char **path, const char **beneath)
{
  char *name;
  int r = read_name (image, &name);

  *path = NULL;
  if (r < 0)
    return r;
  if (format_backing_kind (name) != FORMAT_BACKING_FILE) {
    log_error (&image->options.log, "%s: the backing file %s is not a local "
               "file: it is not possible to commit into that: do it on the "
               "host where the file lies", image->path, name);
    r = -ENOTSUP;
  }
  if (r == 0)
    r = check_policy (image, name);
  if (r == 0)
    r = find_path (image, name, path);
  *beneath = image->options.backing == QED_BACKING_ANY
    ? NULL : image->options.backing_directory;
  if (r == 0)
    r = check_place (image, *path, *beneath);
  free (name);
  if (r < 0) {
    free (*path);
    *path = NULL;
  }
  return r;
}

int
backing_recognise (const struct qed_image *image, struct storage *storage,
                   const char *path, bool *is_qed)
{
  return recognise (image, storage, path, image->header.features &
                    QED_F_BACKING_FORMAT_NO_PROBE, is_qed);
}
