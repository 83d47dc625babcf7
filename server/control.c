/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door's dispatcher: see control.h. */

#include <config.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control-command.h"
#include "message.h"
#include "thread.h"

#define OUTPUT_VERSION 1

/* No request nests so deeply, and jansson's parser recurses. */
#define DEPTH_MAX 8

#define ID_MAX 64u

/* ---- Commands ---------------------------------------------------------- */

struct option {
  const char *name;
  json_type type;               /* JSON_TRUE: a boolean */
};

/* Members that each request may have. */
static const struct option common_options[] = {
  { "command", JSON_STRING },
  { "id", JSON_NULL },          /* a string or an integer */
  { NULL, JSON_NULL }
};

static const struct option list_options[] = {
  { "after", JSON_STRING },
  { "file", JSON_STRING },
  { NULL, JSON_NULL }
};

static const struct option image_options[] = {
  { "image", JSON_STRING },
  { NULL, JSON_NULL }
};

static const struct option status_options[] = {
  { "image", JSON_STRING },
  { "counters", JSON_TRUE },
  { NULL, JSON_NULL }
};

static const struct option no_options[] = {
  { NULL, JSON_NULL }
};

static const struct option check_options[] = {
  { "image", JSON_STRING },
  { "action", JSON_STRING },
  { "data", JSON_TRUE },
  { "rate", JSON_INTEGER },
  { NULL, JSON_NULL }
};

static const struct option repair_options[] = {
  { "image", JSON_STRING },
  { "what", JSON_STRING },
  { "data", JSON_TRUE },
  { "rate", JSON_INTEGER },
  { NULL, JSON_NULL }
};

static const struct command {
  const char *name;
  enum control_rights rights;
  const struct option *options;
  json_t *(*run) (struct control_request *request);
} commands[] = {
  { "activate", CONTROL_ADMIN, image_options, control_activate },
  { "check", CONTROL_CHECK, check_options, control_check },
  { "flush", CONTROL_ADMIN, image_options, control_flush },
  { "list", CONTROL_CHECK, list_options, control_list },
  { "metrics", CONTROL_CHECK, no_options, control_metrics },
  { "release", CONTROL_ADMIN, image_options, control_release },
  { "repair", CONTROL_ADMIN, repair_options, control_repair },
  { "status", CONTROL_CHECK, status_options, control_status },
  { NULL, CONTROL_ADMIN, NULL, NULL }
};

/* ---- Replies ----------------------------------------------------------- */

json_t *
control_string (const char *text)
{
  json_t *string = json_string (text);
  size_t used = 0;
  char *escaped;

  if (string != NULL)
    return string;
  escaped = malloc (4 * strlen (text) + 1);
  if (escaped == NULL)
    return NULL;
  for (; *text != '\0'; text++)
    used += sprintf (escaped + used, (unsigned char) *text < 0x80
                     ? "%c" : "\\x%02x", (unsigned char) *text);
  string = json_string (escaped);
  free (escaped);
  return string;
}

void
control_set_number (json_t *object, const char *key, uint64_t value)
{
  if (value <= INT64_MAX)
    json_object_set_new (object, key, json_integer ((json_int_t) value));
}

