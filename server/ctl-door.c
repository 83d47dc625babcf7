/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which server is meant: see ctl-remote.h. */

#include <config.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control-link.h"
#include "ctl-remote.h"

bool
ctl_is_uri (const char *target)
{
  return strncmp (target, "nbd", 3) == 0 && strstr (target, "://") != NULL;
}

/* ---- By a file --------------------------------------------------------- */

/* Whether a server has an image, by its word for how it uses it; or would have
 * it, if that is enough.
 */
static bool
has_image (const char *use, bool now)
{
  if (strcmp (use, "closed") == 0)
    return false;
  return !now || (strcmp (use, "standby") != 0 &&
                  strcmp (use, "released") != 0 && strcmp (use, "failed") != 0);
}

/* Ask the server behind a link whether it has the file, and as what. */
static bool
ask_for_file (struct ctl_remote *remote, const char *file, bool now,
              char **image)
{
  json_t *request = ctl_request ("list", NULL), *reply, *images;
  const json_t *first;
  bool has = false;

  json_object_set_new (request, "file", json_string (file));
  reply = ctl_remote_ask (remote, request, NULL);
  images = json_object_get (reply, "images");
  first = json_array_get (images, 0);
  if (strcmp (ctl_json_string (first, "file"), file) == 0 &&
      has_image (ctl_json_string (first, "use"), now)) {
    *image = strdup (ctl_json_string (first, "name"));
    has = *image != NULL;
  }
  json_decref (reply);
  return has;
}

/* A link is what someone has left there; the server behind it has the last
 * word.
 */
static bool
try_link (const char *link, const char *file, bool now,
          struct ctl_door *door, bool *failed)
{
  char socket[PATH_MAX];
  ssize_t n = readlink (link, socket, sizeof socket - 1);
  bool quiet = false;

  if (n <= 0)
    return false;
  socket[n] = '\0';
  door->remote = ctl_remote_socket (socket, &quiet);
  if (door->remote == NULL) {
    *failed = *failed || !quiet;
    return false;
  }
  if (ask_for_file (door->remote, file, now, &door->image))
    return true;
  ctl_door_close (door);
  return false;
}

bool
ctl_door_find (const char *file, bool now, struct ctl_door *door,
               bool *failed)
{
  char directory[PATH_MAX], link[PATH_MAX + CONTROL_LINK_NAME_SIZE];
  char name[CONTROL_LINK_NAME_SIZE];
  struct qed_file_id id;
  struct stat st;
  unsigned n;

  *door = (struct ctl_door) { NULL, NULL };
  *failed = false;
  if (stat (file, &st) == -1)
    return false;
  id = (struct qed_file_id) { st.st_dev, st.st_ino };
  control_link_name (&id, name);
  for (n = 0; control_link_directory (n, directory, sizeof directory); n++) {
    snprintf (link, sizeof link, "%s/%s", directory, name);
    if (try_link (link, name, now, door, failed))
      return true;
  }
  return false;
}

/* ---- By what the command line says ------------------------------------- */

static bool
open_file (const char *file, struct ctl_door *door)
{
  bool failed;

  if (access (file, F_OK) == -1) {
    ctl_error ("%s: %m", file);
    return false;
  }
  if (ctl_door_find (file, false, door, &failed))
    return true;
  if (!failed)
    ctl_error ("%s: no server on this host that has a control socket holds "
               "this file: is it served, with control=SOCKET?", file);
  return false;
}

static bool
open_socket (const char *control, const char *image, struct ctl_door *door)
{
  door->remote = ctl_remote_socket (control, NULL);
  if (door->remote == NULL)
    return false;
  door->image = image != NULL ? strdup (image) : NULL;
  return true;
}

bool
ctl_door_open (const struct ctl_command *command, const char *control,
               bool takes_image, int argc, char **argv, struct ctl_door *door)
{
  const char *target = optind < argc ? argv[optind] : NULL;

  *door = (struct ctl_door) { NULL, NULL };
  if ((control == NULL || argc - optind > 1) &&
      !ctl_arguments (command, argc, 1))
    return false;
  if (control != NULL && !takes_image && !ctl_arguments (command, argc, 0))
    return false;
  if (control != NULL && target != NULL && ctl_is_uri (target)) {
    ctl_error ("%s: --control %s and the URI %s exclude each other",
               command->name, control, target);
    return false;
  }
  if (control != NULL)
    return open_socket (control, target, door);
  if (ctl_is_uri (target)) {
    door->remote = ctl_remote_nbd (target, &door->image, NULL);
    return door->remote != NULL;
  }
  return open_file (target, door);
}

void
ctl_door_close (struct ctl_door *door)
{
  ctl_remote_close (door->remote);
  free (door->image);
  *door = (struct ctl_door) { NULL, NULL };
}

/* ---- The options of commands to a server ------------------------------- */

#define MORE_MAX 4u

bool
ctl_door_parse (const struct ctl_command *command, int argc, char **argv,
                struct ctl_door_line *line, int *status)
{
  enum { OPT_CONTROL = CTL_OPT_FIRST, OPT_JSON };
  struct option longopts[3 + MORE_MAX + 1] = {
    { "help", no_argument, NULL, 'h' },
    { "control", required_argument, NULL, OPT_CONTROL },
    { "json", no_argument, NULL, OPT_JSON },
  };
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  const char *control = NULL;
  unsigned i;
  int c;

  for (i = 0; line->more != NULL && line->more[i].name != NULL; i++)
    longopts[3 + i] = line->more[i];
  while ((c = ctl_options_next (&options, argc, argv, status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return false;
    if (c == OPT_CONTROL)
      control = optarg;
    else if (c == OPT_JSON)
      line->json = true;
    else if (!line->take (line->opaque, c, optarg)) {
      *status = CTL_FAILED;
      return false;
    }
  }
  *status = CTL_FAILED;
  return ctl_door_open (command, control, line->takes_image, argc, argv,
                        &line->door);
}
