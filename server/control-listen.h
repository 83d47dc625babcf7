/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The file of the control socket.  While there are no other threads. */

#ifndef SERVER_CONTROL_LISTEN_H
#define SERVER_CONTROL_LISTEN_H

/* Bind a socket to the path, mode 0600 and the server's final user's, and
 * listen.  One that refuses connections is replaced.  Returns a descriptor
 * that doesn't block, or -1 with the reason logged.
 */
int control_listen (const char *path);

/* Remove the file, if it is still ours. */
void control_unlisten (const char *path);

#endif /* SERVER_CONTROL_LISTEN_H */
