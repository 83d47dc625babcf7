/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Changes that an NBD server has acknowledged and not yet flushed, kept to be
 * made again: when the connection was lost nobody can tell whether the server
 * merely went out of sight or has lost what was in its cache.
 *
 *   answered --> kept --> a flush that was sent afterwards is answered: gone
 *                  ^ |
 *                  | +--> the connection is lost, and made anew: sent again,
 *                  |      before anything else, in the order of the answers
 *                  +-------------------------------------------------+
 *
 * So a sync may succeed after a loss (O8): what it covers was sent again on
 * the connection that it went through.  To make a change twice does no harm,
 * as nothing else is sent before all are made, and of two that overlap the
 * second waits for the first.  An answer other than success makes every later
 * sync fail.
 *
 * Loop only.
 */

#ifndef QED_NBD_KEPT_H
#define QED_NBD_KEPT_H

#include <stdbool.h>
#include <stdint.h>

#include "fetch.h"

/* Sent again at a time. */
#define NBD_KEPT_SENT_MAX 64u

struct nbd_kept {
  struct fetch *first, **end;
  uint64_t bytes;               /* of memory */
  uint64_t number;              /* of the last one */
  int error;                    /* why nothing can be durable any more, or 0 */

  struct fetch *next;           /* to be sent again; NULL: none */
  struct fetch *sent[NBD_KEPT_SENT_MAX];
  unsigned sent_count;
};

void nbd_kept_init (struct nbd_kept *kept);
void nbd_kept_destroy (struct nbd_kept *kept);

/* A change has ended well: keep what it did.  -ENOMEM. */
int nbd_kept_add (struct nbd_kept *kept, struct fetch *change);

/* A flush has ended well that was sent when 'number' was the last. */
void nbd_kept_flushed (struct nbd_kept *kept, uint64_t number);

/* There is a new connection: all has to be sent again. */
void nbd_kept_restart (struct nbd_kept *kept);

/* Whether all was, and answered. */
bool nbd_kept_is_settled (const struct nbd_kept *kept);

/* The next to be sent, or NULL if there is none just now. */
struct fetch *nbd_kept_next (struct nbd_kept *kept);

/* One that was sent has ended; with -ENOTCONN or -ESHUTDOWN it will be sent
 * again.
 */
void nbd_kept_ended (struct nbd_kept *kept, struct fetch *fetch);

#endif /* QED_NBD_KEPT_H */
