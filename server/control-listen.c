/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The file of the control socket: how it comes and goes.  Before the fork,
 * and at the end; there are no other threads then.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control-listen.h"
#include "message.h"
#include "plugin.h"

#define BACKLOG 64

static struct stat bound;       /* the file that we made */

static int
set_address (const char *path, struct sockaddr_un *address)
{
  memset (address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (strlen (path) >= sizeof address->sun_path) {
    message_error ("control=%s: the path of a socket may have %zu bytes at "
                   "most", path, sizeof address->sun_path - 1);
    return -1;
  }
  strcpy (address->sun_path, path);
  return 0;
}

/* A socket that nobody serves is in the way, one that is served is a server's
 * who should know of us.
 */
static int
remove_dead (const char *path, const struct sockaddr_un *address)
{
  struct stat st;
  int fd, r;

  if (lstat (path, &st) == -1)
    return 0;                   /* bind says what is wrong, if anything is */
  if (!S_ISSOCK (st.st_mode)) {
    message_error ("control=%s: there is something that is no socket: remove "
                   "it, or choose another path", path);
    return -1;
  }
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1)
    return 0;
  r = connect (fd, (const struct sockaddr *) address, sizeof *address);
  if (r == 0 || errno == EAGAIN) {
    message_error ("control=%s: another server uses this socket: choose "
                   "another path", path);
    r = -1;
  }
  else if (errno != ECONNREFUSED)
    message_error ("control=%s: cannot tell whether another server uses this "
                   "socket: %m", path);
  else if ((r = unlink (path)) == -1)
    message_error ("control=%s: cannot remove a socket that nobody serves: %m",
                   path);
  close (fd);
  return r;
}

/* Nobody else may connect from the very beginning. */
static int
bind_privately (int fd, const struct sockaddr_un *address)
{
  const mode_t before = umask (0177);
  const int r = bind (fd, (const struct sockaddr *) address, sizeof *address);

  umask (before);
  return r;
}

int
control_listen (const char *path)
{
  struct sockaddr_un address;
  uid_t user;
  int fd;

  if (set_address (path, &address) == -1 ||
      remove_dead (path, &address) == -1)
    return -1;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1 || bind_privately (fd, &address) == -1) {
    message_error ("control=%s: cannot bind the socket: %m", path);
    goto fail;
  }
  if (lstat (path, &bound) == -1 || listen (fd, BACKLOG) == -1) {
    message_error ("control=%s: cannot listen: %m", path);
    goto fail;
  }
  if (plugin_user (&user) && chown (path, user, -1) == -1) {
    message_error ("control=%s: cannot give the socket to the user of "
                   "nbdkit's option -u: %m", path);
    goto fail;
  }
  return fd;

 fail:
  if (fd != -1) {
    control_unlisten (path);
    close (fd);
  }
  return -1;
}

/* Whoever has replaced it keeps it. */
void
control_unlisten (const char *path)
{
  struct stat st;

  if (bound.st_ino != 0 && lstat (path, &st) == 0 &&
      st.st_dev == bound.st_dev && st.st_ino == bound.st_ino)
    unlink (path);
  bound.st_ino = 0;
}
