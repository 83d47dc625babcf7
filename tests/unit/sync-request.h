/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Requests of the engine as plain calls, and as calls that can be looked at
 * while they wait.  Any thread.
 */

#ifndef SYNC_REQUEST_H
#define SYNC_REQUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "qed.h"

/* Run a request to its end. */
int sync_request (struct qed_image *image, enum qed_op op, void *buf,
                  uint64_t count, uint64_t offset, unsigned flags);

/* A request that is run step by step. */
struct pending {
  struct qed_request request;
  pthread_mutex_t lock;
  pthread_cond_t cond;
  unsigned wakes;               /* not yet answered by a run */
  unsigned wakes_seen;          /* all of them */
  int result;                   /* of the last run */
};

/* Start it; 'result' says whether it waits. */
struct pending *pending_start (struct qed_image *image, enum qed_op op,
                               void *buf, uint64_t count, uint64_t offset,
                               unsigned flags);

/* Until it is complete; frees it. */
int pending_finish (struct qed_image *image, struct pending *pending);

/* Give it up and free it. */
void pending_withdraw (struct qed_image *image, struct pending *pending);

/* The engine's messages: counted, and dropped. */
void log_quietly (void *opaque, enum qed_log_level level,
                  const char *message);

#endif /* SYNC_REQUEST_H */
