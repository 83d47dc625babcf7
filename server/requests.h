/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Clients' requests as others see them: which are in flight and what they
 * wait for, how long they take, and why they failed.
 *
 * R1. A thread has one request at a time, and a slot of its own for it, made
 *     at its first and freed when it ends.  What is in the slot only its
 *     thread writes; any thread may look, under the lock of the list.
 * R2. A thread without memory for a slot goes on without: its requests count,
 *     but are not seen in flight.
 */

#ifndef SERVER_REQUESTS_H
#define SERVER_REQUESTS_H

#include <stddef.h>
#include <stdint.h>

#include "exports.h"

/* In .load and .unload, when there are no other threads.  requests_load
 * returns 0, or -1 with the reason logged.
 */
int requests_load (void);
void requests_unload (void);

/* ---- The thread that carries a request out ----------------------------- */

/* It begins; of which image, and what, is noted. */
void requests_begin (struct export *export, enum export_request kind,
                     uint64_t offset, uint64_t count);

/* For qed_request.step, after requests_begin; or NULL. */
const char *_Atomic *requests_step (void);

/* It has ended, however it did: it is counted.  A result that isn't 0 is a
 * failure of the request.
 */
void requests_end (struct export *export, enum export_request kind,
                   uint64_t count, int r);

/* Keep the first reason that the engine gives while this thread has a request,
 * for the line that tells of its failure.  False if it has none.
 */
bool requests_keep_cause (const char *message);

/* What was kept since requests_begin, also after requests_end; "" if nothing
 * was.
 */
const char *requests_cause (void);

/* ---- Lines of the log -------------------------------------------------- */

/* Of an image's failures ten lines are written in ten seconds; what comes
 * beyond is counted and told in one line: with a later request, or when a
 * client leaves.
 */
bool requests_may_log (struct export *export);

/* Write that line, if it is due; or if there is anything to tell ('now'). */
void requests_log_rest (struct export *export, bool now);

/* A limit of a hundred for failures that belong to no request, also of those who
 * connect.
 */
bool requests_may_log_others (void);

/* ---- Looking ----------------------------------------------------------- */

struct requests_look {
  unsigned in_flight;

  /* The oldest of them. */
  const char *request;          /* its kind, as in metrics */
  enum export_request kind;
  uint64_t offset, count;
  uint64_t age_ns;
  const char *step;             /* as in qed_request */
};

void requests_look (const struct export *export, struct requests_look *look);

/* What a bucket of export_counter.latency holds at most; the last one's has
 * no bound.
 */
extern const uint64_t requests_bounds_ns[EXPORT_LATENCY_BUCKETS - 1];

extern const char *const requests_names[EXPORT_REQUESTS];

/* A kind's counters at one moment. */
struct requests_count {
  uint64_t count, bytes, ns;
  uint64_t latency[EXPORT_LATENCY_BUCKETS];
};

void requests_read (struct export *export, enum export_request kind,
                    struct requests_count *count);

#endif /* SERVER_REQUESTS_H */
