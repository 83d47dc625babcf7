/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door that is an NBD export (control-export=): a mailbox for each
 * connection.  mailbox.h has its layout.
 */

#ifndef SERVER_CONTROL_EXPORT_H
#define SERVER_CONTROL_EXPORT_H

#include <stdbool.h>
#include <stdint.h>

struct mailbox;

/* Whether a name that a client asks for is the export's, and that is on. */
bool mailbox_is_wanted (const char *name);

/* A connection comes; NULL, with the reason logged and nbdkit's error set, if
 * it is not allowed to.  A connection goes: what it asked for goes on.
 */
struct mailbox *mailbox_open (void);
void mailbox_close (struct mailbox *mailbox);

/* As the plugin's callbacks of that name. */
int mailbox_pread (struct mailbox *mailbox, void *buf, uint32_t count,
                   uint64_t offset);
int mailbox_pwrite (struct mailbox *mailbox, const void *buf, uint32_t count,
                    uint64_t offset);

#endif /* SERVER_CONTROL_EXPORT_H */
