/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl top: what the clients of a server do just now. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl-remote.h"
#include "ctl-top.h"

/* A server disconnects who asks for nothing for 30 seconds. */
#define KEEP_SECONDS 20

#define INTERVAL_MIN 0.1
#define INTERVAL_MAX 86400

#define LINE_SIZE 512

struct arguments {
  double interval;              /* seconds */
  uint64_t count;               /* tables; 0: no end */
  bool json;
};

struct top {
  struct arguments arguments;
  struct ctl_door door;
  struct top_screen screen;
  json_t *before, *now;         /* replies */
  double before_at, now_at;     /* when they came */
};

struct row {
  const json_t *image;
  struct top_rates rates;
};

/* ---- Asking ------------------------------------------------------------ */

static int
interrupted (void *opaque, uint64_t done, uint64_t total)
{
  (void) opaque;
  (void) done;
  (void) total;
  return top_screen_interrupted ();
}

/* With long pauses each question has a connection of its own. */
static bool
connect_again (struct top *top)
{
  struct ctl_remote *other;

  if (top->arguments.interval < KEEP_SECONDS || top->now == NULL)
    return true;
  other = top->door.remote->ops->again (top->door.remote);
  if (other == NULL)
    return false;
  ctl_remote_close (top->door.remote);
  top->door.remote = other;
  return true;
}

/* The reply that was the last one is that before. */
static bool
ask (struct top *top)
{
  const struct qed_progress progress = { .fn = interrupted };
  json_t *request, *reply;

  if (!connect_again (top))
    return false;
  request = ctl_request ("status", top->door.image);
  json_object_set_new (request, "counters", json_true ());
  reply = ctl_remote_ask (top->door.remote, request, &progress);
  if (reply == NULL)
    return false;
  json_decref (top->before);
  top->before = top->now;
  top->before_at = top->now_at;
  top->now = reply;
  top->now_at = top_now ();
  return true;
}

/* ---- Rows -------------------------------------------------------------- */

/* The file tells whether it is the same image as before. */
static const json_t *
find_before (const struct top *top, const json_t *image)
{
  const json_t *images = json_object_get (top->before, "images"), *other;
  const char *file = ctl_json_string (image, "file");
  size_t i;

  for (i = 0; i < json_array_size (images); i++) {
    other = json_array_get (images, i);
    if (strcmp (ctl_json_string (other, "file"), file) == 0)
      return other;
  }
  return NULL;
}

/* The busiest first, then by name. */
static int
compare_rows (const void *a, const void *b)
{
  const struct row *x = a, *y = b;

  if (x->rates.count != y->rates.count)
    return x->rates.count < y->rates.count ? 1 : -1;
  return strcmp (ctl_json_string (x->image, "name"),
                 ctl_json_string (y->image, "name"));
}

/* *rows is to be freed.  An image that was not there before starts with 0. */
static size_t
make_rows (const struct top *top, struct row **rows, struct row *total)
{
  const json_t *images = json_object_get (top->now, "images"), *before;
  const size_t n = json_array_size (images);
  size_t i;

  memset (total, 0, sizeof *total);
  *rows = calloc (n + 1, sizeof **rows);
  if (*rows == NULL)
    return 0;
  for (i = 0; i < n; i++) {
    (*rows)[i].image = json_array_get (images, i);
    before = find_before (top, (*rows)[i].image);
    if (top->before != NULL) {
      top_rates_add (&(*rows)[i].rates, (*rows)[i].image, before);
      top_rates_add (&total->rates, (*rows)[i].image, before);
    }
  }
  qsort (*rows, n, sizeof **rows, compare_rows);
  return n;
}

/* ---- As a table -------------------------------------------------------- */

/* All but the name and the last two have room in 80 columns. */
#define NAME_MIN 14u
#define NAME_MAX 32u
#define OTHERS_WIDTH 86u

