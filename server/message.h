/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Errors go to nbdkit's log.  Who carries out what a client of the admin door
 * asked for wants the text as well.  What a client can bring about by
 * connecting again and again must not fill the log.
 */

#ifndef SERVER_MESSAGE_H
#define SERVER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

/* One line for the log.  Any thread. */
void message_error (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));
void message_warning (const char *text);

/* Whether this thread is now letting a client connect: so many lines of all
 * such threads are written as requests_may_log_others allows.
 */
void message_connecting (bool yes);

/* From here on the first error of this thread is kept in 'text' too, which is
 * empty until then; NULL ends it.
 */
void message_keep (char *text, size_t size);

#endif /* SERVER_MESSAGE_H */
