/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Hand-over between servers: see handover.h. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "handover.h"
#include "log.h"
#include "storage.h"

/* A standby looks for the lock this often, not all at the same time. */
#define LOOK_MS 200u
#define LOOK_MORE_MS 100u

/* How often those who use the image are asked to let go of it. */
#define DRAIN_MS 50u

/* Who comes and goes is counted in many places, so that threads don't meet in
 * one; only the sum means something.
 */
#define COUNTERS 64u

struct qed_slot {
  struct qed_slot_options options;
  char *path;                   /* options.image.path points at it */
  struct {
    _Alignas (64) _Atomic int64_t n;
  } users[COUNTERS];

  _Atomic int state;            /* enum qed_slot_state; changed with 'lock' */
  pthread_mutex_t lock;
  pthread_cond_t changed;       /* the state, or users leave it */
  bool ending;
  bool watching;                /* there is a thread to be joined */
  pthread_t watcher;
  int seen;                     /* the watcher's last error that was told */

  /* Constant while the image is there. */
  struct qed_image *image;
  uint64_t generation, same_since;
  char *signature;              /* its size and backing files */
};

void
qed_slot_options_init (struct qed_slot_options *options)
{
  memset (options, 0, sizeof *options);
  qed_options_init (&options->image);
  options->open = qed_open;
  options->test_lock = storage_file_test_lock;
}

/* ---- Those who use the image ------------------------------------------- */

static _Thread_local unsigned counter_hint;
static _Atomic unsigned next_hint;

static _Atomic int64_t *
counter (struct qed_slot *slot)
{
  if (counter_hint == 0)
    counter_hint = 1 + atomic_fetch_add_explicit (&next_hint, 1,
                                                  memory_order_relaxed);
  return &slot->users[counter_hint % COUNTERS].n;
}

/* Either we see that the state is another, or who changed it sees us: both
 * write, then read.
 */
struct qed_image *
qed_slot_enter (struct qed_slot *slot)
{
  if (!qed_slot_is_active (slot))       /* who waits must not wake the others */
    return NULL;
  atomic_fetch_add (counter (slot), 1);
  if (qed_slot_is_active (slot))
    return slot->image;
  qed_slot_leave (slot);
  return NULL;
}

void
qed_slot_leave (struct qed_slot *slot)
{
  atomic_fetch_sub (counter (slot), 1);
  if (qed_slot_state (slot) != QED_SLOT_RELEASING)
    return;
  pthread_mutex_lock (&slot->lock);
  pthread_cond_broadcast (&slot->changed);
  pthread_mutex_unlock (&slot->lock);
}

/* Once the state isn't ACTIVE.  What is added up while others leave is too
 * much, never too little.
 */
static bool
is_used (struct qed_slot *slot)
{
  int64_t sum = 0;
  unsigned i;

  for (i = 0; i < COUNTERS; i++)
    sum += atomic_load (&slot->users[i].n);
  return sum > 0;
}

struct qed_image *
qed_slot_image (const struct qed_slot *slot)
{
  return slot->image;
}

uint64_t
qed_slot_generation (const struct qed_slot *slot)
{
  return slot->generation;
}

uint64_t
qed_slot_same_since (const struct qed_slot *slot)
{
  return slot->same_since;
}

/* ---- States ------------------------------------------------------------ */

enum qed_slot_state
qed_slot_state (const struct qed_slot *slot)
{
  return atomic_load (&slot->state);
}

bool
qed_slot_is_active (const struct qed_slot *slot)
{
  return qed_slot_state (slot) == QED_SLOT_ACTIVE;
}

/* With the lock. */
static void
set_state (struct qed_slot *slot, enum qed_slot_state state)
{
  atomic_store (&slot->state, state);
  pthread_cond_broadcast (&slot->changed);
}

/* With the lock, which is let go meanwhile. */
static void
wait_ms (struct qed_slot *slot, unsigned milliseconds)
{
  struct timespec end;

  clock_gettime (CLOCK_MONOTONIC, &end);
  end.tv_sec += milliseconds / 1000;
  end.tv_nsec += milliseconds % 1000 * 1000000L;
  if (end.tv_nsec >= 1000000000) {
    end.tv_nsec -= 1000000000;
    end.tv_sec++;
  }
  pthread_cond_clockwait (&slot->changed, &slot->lock, CLOCK_MONOTONIC, &end);
}

bool
qed_slot_wait (struct qed_slot *slot, unsigned milliseconds)
{
  pthread_mutex_lock (&slot->lock);
  if (!qed_slot_is_active (slot))
    wait_ms (slot, milliseconds);
  pthread_mutex_unlock (&slot->lock);
  return qed_slot_is_active (slot);
}

/* With the lock.  Until the state belongs to nobody. */
static enum qed_slot_state
settled_state (struct qed_slot *slot)
{
  while (qed_slot_state (slot) == QED_SLOT_ACTIVATING ||
         qed_slot_state (slot) == QED_SLOT_RELEASING)
    pthread_cond_wait (&slot->changed, &slot->lock);
  return qed_slot_state (slot);
}

