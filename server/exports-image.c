/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The image of an export: see exports-private.h. */

#include <config.h>

#include <errno.h>

#include "control-command.h"
#include "control-link.h"
#include "exports-private.h"
#include "message.h"
#include "plugin.h"

/* The name may have been given to another file since it was looked up. */
static int
check_identity (const struct export *export)
{
  const struct qed_file_id id = qed_identify (export_image (export));

  if (id.device == export->id.device && id.inode == export->id.inode)
    return 0;
  message_error ("%s: another file has taken its place just now: connect again",
                 export->path);
  return -ESTALE;
}

/* What has become ours may be another file than the path led to before. */
static void
taken (void *opaque, struct qed_image *image)
{
  const struct qed_file_id id = qed_identify (image);
  struct export *export = opaque;
  struct qed_file_id before;

  pthread_mutex_lock (&exports_lock);
  before = export->id;
  export->id = id;
  pthread_mutex_unlock (&exports_lock);
  if (before.device != id.device || before.inode != id.inode)
    control_link_remove (&before);
  last_checks_forget (&id);
  control_link_add (&id, export->path);
}

static void
draining (void *opaque, struct qed_image *image)
{
  (void) opaque;
  control_checks_cancel_image (image);
}

int
export_make_slot (struct export *export)
{
  struct qed_slot_options options;

  qed_slot_options_init (&options);
  options.image = plugin_config.options;
  options.image.path = export->path;
  options.image.beneath = plugin_config.directory;
  options.standby = plugin_config.standby;
  options.draining = draining;
  options.opaque = export;
  if (plugin_config.directory == NULL)
    options.taken = taken;
  return qed_slot_new (&options, &export->slot);
}

int
export_open_image (struct export *export)
{
  int r;

  last_checks_opens (&export->id, export->path);
  r = export_make_slot (export);
  if (r < 0)
    return r;
  r = check_identity (export);
  if (r == 0)
    r = qed_slot_start (export->slot);
  if (r < 0)
    qed_slot_close (export->slot);
  else
    control_link_add (&export->id, export->path);
  return r;
}

void
export_close_image (struct export *export)
{
  if (qed_slot_close (export->slot) < 0)
    message_error ("%s: not everything could be written; the image stays "
                   "marked as in need of a check", export->path);
  last_checks_closed (&export->id, export->path);
  control_link_remove (&export->id);    /* a standby may have made it late */
}
