/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door's command metrics: numbers for monitoring, as families of
 * samples, which qedctl prints in Prometheus's text format.
 *
 * Names and meanings are fixed once published.
 */

#include <config.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "control-command.h"
#include "plugin.h"
#include "requests.h"

/* At most so many images; a reply has its limit. */
#define IMAGES_MAX 400u

/* ---- What is told of an image ------------------------------------------ */

enum metric {
  SIZE_BYTES,
  FILE_BYTES,
  USED_BYTES,
  CLIENTS,
  WRITABLE,
  NEED_CHECK,
  DAMAGED,
  FAILED,
  FREED_CLUSTERS,
  DIRTY_PAGES,
  CACHED_PAGES,
  CACHED_PAGES_MAX,
  CHECK_RUNNING,
  CHECK_DONE,
  CHECK_TOTAL,
  LAST_CHECK_TIME,
  LAST_CHECK_EXIT_CODE,
  LAST_CHECK_CORRUPTIONS,
  LAST_CHECK_LEAKS,
  REQUEST_ERRORS,
  IN_FLIGHT,
  TABLE_LOADS,
  METRICS
};

static const struct {
  const char *name, *type, *help;
} metrics[METRICS] = {
  [SIZE_BYTES] = { "size_bytes", "gauge", "Size of the disk" },
  [FILE_BYTES] = { "file_bytes", "gauge", "Length of the image file" },
  [USED_BYTES] = { "used_bytes", "gauge",
                   "Bytes of the file in use by header, tables and data" },
  [CLIENTS] = { "clients", "gauge", "Connections of NBD clients" },
  [WRITABLE] = { "writable", "gauge", "1 if changes are accepted" },
  [NEED_CHECK] = { "need_check", "gauge",
                   "1 while the image is marked as being changed" },
  [DAMAGED] = { "damaged", "gauge", "1 if damage was found" },
  [FAILED] = { "failed", "gauge",
               "1 if a sync failed: written data may be lost" },
  [FREED_CLUSTERS] = { "freed_clusters", "gauge",
                       "Clusters freed that are not yet used again" },
  [DIRTY_PAGES] = { "dirty_pages", "gauge",
                    "Table pages (4 KiB) to be written back" },
  [CACHED_PAGES] = { "cached_pages", "gauge",
                     "Table pages that the cache has taken memory for" },
  [CACHED_PAGES_MAX] = { "cached_pages_max", "gauge",
                         "Table pages that the cache may take memory for" },
  [CHECK_RUNNING] = { "check_running", "gauge",
                      "1 while a check or repair runs" },
  [CHECK_DONE] = { "check_done", "gauge",
                   "How far the running check is, of check_total" },
  [CHECK_TOTAL] = { "check_total", "gauge", "Where the running check ends" },
  [LAST_CHECK_TIME] = { "last_check_timestamp_seconds", "gauge",
                        "When the last check ended" },
  [LAST_CHECK_EXIT_CODE] = { "last_check_exit_code", "gauge", "0 clean, "
                             "1 failed, 2 corruptions left, 3 leaks left" },
  [LAST_CHECK_CORRUPTIONS] = { "last_check_corruptions", "gauge",
                               "Corruptions that the last check left" },
  [LAST_CHECK_LEAKS] = { "last_check_leaks", "gauge",
                         "Leaked clusters that the last check left" },
  [REQUEST_ERRORS] = { "request_errors_total", "counter",
                       "Requests of NBD clients that failed" },
  [IN_FLIGHT] = { "requests_in_flight", "gauge",
                  "Requests of NBD clients that are being carried out" },
  [TABLE_LOADS] = { "table_loads_total", "counter", "Reads of tables that "
                    "the cache did not spare the requests" },
};

struct sample {
  json_t *name;                 /* of the image */
  uint64_t values[METRICS];     /* UINT64_MAX: there is none */
  uint64_t oldest_ns;           /* age of the oldest request in flight */
  struct requests_count counts[EXPORT_REQUESTS];
};

