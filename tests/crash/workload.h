/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the guest does: a few callers, each of whom brings one request after
 * the other, and whose reads are judged.
 */

#ifndef CRASH_WORKLOAD_H
#define CRASH_WORKLOAD_H

#include "craft.h"
#include "promise.h"
#include "qed.h"
#include "random.h"

struct workload {
  struct qed_image *image;
  const struct shape *shape;
  struct promise *promise;
  struct random *random;
  bool may_fill;                /* space may run out */
  unsigned session;             /* of the life; for the names of requests */
  unsigned callers;             /* that have not ended */
  /* One in so many requests is ... */
  unsigned flush, read, discard, idle, fua;
  bool ignores_trim;            /* QED_DISCARD_IGNORE */
  unsigned focus;               /* the window where half of it goes */
  unsigned moves;               /* one in so many requests moves that */
  bool duel;                    /* all meet in one cluster, then in another */
  uint64_t spot;                /* that one, within a window */
};

/* Start the callers, wait until all have ended.  On a fiber. */
void workload_run (struct workload *workload);

/* Carry a request out.  With 'patience' above 0, it is withdrawn after so
 * many seconds: then -ECANCELED.
 */
int workload_request (struct qed_image *image, struct qed_request *request,
                      double patience);

#endif /* CRASH_WORKLOAD_H */
