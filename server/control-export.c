/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door that is an NBD export: see control-export.h.
 *
 * A write to the request's place starts a request; reads show how far it is.
 * Nothing here waits: the client looks again.  A mailbox whose request is
 * under way outlives its connection: it is 'gone', and freed with the reply.
 */

#include <config.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "control.h"
#include "control-export.h"
#include "mailbox.h"
#include "message.h"
#include "plugin.h"

/* With those that are gone. */
#define MAILBOXES_MAX 16u

#define EVENT_MAX (MAILBOX_PROGRESS_BYTES - MAILBOX_HEADER_BYTES)

_Static_assert (CONTROL_REQUEST_MAX + MAILBOX_HEADER_BYTES ==
                MAILBOX_REQUEST_BYTES, "a request fits");
_Static_assert (CONTROL_REPLY_MAX + MAILBOX_HEADER_BYTES ==
                MAILBOX_REPLY_BYTES, "a reply fits");

struct mailbox {
  struct control_client client; /* first: it is cast */

  pthread_mutex_t lock;         /* protects all that follows */
  bool gone;
  uint64_t sequence;            /* of the last request; 0: none yet */
  uint32_t state;
  char *reply;                  /* of 'reply_length' bytes, or NULL */
  size_t reply_length;
  uint32_t events;
  size_t event_length;
  char event[EVENT_MAX];
};

static pthread_mutex_t count_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned count;

/* ---- Coming and going -------------------------------------------------- */

bool
mailbox_is_wanted (const char *name)
{
  return plugin_config.control_export != CONTROL_EXPORT_OFF &&
    strcmp (name, MAILBOX_NAME) == 0;
}

/* Who the client is, in words; returns the family of its address. */
static int
name_peer (char who[sizeof ((struct control_client *) NULL)->who])
{
  const size_t size = sizeof ((struct control_client *) NULL)->who;
  char host[INET6_ADDRSTRLEN] = "?";
  struct sockaddr_storage address;
  socklen_t len = sizeof address;
  const struct sockaddr_in6 *in6 = (const void *) &address;
  const struct sockaddr_in *in = (const void *) &address;

  snprintf (who, size, "an NBD client");
  if (nbdkit_peer_name ((struct sockaddr *) &address, &len) == -1)
    return -1;
  switch (address.ss_family) {
  case AF_INET:
    inet_ntop (AF_INET, &in->sin_addr, host, sizeof host);
    snprintf (who, size, "%s port %u", host, ntohs (in->sin_port));
    break;
  case AF_INET6:
    inet_ntop (AF_INET6, &in6->sin6_addr, host, sizeof host);
    snprintf (who, size, "%s port %u", host, ntohs (in6->sin6_port));
    break;
  case AF_UNIX:
    snprintf (who, size, "uid %lld, process %lld",
              (long long) nbdkit_peer_uid (), (long long) nbdkit_peer_pid ());
    break;
  }
  return address.ss_family;
}

/* All commands are only for those who came through an encrypted connection,
 * or a socket that the file system protects.
 */
static bool
may_open (const char *who, int family)
{
  if (plugin_config.control_export == CONTROL_EXPORT_CHECK ||
      family == AF_UNIX || nbdkit_is_tls () == 1)
    return true;
  message_error ("%s: the export \"%s\" is served over TLS or a Unix socket "
                 "only (control-export=admin): start nbdkit with --tls=require "
                 "or --unix", who, MAILBOX_NAME);
  nbdkit_set_error (EPERM);
  return false;
}

/* One more, or one less, if that is possible. */
static bool
count_mailbox (int change)
{
  bool ok;

  pthread_mutex_lock (&count_lock);
  ok = change < 0 || count < MAILBOXES_MAX;
  if (ok)
    count += change;
  pthread_mutex_unlock (&count_lock);
  return ok;
}

