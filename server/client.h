/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A client of a disk: one connection.
 *
 * Its image may be handed over to another server, and come back, while it is
 * connected (qed/handover.h).  What it was told of the disk when it connected
 * must then be as it was, or all that it asks for fails with ESHUTDOWN until
 * it connects anew.
 */

#ifndef SERVER_CLIENT_H
#define SERVER_CLIENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct export;

struct client {
  struct export *export;

  /* What it was told; constant. */
  uint64_t size;
  uint32_t cluster_size;
  bool writable;

  uint64_t since;               /* the slot's generation when it connected */
  _Atomic uint64_t generation;  /* the last one that was as it was told */
  _Atomic bool stale;           /* one was not, for good */
  _Atomic bool hung_up;         /* at the end of the server */
};

/* Connect: wait until the image is there, if another server has it
 * (standby-timeout=); for the end of a repair at open; and, for a moment, of
 * the opening scan.  0, or -1 with nbdkit's error set and the reason logged.
 */
int client_open (struct client *client, const char *name);
void client_close (struct client *client);

/* Enter the export's slot, to be left with qed_slot_leave; waits as long as it
 * takes, or fails, by on-release=.  0 or a negative errno.
 */
int client_enter (struct client *client);

#endif /* SERVER_CLIENT_H */
