/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A recorded session, event by event, into a simulated file (crash/disk.h) and
 * what the guest may rely on (crash/promise.h).
 */

#ifndef POWER_REPLAY_H
#define POWER_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "disk.h"
#include "promise.h"
#include "random.h"
#include "record.h"
#include "walk.h"

enum event_kind { EVENT_RECORD, EVENT_REQUEST, EVENT_ANSWER };

struct event {
  uint64_t number;
  enum event_kind kind;
  const struct record *record;
  const struct request *request;
  unsigned op;                  /* the disk's, of a record that begins one */
  bool dropped;                 /* a sync that counts as not done */
};

struct replay {
  struct event *events;         /* in order */
  size_t count, done;           /* of them; carried out so far */
  struct disk *disk;
  struct promise promise;
  struct walk reference;        /* the tables when NEED_CHECK was last clear */
  uint64_t syncs;               /* begun so far */
  uint64_t drop;                /* each sync of so many is dropped; 0: none */
  struct random random;
  struct joined *joined;        /* writes that were recorded in parts */
  unsigned char *record;        /* the files' content */
  unsigned char *requests;
};

/* Load a session from its directory; its writes are numbered from 'first' on.
 * Ends the program if something is wrong with it.
 */
void replay_load (struct replay *replay, const char *session, uint32_t first);
void replay_destroy (struct replay *replay);

/* Carry the next event out. */
void replay_step (struct replay *replay);

/* Whether power is to fail there more often: at a sync, a change of the header
 * or the length.
 */
bool replay_is_turn (const struct event *event);

/* The disk as a file, sparse, and back. */
void replay_write_file (const struct disk *disk, const char *path);
struct disk *replay_read_file (const char *path);

/* End the program: nothing is wrong with the image, but with the test. */
void replay_die (const char *fmt, ...)
  __attribute__ ((noreturn, format (printf, 1, 2)));

#endif /* POWER_REPLAY_H */
