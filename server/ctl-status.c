/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl list, status, flush, release and activate: what a server that runs
 * serves, and how that is; and simple requests to it.
 */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl-remote.h"

/* As the server said it. */
static int
print_json (const json_t *reply)
{
  if (ctl_json_print (reply, stdout, JSON_INDENT (4)) == 0)
    putchar ('\n');
  return ctl_end_output ();
}

/* ---- list -------------------------------------------------------------- */

/* All pages of the list as one reply. */
static json_t *
get_list (struct ctl_remote *remote)
{
  json_t *list = NULL, *page, *request, *images;
  const char *last = NULL;

  for (;;) {
    request = ctl_request ("list", NULL);
    if (last != NULL)
      json_object_set_new (request, "after", json_string (last));
    page = ctl_remote_ask (remote, request, NULL);
    if (page == NULL) {
      json_decref (list);
      return NULL;
    }
    if (list == NULL)
      list = json_incref (page);
    else
      json_array_extend (json_object_get (list, "images"),
                         json_object_get (page, "images"));
    images = json_object_get (list, "images");
    last = ctl_json_string (json_array_get (images,
                                            json_array_size (images) - 1),
                            "name");
    if (!ctl_json_bool (page, "more") ||
        json_array_size (json_object_get (page, "images")) == 0) {
      json_object_set_new (list, "more", json_false ());
      json_decref (page);
      return list;
    }
    json_decref (page);
  }
}

static void
print_entry (const json_t *image)
{
  const uint64_t clients = ctl_json_number (image, "clients");
  char *name = ctl_escape (ctl_json_string (image, "name"));
  char *use = ctl_escape (ctl_json_string (image, "use"));
  char *health = ctl_escape (ctl_json_string (image, "health"));

  printf ("%-8s %-7s %3" PRIu64 " client%s  %s\n",
          use != NULL ? use : "?", health != NULL ? health : "?",
          clients, clients == 1 ? " " : "s", name == NULL ? "?"
          : name[0] == '\0' ? "\"\"" : name);
  free (health);
  free (use);
  free (name);
}

static void
print_list (const json_t *list)
{
  const json_t *images = json_object_get (list, "images");
  size_t i;

  for (i = 0; i < json_array_size (images); i++)
    print_entry (json_array_get (images, i));
}

static int
run_list (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_door_line line = { .takes_image = false };
  json_t *list;
  int status;

  if (!ctl_door_parse (command, argc, argv, &line, &status))
    return status;
  list = get_list (line.door.remote);
  if (list == NULL)
    status = CTL_FAILED;
  else if (line.json)
    status = print_json (list);
  else {
    print_list (list);
    status = ctl_end_output ();
  }
  json_decref (list);
  ctl_door_close (&line.door);
  return status;
}

/* ---- status ------------------------------------------------------------ */

static const struct {
  const char *word, *text;
} accesses[] = {
  { "writable", "yes" },
  { "read-only", "no: the server was started read-only" },
  { "no-permission", "no: the server has no permission to write to the file" },
  { "need-check", "no: it was not closed cleanly: repair it" },
  { "damaged", "no: damage was found: repair it" },
  { "not-scanned", "no: its tables could not be read" },
  { "failed", "no: the storage has failed: written data may be lost" },
};

static const char *
access_text (const char *word)
{
  size_t i;

  for (i = 0; i < sizeof accesses / sizeof accesses[0]; i++)
    if (strcmp (accesses[i].word, word) == 0)
      return accesses[i].text;
  return word;
}

static void
report_size (struct ctl_report *report, const json_t *image, const char *key,
             const char *label)
{
  if (json_object_get (image, key) != NULL)
    ctl_report_size (report, NULL, label, ctl_json_number (image, key));
}

static void
report_running (struct ctl_report *report, const json_t *running)
{
  const uint64_t done = ctl_json_number (running, "done");
  const uint64_t total = ctl_json_number (running, "total");
  char text[256];

  if (running == NULL)
    return;
  snprintf (text, sizeof text, "%s, %u %%%s, since %s, by %s",
            ctl_json_string (running, "what"),
            total > 0 ? (unsigned) ((double) done * 100 / (double) total) : 0,
            ctl_json_bool (running, "paused") ? ", paused" : "",
            ctl_json_string (running, "since"),
            ctl_json_string (running, "by"));
  ctl_report_string (report, NULL, "running", text);
}

