/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Sessions in which the image as a whole is changed: it gets another size, or
 * another backing file.
 */

#ifndef CRASH_RESHAPE_H
#define CRASH_RESHAPE_H

#include "craft.h"
#include "promise.h"
#include "qed.h"
#include "random.h"

struct reshape {
  enum { RESHAPE_NOT, RESHAPE_SIZE, RESHAPE_BACKING } kind;
  struct qed_resize resize;
  struct qed_rebase rebase;
  char name[1536];              /* rebase.backing */
  bool may_fill;                /* space may run out */
  unsigned patience;            /* it is cancelled when so much was told; 0:
                                 * it is not */
};

/* Decide what is to be done ('often' something), of which nothing is known
 * yet; see that enough is judged afterwards.
 */
void reshape_draw (struct reshape *reshape, const struct shape *shape,
                   bool often, struct promise *promise,
                   struct random *random);

/* Do it.  On a fiber. */
void reshape_run (struct reshape *reshape, const struct qed_options *options);

#endif /* CRASH_RESHAPE_H */
