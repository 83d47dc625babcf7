/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* From a file to the server that has it: for each image that is open there is
 * a symlink to the control socket of its server,
 *
 *   /run/nbdkit-qed/by-inode/DEV-INO
 *
 * (or in $XDG_RUNTIME_DIR/nbdkit-qed/by-inode), named by the file's device and
 * inode in decimal, as stat --format=%d-%i prints them.
 */

#ifndef SERVER_CONTROL_LINK_H
#define SERVER_CONTROL_LINK_H

#include <stddef.h>

#include "qed.h"

#define CONTROL_LINK_NAME_SIZE 44

/* The link's name, and what a file is called in requests and replies. */
void control_link_name (const struct qed_file_id *id,
                        char name[CONTROL_LINK_NAME_SIZE]);

/* The n-th directory, from 0, in which links are looked for; false behind the
 * last one.  'size' is that of 'path'.
 */
bool control_link_directory (unsigned n, char *path, size_t size);

/* The server's part: from here on links lead to this socket, an absolute path
 * that stays valid; NULL: there are none.  If no directory for them can be had
 * there is a warning, no more.  After the fork.
 */
void control_links_start (const char *socket);

/* An image was opened; it is about to be closed.  Any thread.  That there is
 * no link is worth a warning, no more.
 */
void control_link_add (const struct qed_file_id *id, const char *path);
void control_link_remove (const struct qed_file_id *id);

/* The same where an image isn't open, but this server would take it: only if
 * there is no other's.
 */
void control_link_offer (const struct qed_file_id *id, const char *path);

#endif /* SERVER_CONTROL_LINK_H */