/* Its tables are read: changes wait for that. */
static void
report_opening (struct ctl_report *report, const json_t *image)
{
  char text[64];

  if (json_object_get (image, "tables-known") == NULL)
    return;
  snprintf (text, sizeof text, "%" PRIu64 " of %" PRIu64 " tables are read",
            ctl_json_number (image, "tables-read"),
            ctl_json_number (image, "tables-known"));
  ctl_report_string (report, NULL, "opening", text);
}

static void
report_last (struct ctl_report *report, const char *label, const json_t *last)
{
  char text[256];

  if (last == NULL)
    return;
  snprintf (text, sizeof text, "%s at %s: %s (exit %" PRIu64 "): %" PRIu64
            " corruptions, %" PRIu64 " leaks, %" PRIu64 " places not read",
            ctl_json_string (last, "what"), ctl_json_string (last, "ended"),
            ctl_json_string (last, "verdict"),
            ctl_json_number (last, "exit-code"),
            ctl_json_number (last, "corruptions"),
            ctl_json_number (last, "leaks"),
            ctl_json_number (last, "check-errors"));
  ctl_report_string (report, NULL, label, text);
}

static void
report_open (struct ctl_report *report, const json_t *image)
{
  char text[64];

  ctl_report_string (report, NULL, "file", ctl_json_string (image, "path"));
  ctl_report_string (report, NULL, "state", ctl_json_string (image, "state"));
  ctl_report_string (report, NULL, "writable", access_text
                     (ctl_json_string (image, "access")));
  ctl_report_number (report, NULL, "clients",
                     ctl_json_number (image, "clients"), "");
  ctl_report_watch (report, image);
  report_size (report, image, "virtual-size", "virtual size");
  report_size (report, image, "cluster-size", "cluster size");
  report_size (report, image, "file-size", "file length");
  ctl_report_allocation (report, image);
  ctl_report_number (report, NULL, "freed, not reused",
                     ctl_json_number (image, "freed-clusters"), "cluster");
  snprintf (text, sizeof text, "%" PRIu64 " of %" PRIu64 " pages, %" PRIu64
            " to be written", ctl_json_number (image, "cached-pages"),
            ctl_json_number (image, "cached-pages-max"),
            ctl_json_number (image, "dirty-pages"));
  ctl_report_string (report, NULL, "table cache", text);
  report_opening (report, image);
  report_running (report, json_object_get (image, "running-check"));
  report_last (report, "last check", json_object_get (image, "last-check"));
  report_last (report, "last complete check",
               json_object_get (image, "last-complete-check"));
}

static const struct {
  const char *word, *text;
} absences[] = {
  { "closed", "not open" },
  { "standby", "standby: waits until another server lets go of it" },
  { "activating", "activating: it is being opened" },
  { "releasing", "releasing: it is being closed" },
  { "released", "released: another server may have it" },
  { "failed", "failed: it could not be taken over (qedctl activate tries it "
    "again)" },
};

/* One that the server doesn't have open. */
static void
report_absent (struct ctl_report *report, const json_t *image)
{
  const char *use = ctl_json_string (image, "use"), *text = use;
  size_t i;

  for (i = 0; i < sizeof absences / sizeof absences[0]; i++)
    if (strcmp (absences[i].word, use) == 0)
      text = absences[i].text;
  if (json_object_get (image, "path") != NULL)
    ctl_report_string (report, NULL, "file", ctl_json_string (image, "path"));
  ctl_report_string (report, NULL, "state", text);
  if (json_object_get (image, "clients") != NULL)
    ctl_report_number (report, NULL, "clients",
                       ctl_json_number (image, "clients"), "");
  ctl_report_requests (report, image);
}

static bool
print_image (const json_t *image)
{
  const bool open = strcmp (ctl_json_string (image, "use"), "open") == 0;
  struct ctl_report *report = ctl_report_new ();

  ctl_report_string (report, NULL, "image", ctl_json_string (image, "name"));
  if (open)
    report_open (report, image);
  else
    report_absent (report, image);
  return ctl_report_print (report, false);
}

static bool
print_status (const json_t *reply)
{
  const json_t *server = json_object_get (reply, "server");
  const json_t *images = json_object_get (reply, "images");
  size_t i, n = json_array_size (images);
  char *version = ctl_escape (ctl_json_string (server, "version"));
  bool ok = true;

  printf ("nbdkit-qed %s, process %" PRIu64 ", %s\n",
          version != NULL ? version : "?", ctl_json_number (server, "pid"),
          n == 0 ? "with no image open" : n == 1 ? "one image"
          : "images that are open:");
  free (version);
  for (i = 0; i < n && ok; i++) {
    putchar ('\n');
    ok = print_image (json_array_get (images, i));
  }
  if (ctl_json_bool (reply, "more"))
    printf ("\nand more: name one, or see qedctl list\n");
  return ctl_end_output () == CTL_OK && ok;
}