static void
take_check (struct sample *sample, const struct export *export)
{
  uint64_t *v = sample->values;
  struct control_check_look check;

  control_check_look (export, &check);
  v[CHECK_RUNNING] = check.running;
  v[CHECK_DONE] = check.running ? check.done : UINT64_MAX;
  v[CHECK_TOTAL] = check.running ? check.total : UINT64_MAX;
  v[LAST_CHECK_TIME] = check.known ? (uint64_t) check.ended : UINT64_MAX;
  v[LAST_CHECK_EXIT_CODE] = check.known
    ? (uint64_t) check.exit_code : UINT64_MAX;
  v[LAST_CHECK_CORRUPTIONS] = check.completed
    ? check.corruptions : UINT64_MAX;
  v[LAST_CHECK_LEAKS] = check.completed ? check.leaks : UINT64_MAX;
}

static void
take_sample (struct sample *sample, struct export *export)
{
  const struct qed_file_id id = qed_identify (export_image (export));
  struct export_counters *counters = export_counters (export);
  struct qed_status status;
  uint64_t *v = sample->values;
  struct requests_look look;
  unsigned clients, i;

  export_state (&id, &clients);
  qed_status (export_image (export), &status);
  sample->name = control_string (export_name (export));
  v[SIZE_BYTES] = status.size;
  v[FILE_BYTES] = status.file_size;
  v[USED_BYTES] = status.used_bytes;
  v[CLIENTS] = clients;
  v[WRITABLE] = status.access == QED_ACCESS_WRITABLE;
  v[NEED_CHECK] = status.need_check;
  v[DAMAGED] = status.state == QED_STATE_DAMAGED;
  v[FAILED] = status.state == QED_STATE_FAILED;
  v[FREED_CLUSTERS] = status.freed_clusters;
  v[DIRTY_PAGES] = status.dirty_pages;
  v[CACHED_PAGES] = status.cached_pages;
  v[CACHED_PAGES_MAX] = status.cached_pages_max;
  take_check (sample, export);
  v[REQUEST_ERRORS] = atomic_load (&counters->errors);
  v[TABLE_LOADS] = status.table_loads;
  requests_look (export, &look);
  v[IN_FLIGHT] = look.in_flight;
  sample->oldest_ns = look.age_ns;
  for (i = 0; i < EXPORT_REQUESTS; i++)
    requests_read (export, (enum export_request) i, &sample->counts[i]);
}

/* ---- The reply --------------------------------------------------------- */

/* Returns its samples, to be let go by the caller. */
static json_t *
family (json_t *families, const char *name, const char *type,
        const char *help)
{
  json_t *object = json_object (), *samples = json_array ();

  json_object_set_new (object, "name",
                       json_sprintf ("nbdkit_qed_%s", name));
  json_object_set_new (object, "type", json_string (type));
  json_object_set_new (object, "help", json_string (help));
  json_object_set (object, "samples", samples);
  json_array_append_new (families, object);
  return samples;
}

/* Returns a sample without its value. */
static json_t *
add_sample (json_t *samples, json_t *image, const char *request)
{
  json_t *object = json_object (), *labels = json_object ();

  if (image != NULL)
    json_object_set (labels, "image", image);
  if (request != NULL)
    json_object_set_new (labels, "request", json_string (request));
  json_object_set_new (object, "labels", labels);
  json_array_append_new (samples, object);
  return object;
}

static void
add_value (json_t *samples, json_t *image, const char *request,
           uint64_t value)
{
  if (value <= INT64_MAX)
    control_set_number (add_sample (samples, image, request), "value", value);
}

static json_t *
seconds (uint64_t ns)
{
  return json_real ((double) ns / 1e9);
}

static void
add_oldest (json_t *families, const struct sample *list, size_t n)
{
  json_t *samples = family (families, "oldest_request_seconds", "gauge",
                            "For how long the oldest request has been carried "
                            "out, 0 if there is none");
  size_t i;

  for (i = 0; i < n; i++)
    json_object_set_new (add_sample (samples, list[i].name, NULL), "value",
                         seconds (list[i].oldest_ns));
  json_decref (samples);
}

/* Of one kind of request. */
static void
add_histogram (json_t *samples, json_t *image, const char *request,
               const struct requests_count *count)
{
  json_t *object = add_sample (samples, image, request);
  json_t *buckets = json_array ();
  unsigned i;

  for (i = 0; i < EXPORT_LATENCY_BUCKETS; i++)
    json_array_append_new (buckets,
                           json_integer ((json_int_t) count->latency[i]));
  json_object_set_new (object, "buckets", buckets);
  json_object_set_new (object, "sum", seconds (count->ns));
}