/* ---- Activating (without the lock; the state is ours) ------------------ */

/* What a client relies on after a hand-over; NULL if memory ran out. */
static char *
make_signature (struct qed_image *image)
{
  struct qed_chain_file file;
  char *text = NULL;
  size_t size;
  FILE *fp = open_memstream (&text, &size);
  unsigned depth;

  if (fp == NULL)
    return NULL;
  fprintf (fp, "%" PRIu64, qed_size (image));
  for (depth = 1; qed_chain_file (image, depth, &file); depth++)
    fprintf (fp, "\n%d %" PRIu64 " %" PRIu64 "-%" PRIu64 " %s", file.raw,
             file.size, file.id.device, file.id.inode, file.path);
  if (fclose (fp) == 0)
    return text;
  free (text);
  return NULL;
}

static int
compare_signature (struct qed_slot *slot, struct qed_image *image)
{
  char *signature = make_signature (image);

  if (signature == NULL)
    return -ENOMEM;
  slot->generation++;
  if (slot->signature == NULL || strcmp (signature, slot->signature) != 0)
    slot->same_since = slot->generation;
  free (slot->signature);
  slot->signature = signature;
  return 0;
}

/* An image that was opened becomes ours; if that fails it is closed. */
static int
start_image (struct qed_slot *slot, struct qed_image *image)
{
  int r = compare_signature (slot, image);

  if (r == 0)
    r = qed_start (image);
  if (r < 0) {
    qed_close (image);
    return r;
  }
  slot->image = image;
  if (slot->options.taken)
    slot->options.taken (slot->options.opaque, image);
  return 0;
}

static int
open_and_start (struct qed_slot *slot, bool quiet_lock)
{
  struct qed_options options = slot->options.image;
  struct qed_image *image;
  int r;

  options.take_over = true;
  options.quiet_lock = quiet_lock;
  r = slot->options.open (&options, &image);
  return r == 0 ? start_image (slot, image) : r;
}

/* A device that its last holder has not closed yet is in use like a lock. */
static bool
is_held (int error)
{
  return error == -EAGAIN || error == -EBUSY;
}

/* With the lock, which is let go meanwhile.  'from' is the state. */
static int
activate (struct qed_slot *slot, enum qed_slot_state from, bool quiet_lock)
{
  int r;

  set_state (slot, QED_SLOT_ACTIVATING);
  pthread_mutex_unlock (&slot->lock);
  r = open_and_start (slot, quiet_lock);
  pthread_mutex_lock (&slot->lock);
  if (r == 0)
    set_state (slot, QED_SLOT_ACTIVE);
  else if (from == QED_SLOT_STANDBY && !is_held (r))
    set_state (slot, QED_SLOT_FAILED);
  else
    set_state (slot, from);
  return r;
}

int
qed_slot_activate (struct qed_slot *slot)
{
  enum qed_slot_state state;
  int r = -EALREADY;

  pthread_mutex_lock (&slot->lock);
  state = settled_state (slot);
  if (state != QED_SLOT_ACTIVE)
    r = activate (slot, state, false);
  pthread_mutex_unlock (&slot->lock);
  return r == -EBUSY ? -EAGAIN : r;
}

/* ---- The standby's thread ---------------------------------------------- */

static unsigned
until_next_look (void)
{
  unsigned random;

  if (getrandom (&random, sizeof random, GRND_NONBLOCK) != sizeof random)
    random = 0;
  return LOOK_MS + random % LOOK_MORE_MS;
}

/* A file that isn't there, or is in use without being locked, may be so for a
 * moment only: it is told once.
 */
static void
tell_once (struct qed_slot *slot, int error)
{
  if (error != slot->seen && error != -EAGAIN)
    log_warning (&slot->options.image.log, "%s: standby: cannot take the "
                 "image: %s: trying on", slot->path, strerror (-error));
  slot->seen = error;
}

/* With the lock. */
static void
take_over (struct qed_slot *slot)
{
  const struct qed_log *log = &slot->options.image.log;
  int r = activate (slot, QED_SLOT_STANDBY, true);

  if (r == 0)
    log_warning (log, "%s: standby: the lock was free: this server has taken "
                 "over the image", slot->path);
  else if (is_held (r))
    tell_once (slot, r);
  else
    log_error (log, "%s: standby: the lock was free, but the image cannot be "
               "opened: when that is mended, run qedctl activate", slot->path);
}

static void *
watch (void *arg)
{
  struct qed_slot *slot = arg;
  int r;

  pthread_mutex_lock (&slot->lock);
  while (!slot->ending && settled_state (slot) == QED_SLOT_STANDBY) {
    pthread_mutex_unlock (&slot->lock);
    r = slot->options.test_lock (&slot->options.image);
    if (r < 0)
      tell_once (slot, r);
    pthread_mutex_lock (&slot->lock);
    if (slot->ending || qed_slot_state (slot) != QED_SLOT_STANDBY)
      continue;
    if (r == 0)
      take_over (slot);
    if (qed_slot_state (slot) == QED_SLOT_STANDBY)
      wait_ms (slot, until_next_look ());
  }
  pthread_mutex_unlock (&slot->lock);
  return NULL;
}

