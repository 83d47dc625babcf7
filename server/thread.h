/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Threads of the plugin's own. */

#ifndef SERVER_THREAD_H
#define SERVER_THREAD_H

#include <pthread.h>

/* Start one that gets no signals: they are for nbdkit's own threads.  Returns
 * 0, or -1 with the reason logged.
 */
int thread_start (pthread_t *thread, void *(*run) (void *), void *arg);

#endif /* SERVER_THREAD_H */