static void
free_mailbox (struct mailbox *mailbox)
{
  count_mailbox (-1);
  pthread_mutex_destroy (&mailbox->lock);
  free (mailbox->reply);
  free (mailbox);
}

/* The two that the dispatcher calls, on its threads. */
static void
take_event (struct control_client *client, const char *text, size_t length)
{
  struct mailbox *mailbox = (struct mailbox *) client;

  if (length > EVENT_MAX)
    return;
  pthread_mutex_lock (&mailbox->lock);
  memcpy (mailbox->event, text, length);
  mailbox->event_length = length;
  mailbox->events++;
  pthread_mutex_unlock (&mailbox->lock);
}

static void
take_reply (struct control_client *client, char *text, size_t length)
{
  struct mailbox *mailbox = (struct mailbox *) client;
  bool gone;

  pthread_mutex_lock (&mailbox->lock);
  mailbox->reply = text;
  mailbox->reply_length = text != NULL ? length : 0;
  mailbox->state = MAILBOX_COMPLETE;
  gone = mailbox->gone;
  pthread_mutex_unlock (&mailbox->lock);
  if (gone)
    free_mailbox (mailbox);
}

struct mailbox *
mailbox_open (void)
{
  struct mailbox *mailbox = calloc (1, sizeof *mailbox);

  if (mailbox == NULL) {
    message_error ("the export \"%s\": out of memory", MAILBOX_NAME);
    return NULL;
  }
  if (!may_open (mailbox->client.who, name_peer (mailbox->client.who))) {
    free (mailbox);
    return NULL;
  }
  if (!count_mailbox (1)) {
    message_error ("%s: there are %u connections to the export \"%s\" "
                   "already", mailbox->client.who, MAILBOXES_MAX,
                   MAILBOX_NAME);
    nbdkit_set_error (EAGAIN);
    free (mailbox);
    return NULL;
  }
  mailbox->client.rights =
    plugin_config.control_export == CONTROL_EXPORT_ADMIN
    ? CONTROL_ADMIN : CONTROL_CHECK;
  mailbox->client.event = take_event;
  mailbox->client.reply = take_reply;
  pthread_mutex_init (&mailbox->lock, NULL);
  return mailbox;
}

void
mailbox_close (struct mailbox *mailbox)
{
  bool working;

  pthread_mutex_lock (&mailbox->lock);
  working = mailbox->state == MAILBOX_WORKING;
  mailbox->gone = true;
  pthread_mutex_unlock (&mailbox->lock);
  if (!working)
    free_mailbox (mailbox);
}

/* ---- Reading ----------------------------------------------------------- */

/* A read, of which one place after another fills its part. */
struct window {
  unsigned char *buf;
  uint64_t offset;
  uint32_t count;
};

/* What of 'bytes' that lie at 'place' is in the window. */
static void
show (const struct window *window, uint64_t place, const void *bytes,
      size_t length)
{
  uint64_t start = window->offset > place ? window->offset : place;
  uint64_t end = window->offset + window->count < place + length
    ? window->offset + window->count : place + length;

  if (start < end)
    memcpy (window->buf + (start - window->offset),
            (const unsigned char *) bytes + (start - place), end - start);
}

static void
show_identity (const struct mailbox *mailbox, const struct window *window)
{
  static const uint64_t places[] = {
    MAILBOX_PROGRESS, MAILBOX_PROGRESS_BYTES,
    MAILBOX_REQUEST, MAILBOX_REQUEST_BYTES,
    MAILBOX_REPLY, MAILBOX_REPLY_BYTES,
  };
  unsigned char identity[MAILBOX_IDENTITY_BYTES];
  unsigned i;

  memcpy (identity, MAILBOX_MAGIC, MAILBOX_MAGIC_BYTES);
  mailbox_put32 (identity + MAILBOX_AT_VERSION, MAILBOX_VERSION);
  mailbox_put32 (identity + MAILBOX_AT_RIGHTS,
                 mailbox->client.rights == CONTROL_ADMIN
                 ? MAILBOX_RIGHTS_ADMIN : MAILBOX_RIGHTS_CHECK);
  for (i = 0; i < sizeof places / sizeof places[0]; i++)
    mailbox_put64 (identity + MAILBOX_AT_PLACES + 8 * i, places[i]);
  show (window, 0, identity, sizeof identity);
}

