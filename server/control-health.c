/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the admin door's status and list tell of an image's health and of its
 * clients' requests.
 */

#include <config.h>

#include <stdatomic.h>

#include "control-command.h"
#include "requests.h"

/* The worst comes first. */
const char *
control_health (const struct export *export)
{
  struct control_check_look check;
  struct qed_status status;

  qed_status (export_image (export), &status);
  control_check_look (export, &check);
  if (status.state == QED_STATE_FAILED)
    return "failed";
  if (status.state == QED_STATE_DAMAGED ||
      (check.completed && check.corruptions > 0))
    return "corrupt";
  if (check.completed && check.leaks > 0)
    return "leaks";
  return status.need_check ? "dirty" : "clean";
}

static json_t *
seconds (uint64_t ns)
{
  return json_real ((double) ns / 1e9);
}

static void
describe_oldest (json_t *image, const struct requests_look *look)
{
  json_t *oldest = json_object ();

  json_object_set_new (oldest, "request", json_string (look->request));
  control_set_number (oldest, "offset", look->offset);
  control_set_number (oldest, "length", look->count);
  json_object_set_new (oldest, "seconds", seconds (look->age_ns));
  json_object_set_new (oldest, "step", json_string (look->step));
  json_object_set_new (image, "oldest-request", oldest);
}

void
control_describe_requests (json_t *image, struct export *export)
{
  struct requests_count count;
  struct requests_look look;
  uint64_t total = 0;
  unsigned k;

  for (k = 0; k < EXPORT_REQUESTS; k++) {
    requests_read (export, (enum export_request) k, &count);
    total += count.count;
  }
  control_set_number (image, "requests", total);
  control_set_number (image, "request-errors",
                      atomic_load (&export_counters (export)->errors));
  requests_look (export, &look);
  control_set_number (image, "requests-in-flight", look.in_flight);
  if (look.in_flight > 0)
    describe_oldest (image, &look);
}

/* ---- Counters ---------------------------------------------------------- */

static json_t *
describe_buckets (const struct requests_count *count)
{
  json_t *array = json_array ();
  unsigned i;

  for (i = 0; i < EXPORT_LATENCY_BUCKETS; i++)
    json_array_append_new (array,
                           json_integer ((json_int_t) count->latency[i]));
  return array;
}

void
control_describe_counters (json_t *image, struct export *export)
{
  json_t *counters = json_object (), *object;
  struct requests_count count;
  unsigned k;

  for (k = 0; k < EXPORT_REQUESTS; k++) {
    requests_read (export, (enum export_request) k, &count);
    if (count.count == 0)
      continue;
    object = json_object ();
    control_set_number (object, "count", count.count);
    control_set_number (object, "bytes", count.bytes);
    json_object_set_new (object, "seconds", seconds (count.ns));
    json_object_set_new (object, "buckets", describe_buckets (&count));
    json_object_set_new (counters, requests_names[k], object);
  }
  json_object_set_new (image, "counters", counters);
}

json_t *
control_describe_bounds (void)
{
  json_t *array = json_array ();
  unsigned i;

  for (i = 0; i < EXPORT_LATENCY_BUCKETS - 1; i++)
    json_array_append_new (array, seconds (requests_bounds_ns[i]));
  return array;
}
