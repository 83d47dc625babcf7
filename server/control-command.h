/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the commands of the admin door share (control.c, control-*.c). */

#ifndef SERVER_CONTROL_COMMAND_H
#define SERVER_CONTROL_COMMAND_H

#include <stdint.h>
#include <time.h>

#include <jansson.h>

#include "check.h"
#include "control.h"
#include "exports.h"

/* A request that is being carried out, on its thread. */
struct control_request {
  struct control_client *client;
  json_t *json;                 /* the object; members are of known types */
  char error[512];              /* what was logged meanwhile: message.h */
};

/* A command returns its reply, an object; NULL if memory ran out.  jansson's
 * functions take NULL for a value and fail, so only what is returned is
 * tested.
 */
json_t *control_list (struct control_request *request);
json_t *control_status (struct control_request *request);
json_t *control_metrics (struct control_request *request);
json_t *control_flush (struct control_request *request);
json_t *control_check (struct control_request *request);
json_t *control_repair (struct control_request *request);
json_t *control_release (struct control_request *request);
json_t *control_activate (struct control_request *request);

/* The reply of a command that failed. */
json_t *control_fail (const char *code, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

/* The same for what was logged; or 'fallback' if that was nothing. */
json_t *control_fail_logged (const struct control_request *request,
                             const char *code, const char *fallback);

/* Tell the client how far it is. */
void control_event (const struct control_request *request, json_t *event);

/* A member of the request; NULL, false or 0 if it isn't there. */
const char *control_get_string (const struct control_request *request,
                                const char *key);
bool control_get_bool (const struct control_request *request,
                       const char *key);

/* Numbers are not negative. */
bool control_get_number (const struct control_request *request,
                         const char *key, uint64_t *value);

/* The image that the request names, pinned; opened if 'open' says so, else
 * *export is NULL if it isn't open.  On failure returns the reply.
 */
json_t *control_pin (const struct control_request *request, bool open,
                     struct export **export);

/* ---- Values ------------------------------------------------------------ */

/* A string that need not be UTF-8. */
json_t *control_string (const char *text);

/* What isn't known, UINT64_MAX, is left out. */
void control_set_number (json_t *object, const char *key, uint64_t value);

/* In UTC, as in 2024-02-29T12:00:00Z. */
json_t *control_time (time_t t);

/* ---- control-status.c -------------------------------------------------- */

const char *control_use_to_text (enum export_state state);

/* ---- control-health.c -------------------------------------------------- */

/* Of an image that is pinned: failed, corrupt, leaks, dirty or clean. */
const char *control_health (const struct export *export);

/* Add to a status, as members: the requests in flight and so far; what each
 * kind came to.
 */
void control_describe_requests (json_t *image, struct export *export);
void control_describe_counters (json_t *image, struct export *export);

/* What the buckets of latencies hold at most, in seconds. */
json_t *control_describe_bounds (void);

/* ---- control-check.c --------------------------------------------------- */

/* Add what is known of an image's checks, to a status, as members; or for
 * metrics, as numbers.
 */
struct control_check_look {
  bool running;
  uint64_t done, total;         /* of the one that runs */
  bool known;                   /* one has ended before, and wasn't canceled */
  time_t ended;
  int exit_code;
  bool completed;               /* one has read all of it */
  uint64_t corruptions, leaks;
};
void control_check_describe (json_t *status, const struct export *export);
void control_check_look (const struct export *export,
                         struct control_check_look *look);

/* How many run. */
unsigned control_checks_running (void);

/* Let all that run end early, and those that would start; or one, of an image
 * that is to be released.
 */
void control_checks_cancel (void);
void control_checks_cancel_image (const struct qed_image *image);

/* Whether a repair of an image runs. */
bool control_check_repairs (const struct export *export);

/* ---- control-last.c: the last checks (any thread) ---------------------- */

/* One that has ended. */
struct control_check {
  time_t started, ended;
  enum qed_repair repair;
  int r;                        /* what the engine returned */
  struct qed_check_result result;
};

void last_checks_add (const struct qed_file_id *id,
                      const struct control_check *check);

/* Another server has had the file. */
void last_checks_forget (const struct qed_file_id *id);

/* It was closed; or is to be opened: what was known is forgotten if the file
 * was written in between.
 */
void last_checks_closed (const struct qed_file_id *id, const char *path);
void last_checks_opens (const struct qed_file_id *id, const char *path);

/* When nobody checks any more. */
void last_checks_forget_all (void);

void last_checks_describe (json_t *status, const struct qed_file_id *id);
void last_checks_look (struct control_check_look *look,
                       const struct qed_file_id *id);

/* "check", "repair-leaks", "repair-all". */
const char *control_check_name (enum qed_repair repair);

#endif /* SERVER_CONTROL_COMMAND_H */