static void
show_text (const struct window *window, uint64_t place, uint64_t sequence,
           uint32_t state, const char *text, size_t length)
{
  unsigned char header[MAILBOX_HEADER_BYTES];

  mailbox_put64 (header + MAILBOX_HEADER_SEQUENCE, sequence);
  mailbox_put32 (header + MAILBOX_HEADER_STATE, state);
  mailbox_put32 (header + MAILBOX_HEADER_LENGTH, length);
  show (window, place, header, sizeof header);
  if (length > 0)
    show (window, place + sizeof header, text, length);
}

int
mailbox_pread (struct mailbox *mailbox, void *buf, uint32_t length,
               uint64_t offset)
{
  const struct window window = { buf, offset, length };

  memset (buf, 0, length);
  show_identity (mailbox, &window);
  pthread_mutex_lock (&mailbox->lock);
  show_text (&window, MAILBOX_PROGRESS, mailbox->sequence, mailbox->events,
             mailbox->event, mailbox->event_length);
  show_text (&window, MAILBOX_REPLY, mailbox->sequence, mailbox->state,
             mailbox->reply, mailbox->reply_length);
  pthread_mutex_unlock (&mailbox->lock);
  return 0;
}

/* ---- Writing ----------------------------------------------------------- */

/* Make room for a request, unless one is under way. */
static bool
begin_request (struct mailbox *mailbox, uint64_t sequence)
{
  bool ok;

  pthread_mutex_lock (&mailbox->lock);
  ok = mailbox->state != MAILBOX_WORKING && mailbox->sequence != sequence;
  if (ok) {
    mailbox->sequence = sequence;
    mailbox->state = MAILBOX_WORKING;
    free (mailbox->reply);
    mailbox->reply = NULL;
    mailbox->reply_length = mailbox->event_length = 0;
    mailbox->events = 0;
  }
  pthread_mutex_unlock (&mailbox->lock);
  return ok;
}

/* A matter of the client alone: not for the log. */
static int
refuse_write (const struct mailbox *mailbox, const char *why, int error)
{
  nbdkit_debug ("%s: export \"%s\": %s", mailbox->client.who, MAILBOX_NAME,
                why);
  nbdkit_set_error (error);
  return -1;
}

int
mailbox_pwrite (struct mailbox *mailbox, const void *buf, uint32_t length,
                uint64_t offset)
{
  const unsigned char *header = buf;
  uint64_t sequence;

  if (offset != MAILBOX_REQUEST)
    return refuse_write (mailbox, "a write elsewhere than to the request's "
                         "place", EPERM);
  if (length < MAILBOX_HEADER_BYTES || length > MAILBOX_REQUEST_BYTES ||
      mailbox_get32 (header + MAILBOX_HEADER_STATE) != 0 ||
      mailbox_get32 (header + MAILBOX_HEADER_LENGTH) !=
      length - MAILBOX_HEADER_BYTES)
    return refuse_write (mailbox, "a request is written as a whole, header "
                         "and text, in one write", EINVAL);
  sequence = mailbox_get64 (header + MAILBOX_HEADER_SEQUENCE);
  if (sequence == 0 || !begin_request (mailbox, sequence))
    return refuse_write (mailbox, "a request while another is under way, or "
                         "one without a new sequence number", EINVAL);
  control_submit (&mailbox->client,
                  (const char *) header + MAILBOX_HEADER_BYTES,
                  length - MAILBOX_HEADER_BYTES);
  return 0;
}
