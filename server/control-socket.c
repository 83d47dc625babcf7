/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door that is a Unix socket: requests and replies are lines.
 *
 * A libev loop on a thread of its own moves bytes, and does nothing else.
 *
 *   reading --a line--> working --reply--> writing --all sent--> reading
 *
 * S1. While a request is worked on, or something is to be sent, nothing is
 *     read: a client has one request at a time, and what it doesn't read
 *     stays bounded.
 * S2. A client that does not go on with a line that it has begun, or does not
 *     take what is sent to it, or has nothing to ask, is disconnected after a
 *     while.
 * S3. A connection whose request is being worked on outlives its socket: it is
 *     'gone', and freed with the reply.
 */

#include <config.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ev.h>

#include "control.h"
#include "control-listen.h"
#include "message.h"
#include "plugin.h"
#include "thread.h"

#define CONNECTIONS_MAX 32u

/* Seconds until a client is disconnected. */
#define LINE_SECONDS 10.        /* for a whole line, from its first byte on */
#define SEND_SECONDS 10.        /* without taking a byte */
#define IDLE_SECONDS 30.        /* without a request */

/* After accept failed for want of descriptors. */
#define ACCEPT_AGAIN_SECONDS 1.

/* Events beyond that many that were not sent are dropped. */
#define EVENTS_MAX 16u

/* Something to be sent; the text ends with a newline. */
struct output {
  struct output *next;
  char *text;
  size_t length, sent;
};

struct connection {
  struct control_client client; /* first: it is cast */
  struct connection *next;
  int fd;
  ev_io io;
  ev_timer timer;
  bool eof;                     /* no more requests will come */
  bool working;                 /* a request is worked on */
  bool ending;                  /* to be closed when all is sent */
  ev_tstamp line_began;         /* if there is a part of one */
  size_t received;
  char line[CONTROL_REQUEST_MAX + 1];

  /* Protected by the lock. */
  struct output *first, **last;
  unsigned events;              /* of the output */
  bool replied;                 /* to what is worked on */
  bool lost;                    /* the reply was, for want of memory */
  bool gone;
};

static int listener = -1;
static pthread_t thread;
static bool running;            /* start and stop look at it */
static struct ev_loop *loop;
static ev_async wake;           /* there is output, or it ends */
static ev_io accepting;
static ev_timer accept_again;
static struct connection *connections;  /* loop only */
static unsigned nr_connections;         /* likewise */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool ends;               /* protected by the lock */

static void process_lines (struct connection *conn);

/* ---- Output ------------------------------------------------------------ */

/* With the lock.  Takes over the text, whose NUL becomes a newline. */
static bool
append_output (struct connection *conn, char *text, size_t length)
{
  struct output *output = malloc (sizeof *output);

  if (output == NULL) {
    free (text);
    return false;
  }
  text[length] = '\n';
  *output = (struct output) { .text = text, .length = length + 1 };
  *conn->last = output;
  conn->last = &output->next;
  return true;
}

/* With the lock. */
static void
drop_output (struct connection *conn)
{
  struct output *output = conn->first;

  conn->first = output->next;
  if (conn->first == NULL)
    conn->last = &conn->first;
  free (output->text);
  free (output);
}

/* The two that the dispatcher calls, on its threads. */
static void
send_event (struct control_client *client, const char *text, size_t length)
{
  struct connection *conn = (struct connection *) client;
  char *copy;

  pthread_mutex_lock (&lock);
  if (!conn->gone && conn->events < EVENTS_MAX &&
      (copy = strndup (text, length)) != NULL &&
      append_output (conn, copy, length)) {
    conn->events++;
    ev_async_send (loop, &wake);
  }
  pthread_mutex_unlock (&lock);
}

static void
send_reply (struct control_client *client, char *text, size_t length)
{
  struct connection *conn = (struct connection *) client;
  bool gone;

  pthread_mutex_lock (&lock);
  gone = conn->gone;
  if (!gone) {
    conn->lost = text == NULL || !append_output (conn, text, length);
    conn->replied = true;
    ev_async_send (loop, &wake);
  }
  pthread_mutex_unlock (&lock);
  if (gone) {
    free (text);
    free (conn);
  }
}

/* ---- A connection's end ------------------------------------------------ */

static void
close_connection (struct connection *conn)
{
  struct connection **link = &connections;
  bool working;

  while (*link != conn)
    link = &(*link)->next;
  *link = conn->next;
  nr_connections--;
  ev_io_stop (loop, &conn->io);
  ev_timer_stop (loop, &conn->timer);
  close (conn->fd);

  pthread_mutex_lock (&lock);
  while (conn->first != NULL)
    drop_output (conn);
  working = conn->working && !conn->replied;
  conn->gone = true;
  pthread_mutex_unlock (&lock);
  if (!working)
    free (conn);
}