static unsigned
name_width (const struct top *top)
{
  const unsigned columns = top->screen.columns;

  return columns < OTHERS_WIDTH + NAME_MIN ? NAME_MIN
    : columns > OTHERS_WIDTH + NAME_MAX ? NAME_MAX : columns - OTHERS_WIDTH;
}

static void
draw_heading (const struct top *top)
{
  char line[LINE_SIZE];

  snprintf (line, sizeof line, "%-*s %-7s %4s %7s %7s %6s %6s %6s %6s %4s %7s "
            "%s", (int) name_width (top), "IMAGE", "HEALTH", "CLNT", "READ/S",
            "WRITE/S", "R-MB/S", "W-MB/S", "MEAN", "P99", "INFL", "OTHER/S",
            "OLDEST");
  top_screen_line (&top->screen, line, true);
}

/* "12us", "3.4ms", "5.6s". */
static void
time_to_text (double seconds, const char *prefix, char *text, size_t size)
{
  if (seconds < 0)
    snprintf (text, size, "-");
  else if (seconds < 0.0009995)
    snprintf (text, size, "%s%.0fus", prefix, seconds * 1e6);
  else if (seconds < 0.9995)
    snprintf (text, size, "%s%.3gms", prefix, seconds * 1e3);
  else
    snprintf (text, size, "%s%.1fs", prefix, seconds);
}

static void
draw_row (const struct top *top, const struct row *row, const char *health,
          uint64_t clients, uint64_t in_flight, const char *oldest,
          const char *name)
{
  const double t = top->now_at - top->before_at;
  const double per = top->before != NULL && t > 0 ? 1 / t : 0;
  const struct top_rates *r = &row->rates;
  const int width = (int) name_width (top);
  char mean[24], p99[24], line[LINE_SIZE];
  bool more;

  time_to_text (top_rates_mean (r), "", mean, sizeof mean);
  time_to_text (top_rates_percentile (r, json_object_get (top->now, "bounds"),
                                      99, &more), "", p99, sizeof p99);
  if (more)
    time_to_text (top_rates_percentile
                  (r, json_object_get (top->now, "bounds"), 99, &more), ">",
                  p99, sizeof p99);
  snprintf (line, sizeof line, "%-*.*s %-7s %4" PRIu64 " %7.0f %7.0f %6.1f "
            "%6.1f %6s %6s %4" PRIu64 " %7.0f %s", width,
            top->screen.on ? width : -1, name, health, clients,
            (double) r->reads * per, (double) r->writes * per,
            (double) r->read_bytes * per / 1e6,
            (double) r->write_bytes * per / 1e6, mean, p99, in_flight,
            (double) r->others * per, oldest);
  ctl_make_harmless (line);
  top_screen_line (&top->screen, line, false);
}

static void
draw_image (const struct top *top, const struct row *row)
{
  const json_t *oldest = json_object_get (row->image, "oldest-request");
  char *name = ctl_escape (ctl_json_string (row->image, "name"));
  char age[24], text[80] = "-";
  const bool open = strcmp (ctl_json_string (row->image, "use"), "open") == 0;

  if (oldest != NULL) {
    time_to_text (json_number_value (json_object_get (oldest, "seconds")), "",
                  age, sizeof age);
    snprintf (text, sizeof text, "%s %.40s", age,
              ctl_json_string (oldest, "step"));
  }
  draw_row (top, row, ctl_json_string (row->image, open ? "health" : "use"),
            ctl_json_number (row->image, "clients"),
            ctl_json_number (row->image, "requests-in-flight"), text,
            name != NULL ? name : "?");
  free (name);
}

static void
draw_total (const struct top *top, const struct row *total,
            const struct row *rows, size_t n)
{
  uint64_t clients = 0, in_flight = 0;
  size_t i;

  for (i = 0; i < n; i++) {
    clients += ctl_json_number (rows[i].image, "clients");
    in_flight += ctl_json_number (rows[i].image, "requests-in-flight");
  }
  draw_row (top, total, "", clients, in_flight, "", "total");
}

