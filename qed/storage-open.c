/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which driver an image is opened with, and what may be done to one that lies
 * on a server.
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "format.h"
#include "log.h"
#include "storage.h"

const char *
storage_nbd_advice (const char *uri, int error, const char *message)
{
  bool tls = strncmp (uri, "nbds", 4) == 0;

  switch (error) {
  case -ECONNREFUSED:
    return ": see that the server runs, and listens there";
  case -ETIMEDOUT:
    return ": see that the server runs, and that no firewall is between";
  case -ENOENT:
    return ": see which exports there are (nbdinfo --list)";
  case -ENOTSUP:
    return tls ? ": let the server offer TLS, or use nbd:// without"
      : ": use nbds:// and a key or certificate";
  default:
    return tls && strstr (message, "tls") ? ": see that the server knows the "
      "key or certificate" : "";
  }
}

/* What for: to be served; to be examined; to be repaired, which takes the
 * user's word that the export is an image file; and nothing else.
 */
static int
may_open_export (const struct qed_options *options)
{
  const char *uri = options->path;

  if (!options->examine && !options->remote) {
    log_error (&options->log, "%s: an image on an NBD server can be checked, "
               "repaired and served from here and nothing else: run this on "
               "the host where the file lies", uri);
    return -EOPNOTSUPP;
  }
  if (options->read_only || options->raw_image || options->remote)
    return 0;
  log_error (&options->log, "%s: nothing is written to another server's "
             "export without --raw-image: give it if the export is a QED file "
             "that nobody else uses, or repair the file on its host", uri);
  return -EINVAL;
}

/* A guest can write a QED header into its disk: that must not be taken for an
 * image.
 */
static int
refuse_guest_disk (const struct qed_options *options,
                   const struct storage *storage)
{
  if (!storage->guest_disk || options->raw_image)
    return 0;
  log_error (&options->log, "%s: this is a disk that a server of ours serves: "
             "its content is the guest's, not an image file: check it through "
             "that server's control export, or on its host; or give "
             "--raw-image if it really is a QED file", options->path);
  return -EINVAL;
}

static unsigned
flags_of (const struct qed_options *options)
{
  return (options->read_only ? 0 : STORAGE_NBD_WRITE) |
    (options->remote && !options->need_write ? STORAGE_NBD_MAY_READ : 0) |
    (options->remote ? 0 : STORAGE_NBD_ONCE);
}

static int
open_export (const struct qed_options *options, struct storage **storage)
{
  int r = may_open_export (options);

  if (r == 0)
    r = storage_nbd_open (options->path, NULL, flags_of (options),
                          &options->log, storage);
  if (r < 0)
    return r;
  r = refuse_guest_disk (options, *storage);
  if (r < 0)
    (*storage)->ops->close (*storage);
  else if (!(*storage)->read_only)
    log_warning (&options->log, "%s: a server's export has no locks: nobody "
                 "else may use this image until the end", options->path);
  return r;
}

int
storage_open (const struct qed_options *options, struct storage **storage)
{
  return format_backing_kind (options->path) == FORMAT_BACKING_NBD
    ? open_export (options, storage) : storage_file_open (options, storage);
}