/* ---- Sending and receiving (loop) -------------------------------------- */

/* Wait for 'events', and for as long as S2 says. */
static void
await (struct connection *conn, int events)
{
  const bool sending = events & EV_WRITE;
  ev_tstamp seconds = sending ? SEND_SECONDS : IDLE_SECONDS;

  ev_io_stop (loop, &conn->io);
  ev_timer_stop (loop, &conn->timer);
  if (events == 0)
    return;
  if (!sending && conn->received > 0)
    seconds = conn->line_began + LINE_SECONDS - ev_now (loop);
  ev_io_set (&conn->io, conn->fd, events);
  ev_io_start (loop, &conn->io);
  ev_timer_set (&conn->timer, seconds > 0 ? seconds : 0., 0.);
  ev_timer_start (loop, &conn->timer);
}

/* Returns 1 when all was sent, 0 if there is more, -1 if the client is not
 * there any more.
 */
static int
send_some (struct connection *conn)
{
  struct output *output;
  ssize_t n;
  int r = 1;

  pthread_mutex_lock (&lock);
  while ((output = conn->first) != NULL) {
    n = send (conn->fd, output->text + output->sent,
              output->length - output->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == -1) {
      r = errno == EAGAIN || errno == EINTR ? 0 : -1;
      break;
    }
    output->sent += n;
    if (output->sent == output->length) {
      drop_output (conn);
      if (conn->events > 0)
        conn->events--;
    }
  }
  pthread_mutex_unlock (&lock);
  return r;
}

/* Whether the reply is there, so that it is among what is sent next. */
static bool
take_reply (struct connection *conn)
{
  bool replied;

  pthread_mutex_lock (&lock);
  replied = conn->replied;
  if (conn->lost)
    conn->ending = true;
  pthread_mutex_unlock (&lock);
  return replied;
}

/* There may be something to be sent; go on from there. */
static void
go_on (struct connection *conn)
{
  const bool replied = take_reply (conn);
  const int r = send_some (conn);

  if (r == 0)
    await (conn, EV_WRITE);
  else if (r == -1)
    close_connection (conn);
  else if (replied || !conn->working) {
    conn->working = conn->replied = false;
    process_lines (conn);
  }
  else
    await (conn, 0);
}

/* In place of a reply; then the connection ends. */
static void
refuse (struct connection *conn, const char *code, const char *message)
{
  char *text = control_refusal (code, message);

  pthread_mutex_lock (&lock);
  if (text != NULL)
    append_output (conn, text, strlen (text));
  pthread_mutex_unlock (&lock);
  conn->ending = true;
}

/* Take the first line out of what was received, and have it carried out. */
static void
submit_line (struct connection *conn, const char *end)
{
  static const char blank[] = " \t\r";
  const size_t length = end - conn->line;
  const size_t rest = conn->received - length - 1;
  size_t i = 0;

  while (i < length && strchr (blank, conn->line[i]) != NULL)
    i++;
  if (i < length) {             /* an empty line asks for nothing */
    conn->working = true;
    control_submit (&conn->client, conn->line, length);
  }
  memmove (conn->line, end + 1, rest);
  conn->received = rest;
  conn->line_began = ev_now (loop);
}

/* Carry on with what was received. */
static void
process_lines (struct connection *conn)
{
  const char *end;

  while (!conn->ending && !conn->working) {
    end = memchr (conn->line, '\n', conn->received);
    if (end != NULL)
      submit_line (conn, end);
    else if (conn->received == sizeof conn->line)
      refuse (conn, "request-too-large",
              "a request may have 65536 bytes at most");
    else if (!conn->eof)
      break;
    else if (conn->received == 0)
      conn->ending = true;
    else
      conn->line[conn->received++] = '\n';     /* the last line's */
  }
  if (conn->working)
    await (conn, 0);            /* S1; the reply wakes us */
  else if (!conn->ending)
    await (conn, EV_READ);
  else if (send_some (conn) == 0)
    await (conn, EV_WRITE);
  else
    close_connection (conn);
}

static void
receive_some (struct connection *conn)
{
  const ssize_t n = recv (conn->fd, conn->line + conn->received,
                          sizeof conn->line - conn->received, MSG_DONTWAIT);

  if (n == -1 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n == -1) {
    close_connection (conn);
    return;
  }
  if (conn->received == 0)
    conn->line_began = ev_now (loop);
  conn->received += n;
  conn->eof = n == 0;
  process_lines (conn);
}

static void
ready (struct ev_loop *ev, ev_io *io, int events)
{
  struct connection *conn = io->data;

  (void) ev;
  if (events & EV_WRITE)
    go_on (conn);
  else
    receive_some (conn);
}

