/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Messages of the engine: formatted here, handed to the caller's function.
 * Any thread.
 */

#ifndef QED_LOG_H
#define QED_LOG_H

#include <stdint.h>

#include "qed.h"

void log_error (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));
void log_request (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));
void log_warning (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));
void log_info (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

/* For an error that a client's requests can bring about again and again: one
 * line in ten seconds is written, and the next one is preceded by how many were
 * not.  One thread at a time; zeroes to begin with.
 */
struct log_limit {
  int64_t next;                 /* seconds, monotonic */
  unsigned dropped;
};
bool log_may (struct log_limit *limit, const struct qed_log *log,
              const char *path);

/* Only when tracing is on. */
void log_trace (const struct qed_log *log, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

#endif /* QED_LOG_H */
