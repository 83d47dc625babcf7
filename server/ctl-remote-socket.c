/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A server's control socket, as seen from qedctl. */

#include <config.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl-remote.h"

#define WAIT_MS 100

/* No line of a server is longer. */
#define LINE_MAX_BYTES ((size_t) 4 << 20)

#define CHUNK_BYTES 65536u

struct socket_remote {
  struct ctl_remote remote;     /* first: it is cast */
  int fd;
  char *buf;                    /* what was received */
  size_t used, capacity;
};

static void
close_socket (struct ctl_remote *remote)
{
  struct socket_remote *s = (struct socket_remote *) remote;

  if (s->fd >= 0)
    close (s->fd);
  free (s->buf);
  free (remote->name);
  free (s);
}

/* A server that turns us away has a last word, which is read later. */
static bool
send_line (struct ctl_remote *remote, const char *text, size_t length)
{
  struct socket_remote *s = (struct socket_remote *) remote;
  size_t sent = 0;
  ssize_t n;

  while (sent <= length) {
    n = sent < length ? send (s->fd, text + sent, length - sent, MSG_NOSIGNAL)
      : send (s->fd, "\n", 1, MSG_NOSIGNAL);
    if (n == -1 && errno == EINTR)
      continue;
    if (n == -1 && errno == EPIPE)
      return true;
    if (n == -1) {
      ctl_error ("%s: cannot send to the server: %m", remote->name);
      return false;
    }
    sent += n;
  }
  return true;
}

static int
lost (const struct socket_remote *s, const char *why)
{
  ctl_error ("%s: the connection to the server was lost (%s).  A check or "
             "repair goes on if the server does: qedctl status tells",
             s->remote.name, why);
  return REMOTE_LOST;
}

/* Take the first line out of the buffer; NULL if there is no whole one. */
static char *
take_line (struct socket_remote *s, size_t *length)
{
  const char *end = s->used > 0 ? memchr (s->buf, '\n', s->used) : NULL;
  char *line;

  if (end == NULL)
    return NULL;
  *length = end - s->buf;
  line = strndup (s->buf, *length);
  if (line != NULL) {
    s->used -= *length + 1;
    memmove (s->buf, end + 1, s->used);
  }
  return line;
}

/* Returns 1 if something came, 0 if not, or REMOTE_LOST. */
static int
receive_some (struct socket_remote *s)
{
  struct pollfd fd = { .fd = s->fd, .events = POLLIN };
  char *bigger;
  ssize_t n;

  if (poll (&fd, 1, WAIT_MS) <= 0)
    return 0;
  if (s->used + CHUNK_BYTES > s->capacity) {
    bigger = s->capacity < LINE_MAX_BYTES
      ? realloc (s->buf, s->capacity + 4 * CHUNK_BYTES) : NULL;
    if (bigger == NULL)
      return lost (s, "its answer is too long");
    s->buf = bigger;
    s->capacity += 4 * CHUNK_BYTES;
  }
  n = recv (s->fd, s->buf + s->used, CHUNK_BYTES, 0);
  if (n == -1 && errno == EINTR)
    return 0;
  if (n <= 0)
    return lost (s, n == 0 ? "it hung up" : strerror (errno));
  s->used += n;
  return 1;
}

/* An event is an object with that member; the words may stand in a reply's
 * strings, but there they have backslashes.
 */
static bool
is_event (const char *line)
{
  return strstr (line, "\"event\":") != NULL;
}

static int
receive_line (struct ctl_remote *remote, char **text, size_t *length)
{
  struct socket_remote *s = (struct socket_remote *) remote;
  int r;

  while ((*text = take_line (s, length)) == NULL) {
    r = receive_some (s);
    if (r <= 0)
      return r;
  }
  return is_event (*text) ? REMOTE_EVENT : REMOTE_REPLY;
}

static struct ctl_remote *
again (const struct ctl_remote *remote)
{
  return ctl_remote_socket (remote->name, NULL);
}

static const struct ctl_remote_ops ops = {
  .send = send_line,
  .receive = receive_line,
  .again = again,
  .close = close_socket,
};

static bool
connect_to (struct socket_remote *s, const char *path, bool *quiet)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int r;

  if (strlen (path) >= sizeof address.sun_path) {
    ctl_error ("%s: the path of a socket may have %zu bytes at most", path,
               sizeof address.sun_path - 1);
    return false;
  }
  strcpy (address.sun_path, path);
  s->fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (s->fd == -1) {
    ctl_error ("cannot make a socket: %m");
    return false;
  }
  r = connect (s->fd, (const struct sockaddr *) &address, sizeof address);
  if (r == 0)
    return true;
  if (quiet != NULL && (errno == ENOENT || errno == ECONNREFUSED))
    *quiet = true;
  else if (errno == ECONNREFUSED)
    ctl_error ("%s: no server serves this socket (any more): start it with "
               "control=%s", path, path);
  else if (errno == EACCES)
    ctl_error ("%s: %m: only root and the server's own user may use its "
               "control socket", path);
  else if (errno == ENOENT)
    ctl_error ("%s: %m: is the server running, and is this its control=?",
               path);
  else
    ctl_error ("%s: cannot connect: %m", path);
  return false;
}

struct ctl_remote *
ctl_remote_socket (const char *path, bool *quiet)
{
  struct socket_remote *s = calloc (1, sizeof *s);

  if (s == NULL || (s->remote.name = strdup (path)) == NULL) {
    ctl_error ("out of memory");
    free (s);
    return NULL;
  }
  s->remote.ops = &ops;
  s->fd = -1;
  if (connect_to (s, path, quiet))
    return &s->remote;
  close_socket (&s->remote);
  return NULL;
}