static void
timed_out (struct ev_loop *ev, ev_timer *timer, int events)
{
  (void) ev;
  (void) events;
  close_connection (timer->data);
}

/* ---- Clients that come ------------------------------------------------- */

static void
add_connection (int fd, const struct ucred *peer)
{
  struct connection *conn = calloc (1, sizeof *conn);

  if (conn == NULL) {
    close (fd);
    return;
  }
  conn->client.rights = CONTROL_ADMIN;
  conn->client.event = send_event;
  conn->client.reply = send_reply;
  snprintf (conn->client.who, sizeof conn->client.who, "uid %ld, process %ld",
            (long) peer->uid, (long) peer->pid);
  conn->fd = fd;
  conn->last = &conn->first;
  ev_init (&conn->io, ready);
  ev_init (&conn->timer, timed_out);
  conn->io.data = conn->timer.data = conn;
  conn->next = connections;
  connections = conn;
  nr_connections++;
  await (conn, EV_READ);
}

static void
turn_away (int fd, const char *code, const char *message)
{
  char *text = control_refusal (code, message);
  size_t length;

  if (text != NULL) {
    length = strlen (text);
    text[length] = '\n';
    (void) !send (fd, text, length + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  free (text);
  close (fd);
}

static void
meet (int fd)
{
  struct ucred peer;
  socklen_t len = sizeof peer;

  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == -1 ||
      (peer.uid != 0 && peer.uid != geteuid ()))
    turn_away (fd, "forbidden", "only root and the server's own user may use "
               "the control socket");
  else if (nr_connections == CONNECTIONS_MAX)
    turn_away (fd, "too-many-connections", "too many connections to the "
               "control socket: try again later");
  else
    add_connection (fd, &peer);
}

static void
can_accept (struct ev_loop *ev, ev_io *io, int events)
{
  int fd;

  (void) events;
  fd = accept4 (listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0)
    meet (fd);
  else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
           errno == ENOBUFS) {
    ev_io_stop (ev, io);
    ev_timer_set (&accept_again, ACCEPT_AGAIN_SECONDS, 0.);
    ev_timer_start (ev, &accept_again);
  }
}

static void
start_accepting (struct ev_loop *ev, ev_timer *timer, int events)
{
  (void) timer;
  (void) events;
  ev_io_start (ev, &accepting);
}

/* ---- The loop ---------------------------------------------------------- */

static bool
has_news (struct connection *conn)
{
  bool news;

  pthread_mutex_lock (&lock);
  news = conn->first != NULL || conn->replied;
  pthread_mutex_unlock (&lock);
  return news;
}

static void
woken (struct ev_loop *ev, ev_async *async, int events)
{
  struct connection *conn, *next;
  bool end;

  (void) async;
  (void) events;
  for (conn = connections; conn != NULL; conn = next) {
    next = conn->next;
    if (has_news (conn))
      go_on (conn);
  }
  pthread_mutex_lock (&lock);
  end = ends;
  pthread_mutex_unlock (&lock);
  if (end)
    ev_break (ev, EVBREAK_ALL);
}

static void *
loop_thread (void *arg)
{
  (void) arg;
  ev_run (loop, 0);
  while (connections != NULL)
    close_connection (connections);
  return NULL;
}

/* ---- Life -------------------------------------------------------------- */

int
control_socket_bind (void)
{
  if (plugin_config.control == NULL)
    return 0;
  listener = control_listen (plugin_config.control);
  return listener == -1 ? -1 : 0;
}

int
control_socket_start (void)
{
  if (listener == -1)
    return 0;
  loop = ev_loop_new (EVFLAG_AUTO | EVFLAG_NOENV);
  if (loop == NULL) {
    message_error ("control=%s: cannot make an event loop: %m",
                   plugin_config.control);
    return -1;
  }
  ev_async_init (&wake, woken);
  ev_async_start (loop, &wake);
  ev_io_init (&accepting, can_accept, listener, EV_READ);
  ev_io_start (loop, &accepting);
  ev_init (&accept_again, start_accepting);
  running = thread_start (&thread, loop_thread, NULL) == 0;
  return running ? 0 : -1;
}

void
control_socket_stop (void)
{
  if (listener == -1)
    return;
  if (running) {
    pthread_mutex_lock (&lock);
    ends = true;
    ev_async_send (loop, &wake);
    pthread_mutex_unlock (&lock);
    pthread_join (thread, NULL);
    running = false;
  }
  if (loop != NULL)
    ev_loop_destroy (loop);
  loop = NULL;
  close (listener);
  listener = -1;
  control_unlisten (plugin_config.control);
}