static int
run_status (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_door_line line = { .takes_image = true };
  json_t *reply;
  int status;

  if (!ctl_door_parse (command, argc, argv, &line, &status))
    return status;
  reply = ctl_remote_ask (line.door.remote,
                          ctl_request ("status", line.door.image), NULL);
  if (reply == NULL)
    status = CTL_FAILED;
  else if (line.json)
    status = print_json (reply);
  else
    status = print_status (reply) ? CTL_OK : CTL_FAILED;
  json_decref (reply);
  ctl_door_close (&line.door);
  return status;
}

/* ---- flush, release, activate ------------------------------------------ */

/* The command's name is that of the request; 'key' of the reply says whether
 * there was anything to do, then the first of 'texts' is printed, else the
 * second.
 */
static int
run_simple (const struct ctl_command *command, int argc, char **argv,
            const char *key, const char *const texts[2])
{
  struct ctl_door_line line = { .takes_image = true };
  json_t *reply;
  int status;

  if (!ctl_door_parse (command, argc, argv, &line, &status))
    return status;
  reply = ctl_remote_ask (line.door.remote,
                          ctl_request (command->name, line.door.image),
                          NULL);
  if (reply == NULL)
    status = CTL_FAILED;
  else if (line.json)
    status = print_json (reply);
  else {
    puts (texts[ctl_json_bool (reply, key) ? 0 : 1]);
    status = ctl_end_output ();
  }
  json_decref (reply);
  ctl_door_close (&line.door);
  return status;
}

static int
run_flush (const struct ctl_command *command, int argc, char **argv)
{
  static const char *const texts[] = {
    "What was written is durable.",
    "The image is not open: nothing is to be written.",
  };

  return run_simple (command, argc, argv, "flushed", texts);
}

static int
run_release (const struct ctl_command *command, int argc, char **argv)
{
  static const char *const texts[] = {
    "The image is released.",
    "The image was released before.",
  };

  return run_simple (command, argc, argv, "released", texts);
}

static int
run_activate (const struct ctl_command *command, int argc, char **argv)
{
  static const char *const texts[] = {
    "The image is active.",
    "The image was active before.",
  };

  return run_simple (command, argc, argv, "activated", texts);
}

/* ---- The commands ------------------------------------------------------ */

#define TARGETS \
  "A server is found by its control socket (--control), or, in place of\n" \
  "that, by a URI of one of its exports (nbd://, nbds://, nbd+unix://), if\n" \
  "it was started with control-export=, or by the name of a file that it\n" \
  "serves on this host with control=.\n" \
  "\n" \
  "  --control SOCKET            the server's control socket\n" \
  "  --json                      print a JSON object\n"

const struct ctl_command ctl_list_command = {
  .name = "list",
  .arguments = "[URI|FILE]",
  .summary = "List the images of a server that runs",
  .help = TARGETS,
  .run = run_list,
};

const struct ctl_command ctl_status_command = {
  .name = "status",
  .arguments = "[URI|FILE|IMAGE]",
  .summary = "Show how the images of a server that runs are",
  .help =
  "With --control and the name of an image, that one alone.\n"
  TARGETS,
  .run = run_status,
};

const struct ctl_command ctl_flush_command = {
  .name = "flush",
  .arguments = "[URI|FILE|IMAGE]",
  .summary = "Make durable what was written to an image that is served",
  .help =
  "With --control, IMAGE names one where the server has several.\n"
  TARGETS,
  .run = run_flush,
};

const struct ctl_command ctl_release_command = {
  .name = "release",
  .arguments = "[URI|FILE|IMAGE]",
  .summary = "Let a server close its image, for another server to take it",
  .help =
  "All that was written is made durable, the image is marked clean, and its\n"
  "lock is dropped; a server that was started with standby=on takes it then.\n"
  "Clients stay connected.  What they ask for waits until qedctl activate, or\n"
  "fails if the server was started with on-release=fail.  A standby that is\n"
  "released does not take over any more.\n"
  "\n"
  TARGETS,
  .run = run_release,
};

const struct ctl_command ctl_activate_command = {
  .name = "activate",
  .arguments = "[URI|FILE|IMAGE]",
  .summary = "Let a server take its image, which it has released or waits for",
  .help =
  "The image must be free: released by the server that had it, or that server\n"
  "has ended.  A standby takes it by itself; one that has released it does\n"
  "not.\n"
  "\n"
  TARGETS,
  .run = run_activate,
};