/* Signals are for other threads. */
static int
start_watcher (struct qed_slot *slot)
{
  sigset_t all, before;
  int r;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &before);
  r = pthread_create (&slot->watcher, NULL, watch, slot);
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  slot->watching = r == 0;
  if (r != 0)
    log_error (&slot->options.image.log, "%s: cannot start the standby's "
               "thread: %s", slot->path, strerror (r));
  return -r;
}

/* ---- Releasing --------------------------------------------------------- */

/* With the lock. */
static void
drain (struct qed_slot *slot)
{
  while (is_used (slot)) {
    if (slot->options.draining) {
      pthread_mutex_unlock (&slot->lock);
      slot->options.draining (slot->options.opaque, slot->image);
      pthread_mutex_lock (&slot->lock);
    }
    if (is_used (slot))
      wait_ms (slot, DRAIN_MS);
  }
}

/* With the lock, which is let go meanwhile. */
static int
release (struct qed_slot *slot)
{
  struct qed_image *image;
  int r;

  set_state (slot, QED_SLOT_RELEASING);
  drain (slot);
  pthread_mutex_unlock (&slot->lock);
  image = slot->image;
  slot->image = NULL;
  r = qed_close (image);
  pthread_mutex_lock (&slot->lock);
  if (r < 0) {
    log_error (&slot->options.image.log, "%s: released, but not everything "
               "could be written: NEED_CHECK stays set, and who opens the "
               "image next repairs it", slot->path);
    /* What was acknowledged may be lost: a flush of a client that was
     * connected must not succeed later (O8).
     */
    free (slot->signature);
    slot->signature = NULL;
  }
  set_state (slot, QED_SLOT_RELEASED);
  return r;
}

int
qed_slot_release (struct qed_slot *slot)
{
  enum qed_slot_state state;
  int r = 0;

  pthread_mutex_lock (&slot->lock);
  state = settled_state (slot);
  if (state == QED_SLOT_ACTIVE)
    r = release (slot);
  else if (state == QED_SLOT_RELEASED)
    r = -EALREADY;
  else
    set_state (slot, QED_SLOT_RELEASED);
  pthread_mutex_unlock (&slot->lock);
  return r;
}

/* ---- The server's life ------------------------------------------------- */

static int
test_standby (struct qed_slot *slot)
{
  const struct qed_log *log = &slot->options.image.log;
  int r = slot->options.test_lock (&slot->options.image);

  if (r == 0 || is_held (r))
    return 0;
  log_error (log, "%s: standby: cannot test the image's lock: %s", slot->path,
             strerror (-r));
  return r;
}

static void
free_slot (struct qed_slot *slot)
{
  pthread_cond_destroy (&slot->changed);
  pthread_mutex_destroy (&slot->lock);
  free (slot->signature);
  free (slot->path);
  free (slot);
}

static struct qed_slot *
allocate (const struct qed_slot_options *options)
{
  struct qed_slot *slot = aligned_alloc (64, sizeof *slot);

  if (slot == NULL)
    return NULL;
  memset (slot, 0, sizeof *slot);
  slot->options = *options;
  slot->path = strdup (options->image.path);
  slot->options.image.path = slot->path;
  pthread_mutex_init (&slot->lock, NULL);
  pthread_cond_init (&slot->changed, NULL);
  if (slot->path != NULL)
    return slot;
  free_slot (slot);
  return NULL;
}

int
qed_slot_new (const struct qed_slot_options *options, struct qed_slot **result)
{
  struct qed_slot *slot = allocate (options);
  int r;

  if (slot == NULL) {
    log_error (&options->image.log, "%s: out of memory", options->image.path);
    return -ENOMEM;
  }
  atomic_init (&slot->state, options->standby
               ? QED_SLOT_STANDBY : QED_SLOT_ACTIVATING);
  r = options->standby ? test_standby (slot)
    : options->open (&slot->options.image, &slot->image);
  if (r == 0)
    *result = slot;
  else
    free_slot (slot);
  return r;
}

int
qed_slot_start (struct qed_slot *slot)
{
  struct qed_image *image = slot->image;
  int r;

  if (slot->options.standby)
    return start_watcher (slot);
  slot->image = NULL;
  r = start_image (slot, image);
  pthread_mutex_lock (&slot->lock);
  set_state (slot, r == 0 ? QED_SLOT_ACTIVE : QED_SLOT_FAILED);
  pthread_mutex_unlock (&slot->lock);
  return r;
}

int
qed_slot_close (struct qed_slot *slot)
{
  int r = 0;

  pthread_mutex_lock (&slot->lock);
  slot->ending = true;
  pthread_cond_broadcast (&slot->changed);
  pthread_mutex_unlock (&slot->lock);
  if (slot->watching)
    pthread_join (slot->watcher, NULL);
  if (slot->image != NULL)
    r = qed_close (slot->image);
  free_slot (slot);
  return r;
}
