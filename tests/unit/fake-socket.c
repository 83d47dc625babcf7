/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <stdlib.h>

#include "fake-socket.h"

struct fake_socket sock;

unsigned char
backing_byte (uint64_t at)
{
  return (unsigned char) (at * 7 + at / CLUSTER + 1);
}

static int
sock_length (struct storage *s, uint64_t *length)
{
  (void) s;
  *length = BACKING_SIZE;
  return 0;
}

static void
sock_close (struct storage *s)
{
  (void) s;
  sock.closed = true;
}

static int
sock_start (struct storage *s, struct loop *loop,
            void (*stopped) (void *opaque), void *opaque)
{
  (void) s;
  sock.loop = loop;
  sock.stopped = stopped;
  sock.opaque = opaque;
  return 0;
}

static void
stop_later (struct loop_task *task)
{
  (void) task;
  sock.stopped (sock.opaque);
}

/* Not at the first time. */
static bool
sock_stop (struct storage *s)
{
  (void) s;
  assert_true (loop_is_here (sock.loop));
  if (sock.stops++ > 0)
    return true;
  sock.stop_later.run = stop_later;
  loop_post (sock.loop, &sock.stop_later);
  return false;
}

static void
sock_submit (struct storage *s, struct fetch *fetch)
{
  (void) s;
  pthread_mutex_lock (&sock.lock);
  fetch->next = NULL;
  *sock.end = fetch;
  sock.end = &fetch->next;
  sock.submitted++;
  pthread_mutex_unlock (&sock.lock);
}

static const struct storage_ops sock_ops = {
  .length = sock_length, .close = sock_close, .start = sock_start,
  .stop = sock_stop, .submit = sock_submit,
};

/* In the place of the engine's own. */
int
storage_nbd_open (const char *uri, const char *about, unsigned flags,
                  const struct qed_log *log, struct storage **storage)
{
  (void) about;
  (void) flags;
  (void) log;
  assert_string_equal (uri, "nbd://there/");
  *storage = &sock.storage;
  return 0;
}

struct fetch *
take (void)
{
  struct fetch *fetch;

  pthread_mutex_lock (&sock.lock);
  fetch = sock.first;
  if (fetch) {
    sock.first = fetch->next;
    if (sock.first == NULL)
      sock.end = &sock.first;
  }
  pthread_mutex_unlock (&sock.lock);
  return fetch;
}

void
answer_read (struct fetch *fetch, int error)
{
  uint64_t i;

  assert_in_range (fetch->offset + fetch->count, 1, BACKING_SIZE);
  fetch->buf = malloc (fetch->count + 10);
  assert_non_null (fetch->buf);
  fetch->data = fetch->buf + 10;
  for (i = 0; i < fetch->count; i++)
    fetch->data[i] = backing_byte (fetch->offset + i);
  fetch_end (fetch, error);
}

void
answer (uint64_t offset, uint64_t count, int error)
{
  struct fetch *fetch = take ();

  assert_non_null (fetch);
  assert_int_equal (fetch->op, FETCH_READ);
  assert_int_equal (fetch->offset, offset);
  assert_int_equal (fetch->count, count);
  answer_read (fetch, error);
}

void
sock_reset (void)
{
  sock = (struct fake_socket) { .end = &sock.first };
  sock.storage.ops = &sock_ops;
  sock.storage.read_only = true;
  pthread_mutex_init (&sock.lock, NULL);
}
