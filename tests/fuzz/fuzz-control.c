/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door: a server with one small image, to which an input is what a
 * client does.  The first byte says by which way: the socket, to which the
 * rest is sent in some pieces; or the mailbox, of which the rest are actions.
 *
 * Whatever comes, each request gets one reply, an object, in time, and the
 * image has no damage in the end.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "control.h"
#include "exports.h"
#include "fuzz.h"
#include "mailbox.h"
#include "nbdkit-stub.h"
#include "qed.h"

#define IMAGE_BYTES (UINT64_C (1) << 20)
#define PATIENCE_MS 20000
#define SLICE_MS 2
#define CANCEL_MS 40            /* then what runs, or is paused, is ended */
#define REPLIES_MAX ((size_t) 16 << 20)

struct nbdkit_plugin *plugin_init (void);

static struct nbdkit_plugin *plugin;
static char *image_path, *socket_path;
static void *mailbox;           /* the connection; and its last request */
static uint64_t sequence;
static unsigned char *buffer;   /* of MAILBOX_BYTES */

/* ---- The server ---- */

static void
make_image (void)
{
  struct qed_create_options create;
  struct qed_options options;
  struct qed_image *image;
  char sector[512];

  qed_create_options_init (&create);
  create.path = image_path;
  create.size = IMAGE_BYTES;
  create.cluster_size = 4096;
  create.table_size = 1;
  qed_options_init (&options);
  options.path = image_path;
  memset (sector, 'x', sizeof sector);
  if (qed_create (&create) < 0 || qed_open (&options, &image) < 0 ||
      qed_start (image) < 0 ||
      qed_request_sync (image, QED_OP_WRITE, sector, sizeof sector, 65536,
                        0) < 0 ||
      qed_close (image) < 0)
    fuzz_fail ("cannot make %s", image_path);
}

static void *
open_mailbox (void)
{
  void *handle;

  stub_export_name = MAILBOX_NAME;
  handle = plugin->open (false);
  if (handle == NULL)
    fuzz_fail ("the mailbox can't be opened");
  return handle;
}

static void
stop_server (void)
{
  plugin->close (mailbox);
  plugin->cleanup ();
  plugin->unload ();
  free (image_path);
  free (socket_path);
  free (buffer);
}

static void
start_server (void)
{
  signal (SIGPIPE, SIG_IGN);
  image_path = fuzz_path ("disk.qed");
  socket_path = fuzz_path ("control");
  setenv ("XDG_RUNTIME_DIR", fuzz_directory (), 1);
  buffer = malloc (MAILBOX_BYTES);
  make_image ();
  plugin = plugin_init ();
  plugin->load ();
  if (buffer == NULL || plugin->config ("file", image_path) == -1 ||
      plugin->config ("control", socket_path) == -1 ||
      plugin->config ("control-export", "admin") == -1 ||
      plugin->config_complete () == -1 || plugin->get_ready () == -1 ||
      plugin->after_fork () == -1)
    fuzz_fail ("the server does not start");
  mailbox = open_mailbox ();
  atexit (stop_server);
}

static int64_t
now_ms (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C (1000) + t.tv_nsec / 1000000;
}

/* ---- Replies ---- */

/* One is an object that says which version it is of. */
static void
check_reply (const char *text, size_t length)
{
  json_error_t error;
  json_t *json = json_loadb (text, length, 0, &error);

  if (!json_is_object (json))
    fuzz_fail ("no object: %.*s", (int) (length < 200 ? length : 200), text);
  if (!json_is_integer (json_object_get (json, "output_version")))
    fuzz_fail ("an object without a version: %.*s", (int) length, text);
  json_decref (json);
}

/* ---- The mailbox ---- */