static void
draw_title (const struct top *top, size_t n)
{
  const json_t *server = json_object_get (top->now, "server");
  char *version = ctl_escape (ctl_json_string (server, "version"));
  char line[LINE_SIZE];

  snprintf (line, sizeof line, "nbdkit-qed %s, process %" PRIu64 ", %zu%s "
            "image%s open%s", version != NULL ? version : "?",
            ctl_json_number (server, "pid"), n,
            ctl_json_bool (top->now, "more") ? " of more" : "",
            n == 1 ? "" : "s",
            top->screen.on ? "; q ends it" : "");
  free (version);
  top_screen_line (&top->screen, line, false);
}

static void
draw_table (const struct top *top)
{
  const unsigned taken = 5;     /* lines: title, heading, total, rest, end */
  struct row *rows, total;
  const size_t n = make_rows (top, &rows, &total);
  const size_t room = top->screen.lines > taken + 1
    ? top->screen.lines - taken : 1;
  const size_t shown = n < room ? n : room;
  char line[LINE_SIZE];
  size_t i;

  top_screen_draw (&top->screen);
  draw_title (top, n);
  draw_heading (top);
  for (i = 0; i < shown; i++)
    draw_image (top, &rows[i]);
  if (shown < n) {
    snprintf (line, sizeof line, "and %zu more", n - shown);
    top_screen_line (&top->screen, line, false);
  }
  draw_total (top, &total, rows, n);
  if (!top->screen.on)
    top_screen_line (&top->screen, "", false);
  top_screen_drawn (&top->screen);
  free (rows);
}

/* ---- As JSON ----------------------------------------------------------- */

static void
set_real (json_t *object, const char *key, double value)
{
  if (value >= 0)
    json_object_set_new (object, key, json_real (value));
}

static json_t *
describe_rates (const struct top *top, const struct top_rates *r)
{
  const double t = top->now_at - top->before_at, per = t > 0 ? 1 / t : 0;
  json_t *object = json_object ();
  bool more;

  set_real (object, "reads-per-second", (double) r->reads * per);
  set_real (object, "writes-per-second", (double) r->writes * per);
  set_real (object, "others-per-second", (double) r->others * per);
  set_real (object, "read-bytes-per-second", (double) r->read_bytes * per);
  set_real (object, "write-bytes-per-second", (double) r->write_bytes * per);
  set_real (object, "mean-seconds", top_rates_mean (r));
  set_real (object, "p99-seconds", top_rates_percentile
            (r, json_object_get (top->now, "bounds"), 99, &more));
  return object;
}

static void
copy_member (json_t *object, const json_t *image, const char *key)
{
  json_t *value = json_object_get (image, key);

  if (value != NULL)
    json_object_set (object, key, value);
}

static json_t *
describe_image (const struct top *top, const struct row *row)
{
  static const char *const members[] = {
    "name", "use", "health", "clients", "requests-in-flight",
    "oldest-request",
  };
  json_t *object = json_object ();
  json_t *rates = describe_rates (top, &row->rates);
  size_t i;

  for (i = 0; i < sizeof members / sizeof members[0]; i++)
    copy_member (object, row->image, members[i]);
  json_object_update (object, rates);
  json_decref (rates);
  return object;
}

/* An object in a line of its own. */
static void
print_json (const struct top *top)
{
  json_t *object = json_object (), *images = json_array ();
  struct row *rows, total;
  const size_t n = make_rows (top, &rows, &total);
  size_t i;

  for (i = 0; i < n; i++)
    json_array_append_new (images, describe_image (top, &rows[i]));
  json_object_set_new (object, "seconds",
                       json_real (top->now_at - top->before_at));
  json_object_set_new (object, "images", images);
  json_object_set_new (object, "total", describe_rates (top, &total.rates));
  if (ctl_json_print (object, stdout, JSON_COMPACT) == 0)
    putchar ('\n');
  json_decref (object);
  free (rows);
}

