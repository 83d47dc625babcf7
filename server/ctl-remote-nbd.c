/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A server's control export, as seen from qedctl, through libnbd.
 *
 * Nothing is written before the export has shown that it is a mailbox: a
 * server that takes any name for its only disk would write a request there.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <libnbd.h>

#include "ctl-remote.h"
#include "mailbox.h"

/* How long to wait until the next look, in milliseconds: at first, at most. */
#define PAUSE_FIRST_MS 1u
#define PAUSE_MAX_MS 100u

struct nbd_remote {
  struct ctl_remote remote;     /* first: it is cast */
  struct nbd_handle *nbd;
  uint64_t sequence;            /* of the last request */
  uint32_t events;              /* of it, that were seen */
  unsigned pause_ms;
};

static void
close_nbd (struct ctl_remote *remote)
{
  struct nbd_remote *n = (struct nbd_remote *) remote;

  if (n->nbd != NULL)
    nbd_close (n->nbd);
  free (remote->name);
  free (n);
}

/* ---- Connecting -------------------------------------------------------- */

/* The message of libnbd without the name of its function. */
static const char *
error_text (void)
{
  const char *text = nbd_get_error ();
  const char *colon = text != NULL ? strstr (text, ": ") : NULL;

  if (text == NULL)
    return "unknown error";
  return colon != NULL && strncmp (text, "nbd_", 4) == 0 ? colon + 2 : text;
}

static bool
is_encrypted (const char *uri)
{
  return strncmp (uri, "nbds", 4) == 0;
}

/* Then ENOENT is about a file, not about a socket. */
static bool
names_key (const char *uri)
{
  return strncmp (uri, "nbds:", 5) == 0;
}

static void
tell_unconnected (const char *uri)
{
  const int error = nbd_get_errno ();
  const char *why = error_text ();

  if (strncmp (why, "getaddrinfo", 11) == 0)
    ctl_error ("%s: cannot connect: %s: is this the host's name?", uri, why);
  else if (error == ECONNREFUSED || error == ETIMEDOUT ||
           error == EHOSTUNREACH || (error == ENOENT && !names_key (uri)))
    ctl_error ("%s: cannot connect: %s: is the server running, and is this "
               "its address?", uri, why);
  else if (is_encrypted (uri))
    ctl_error ("%s: cannot connect: %s: does the server use TLS, and are the "
               "certificates right (?tls-certificates=DIRECTORY), or the user "
               "and the key (nbds://USER@HOST/?tls-psk-file=FILE)?", uri, why);
  else
    ctl_error ("%s: cannot connect: %s", uri, why);
}

static bool
is_described_as (struct nbd_handle *nbd, const char *what)
{
  char *description = nbd_get_export_description (nbd);
  bool is = description != NULL && strcmp (description, what) == 0;

  free (description);
  return is;
}

/* Whether the disk that the URI names is served by a server of ours.  Also if
 * there is no such disk: then another name is the likelier mistake.
 */
static bool
serves_our_disks (struct nbd_handle *nbd, const char *disk)
{
  return nbd_aio_is_negotiating (nbd) &&
    nbd_set_export_name (nbd, disk) == 0 && nbd_opt_info (nbd) == 0 &&
    is_described_as (nbd, QED_EXPORT_DESCRIPTION);
}

/* There is no control export for us: why? */
static void
tell_refused (struct nbd_handle *nbd, const char *uri, const char *disk,
              bool *other)
{
  const int error = nbd_get_errno ();
  char why[256];

  snprintf (why, sizeof why, "%s", error_text ());
  if (serves_our_disks (nbd, disk))
    ctl_error ("%s: the server has no control export, or not for this "
               "connection: start it with control-export=check, or with "
               "control-export=admin, which is served over TLS (nbds://) or a "
               "Unix socket only", uri);
  else if (other != NULL)
    *other = true;
  else if (error == ENOTSUP && !is_encrypted (uri))
    ctl_error ("%s: the server refuses to negotiate without TLS: use nbds://",
               uri);
  else
    ctl_error ("%s: there is no control export: this is no server of "
               "nbdkit-qed, or it was started without control-export= (%s)",
               uri, why);
}