static bool
post_request (void *handle, const char *text, size_t length, uint64_t number)
{
  unsigned char *message = malloc (MAILBOX_HEADER_BYTES + length);
  int r;

  if (message == NULL)
    abort ();
  mailbox_put64 (message + MAILBOX_HEADER_SEQUENCE, number);
  mailbox_put32 (message + MAILBOX_HEADER_STATE, 0);
  mailbox_put32 (message + MAILBOX_HEADER_LENGTH, (uint32_t) length);
  memcpy (message + MAILBOX_HEADER_BYTES, text, length);
  r = plugin->pwrite (handle, message, MAILBOX_HEADER_BYTES + length,
                      MAILBOX_REQUEST, 0);
  free (message);
  return r == 0;
}

static uint32_t
reply_state (void *handle)
{
  unsigned char header[MAILBOX_HEADER_BYTES];

  if (plugin->pread (handle, header, sizeof header, MAILBOX_REPLY, 0) == -1)
    fuzz_fail ("the mailbox can't be read");
  return mailbox_get32 (header + MAILBOX_HEADER_STATE);
}

/* What takes long is cancelled, again and again, as there may be more. */
static void
cancel_checks (void)
{
  static const char text[] = "{\"command\":\"check\",\"action\":\"cancel\"}";
  int64_t end = now_ms () + PATIENCE_MS;
  void *other;

  other = open_mailbox ();
  if (!post_request (other, text, sizeof text - 1, 1))
    fuzz_fail ("a request to a fresh mailbox is refused");
  while (reply_state (other) != MAILBOX_COMPLETE && now_ms () < end)
    nbdkit_nanosleep (0, 100000);
  plugin->close (other);
}

/* Until what was asked last is answered. */
static void
await_reply (void)
{
  int64_t begin = now_ms (), cancel = begin + CANCEL_MS;
  uint32_t length;

  while (reply_state (mailbox) == MAILBOX_WORKING) {
    if (now_ms () > begin + PATIENCE_MS)
      fuzz_fail ("a request is not answered");
    if (now_ms () > cancel) {
      cancel_checks ();
      cancel = now_ms () + CANCEL_MS;
    }
    nbdkit_nanosleep (0, 50000);
  }
  if (reply_state (mailbox) != MAILBOX_COMPLETE)
    return;
  plugin->pread (mailbox, buffer, MAILBOX_REPLY_BYTES, MAILBOX_REPLY, 0);
  length = mailbox_get32 (buffer + MAILBOX_HEADER_LENGTH);
  if (length > CONTROL_REPLY_MAX)
    fuzz_fail ("a reply of %" PRIu32 " bytes", length);
  check_reply ((char *) buffer + MAILBOX_HEADER_BYTES, length);
}

/* As nbdkit does: a range within the export. */
static void
take_range (struct fuzz_input *in, uint64_t *offset, uint32_t *count)
{
  static const uint64_t places[] = {
    0, MAILBOX_PROGRESS, MAILBOX_REQUEST, MAILBOX_REPLY,
  };
  uint64_t how = fuzz_take (in, 1);

  *offset = (places[how & 3] + fuzz_take (in, how & 4 ? 3 : 1)) %
    MAILBOX_BYTES;
  *count = (uint32_t) fuzz_take (in, how & 8 ? 3 : 1);
  if (*count > MAILBOX_BYTES - *offset)
    *count = (uint32_t) (MAILBOX_BYTES - *offset);
}

static void
take_request (struct fuzz_input *in)
{
  size_t length = (size_t) fuzz_take (in, 2);

  if (length > fuzz_left (in))
    length = fuzz_left (in);
  if (!post_request (mailbox, (const char *) in->at, length, ++sequence))
    fuzz_fail ("a request of %zu bytes is refused", length);
  in->at += length;
}

static void
take_write (struct fuzz_input *in)
{
  uint64_t offset;
  uint32_t count;
  size_t n;

  take_range (in, &offset, &count);
  n = count < fuzz_left (in) ? count : fuzz_left (in);
  memset (buffer, 0, count);
  memcpy (buffer, in->at, n);
  in->at += n;
  if (plugin->pwrite (mailbox, buffer, count, offset, 0) == 0)
    sequence = mailbox_get64 (buffer + MAILBOX_HEADER_SEQUENCE);
}

