/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The service manager is told how the server is (sd_notify): that it is ready,
 * in words what it does, and that it is alive.  Nothing of it without
 * $NOTIFY_SOCKET, or in a build without libsystemd.
 */

#ifndef SERVER_NOTIFY_H
#define SERVER_NOTIFY_H

/* Between exports_start and exports_close.  Returns 0, or -1 with the reason
 * logged.
 */
int notify_start (void);
void notify_stop (void);

#endif /* SERVER_NOTIFY_H */
