/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The engine's last message, for tests that look at what is said. */

#ifndef KEPT_MESSAGE_H
#define KEPT_MESSAGE_H

#include "qed.h"

extern char said[1024];

/* For struct qed_log: 'opaque' is NULL, or leads to the level that all messages
 * are expected to have.
 */
void keep_message (void *opaque, enum qed_log_level level,
                   const char *message);

/* No message yet. */
void forget_message (void);

#endif /* KEPT_MESSAGE_H */
