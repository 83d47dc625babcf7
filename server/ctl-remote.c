/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Requests to a server and their replies, through any door: see
 * ctl-remote.h.
 */

#include <config.h>

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl-remote.h"

/* A command that asks for nothing that takes long is answered within so many
 * seconds, or not at all.
 */
#define ANSWER_SECONDS 30

/* ---- Members ----------------------------------------------------------- */

const char *
ctl_json_string (const json_t *object, const char *key)
{
  const char *text = json_string_value (json_object_get (object, key));

  return text != NULL ? text : "";
}

uint64_t
ctl_json_number (const json_t *object, const char *key)
{
  json_int_t n = json_integer_value (json_object_get (object, key));

  return n > 0 ? (uint64_t) n : 0;
}

bool
ctl_json_bool (const json_t *object, const char *key)
{
  return json_is_true (json_object_get (object, key));
}

/* ---- Requests ---------------------------------------------------------- */

json_t *
ctl_request (const char *command, const char *image)
{
  json_t *request = json_object ();

  json_object_set_new (request, "command", json_string (command));
  if (image != NULL)
    json_object_set_new (request, "image", json_string (image));
  return request;
}

static bool
takes_long (const json_t *request)
{
  const char *command = ctl_json_string (request, "command");

  return strcmp (command, "flush") == 0 || strcmp (command, "repair") == 0 ||
    strcmp (command, "release") == 0 || strcmp (command, "activate") == 0 ||
    (strcmp (command, "check") == 0 &&
     json_object_get (request, "action") == NULL);
}

static bool
send_request (struct ctl_remote *remote, json_t *request)
{
  char *text = json_dumps (request, JSON_COMPACT);
  bool ok = text != NULL;

  if (!ok)
    ctl_error ("out of memory, or a name that is not UTF-8: a server can't be "
               "asked for it");
  else
    ok = remote->ops->send (remote, text, strlen (text));
  free (text);
  return ok;
}

static json_t *
parse (const struct ctl_remote *remote, const char *text, size_t length)
{
  json_error_t error;
  json_t *json = json_loadb (text, length, 0, &error);

  if (json_is_object (json) && ctl_json_number (json, "output_version") == 1)
    return json;
  if (json == NULL)
    ctl_error ("%s: what the server has sent is no JSON (%s)", remote->name,
               error.text);
  else
    ctl_error ("%s: the server speaks another version of the protocol: use "
               "its own qedctl", remote->name);
  json_decref (json);
  return NULL;
}

/* How far the check is that an event tells of.  It may not know yet. */
static void
read_event (const json_t *event, uint64_t *done, uint64_t *total)
{
  const json_t *running = json_object_get (event, "running");

  *done = ctl_json_number (running, "done");
  *total = ctl_json_number (running, "total");
  if (*total == 0)
    *total = 1;
}

/* On a connection of its own, as the first one waits for the reply. */
static void
cancel_check (struct ctl_remote *remote, const json_t *request)
{
  const char *image = json_string_value (json_object_get (request, "image"));
  struct ctl_remote *other = remote->ops->again (remote);
  json_t *cancel = ctl_request ("check", image), *reply;

  if (other == NULL) {
    json_decref (cancel);
    return;
  }
  json_object_set_new (cancel, "action", json_string ("cancel"));
  reply = ctl_remote_call (other, cancel, NULL);
  json_decref (reply);
  ctl_remote_close (other);
}

/* Wait for the reply to a request that was sent. */
static json_t *
await_reply (struct ctl_remote *remote, const json_t *request,
             const struct qed_progress *progress)
{
  const time_t limit = takes_long (request) ? 0 : ANSWER_SECONDS;
  const time_t start = time (NULL);
  uint64_t done = 0, total = 0;
  bool canceled = false;
  json_t *json;
  size_t length;
  char *text;
  int r;

  for (;;) {
    text = NULL;
    r = remote->ops->receive (remote, &text, &length);
    if (r == REMOTE_LOST)
      return NULL;
    if (r == REMOTE_NOTHING && limit > 0 && time (NULL) > start + limit) {
      ctl_error ("%s: the server does not answer", remote->name);
      return NULL;
    }
    json = r != REMOTE_NOTHING ? parse (remote, text, length) : NULL;
    free (text);
    if (r == REMOTE_REPLY || (r == REMOTE_EVENT && json == NULL))
      return json;
    if (r == REMOTE_EVENT)
      read_event (json, &done, &total);
    json_decref (json);
    if (qed_progress_tell (progress, done, total) < 0 && !canceled) {
      if (!takes_long (request))
        return NULL;
      canceled = true;
      cancel_check (remote, request);
    }
  }
}

json_t *
ctl_remote_call (struct ctl_remote *remote, json_t *request,
                 const struct qed_progress *progress)
{
  json_t *reply = NULL;

  if (send_request (remote, request))
    reply = await_reply (remote, request, progress);
  json_decref (request);
  return reply;
}

/* ---- Failures ---------------------------------------------------------- */

/* Which check it is that runs already. */
static void
tell_running (const struct ctl_remote *remote, const char *message,
              const json_t *running)
{
  const uint64_t done = ctl_json_number (running, "done");
  const uint64_t total = ctl_json_number (running, "total");
  const char *by = ctl_json_string (running, "by");
  char share[32] = "";

  if (total > 0)
    snprintf (share, sizeof share, ", %u %% done",
              (unsigned) ((double) done * 100 / (double) total));
  ctl_error ("%s: %s (since %s%s%s, by %s); qedctl check --cancel ends it",
             remote->name, message, ctl_json_string (running, "since"), share,
             ctl_json_bool (running, "paused") ? ", paused" : "",
             by[0] != '\0' ? by : "someone");
}

void
ctl_remote_tell_error (const struct ctl_remote *remote, const json_t *reply)
{
  const json_t *error = json_object_get (reply, "error");
  const json_t *running = json_object_get (reply, "running");
  const char *message = ctl_json_string (error, "message");

  if (running != NULL)
    tell_running (remote, message, running);
  else
    ctl_error ("%s: %s", remote->name, message);
}

json_t *
ctl_remote_ask (struct ctl_remote *remote, json_t *request,
                const struct qed_progress *progress)
{
  json_t *reply = ctl_remote_call (remote, request, progress);

  if (json_object_get (reply, "error") == NULL)
    return reply;
  ctl_remote_tell_error (remote, reply);
  json_decref (reply);
  return NULL;
}

void
ctl_remote_close (struct ctl_remote *remote)
{
  if (remote != NULL)
    remote->ops->close (remote);
}