/* The proof that it is a mailbox. */
static bool
is_mailbox (struct nbd_handle *nbd)
{
  static const uint64_t places[] = {
    MAILBOX_PROGRESS, MAILBOX_PROGRESS_BYTES,
    MAILBOX_REQUEST, MAILBOX_REQUEST_BYTES,
    MAILBOX_REPLY, MAILBOX_REPLY_BYTES,
  };
  unsigned char identity[MAILBOX_IDENTITY_BYTES];
  unsigned i;

  if (nbd_get_size (nbd) != (int64_t) MAILBOX_BYTES ||
      !is_described_as (nbd, MAILBOX_DESCRIPTION) ||
      nbd_is_read_only (nbd) != 0 ||
      nbd_pread (nbd, identity, sizeof identity, 0, 0) == -1 ||
      memcmp (identity, MAILBOX_MAGIC, MAILBOX_MAGIC_BYTES) != 0 ||
      mailbox_get32 (identity + MAILBOX_AT_VERSION) != MAILBOX_VERSION)
    return false;
  for (i = 0; i < sizeof places / sizeof places[0]; i++)
    if (mailbox_get64 (identity + MAILBOX_AT_PLACES + 8 * i) != places[i])
      return false;
  return true;
}

static bool
go_to_mailbox (struct nbd_handle *nbd, const char *uri, const char *disk,
               bool *other)
{
  if (!nbd_aio_is_negotiating (nbd)) {
    if (other != NULL)
      *other = true;
    else
      ctl_error ("%s: this is no server of nbdkit-qed: it does not "
                 "negotiate; nothing was written", uri);
    return false;
  }
  if (nbd_set_export_name (nbd, MAILBOX_NAME) == -1 ||
      nbd_opt_go (nbd) == -1) {
    tell_refused (nbd, uri, disk, other);
    return false;
  }
  if (is_mailbox (nbd))
    return true;
  if (other != NULL)
    *other = true;
  else
    ctl_error ("%s: this is no server of nbdkit-qed, or one of another "
               "version: what it exports as \"%s\" is no mailbox; nothing was "
               "written", uri, MAILBOX_NAME);
  return false;
}

/* ---- Requests and replies ---------------------------------------------- */

static bool
send_request (struct ctl_remote *remote, const char *text, size_t length)
{
  struct nbd_remote *n = (struct nbd_remote *) remote;
  unsigned char *buf;
  int r;

  if (length > MAILBOX_REQUEST_BYTES - MAILBOX_HEADER_BYTES) {
    ctl_error ("the request is too long");
    return false;
  }
  buf = malloc (MAILBOX_HEADER_BYTES + length);
  if (buf == NULL) {
    ctl_error ("out of memory");
    return false;
  }
  mailbox_put64 (buf + MAILBOX_HEADER_SEQUENCE, ++n->sequence);
  mailbox_put32 (buf + MAILBOX_HEADER_STATE, 0);
  mailbox_put32 (buf + MAILBOX_HEADER_LENGTH, length);
  memcpy (buf + MAILBOX_HEADER_BYTES, text, length);
  r = nbd_pwrite (n->nbd, buf, MAILBOX_HEADER_BYTES + length, MAILBOX_REQUEST,
                  0);
  free (buf);
  n->events = 0;
  n->pause_ms = PAUSE_FIRST_MS;
  if (r == -1)
    ctl_error ("%s: the server does not take the request: %s", remote->name,
               error_text ());
  return r == 0;
}

static int
lost (const struct nbd_remote *n)
{
  ctl_error ("%s: the connection to the server was lost (%s).  A check or "
             "repair goes on if the server does: qedctl status %s tells",
             n->remote.name, error_text (), n->remote.name);
  return REMOTE_LOST;
}

/* Read the text behind a header. */
static int
read_text (struct nbd_remote *n, uint64_t place, uint32_t room,
           const unsigned char *header, char **text, size_t *length)
{
  *length = mailbox_get32 (header + MAILBOX_HEADER_LENGTH);
  if (*length == 0 || *length > room - MAILBOX_HEADER_BYTES) {
    ctl_error ("%s: the server had no memory for its reply", n->remote.name);
    return REMOTE_LOST;
  }
  *text = malloc (*length);
  if (*text == NULL) {
    ctl_error ("out of memory");
    return REMOTE_LOST;
  }
  if (nbd_pread (n->nbd, *text, *length, place + MAILBOX_HEADER_BYTES, 0) ==
      -1)
    return lost (n);
  return 0;
}

