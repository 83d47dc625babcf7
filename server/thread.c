/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Threads of the plugin's own: see thread.h. */

#include <config.h>

#include <errno.h>
#include <signal.h>

#include "message.h"
#include "thread.h"

int
thread_start (pthread_t *thread, void *(*run) (void *), void *arg)
{
  sigset_t all, before;
  int r;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &before);
  r = pthread_create (thread, NULL, run, arg);
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  if (r == 0)
    return 0;
  errno = r;
  message_error ("cannot start a thread: %m");
  return -1;
}
