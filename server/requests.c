/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Clients' requests as others see them: see requests.h. */

#include <config.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "message.h"
#include "requests.h"

#define CAUSE_SIZE 400u

/* A reader whose slot changes so often beneath it gives it up: the request
 * that it would have seen has ended.
 */
#define LOOK_TRIES 8u

/* Another thread may look at a slot at any time: its owner makes 'seq' odd
 * while it changes what belongs to one request.  'step' it changes at any time.
 */
struct slot {
  _Alignas (64) _Atomic uint64_t seq;
  struct export *_Atomic export; /* compared only; NULL: no request */
  _Atomic uint64_t begun_ns, offset, count;
  _Atomic int kind;
  const char *_Atomic step;

  /* The owner's. */
  char cause[CAUSE_SIZE];

  struct slot *next, **link;    /* with the lock */
};

const uint64_t requests_bounds_ns[EXPORT_LATENCY_BUCKETS - 1] = {
  10000, 20000, 50000, 100000, 200000, 500000,
  1000000, 2000000, 5000000, 10000000, 20000000, 50000000,
  100000000, 200000000, 500000000,
  UINT64_C (1000000000), UINT64_C (2000000000), UINT64_C (5000000000),
  UINT64_C (10000000000),
};

const char *const requests_names[EXPORT_REQUESTS] = {
  [EXPORT_READ] = "read",
  [EXPORT_WRITE] = "write",
  [EXPORT_FLUSH] = "flush",
  [EXPORT_TRIM] = "trim",
  [EXPORT_ZERO] = "zero",
  [EXPORT_CACHE] = "cache",
  [EXPORT_BLOCK_STATUS] = "block-status",
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct slot *slots;
static pthread_key_t key;
static bool loaded;

static uint64_t
nanoseconds (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

/* ---- A thread's slot --------------------------------------------------- */

static void
free_slot (void *arg)
{
  struct slot *slot = arg;

  pthread_mutex_lock (&lock);
  *slot->link = slot->next;
  if (slot->next != NULL)
    slot->next->link = slot->link;
  pthread_mutex_unlock (&lock);
  free (slot);
}

int
requests_load (void)
{
  if (pthread_key_create (&key, free_slot) != 0) {
    message_error ("cannot make a key for the data of threads");
    return -1;
  }
  loaded = true;
  return 0;
}

/* The main thread's slot has no other end. */
void
requests_unload (void)
{
  if (!loaded)
    return;
  loaded = false;
  pthread_key_delete (key);
  while (slots != NULL)
    free_slot (slots);
}

static struct slot *
own_slot (void)
{
  return pthread_getspecific (key);
}

static struct slot *
make_slot (void)
{
  struct slot *slot = aligned_alloc (_Alignof (struct slot), sizeof *slot);

  if (slot == NULL)
    return NULL;
  memset (slot, 0, sizeof *slot);
  if (pthread_setspecific (key, slot) != 0) {
    free (slot);
    return NULL;
  }
  pthread_mutex_lock (&lock);
  slot->next = slots;
  slot->link = &slots;
  if (slots != NULL)
    slots->link = &slot->next;
  slots = slot;
  pthread_mutex_unlock (&lock);
  return slot;
}

/* ---- A request --------------------------------------------------------- */

/* Without a slot, that of this thread's request. */
static _Thread_local uint64_t begun_ns;

void
requests_begin (struct export *export, enum export_request kind,
                uint64_t offset, uint64_t count)
{
  struct slot *slot = own_slot ();
  uint64_t seq;

  begun_ns = nanoseconds ();
  if (slot == NULL)
    slot = make_slot ();
  if (slot == NULL)
    return;
  seq = atomic_load_explicit (&slot->seq, memory_order_relaxed);
  atomic_store_explicit (&slot->seq, seq + 1, memory_order_relaxed);
  atomic_store_explicit (&slot->begun_ns, begun_ns, memory_order_release);
  atomic_store_explicit (&slot->offset, offset, memory_order_release);
  atomic_store_explicit (&slot->count, count, memory_order_release);
  atomic_store_explicit (&slot->kind, (int) kind, memory_order_release);
  atomic_store_explicit (&slot->step, "start", memory_order_release);
  atomic_store_explicit (&slot->export, export, memory_order_release);
  atomic_store_explicit (&slot->seq, seq + 2, memory_order_release);
  slot->cause[0] = '\0';
}

const char *_Atomic *
requests_step (void)
{
  struct slot *slot = own_slot ();

  return slot != NULL ? &slot->step : NULL;
}

static unsigned
bucket_of (uint64_t ns)
{
  unsigned i;

  for (i = 0; i < EXPORT_LATENCY_BUCKETS - 1; i++)
    if (ns <= requests_bounds_ns[i])
      break;
  return i;
}

static void
add (_Atomic uint64_t *counter, uint64_t n)
{
  atomic_fetch_add_explicit (counter, n, memory_order_relaxed);
}

void
requests_end (struct export *export, enum export_request kind, uint64_t count,
              int r)
{
  struct export_counters *counters = export_counters (export);
  struct export_counter *counter = &counters->kinds[kind];
  const uint64_t ns = nanoseconds () - begun_ns;
  struct slot *slot = own_slot ();

  if (slot != NULL)
    atomic_store_explicit (&slot->export, NULL, memory_order_release);
  add (&counter->bytes, count);
  add (&counter->ns, ns);
  add (&counter->latency[bucket_of (ns)], 1);
  if (r != 0)
    add (&counters->errors, 1);
}

void
requests_read (struct export *export, enum export_request kind,
               struct requests_count *count)
{
  struct export_counter *counter = &export_counters (export)->kinds[kind];
  unsigned i;

  count->bytes = atomic_load (&counter->bytes);
  count->ns = atomic_load (&counter->ns);
  count->count = 0;
  for (i = 0; i < EXPORT_LATENCY_BUCKETS; i++) {
    count->latency[i] = atomic_load (&counter->latency[i]);
    count->count += count->latency[i];
  }
}

bool
requests_keep_cause (const char *message)
{
  struct slot *slot = own_slot ();

  if (slot == NULL ||
      atomic_load_explicit (&slot->export, memory_order_relaxed) == NULL)
    return false;
  if (slot->cause[0] == '\0')
    snprintf (slot->cause, sizeof slot->cause, "%s", message);
  return true;
}

const char *
requests_cause (void)
{
  const struct slot *slot = own_slot ();

  return slot != NULL ? slot->cause : "";
}

/* ---- Looking ----------------------------------------------------------- */

/* What a slot holds, if it is a request of this image. */
static bool
look_at (struct slot *slot, const struct export *export,
         struct requests_look *look, uint64_t *begun)
{
  uint64_t seq;
  unsigned i;

  for (i = 0; i < LOOK_TRIES; i++) {
    seq = atomic_load_explicit (&slot->seq, memory_order_acquire);
    if (atomic_load_explicit (&slot->export, memory_order_acquire) != export)
      return false;
    *begun = atomic_load_explicit (&slot->begun_ns, memory_order_acquire);
    look->offset = atomic_load_explicit (&slot->offset, memory_order_acquire);
    look->count = atomic_load_explicit (&slot->count, memory_order_acquire);
    look->kind = (enum export_request)
      atomic_load_explicit (&slot->kind, memory_order_acquire);
    look->step = atomic_load_explicit (&slot->step, memory_order_acquire);
    if (!(seq & 1) &&
        atomic_load_explicit (&slot->seq, memory_order_relaxed) == seq)
      return true;
  }
  return false;
}

void
requests_look (const struct export *export, struct requests_look *look)
{
  struct requests_look one;
  uint64_t begun, oldest = UINT64_MAX, now;
  struct slot *slot;

  memset (look, 0, sizeof *look);
  memset (&one, 0, sizeof one);
  pthread_mutex_lock (&lock);
  for (slot = slots; slot != NULL; slot = slot->next)
    if (look_at (slot, export, &one, &begun)) {
      one.in_flight = look->in_flight + 1;
      if (begun < oldest) {
        oldest = begun;
        *look = one;
      }
      look->in_flight = one.in_flight;
    }
  pthread_mutex_unlock (&lock);
  if (look->in_flight == 0)
    return;
  now = nanoseconds ();
  look->age_ns = now > oldest ? now - oldest : 0;
  look->request = requests_names[look->kind];
}

/* ---- Lines of the log -------------------------------------------------- */

#define LOG_LINES 10u
#define OTHER_LINES 100u
#define LOG_SECONDS 10u
#define LOG_NS (LOG_SECONDS * UINT64_C (1000000000))

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static struct export_log_limit others;

/* With the lock.  A new period begins with the first line after the end of
 * the last one.
 */
static bool
may_log (struct export_log_limit *limit, uint64_t now)
{
  if (limit->lines == 0 || now - limit->began_ns >= LOG_NS) {
    limit->began_ns = now;
    limit->lines = 0;
  }
  if (limit->lines < (limit == &others ? OTHER_LINES : LOG_LINES)) {
    limit->lines++;
    return true;
  }
  atomic_fetch_add (&limit->dropped, 1);
  return false;
}

/* With the lock: how many lines to tell of.  Clients that come and go must not
 * have that told each time.
 */
static uint64_t
take_rest (struct export_log_limit *limit, uint64_t now, bool all)
{
  const bool due = now - limit->began_ns >= LOG_NS ||
    (all && now - limit->told_ns >= LOG_NS);

  if (!due || atomic_load (&limit->dropped) == 0)
    return 0;
  limit->told_ns = now;
  return atomic_exchange (&limit->dropped, 0);
}

void
requests_log_rest (struct export *export, bool now)
{
  struct export_log_limit *limit = &export_counters (export)->log;
  uint64_t n;

  if (atomic_load_explicit (&limit->dropped, memory_order_relaxed) == 0)
    return;
  pthread_mutex_lock (&log_lock);
  n = take_rest (limit, nanoseconds (), now);
  pthread_mutex_unlock (&log_lock);
  if (n > 0)
    nbdkit_error ("%s: %" PRIu64 " more requests failed, which were not "
                  "logged: at most %u lines in %u seconds are",
                  export_path (export), n, LOG_LINES, LOG_SECONDS);
}

bool
requests_may_log (struct export *export)
{
  bool may;

  pthread_mutex_lock (&log_lock);
  may = may_log (&export_counters (export)->log, nanoseconds ());
  pthread_mutex_unlock (&log_lock);
  return may;
}

bool
requests_may_log_others (void)
{
  const uint64_t now = nanoseconds ();
  uint64_t rest;
  bool may;

  pthread_mutex_lock (&log_lock);
  rest = take_rest (&others, now, false);
  may = may_log (&others, now);
  pthread_mutex_unlock (&log_lock);
  if (rest > 0)
    nbdkit_error ("%" PRIu64 " more lines about clients that connect, or "
                  "about reads and writes that are no request's, were not "
                  "logged: at most %u in %u seconds are", rest, OTHER_LINES,
                  LOG_SECONDS);
  return may;
}
