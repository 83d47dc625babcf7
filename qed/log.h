/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Messages of the engine: formatted here, handed to the caller's function.
 * Any thread.
 */

#ifndef QED_LOG_H
#define QED_LOG_H

#include "qed.h"

void log_error (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));
void log_request (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));
void log_warning (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));
void log_info (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

/* Only when tracing is on. */
void log_trace (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

#endif /* QED_LOG_H */
