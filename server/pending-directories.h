/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Where the logs of acknowledged changes are, for the server and for qedctl:
 *
 *   $XDG_RUNTIME_DIR/nbdkit-qed/pending
 *   /run/nbdkit-qed/pending
 *   /dev/shm/nbdkit-qed-UID
 *
 * The engine takes the first that it can have, and looks into all.  A user's
 * own comes first, as root could have any; the last is there on every Linux.
 */

#ifndef SERVER_PENDING_DIRECTORIES_H
#define SERVER_PENDING_DIRECTORIES_H

/* For struct qed_options.  Of the user that we are now: to be called again
 * once that has changed, after which the same pointer leads to the new ones.
 * One thread.
 */
const char *const *pending_directories (void);

#endif /* SERVER_PENDING_DIRECTORIES_H */