/* Where the image of file= is in its life: 1 for that, 0 for the others. */
static void
add_use (json_t *families)
{
  json_t *samples = family (families, "use", "gauge", "1 for what this server "
                            "does with the image of file=, 0 for the others");
  json_t *name = control_string (plugin_config.name), *sample;
  struct export_entry entry;
  unsigned use;

  exports_look_at_file (&entry);
  for (use = 0; use < EXPORT_STATES; use++) {
    if (use == EXPORT_OPENING || use == EXPORT_CLOSING || use == EXPORT_CLOSED)
      continue;                 /* of dir= */
    sample = add_sample (samples, name, NULL);
    json_object_set_new (json_object_get (sample, "labels"), "use",
                         json_string (control_use_to_text (use)));
    control_set_number (sample, "value", entry.state == use);
  }
  json_decref (name);
  json_decref (samples);
}

/* Kinds that no client asked for are left out. */
static void
add_latencies (json_t *families, const struct sample *list, size_t n)
{
  json_t *samples = family (families, "request_seconds", "histogram",
                            "How long requests of NBD clients took");
  size_t i;
  unsigned k;

  json_object_set_new (json_array_get (families,
                                       json_array_size (families) - 1),
                       "bounds", control_describe_bounds ());
  for (i = 0; i < n; i++)
    for (k = 0; k < EXPORT_REQUESTS; k++)
      if (list[i].counts[k].count > 0)
        add_histogram (samples, list[i].name, requests_names[k],
                       &list[i].counts[k]);
  json_decref (samples);
}

static void
add_requests (json_t *families, const struct sample *list, size_t n)
{
  json_t *requests = family (families, "requests_total", "counter",
                             "Requests of NBD clients since it was opened");
  json_t *bytes = family (families, "request_bytes_total", "counter",
                          "Bytes that these requests were about");
  size_t i;
  unsigned k;

  for (i = 0; i < n; i++)
    for (k = 0; k < EXPORT_REQUESTS; k++) {
      add_value (requests, list[i].name, requests_names[k],
                 list[i].counts[k].count);
      if (k != EXPORT_FLUSH)
        add_value (bytes, list[i].name, requests_names[k],
                   list[i].counts[k].bytes);
    }
  json_decref (requests);
  json_decref (bytes);
}

static void
add_single (json_t *families, const char *name, const char *help,
            uint64_t value)
{
  json_t *samples = family (families, name, "gauge", help);

  add_value (samples, NULL, NULL, value);
  json_decref (samples);
}

static json_t *
describe (const struct sample *list, size_t n)
{
  json_t *reply = json_object (), *families = json_array (), *samples;
  unsigned metric;
  size_t i;

  add_single (families, "images_open", "Images that are open", n);
  add_single (families, "checks_running", "Checks and repairs that run",
              control_checks_running ());
  if (plugin_config.directory == NULL)
    add_use (families);
  for (metric = 0; metric < METRICS; metric++) {
    samples = family (families, metrics[metric].name, metrics[metric].type,
                      metrics[metric].help);
    for (i = 0; i < n; i++)
      add_value (samples, list[i].name, NULL, list[i].values[metric]);
    json_decref (samples);
  }
  add_oldest (families, list, n);
  add_requests (families, list, n);
  add_latencies (families, list, n);
  json_object_set_new (reply, "metrics", families);
  return reply;
}

/* A name may be that of two files, when one has taken the other's place: the
 * older one is left out, as no two samples may have the same labels.
 */
static bool
is_known (const struct sample *list, size_t n, const struct export *export)
{
  json_t *name = control_string (export_name (export));
  bool known = false;
  size_t i;

  for (i = 0; i < n && !known; i++)
    known = json_equal (list[i].name, name);
  json_decref (name);
  return known;
}

json_t *
control_metrics (struct control_request *request)
{
  struct export *exports[IMAGES_MAX];
  const size_t count = exports_pin_open (exports, IMAGES_MAX);
  struct sample *list = calloc (count + 1, sizeof *list);
  size_t n = 0, i;
  json_t *reply;

  (void) request;
  for (i = 0; i < count; i++) {
    if (list != NULL && !is_known (list, n, exports[i]))
      take_sample (&list[n++], exports[i]);
    export_unpin (exports[i]);
  }
  reply = list != NULL ? describe (list, n) : NULL;
  for (i = 0; i < n; i++)
    json_decref (list[i].name);
  free (list);
  return reply;
}
