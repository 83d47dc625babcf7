/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door's commands list, status and flush. */

#include <config.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control-command.h"
#include "control-link.h"
#include "message.h"
#include "plugin.h"

/* So many images in one reply. */
#define LIST_PAGE 500u
#define STATUS_PAGE 100u

/* ---- Words for what the engine says ------------------------------------ */

static const char *
state_to_text (enum qed_state state)
{
  switch (state) {
  case QED_STATE_CLEAN:   return "clean";
  case QED_STATE_DIRTY:   return "dirty";
  case QED_STATE_DAMAGED: return "damaged";
  case QED_STATE_FAILED:  return "failed";
  }
  return "unknown";
}

static const char *
access_to_text (enum qed_access access)
{
  switch (access) {
  case QED_ACCESS_WRITABLE:      return "writable";
  case QED_ACCESS_READ_ONLY:     return "read-only";
  case QED_ACCESS_NO_PERMISSION: return "no-permission";
  case QED_ACCESS_NEED_CHECK:    return "need-check";
  case QED_ACCESS_DAMAGED:       return "damaged";
  case QED_ACCESS_NOT_SCANNED:   return "not-scanned";
  case QED_ACCESS_FAILED:        return "failed";
  }
  return "unknown";
}

const char *
control_use_to_text (enum export_state state)
{
  switch (state) {
  case EXPORT_OPENING:    return "opening";
  case EXPORT_OPEN:       return "open";
  case EXPORT_CLOSING:    return "closing";
  case EXPORT_CLOSED:     return "closed";
  case EXPORT_STANDBY:    return "standby";
  case EXPORT_ACTIVATING: return "activating";
  case EXPORT_RELEASING:  return "releasing";
  case EXPORT_RELEASED:   return "released";
  case EXPORT_FAILED:     return "failed";
  }
  return "unknown";
}

static const char *
pending_to_text (enum qed_pending_state pending)
{
  switch (pending) {
  case QED_PENDING_NOT_KEPT:     return "off";
  case QED_PENDING_LOGGED:       return "on";
  case QED_PENDING_WRITTEN_BACK: return "write-back";
  }
  return "unknown";
}

/* ---- The server -------------------------------------------------------- */

static json_t *
describe_server (void)
{
  json_t *server = json_object ();

  json_object_set_new (server, "version", json_string (PACKAGE_VERSION));
  json_object_set_new (server, "pid", json_integer (getpid ()));
  json_object_set_new (server, "read-only",
                       json_boolean (plugin_config.options.read_only));
  if (plugin_config.directory != NULL)
    json_object_set_new (server, "directory",
                         control_string (plugin_config.directory));
  return server;
}

/* ---- list -------------------------------------------------------------- */

/* Whether the client wants to hear of this one. */
static bool
is_wanted (const struct control_request *request,
           const struct export_entry *entry)
{
  const char *after = control_get_string (request, "after");
  const char *file = control_get_string (request, "file");
  char name[CONTROL_LINK_NAME_SIZE];

  if (after != NULL && strcmp (entry->name, after) <= 0)
    return false;
  control_link_name (&entry->id, name);
  return file == NULL || strcmp (file, name) == 0;
}

static void
set_file (json_t *image, const struct qed_file_id *id)
{
  char name[CONTROL_LINK_NAME_SIZE];

  control_link_name (id, name);
  json_object_set_new (image, "file", json_string (name));
}

/* Those that are open, to tell their health.  Of two with one file's id the
 * table has one only.
 */
struct open_images {
  struct export *list[LIST_PAGE];
  size_t count;
};

static const char *
health_of (const struct open_images *images, const struct qed_file_id *id)
{
  struct qed_file_id other;
  size_t i;

  for (i = 0; i < images->count; i++) {
    other = qed_identify (export_image (images->list[i]));
    if (other.device == id->device && other.inode == id->inode)
      return control_health (images->list[i]);
  }
  return NULL;
}

/* 'open' may be NULL. */
static json_t *
describe_entry (const struct export_entry *entry,
                const struct open_images *open)
{
  const char *health = open != NULL ? health_of (open, &entry->id) : NULL;
  json_t *image = json_object ();

  json_object_set_new (image, "name", control_string (entry->name));
  json_object_set_new (image, "use",
                       json_string (control_use_to_text (entry->state)));
  control_set_number (image, "clients", entry->clients);
  set_file (image, &entry->id);
  if (health != NULL)
    json_object_set_new (image, "health", json_string (health));
  return image;
}

/* Returns whether there are more. */
static bool
describe_entries (const struct control_request *request, json_t *images,
                  const struct export_entries *entries)
{
  struct open_images open;
  bool more = false;
  size_t i;

  open.count = exports_pin_open (open.list, LIST_PAGE);
  for (i = 0; i < entries->count && !more; i++)
    if (is_wanted (request, &entries->list[i])) {
      more = json_array_size (images) == LIST_PAGE;
      if (!more)
        json_array_append_new (images,
                               describe_entry (&entries->list[i], &open));
    }
  for (i = 0; i < open.count; i++)
    export_unpin (open.list[i]);
  return more;
}

json_t *
control_list (struct control_request *request)
{
  struct export_entries entries;
  json_t *reply, *images;
  bool more;

  if (exports_look (&entries) == -1) {
    exports_look_end (&entries);
    return control_fail_logged (request, "failed", "out of memory");
  }
  reply = json_object ();
  images = json_array ();
  more = describe_entries (request, images, &entries);
  json_object_set_new (reply, "server", describe_server ());
  json_object_set_new (reply, "images", images);
  json_object_set_new (reply, "more", json_boolean (more));
  exports_look_end (&entries);
  return reply;
}

