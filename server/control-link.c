/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The links from files to our control socket: see control-link.h. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control-link.h"
#include "message.h"

static const char *target;      /* the socket, or NULL; constant after start */
static char directory[PATH_MAX];

/* Whether the directory can be had: with its parent, which is ours too, it is
 * made if it isn't there.
 */
static bool
prepare (const char *path)
{
  char parent[PATH_MAX];

  snprintf (parent, sizeof parent, "%s", path);
  *strrchr (parent, '/') = '\0';
  mkdir (parent, 0755);
  mkdir (path, 0755);
  return faccessat (AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) == 0;
}

void
control_links_start (const char *socket)
{
  unsigned n;

  if (socket == NULL)
    return;
  for (n = 0; control_link_directory (n, directory, sizeof directory); n++)
    if (prepare (directory)) {
      target = socket;
      return;
    }
  message_error ("warning: there is no directory for links to the control "
                 "socket that this user may write to (/run/nbdkit-qed/by-inode "
                 "or $XDG_RUNTIME_DIR/nbdkit-qed/by-inode): qedctl finds this "
                 "server with --control=%s only", socket);
}

static void
full_path (const struct qed_file_id *id, const char *suffix,
           char path[PATH_MAX + 64])
{
  char name[CONTROL_LINK_NAME_SIZE];

  control_link_name (id, name);
  snprintf (path, PATH_MAX + 64, "%s/%s%s", directory, name, suffix);
}

/* Another server's, which the file has no longer, is replaced. */
void
control_link_add (const struct qed_file_id *id, const char *image)
{
  char path[PATH_MAX + 64], new[PATH_MAX + 64];

  if (target == NULL || id->inode == 0)         /* no file of this host */
    return;
  full_path (id, "", path);
  full_path (id, ".new", new);
  unlink (new);
  if (symlink (target, new) == 0 && rename (new, path) == 0)
    return;
  message_error ("warning: %s: cannot make the link %s to the control socket: "
                 "%m: qedctl finds its server with --control=%s only", image,
                 path, target);
  unlink (new);
}

/* A link that leads nowhere is no server's. */
void
control_link_offer (const struct qed_file_id *id, const char *image)
{
  char path[PATH_MAX + 64];

  if (target == NULL)
    return;
  full_path (id, "", path);
  if (access (path, F_OK) == -1)
    control_link_add (id, image);
}

void
control_link_remove (const struct qed_file_id *id)
{
  char path[PATH_MAX + 64], leads_to[PATH_MAX];
  ssize_t n;

  if (target == NULL || id->inode == 0)
    return;
  full_path (id, "", path);
  n = readlink (path, leads_to, sizeof leads_to);
  if (n > 0 && (size_t) n == strlen (target) &&
      memcmp (leads_to, target, n) == 0)
    unlink (path);
}