/* ---- The command ------------------------------------------------------- */

static int
show (const struct top *top)
{
  if (top->arguments.json)
    print_json (top);
  else
    draw_table (top);
  return ctl_end_output ();
}

/* Until the next question is due.  False if the end was asked for. */
static bool
pause_between (struct top *top)
{
  const double until = top->now_at + top->arguments.interval;
  enum top_event event;

  while ((event = top_screen_wait (&top->screen, until)) == TOP_REDRAW)
    if (top->screen.on && show (top) != CTL_OK)
      return false;
  return event == TOP_TIME;
}

/* The first table of a terminal has no rates yet, and doesn't count. */
static int
watch (struct top *top)
{
  uint64_t shown = 0;

  if (!ask (top))
    return CTL_FAILED;
  top_screen_begin (&top->screen, !top->arguments.json);
  if (top->screen.on && show (top) != CTL_OK)
    return CTL_FAILED;
  while (pause_between (top)) {
    if (!ask (top))
      return top_screen_interrupted () ? CTL_OK : CTL_FAILED;
    if (show (top) != CTL_OK)
      return CTL_FAILED;
    if (++shown == top->arguments.count)
      break;
  }
  return CTL_OK;
}

static bool
parse_interval (const char *text, double *interval)
{
  char *end;

  errno = 0;
  *interval = strtod (text, &end);
  if (errno == 0 && end != text && *end == '\0' && isfinite (*interval) &&
      *interval >= INTERVAL_MIN && *interval <= INTERVAL_MAX)
    return true;
  ctl_error ("top: --interval %s: must be %g to %d seconds", text,
             INTERVAL_MIN, INTERVAL_MAX);
  return false;
}

static bool
parse_count (const char *text, uint64_t *count)
{
  char *end;

  errno = 0;
  *count = strtoull (text, &end, 10);
  if (errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == '\0' &&
      *count > 0)
    return true;
  ctl_error ("top: --count %s: must be a number, at least 1", text);
  return false;
}

enum { OPT_INTERVAL = CTL_OPT_DOOR_MORE, OPT_COUNT };

static bool
take_option (void *opaque, int option, const char *value)
{
  struct arguments *arguments = opaque;

  return option == OPT_INTERVAL
    ? parse_interval (value, &arguments->interval)
    : parse_count (value, &arguments->count);
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  static const struct option more[] = {
    { "interval", required_argument, NULL, OPT_INTERVAL },
    { "count", required_argument, NULL, OPT_COUNT },
    { NULL, 0, NULL, 0 },
  };
  struct top top = { .arguments.interval = 2 };
  struct ctl_door_line line = {
    .more = more, .take = take_option, .opaque = &top.arguments,
    .takes_image = true,
  };
  int status;

  if (!ctl_door_parse (command, argc, argv, &line, &status))
    return status;
  top.door = line.door;
  top.arguments.json = line.json;
  status = watch (&top);
  top_screen_end ();
  json_decref (top.before);
  json_decref (top.now);
  ctl_door_close (&top.door);
  return status;
}

const struct ctl_command ctl_top_command = {
  .name = "top",
  .arguments = "[URI|FILE|IMAGE]",
  .summary = "Watch what the clients of a server do",
  .help =
  "Every few seconds, for each image that is open and for all of them:\n"
  "health, clients, requests a second, megabytes (10^6) a second, mean time\n"
  "of a request and the time that 99 % of them took at most (an estimate),\n"
  "requests in flight, and of the oldest of these its age and step.  On a\n"
  "terminal q or Ctrl-C ends it; elsewhere tables are printed one after\n"
  "another.  The server is found as for qedctl status.\n"
  "\n"
  "  --control SOCKET            the server's control socket\n"
  "  --interval SECONDS          between two looks (default: 2)\n"
  "  --count N                   end after N tables\n"
  "  --json                      print a JSON object in a line, in place of\n"
  "                              each table\n",
  .run = run,
};