/* ---- status ------------------------------------------------------------ */

static void
describe_engine (json_t *image, const struct qed_status *status)
{
  json_object_set_new (image, "state",
                       json_string (state_to_text (status->state)));
  json_object_set_new (image, "access",
                       json_string (access_to_text (status->access)));
  json_object_set_new (image, "need-check",
                       json_boolean (status->need_check));
  json_object_set_new (image, "scanned", json_boolean (status->scanned));
  if (!status->scanned) {
    control_set_number (image, "tables-read", status->tables_read);
    control_set_number (image, "tables-known", status->tables_known);
  }
  control_set_number (image, "virtual-size", status->size);
  control_set_number (image, "cluster-size", status->cluster_size);
  control_set_number (image, "file-size", status->file_size);
  control_set_number (image, "image-end-offset", status->end_of_use);
  control_set_number (image, "used-bytes", status->used_bytes);
  control_set_number (image, "freed-clusters", status->freed_clusters);
  control_set_number (image, "dirty-pages", status->dirty_pages);
  control_set_number (image, "cached-pages", status->cached_pages);
  control_set_number (image, "cached-pages-max", status->cached_pages_max);
  control_set_number (image, "table-loads", status->table_loads);
  json_object_set_new (image, "pending-log",
                       json_string (pending_to_text (status->pending)));
  control_set_number (image, "pending-records", status->pending_records);
}

static json_t *
describe_image (const struct control_request *request, struct export *export)
{
  const struct qed_file_id id = qed_identify (export_image (export));
  json_t *image = json_object ();
  struct qed_status status;
  unsigned clients;

  export_state (&id, &clients);
  qed_status (export_image (export), &status);
  json_object_set_new (image, "name", control_string (export_name (export)));
  json_object_set_new (image, "path", control_string (export_path (export)));
  json_object_set_new (image, "use", json_string ("open"));
  control_set_number (image, "clients", clients);
  set_file (image, &id);
  json_object_set_new (image, "health",
                       json_string (control_health (export)));
  describe_engine (image, &status);
  control_describe_requests (image, export);
  if (control_get_bool (request, "counters"))
    control_describe_counters (image, export);
  control_check_describe (image, export);
  return image;
}

/* That of file=, which this server does not have now. */
static json_t *
describe_file (void)
{
  struct export_entry entry;
  json_t *image;

  exports_look_at_file (&entry);
  entry.name = (char *) plugin_config.name;
  image = describe_entry (&entry, NULL);
  json_object_set_new (image, "path",
                       control_string (plugin_config.options.path));
  control_describe_requests (image, exports_file ());
  return image;
}

/* One that is not open: nothing is known without opening it. */
static json_t *
describe_closed (const struct control_request *request)
{
  const char *name = control_get_string (request, "image");
  json_t *image;

  if (plugin_config.directory == NULL)
    return describe_file ();
  image = json_object ();
  if (name != NULL)
    json_object_set_new (image, "name", json_string (name));
  json_object_set_new (image, "use", json_string ("closed"));
  return image;
}

static json_t *
status_of_one (struct control_request *request, json_t *images)
{
  struct export *export;
  json_t *failure = control_pin (request, false, &export);

  if (failure != NULL)
    return failure;
  json_array_append_new (images, export != NULL
                         ? describe_image (request, export)
                         : describe_closed (request));
  if (export != NULL)
    export_unpin (export);
  return NULL;
}

/* Returns whether there are more. */
static bool
status_of_all (const struct control_request *request, json_t *images)
{
  struct export *list[STATUS_PAGE + 1];
  size_t n = exports_pin_open (list, STATUS_PAGE + 1), i;

  for (i = 0; i < n; i++) {
    if (i < STATUS_PAGE)
      json_array_append_new (images, describe_image (request, list[i]));
    export_unpin (list[i]);
  }
  if (n == 0 && plugin_config.directory == NULL)
    json_array_append_new (images, describe_file ());
  return n > STATUS_PAGE;
}

json_t *
control_status (struct control_request *request)
{
  json_t *images = json_array (), *reply, *failure;
  bool more = false;

  if (control_get_string (request, "image") == NULL)
    more = status_of_all (request, images);
  else {
    failure = status_of_one (request, images);
    if (failure != NULL) {
      json_decref (images);
      return failure;
    }
  }
  reply = json_object ();
  json_object_set_new (reply, "server", describe_server ());
  json_object_set_new (reply, "images", images);
  json_object_set_new (reply, "more", json_boolean (more));
  if (control_get_bool (request, "counters"))
    json_object_set_new (reply, "bounds", control_describe_bounds ());
  return reply;
}

/* ---- flush ------------------------------------------------------------- */

/* An image that is not open has nothing to be flushed. */
json_t *
control_flush (struct control_request *request)
{
  struct export *export;
  json_t *reply = control_pin (request, false, &export);
  int r = 0;

  if (reply != NULL)
    return reply;
  if (export != NULL) {
    r = qed_request_sync (export_image (export), QED_OP_FLUSH, NULL, 0, 0, 0);
    if (r < 0)
      reply = control_fail ("failed", "%s: the flush failed: %s",
                            export_path (export), strerror (-r));
    export_unpin (export);
  }
  if (reply == NULL) {
    reply = json_object ();
    json_object_set_new (reply, "flushed", json_boolean (export != NULL));
  }
  return reply;
}
