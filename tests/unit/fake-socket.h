/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A socket as a backing file, which answers when it is told.  It stands in the
 * place of every nbd://there/ that the engine opens.
 */

#ifndef FAKE_SOCKET_H
#define FAKE_SOCKET_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "fake-image.h"
#include "fetch.h"

#define BACKING_SIZE (8 * CLUSTER + 1000)

struct fake_socket {
  struct storage storage;
  pthread_mutex_t lock;         /* protects the queue */
  struct fetch *first, **end;
  unsigned submitted;           /* all of them so far */
  struct loop *loop;
  void (*stopped) (void *opaque);
  void *opaque;
  struct loop_task stop_later;
  unsigned stops;               /* calls of stop */
  bool closed;
};

extern struct fake_socket sock;

void sock_reset (void);

/* What it holds at a place. */
unsigned char backing_byte (uint64_t at);

/* The next fetch, or NULL. */
struct fetch *take (void);

void answer_read (struct fetch *fetch, int error);

/* The next fetch is a read of this range. */
void answer (uint64_t offset, uint64_t count, int error);

#endif /* FAKE_SOCKET_H */
