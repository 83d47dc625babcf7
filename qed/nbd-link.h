/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A connection to an NBD server that is kept alive: made through libnbd on the
 * image's loop, watched, and made anew when it is lost.
 *
 *   nbd_link_start
 *         |         +------------- failed, or 10 s --------------+
 *         v         v                                            |
 *     RESOLVING -> ... -----------> GREETING ----------> UP -----+
 *         ^    on a worker thread:   handshake,           |
 *         |    names may block       on the loop          | lost, or silent
 *         |                                               | for 30 s
 *         +---------------- PAUSE <-----------------------+
 *                     0.1 s, doubling to 2 s
 *
 *   nbd_link_stop: from any of them to STOPPED; from RESOLVING when the
 *   worker is back.
 *
 * The handle belongs to the link, which calls libnbd on the loop alone; 'turn'
 * is the one place where the owner may start commands, since libnbd allows
 * none within a completion callback.  Whatever has ended is looked at there.
 * Loop only, but for init.  Tools that have no loop use plain calls instead.
 */

#ifndef QED_NBD_LINK_H
#define QED_NBD_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>

#include "loop.h"

/* Messages of libnbd are cut to so many bytes. */
#define NBD_ERROR_SIZE 256

/* What a server says of an export. */
struct nbd_export {
  uint64_t size;
  uint64_t minimum, maximum;    /* of a read or write: the first a power of 2
                                 * that divides the second */
  bool can_cache;
  bool has_extents;             /* it knows holes from data */
  bool guest_disk;              /* it is one of ours (storage.h) */
  bool read_only;
  bool can_flush, can_zero, can_fast_zero;
};

enum nbd_link_state {
  NBD_LINK_STOPPED,
  NBD_LINK_RESOLVING,           /* a worker has the handle */
  NBD_LINK_GREETING,
  NBD_LINK_UP,
  NBD_LINK_PAUSE,
};

struct nbd_link {
  /* The owner's, before nbd_link_init. */
  const char *uri;
  struct loop *loop;

  /* It is up: 'export' is known.  False, with 'error' set, if the owner can't
   * make use of it: then the attempt has failed.
   */
  bool (*up) (struct nbd_link *link);

  /* While it is up, before each sleep of the loop: deal with what has ended,
   * start commands with 'nbd'.
   */
  void (*turn) (struct nbd_link *link);

  /* An attempt to connect failed, or the connection was lost; 'error' says
   * why.  libnbd has let go of all commands.
   */
  void (*down) (struct nbd_link *link, bool was_up);

  /* nbd_link_stop is worth another try. */
  void (*stopped) (struct nbd_link *link);

  /* To be read by the owner. */
  enum nbd_link_state state;
  struct nbd_handle *nbd;
  struct nbd_export export;     /* of the last time it was up */
  char error[NBD_ERROR_SIZE];

  /* The link's. */
  struct loop_task begin;
  struct loop_work resolve;
  struct loop_watch watch;
  struct loop_timer timer;      /* what it is for follows from the state */
  bool stopping;
  bool drop;                    /* the owner gives this connection up */
  int resolve_result;
  double pause;                 /* before the next attempt, seconds */
  double up_since;
  double heard;                 /* when the server gave a sign of life, while
                                 * it owes us something */
};

/* ---- Without a loop, in plain calls from one thread ---- */

/* Connect, in 10 seconds at most, and fill in 'nbd' and 'export'.  A negative
 * errno if that's not possible, and 'error' says why: -ECONNREFUSED if nobody
 * listens there, -ENOENT if the server has no such export, -ENOTSUP if
 * one of them wants TLS and the other does not.
 */
int nbd_link_connect_plainly (struct nbd_link *link);

/* Wait until something happens to the commands that were started.  A negative
 * errno, and 'error', if the server doesn't answer or is gone.
 */
int nbd_link_wait_plainly (struct nbd_link *link);

/* If there is a connection. */
void nbd_link_disconnect_plainly (struct nbd_link *link);

/* ---- On a loop ---- */

/* Start to connect.  The loop is there, and need not run yet. */
int nbd_link_init (struct nbd_link *link);

/* Give up this connection, and try another one: within 'turn'. */
void nbd_link_drop (struct nbd_link *link, const char *why);

/* Whether commands can be started: within 'turn'. */
bool nbd_link_is_alive (const struct nbd_link *link);

/* Disconnect and stop.  False if a worker has to come back first: then
 * 'stopped' is called.
 */
bool nbd_link_stop (struct nbd_link *link);

/* When it is stopped, or after init failed. */
void nbd_link_destroy (struct nbd_link *link);

#endif /* QED_NBD_LINK_H */
