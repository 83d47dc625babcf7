/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A libnbd that says what a test wants, and a loop that does nothing by itself:
 * what it was asked for is kept here.  Both are linked in place of the real
 * ones (the loop by --wrap).
 */

#ifndef FAKE_LIBNBD_H
#define FAKE_LIBNBD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>

#include "loop.h"

extern struct fake_libnbd {
  unsigned fails;               /* this call of the making of a handle */
  unsigned calls;
  unsigned handles;             /* that are open */
  const char *error;            /* what it said */
  int error_number;
  bool ready, dead, closed;
  int poll_result;
  void (*at_poll) (void);
  int64_t size, minimum, maximum;
  const char *description;
  int in_flight, fd, notify_result;
  unsigned direction, reads, writes, goodbyes;
} lib;

extern double clock_now, timer_seconds;         /* 0: it doesn't run */
extern struct loop_work *work;                  /* was submitted */
extern struct loop_task *posted;
extern int watch_error, timer_error;            /* of their making */
extern int watched_fd;
extern unsigned watched;                        /* events */
extern bool watching;

#endif /* FAKE_LIBNBD_H */
