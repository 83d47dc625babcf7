/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door's commands release and activate. */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "control-command.h"
#include "plugin.h"

/* The reply if what is asked for is not the image of file=; else *export is
 * pinned, or NULL if the image isn't here.
 */
static json_t *
pin_file (const struct control_request *request, struct export **export)
{
  *export = NULL;
  if (plugin_config.directory != NULL)
    return control_fail ("not-possible", "images of dir= are not handed over: "
                         "each is closed, and its lock dropped, some seconds "
                         "after its last client has left");
  return control_pin (request, false, export);
}

/* What would be cut short. */
static json_t *
refuse_repair (const struct export *export)
{
  if (!control_check_repairs (export))
    return NULL;
  return control_fail ("already-running", "%s: a repair is running: wait for "
                       "it, or cancel it", export_name (export));
}

static json_t *
success (const char *what, bool done)
{
  json_t *reply = json_object ();

  json_object_set_new (reply, "path",
                       control_string (plugin_config.options.path));
  json_object_set_new (reply, what, json_boolean (done));
  return reply;
}

json_t *
control_release (struct control_request *request)
{
  struct export *export;
  json_t *failure = pin_file (request, &export);
  int r;

  if (export != NULL) {
    failure = refuse_repair (export);
    export_unpin (export);
  }
  if (failure != NULL)
    return failure;
  r = exports_release_file ();
  if (r < 0 && r != -EALREADY)
    return control_fail ("failed", "%s: released, but not everything could be "
                         "written (%s): the image stays marked as in need of "
                         "a check", plugin_config.options.path, strerror (-r));
  return success ("released", r == 0);
}

json_t *
control_activate (struct control_request *request)
{
  struct export *export;
  json_t *failure = pin_file (request, &export);
  int r;

  if (export != NULL)
    export_unpin (export);
  if (failure != NULL)
    return failure;
  r = exports_activate_file ();
  if (r < 0 && r != -EALREADY)
    return control_fail_logged (request, r == -EAGAIN ? "in-use" : "failed",
                                "the image can't be opened");
  return success ("activated", r == 0);
}
