/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Fetches under way to an NBD server, as commands of libnbd.  Loop only, and
 * sent only in a turn of the link (nbd-link.h); or without a loop.
 */

#ifndef QED_NBD_FLIGHT_H
#define QED_NBD_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "fetch.h"
#include "nbd-link.h"

struct nbd_flight {
  struct fetch_list ended;      /* libnbd has let go of them */
  unsigned commands;            /* that it has not let go of */
  uint64_t bytes;               /* that the fetches under way read */
};

void nbd_flight_init (struct nbd_flight *flight);

/* Whether another one may be sent: there is a limit for what is under way,
 * but for a single fetch.
 */
bool nbd_flight_has_room (const struct nbd_flight *flight,
                          const struct fetch *fetch);

/* Send it.  It will have ended, perhaps at once, by an answer, or because it
 * could not be sent, or because the connection was closed.
 */
void nbd_flight_send (struct nbd_flight *flight, struct nbd_link *link,
                      struct fetch *fetch);

/* The next one that has ended, or NULL.  Its error is what the server said;
 * -ENOTCONN if nothing came, or not all.
 */
struct fetch *nbd_flight_next_ended (struct nbd_flight *flight);

#endif /* QED_NBD_FLIGHT_H */