json_t *
control_time (time_t t)
{
  char text[32];
  struct tm tm;

  gmtime_r (&t, &tm);
  strftime (text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
  return json_string (text);
}

static json_t *
error_reply (const char *code, const char *message)
{
  json_t *error = json_object ();
  json_t *reply = json_object ();

  json_object_set_new (error, "code", json_string (code));
  json_object_set_new (error, "message", control_string (message));
  json_object_set_new (reply, "error", error);
  return reply;
}

json_t *
control_fail (const char *code, const char *fmt, ...)
{
  char message[sizeof ((struct control_request *) NULL)->error];
  va_list args;

  va_start (args, fmt);
  vsnprintf (message, sizeof message, fmt, args);
  va_end (args);
  return error_reply (code, message);
}

json_t *
control_fail_logged (const struct control_request *request, const char *code,
                     const char *fallback)
{
  return error_reply (code, request->error[0] != '\0'
                      ? request->error : fallback);
}

/* What every reply and event has comes first.  Takes over 'rest'. */
static json_t *
complete (json_t *rest, const json_t *request)
{
  json_t *object = json_object (), *id = json_object_get (request, "id");

  json_object_set_new (object, "output_version",
                       json_integer (OUTPUT_VERSION));
  if (id != NULL)
    json_object_set (object, "id", id);
  if (json_object_update (object, rest) == -1) {
    json_decref (object);
    object = NULL;
  }
  json_decref (rest);
  return object;
}

static char *
dump (json_t *rest, const json_t *request)
{
  json_t *object = complete (rest, request);
  char *text = json_dumps (object, JSON_COMPACT);

  json_decref (object);
  return text;
}

char *
control_refusal (const char *code, const char *message)
{
  return dump (error_reply (code, message), NULL);
}

void
control_event (const struct control_request *request, json_t *event)
{
  char *text = dump (event, request->json);

  if (text != NULL)
    request->client->event (request->client, text, strlen (text));
  free (text);
}

static char *
dump_reply (json_t *reply, const json_t *request, size_t *length)
{
  char *text = dump (reply, request);

  *length = text != NULL ? strlen (text) : 0;
  if (*length <= CONTROL_REPLY_MAX)
    return text;
  free (text);
  text = control_refusal ("reply-too-large", "the reply would be too large: "
                          "name one image");
  *length = text != NULL ? strlen (text) : 0;
  return text;
}

/* ---- What is asked ----------------------------------------------------- */

const char *
control_get_string (const struct control_request *request, const char *key)
{
  return json_string_value (json_object_get (request->json, key));
}

bool
control_get_bool (const struct control_request *request, const char *key)
{
  return json_is_true (json_object_get (request->json, key));
}

bool
control_get_number (const struct control_request *request, const char *key,
                    uint64_t *value)
{
  const json_t *number = json_object_get (request->json, key);

  *value = number != NULL ? (uint64_t) json_integer_value (number) : 0;
  return number != NULL;
}

json_t *
control_pin (const struct control_request *request, bool open,
             struct export **export)
{
  const char *name = control_get_string (request, "image");
  char *only = name == NULL ? exports_default () : NULL;
  json_t *failure = NULL;

  *export = NULL;
  if (name == NULL && only == NULL)
    return control_fail ("image-needed", "this server has not just one image: "
                         "name one (list tells their names)");
  if (export_pin (only ? only : name, false, export) == -1)
    failure = control_fail_logged (request, "no-such-image",
                                   "out of memory");
  else if (open && *export == NULL &&
           export_pin (only ? only : name, true, export) == -1)
    failure = control_fail_logged (request, "cannot-open",
                                   "the image can't be opened");
  else if (open && *export == NULL)
    failure = control_fail ("not-active", "this server does not have the image "
                            "now: it is a standby, or has released it");
  free (only);
  return failure;
}

/* Whether it nests too deeply.  What is no JSON is found by the parser. */
static bool
is_too_deep (const char *text, size_t length)
{
  bool in_string = false;
  unsigned depth = 0;
  size_t i;

  for (i = 0; i < length; i++) {
    if (in_string) {
      if (text[i] == '\\')
        i++;
      else if (text[i] == '"')
        in_string = false;
    }
    else if (text[i] == '"')
      in_string = true;
    else if (text[i] == '{' || text[i] == '[') {
      if (++depth > DEPTH_MAX)
        return true;
    }
    else if ((text[i] == '}' || text[i] == ']') && depth > 0)
      depth--;
  }
  return false;
}

static const struct option *
find_option (const struct option *options, const char *name)
{
  for (; options->name != NULL; options++)
    if (strcmp (options->name, name) == 0)
      return options;
  return NULL;
}

static bool
is_id (const json_t *value)
{
  return json_is_integer (value) ||
    (json_is_string (value) && json_string_length (value) <= ID_MAX);
}

static bool
has_type (const struct option *option, const json_t *value)
{
  switch (option->type) {
  case JSON_STRING:
    return json_is_string (value);
  case JSON_TRUE:
    return json_is_boolean (value);
  case JSON_INTEGER:
    return json_is_integer (value) && json_integer_value (value) >= 0;
  default:
    return is_id (value);
  }
}

static const char *
type_name (const struct option *option)
{
  switch (option->type) {
  case JSON_STRING:
    return "a string";
  case JSON_TRUE:
    return "true or false";
  case JSON_INTEGER:
    return "an integer that is not negative";
  default:
    return "an integer or a short string";
  }
}

/* Nothing but known members of the right type. */
static json_t *
check_members (json_t *json, const struct command *command)
{
  const struct option *option;
  const char *key;
  json_t *value;

  json_object_foreach (json, key, value) {
    option = find_option (common_options, key);
    if (option == NULL && command != NULL)
      option = find_option (command->options, key);
    if (option == NULL && command != NULL)
      return control_fail ("bad-request", "%s: unknown member \"%.80s\"",
                           command->name, key);
    if (option != NULL && !has_type (option, value)) {
      if (option->type == JSON_NULL)
        json_object_del (json, key);    /* it is not echoed */
      return control_fail ("bad-request", "member \"%s\": must be %s",
                           option->name, type_name (option));
    }
  }
  return NULL;
}

static const struct command *
find_command (const char *name)
{
  const struct command *command;

  for (command = commands; command->name != NULL; command++)
    if (strcmp (command->name, name) == 0)
      return command;
  return NULL;
}

static json_t *
dispatch (struct control_request *request)
{
  const struct command *command;
  const char *name;
  json_t *failure;

  failure = check_members (request->json, NULL);
  if (failure != NULL)
    return failure;
  name = control_get_string (request, "command");
  if (name == NULL)
    return control_fail ("bad-request", "the member \"command\" is missing");
  command = find_command (name);
  if (command == NULL)
    return control_fail ("unknown-command", "\"%.80s\" is no command: there "
                         "are activate, check, flush, list, metrics, release, "
                         "repair, status",
                         name);
  if (command->rights > request->client->rights)
    return control_fail ("forbidden", "%s is not allowed here: it needs "
                         "control-export=admin, or the server's control "
                         "socket", name);
  failure = check_members (request->json, command);
  return failure != NULL ? failure : command->run (request);
}

/* Parse it and carry it out. */
static json_t *
answer (struct control_request *request, const char *text, size_t length)
{
  json_error_t error;

  if (is_too_deep (text, length))
    return control_fail ("bad-request", "the request nests more than %d deep",
                         DEPTH_MAX);
  request->json = json_loadb (text, length, JSON_REJECT_DUPLICATES, &error);
  if (request->json == NULL)
    return control_fail ("bad-request", "the request is no JSON object: %s, "
                         "at byte %d", error.text, error.position);
  if (!json_is_object (request->json))
    return control_fail ("bad-request", "the request is no JSON object");
  return dispatch (request);
}

/* ---- Threads ----------------------------------------------------------- */

/* A request's thread.  When its work is done it is in 'finished', to be
 * joined: a thread that nobody joins could outlive the plugin.
 */
struct worker {
  struct worker *next;
  pthread_t thread;
  struct control_client *client;
  size_t length;
  char text[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static unsigned working;
static bool stopping;
static struct worker *finished;

static void *
worker_thread (void *arg)
{
  struct worker *worker = arg;
  struct control_request request = { .client = worker->client };
  json_t *reply;
  size_t length;
  char *text;

  message_keep (request.error, sizeof request.error);
  reply = answer (&request, worker->text, worker->length);
  message_keep (NULL, 0);
  text = dump_reply (reply, request.json, &length);
  json_decref (request.json);
  worker->client->reply (worker->client, text, length);

  pthread_mutex_lock (&lock);
  worker->next = finished;
  finished = worker;
  working--;
  pthread_cond_broadcast (&ended);
  pthread_mutex_unlock (&lock);
  return NULL;
}

static void
join_finished (void)
{
  struct worker *worker;

  pthread_mutex_lock (&lock);
  while ((worker = finished) != NULL) {
    finished = worker->next;
    pthread_mutex_unlock (&lock);
    pthread_join (worker->thread, NULL);
    free (worker);
    pthread_mutex_lock (&lock);
  }
  pthread_mutex_unlock (&lock);
}

static void
refuse (struct control_client *client, const char *code, const char *message)
{
  char *text = control_refusal (code, message);

  client->reply (client, text, text != NULL ? strlen (text) : 0);
}

/* With the lock held until the thread's handle is stored, which its own end
 * waits for.
 */
static bool
start_worker (struct worker *worker)
{
  bool ok;

  pthread_mutex_lock (&lock);
  ok = !stopping && thread_start (&worker->thread, worker_thread,
                                  worker) == 0;
  if (ok)
    working++;
  pthread_mutex_unlock (&lock);
  return ok;
}

void
control_submit (struct control_client *client, const char *text,
                size_t length)
{
  struct worker *worker = malloc (sizeof *worker + length);

  join_finished ();
  if (worker == NULL) {
    client->reply (client, NULL, 0);
    return;
  }
  worker->client = client;
  worker->length = length;
  memcpy (worker->text, text, length);
  if (start_worker (worker))
    return;
  free (worker);
  refuse (client, "unavailable",
          "the server ends, or has no resources for another request");
}

void
control_stop (void)
{
  pthread_mutex_lock (&lock);
  stopping = true;
  pthread_mutex_unlock (&lock);
  control_checks_cancel ();
  pthread_mutex_lock (&lock);
  while (working > 0)
    pthread_cond_wait (&ended, &lock);
  pthread_mutex_unlock (&lock);
  join_finished ();
  last_checks_forget_all ();
}
