/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What happens to an image: a script of requests, checks and repairs, and in
 * the end a repair that has to leave nothing.
 */

#ifndef FUZZ_LIFE_H
#define FUZZ_LIFE_H

#include "fuzz.h"
#include "qed.h"
#include "sparse.h"

/* A step of the script is four bytes: what, and three for its argument. */
#define LIFE_STEP 4u

/* Options that open this disk, for what else is to be done with it; the path
 * belongs to this part.
 */
void life_options (struct sparse *disk, struct qed_options *options);

/* Carry out a script of so many bytes, then the end.  What is seen to break a
 * promise ends the program.
 */
void life_run (struct sparse *disk, struct fuzz_input script,
               enum qed_pending_mode pending);

#endif /* FUZZ_LIFE_H */