static void
use_mailbox (struct fuzz_input *in)
{
  uint64_t offset;
  uint32_t count;

  while (fuzz_left (in) > 0)
    switch (fuzz_take (in, 1) % 4) {
    case 0:
      await_reply ();
      take_request (in);
      break;
    case 1:
      take_write (in);
      break;
    case 2:
      take_range (in, &offset, &count);
      plugin->pread (mailbox, buffer, count, offset, 0);
      break;
    case 3:                     /* it may leave a request behind */
      plugin->close (mailbox);
      mailbox = open_mailbox ();
      sequence = 0;
      break;
    }
  await_reply ();
}

/* ---- The socket ---- */

static int
connect_socket (void)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

  strncpy (address.sun_path, socket_path, sizeof address.sun_path - 1);
  if (fd == -1 || connect (fd, (struct sockaddr *) &address,
                           sizeof address) == -1)
    fuzz_fail ("cannot connect to %s", socket_path);
  return fd;
}

/* Lines, each with an object; the last may be cut. */
static void
check_lines (const char *text, size_t length)
{
  const char *end;

  while ((end = memchr (text, '\n', length)) != NULL) {
    check_reply (text, (size_t) (end - text));
    length -= (size_t) (end + 1 - text);
    text = end + 1;
  }
  if (length > 0)
    fuzz_fail ("half a line: %.*s", (int) length, text);
}

/* Send what it takes; at the end say that there is no more. */
static void
send_some (int fd, struct fuzz_input *in, bool *ended)
{
  size_t n = fuzz_left (in), piece = 1 + n / 3;
  ssize_t sent;

  if (n > 0) {
    sent = send (fd, in->at, piece < n ? piece : n, MSG_NOSIGNAL);
    if (sent > 0)
      in->at += sent;
    else if (sent == -1 && errno != EAGAIN)
      in->at = in->end;         /* the server has had enough */
  }
  if (fuzz_left (in) == 0) {
    shutdown (fd, SHUT_WR);
    *ended = true;
  }
}

static void
use_socket (struct fuzz_input *in)
{
  struct pollfd poll_fd = { .fd = connect_socket () };
  int64_t begin = now_ms (), cancel = begin + CANCEL_MS;
  char *text = malloc (REPLIES_MAX);
  bool ended = false;
  size_t length = 0;
  ssize_t n = 1;

  while (text && n != 0 && length < REPLIES_MAX) {
    if (now_ms () > begin + PATIENCE_MS)
      fuzz_fail ("the socket is not closed");
    if (now_ms () > cancel) {
      cancel_checks ();
      cancel = now_ms () + CANCEL_MS;
    }
    poll_fd.events = POLLIN | (ended ? 0 : POLLOUT);
    poll (&poll_fd, 1, SLICE_MS);
    if (!ended && poll_fd.revents & POLLOUT)
      send_some (poll_fd.fd, in, &ended);
    n = recv (poll_fd.fd, text + length, REPLIES_MAX - length, 0);
    if (n > 0)
      length += (size_t) n;
    else if (n == -1 && errno != EAGAIN)
      break;
  }
  close (poll_fd.fd);
  check_lines (text, length);
  free (text);
}

/* ---- The whole ---- */

/* It may have been released. */
static void
have_image (void)
{
  struct export_entry entry;

  cancel_checks ();
  exports_look_at_file (&entry);
  if (entry.state != EXPORT_OPEN && exports_activate_file () == -1) {
    exports_look_at_file (&entry);
    if (entry.state != EXPORT_OPEN)
      fuzz_fail ("the image does not come back: state %d", (int) entry.state);
  }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct fuzz_input in = { data, data + size };

  if (plugin == NULL)
    start_server ();
  if (fuzz_take (&in, 1) & 1)
    use_socket (&in);
  else
    use_mailbox (&in);
  have_image ();
  return 0;
}