/* Header and text are read at once, since they change. */
static int
read_event (struct nbd_remote *n, char **text, size_t *length)
{
  unsigned char buf[MAILBOX_PROGRESS_BYTES];
  uint32_t events;

  if (nbd_pread (n->nbd, buf, sizeof buf, MAILBOX_PROGRESS, 0) == -1)
    return lost (n);
  events = mailbox_get32 (buf + MAILBOX_HEADER_STATE);
  *length = mailbox_get32 (buf + MAILBOX_HEADER_LENGTH);
  if (mailbox_get64 (buf + MAILBOX_HEADER_SEQUENCE) != n->sequence ||
      events == n->events || *length > sizeof buf - MAILBOX_HEADER_BYTES)
    return REMOTE_NOTHING;
  n->events = events;
  *text = strndup ((const char *) buf + MAILBOX_HEADER_BYTES, *length);
  return *text != NULL ? REMOTE_EVENT : REMOTE_NOTHING;
}

/* One look at the mailbox. */
static int
look (struct nbd_remote *n, char **text, size_t *length)
{
  unsigned char header[MAILBOX_HEADER_BYTES];
  int r;

  if (nbd_pread (n->nbd, header, sizeof header, MAILBOX_REPLY, 0) == -1)
    return lost (n);
  if (mailbox_get64 (header + MAILBOX_HEADER_SEQUENCE) != n->sequence ||
      mailbox_get32 (header + MAILBOX_HEADER_STATE) != MAILBOX_COMPLETE)
    return read_event (n, text, length);
  r = read_text (n, MAILBOX_REPLY, MAILBOX_REPLY_BYTES, header, text, length);
  return r < 0 ? r : REMOTE_REPLY;
}

static int
receive (struct ctl_remote *remote, char **text, size_t *length)
{
  struct nbd_remote *n = (struct nbd_remote *) remote;
  struct timespec pause = { 0, n->pause_ms * 1000000L };
  int r = look (n, text, length);

  if (r == REMOTE_NOTHING || r == REMOTE_EVENT) {
    nanosleep (&pause, NULL);
    n->pause_ms = n->pause_ms * 2 < PAUSE_MAX_MS
      ? n->pause_ms * 2 : PAUSE_MAX_MS;
  }
  return r;
}

static struct ctl_remote *
again (const struct ctl_remote *remote)
{
  return ctl_remote_nbd (remote->name, NULL, NULL);
}

static const struct ctl_remote_ops ops = {
  .send = send_request,
  .receive = receive,
  .again = again,
  .close = close_nbd,
};

/* ---- The whole --------------------------------------------------------- */

static bool
connect_to (struct nbd_remote *n, const char *uri, char **disk, bool *other)
{
  n->nbd = nbd_create ();
  if (n->nbd == NULL || nbd_set_opt_mode (n->nbd, true) == -1 ||
      nbd_set_full_info (n->nbd, true) == -1 ||
      nbd_set_uri_allow_local_file (n->nbd, true) == -1) {
    ctl_error ("cannot use libnbd: %s", error_text ());
    return false;
  }
  if (nbd_connect_uri (n->nbd, uri) == -1) {
    tell_unconnected (uri);
    return false;
  }
  *disk = nbd_get_export_name (n->nbd);
  if (*disk == NULL) {
    ctl_error ("out of memory");
    return false;
  }
  return go_to_mailbox (n->nbd, uri, *disk, other);
}

struct ctl_remote *
ctl_remote_nbd (const char *uri, char **image, bool *other)
{
  struct nbd_remote *n = calloc (1, sizeof *n);
  char *disk = NULL;
  bool ok;

  if (n == NULL || (n->remote.name = strdup (uri)) == NULL) {
    ctl_error ("out of memory");
    free (n);
    return NULL;
  }
  n->remote.ops = &ops;
  ok = connect_to (n, uri, &disk, other);
  if (ok && image != NULL && disk[0] != '\0') {
    *image = disk;              /* "" is the server's only one */
    disk = NULL;
  }
  free (disk);
  if (ok)
    return &n->remote;
  close_nbd (&n->remote);
  return NULL;
}
