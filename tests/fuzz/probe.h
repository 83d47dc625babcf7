/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Whether a guest sees after a repair what it saw before: a part of each
 * cluster that the tables name is read before and after.  What could be read
 * must be the same, unless the repair said that it is lost.
 */

#ifndef FUZZ_PROBE_H
#define FUZZ_PROBE_H

#include "check.h"
#include "sparse.h"

void probe_reset (void);

/* For struct qed_check_options. */
void probe_found (void *opaque, const struct qed_problem *problem);
void probe_fixed (void *opaque, const struct qed_problem *problem,
                  const char *action);
void probe_lost (void *opaque, uint64_t guest, uint64_t bytes);

/* Around a repair of everything. */
void probe_before (const struct sparse *disk,
                   const struct qed_options *options);
void probe_after (const struct sparse *disk,
                  const struct qed_options *options);

/* What was written is what is read. */
void probe_written (struct qed_image *image, const unsigned char *data,
                    uint64_t offset, size_t count);

#endif /* FUZZ_PROBE_H */
