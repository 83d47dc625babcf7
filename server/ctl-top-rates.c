/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl top: rates between two replies of a server. */

#include <config.h>

#include <string.h>

#include "ctl-remote.h"
#include "ctl-top.h"

/* What was counted since; counters that went back began anew. */
static uint64_t
more (const json_t *now, const json_t *before, const char *key)
{
  const uint64_t n = ctl_json_number (now, key);
  const uint64_t b = ctl_json_number (before, key);

  return n >= b ? n - b : n;
}

static uint64_t
bucket (const json_t *kind, size_t i)
{
  const json_t *value = json_array_get (json_object_get (kind, "buckets"), i);
  const json_int_t n = json_integer_value (value);

  return n > 0 ? (uint64_t) n : 0;
}

static void
add_latency (struct top_rates *rates, const json_t *now, const json_t *before)
{
  const size_t n = json_array_size (json_object_get (now, "buckets"));
  const double seconds =
    json_number_value (json_object_get (now, "seconds")) -
    json_number_value (json_object_get (before, "seconds"));
  uint64_t is, was;
  size_t i;

  if (seconds > 0)
    rates->seconds += seconds;
  for (i = 0; i < n && i < TOP_BUCKETS_MAX; i++) {
    is = bucket (now, i);
    was = bucket (before, i);
    rates->latency[i] += is >= was ? is - was : is;
  }
}

static void
add_kind (struct top_rates *rates, const char *name, const json_t *now,
          const json_t *before)
{
  uint64_t count;

  if (ctl_json_number (now, "count") < ctl_json_number (before, "count"))
    before = NULL;
  count = more (now, before, "count");
  rates->count += count;
  if (strcmp (name, "read") == 0) {
    rates->reads += count;
    rates->read_bytes += more (now, before, "bytes");
  }
  else if (strcmp (name, "write") == 0) {
    rates->writes += count;
    rates->write_bytes += more (now, before, "bytes");
  }
  else
    rates->others += count;
  add_latency (rates, now, before);
}

void
top_rates_add (struct top_rates *rates, const json_t *now,
               const json_t *before)
{
  json_t *counters = json_object_get (now, "counters"), *kind;
  const json_t *old = json_object_get (before, "counters");
  const char *name;

  if (before != NULL && old == NULL)
    return;                     /* another server had it: what is new? */
  json_object_foreach (counters, name, kind)
    add_kind (rates, name, kind, json_object_get (old, name));
}

double
top_rates_mean (const struct top_rates *rates)
{
  return rates->count > 0 ? rates->seconds / (double) rates->count : -1;
}

double
top_rates_percentile (const struct top_rates *rates, const json_t *bounds,
                      double percent, bool *more_than)
{
  const size_t n = json_array_size (bounds);
  double rank, below = 0, in, lower = 0, upper;
  uint64_t total = 0;
  size_t i;

  *more_than = false;
  for (i = 0; i < TOP_BUCKETS_MAX; i++)
    total += rates->latency[i];
  if (total == 0 || n == 0 || n >= TOP_BUCKETS_MAX)
    return -1;
  rank = (double) total * percent / 100;
  for (i = 0; i < n; i++) {
    upper = json_number_value (json_array_get (bounds, i));
    in = (double) rates->latency[i];
    if (in > 0 && below + in >= rank)
      return lower + (upper - lower) * (rank - below) / in;
    below += in;
    lower = upper;
  }
  *more_than = true;
  return lower;
}
