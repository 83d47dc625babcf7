/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The open images: see exports.h.
 *
 *   (none) --> opening --> open --> closing --> (none)
 *                 |        ^  |        idle for IDLE_SECONDS, or .cleanup
 *                 v        +--+
 *               (none)   clients come and go
 *
 * X1. No two exports are of the same file.  So they are told apart by device
 *     and inode: a hard link, or a symlink within the directory, is another
 *     name of the same export, and a file that was put in the place of another
 *     is a new one.
 * X2. An export that is opening or closing belongs to one thread, which works
 *     on it without the lock.  All others wait until it is open or gone.
 * X3. What is open is closed only when it has neither clients nor pins.
 * X4. With file= the export is open all the time; whether its image is there,
 *     its slot tells.  Who pins it has entered the slot.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control-link.h"
#include "directory.h"
#include "exports-private.h"
#include "message.h"
#include "plugin.h"
#include "thread.h"

/* So long an image stays open without clients: a tool of several connections
 * one after another finds it open, and a person need not wait for it.
 */
#define IDLE_SECONDS 3

/* How long a client sleeps before it looks whether nbdkit ends. */
#define WAIT_SLICE_NS 100000000

pthread_mutex_t exports_lock = PTHREAD_MUTEX_INITIALIZER;
/* A state, or the last client left. */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct export *exports;  /* with file=, that one; with dir=, those that
                                 * are in use, or were just then */

static pthread_t closer;        /* with dir= */
static bool closer_runs;        /* only start and close look at it */
static bool closer_ends;

struct qed_slot *
export_slot (const struct export *export)
{
  return export->slot;
}

struct qed_image *
export_image (const struct export *export)
{
  return qed_slot_image (export->slot);
}

const char *
export_path (const struct export *export)
{
  return export->path;
}

/* A path that was looked up by a name has a slash. */
const char *
export_name (const struct export *export)
{
  return plugin_config.directory == NULL ? plugin_config.name
    : strrchr (export->path, '/') + 1;
}

struct export_counters *
export_counters (struct export *export)
{
  return &export->counters;
}

static struct timespec
from_now (unsigned seconds, unsigned nanoseconds)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  t.tv_sec += seconds;
  t.tv_nsec += nanoseconds;
  if (t.tv_nsec >= 1000000000) {
    t.tv_nsec -= 1000000000;
    t.tv_sec++;
  }
  return t;
}

static bool
is_before (const struct timespec *a, const struct timespec *b)
{
  return a->tv_sec < b->tv_sec ||
    (a->tv_sec == b->tv_sec && a->tv_nsec < b->tv_nsec);
}

/* ---- The table (with the lock) ----------------------------------------- */

static struct export *
find_export (const struct qed_file_id *id)
{
  struct export *export;

  for (export = exports; export != NULL; export = export->next)
    if (export->id.device == id->device && export->id.inode == id->inode)
      break;
  return export;
}

/* A new one, opening, with its first client.  It owns the path, also if there
 * is no memory for it.
 */
static struct export *
add_export (char *path, const struct qed_file_id *id)
{
  struct export *export = aligned_alloc (EXPORT_COUNTERS_ALIGN,
                                         sizeof *export);

  if (export == NULL) {
    message_error ("%s: out of memory", path);
    free (path);
    return NULL;
  }
  memset (export, 0, sizeof *export);
  export->path = path;
  export->id = *id;
  export->state = EXPORT_OPENING;
  export->clients = 1;
  export->next = exports;
  exports = export;
  return export;
}

static void
remove_export (struct export *export)
{
  struct export **link = &exports;

  while (*link != export)
    link = &(*link)->next;
  *link = export->next;
  free (export->path);
  free (export);
  pthread_cond_broadcast (&changed);
}

/* ---- The thread that closes what nobody uses --------------------------- */

/* With the lock, which is let go meanwhile (X2). */
static void
close_export (struct export *export)
{
  export->state = EXPORT_CLOSING;
  pthread_mutex_unlock (&exports_lock);
  export_close_image (export);
  pthread_mutex_lock (&exports_lock);
  remove_export (export);
}

/* The export without clients that is to be closed first. */
static struct export *
next_to_close (void)
{
  struct export *export, *next = NULL;

  for (export = exports; export != NULL; export = export->next)
    if (export->state == EXPORT_OPEN && export->clients == 0 &&
        export->pins == 0 &&
        (next == NULL || is_before (&export->close_at, &next->close_at)))
      next = export;
  return next;
}

static void *
closer_thread (void *arg)
{
  const struct timespec *close_at;
  struct export *export;
  struct timespec now;

  (void) arg;
  pthread_mutex_lock (&exports_lock);
  while (!closer_ends) {
    export = next_to_close ();
    if (export == NULL) {
      pthread_cond_wait (&changed, &exports_lock);
      continue;
    }
    close_at = &export->close_at;
    now = from_now (0, 0);
    if (is_before (&now, close_at)) {
      now = *close_at;          /* the export may be gone when this returns */
      pthread_cond_clockwait (&changed, &exports_lock, CLOCK_MONOTONIC, &now);
    }
    else
      close_export (export);
  }
  pthread_mutex_unlock (&exports_lock);
  return NULL;
}

static int
start_closer (void)
{
  closer_ends = false;
  if (thread_start (&closer, closer_thread, NULL) == -1)
    return -1;
  closer_runs = true;
  return 0;
}

static void
stop_closer (void)
{
  if (!closer_runs)
    return;
  closer_runs = false;
  pthread_mutex_lock (&exports_lock);
  closer_ends = true;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&exports_lock);
  pthread_join (closer, NULL);
}

/* ---- The server's life ------------------------------------------------- */

/* The one image of file=.  There are no other threads yet. */
static int
open_file (void)
{
  struct qed_file_id id = { 0, 0 };
  struct export *export;
  char *path = strdup (plugin_config.options.path);

  if (path == NULL) {
    message_error ("%s: out of memory", plugin_config.options.path);
    return -1;
  }
  (void) qed_file_identify (path, NULL, &id);
  export = add_export (path, &id);
  if (export == NULL)
    return -1;
  export->state = EXPORT_OPEN;
  export->clients = 0;
  if (export_make_slot (export) == 0)
    return 0;
  remove_export (export);
  return -1;
}

int
exports_open (void)
{
  struct directory_names list;
  int r;

  if (plugin_config.directory == NULL)
    return open_file ();
  r = directory_read (plugin_config.directory, 1, &list);
  directory_names_free (&list);
  return r;
}

int
exports_start (void)
{
  if (plugin_config.directory != NULL)
    return start_closer ();
  if (plugin_config.standby)
    control_link_offer (&exports->id, exports->path);
  return qed_slot_start (exports->slot) < 0 ? -1 : 0;
}

void
exports_close (void)
{
  stop_closer ();
  pthread_mutex_lock (&exports_lock);
  while (exports != NULL)
    close_export (exports);
  pthread_mutex_unlock (&exports_lock);
}

/* ---- Clients ----------------------------------------------------------- */

/* Names are strict: a client that asks for another disk must not get this
 * one.
 */
static bool
is_file_name (const char *name)
{
  char printable[80];

  if (name[0] == '\0' || strcmp (name, plugin_config.name) == 0)
    return true;
  name_copy_printable (printable, sizeof printable, name);
  if (plugin_config.name[0] == '\0')
    message_error ("there is no export \"%s\"; use \"\"", printable);
  else
    message_error ("there is no export \"%s\"; use \"%s\" or \"\"",
                   printable, plugin_config.name);
  nbdkit_set_error (ENOENT);
  return false;
}

static struct export *
acquire_file (const char *name)
{
  if (!is_file_name (name))
    return NULL;
  pthread_mutex_lock (&exports_lock);
  exports->clients++;
  pthread_mutex_unlock (&exports_lock);
  return exports;
}

/* The first client of an image opens it; if that fails it is his failure
 * alone, and whoever waited tries it himself.
 */
static struct export *
open_for_client (struct export *export)
{
  const int r = export_open_image (export);

  pthread_mutex_lock (&exports_lock);
  if (r < 0) {
    remove_export (export);
    export = NULL;
    nbdkit_set_error (-r);
  }
  else {
    export->state = EXPORT_OPEN;
    pthread_cond_broadcast (&changed);
  }
  pthread_mutex_unlock (&exports_lock);
  return export;
}

/* Until something changes in the table, for one slice at most.  With the
 * lock, which is let go.  Returns -1 if there is no sense in going on.
 */
static int
wait_for_change (void)
{
  const struct timespec end = from_now (0, WAIT_SLICE_NS);

  pthread_cond_clockwait (&changed, &exports_lock, CLOCK_MONOTONIC, &end);
  pthread_mutex_unlock (&exports_lock);
  if (nbdkit_nanosleep (0, 1) == 0)
    return 0;
  nbdkit_set_error (ESHUTDOWN);
  return -1;
}

/* After each wait the name is looked up again: there may be another file. */
static struct export *
acquire_from_directory (const char *name)
{
  struct qed_file_id id;
  struct export *export;
  char *path;

  do {
    path = directory_find (plugin_config.directory, name, &id);
    if (path == NULL)
      return NULL;
    pthread_mutex_lock (&exports_lock);
    export = find_export (&id);
    if (export == NULL) {
      export = add_export (path, &id);
      pthread_mutex_unlock (&exports_lock);
      return export != NULL ? open_for_client (export) : NULL;
    }
    free (path);
    if (export->state == EXPORT_OPEN) {
      export->clients++;
      pthread_mutex_unlock (&exports_lock);
      return export;
    }
  } while (wait_for_change () == 0);
  return NULL;
}

struct export *
export_acquire (const char *name)
{
  return plugin_config.directory == NULL
    ? acquire_file (name) : acquire_from_directory (name);
}

void
export_release (struct export *export)
{
  pthread_mutex_lock (&exports_lock);
  if (--export->clients == 0) {
    export->close_at = from_now (IDLE_SECONDS, 0);
    pthread_cond_broadcast (&changed);
  }
  pthread_mutex_unlock (&exports_lock);
}

/* ---- Holding an image without being a client --------------------------- */

/* With the lock.  If it is open. */
static struct export *
pin (struct export *export)
{
  if (export == NULL || export->state != EXPORT_OPEN ||
      qed_slot_enter (export->slot) == NULL)
    return NULL;
  export->pins++;
  return export;
}

static int
pin_if_open (const char *name, struct export **export)
{
  struct qed_file_id id;
  char *path = NULL;

  if (plugin_config.directory == NULL) {
    if (!is_file_name (name))
      return -1;
  }
  else if ((path = directory_find (plugin_config.directory, name,
                                   &id)) == NULL)
    return -1;
  pthread_mutex_lock (&exports_lock);
  *export = pin (path != NULL ? find_export (&id) : exports);
  pthread_mutex_unlock (&exports_lock);
  free (path);
  return 0;
}

int
export_pin (const char *name, bool open, struct export **export)
{
  struct export *acquired;

  if (!open)
    return pin_if_open (name, export);
  acquired = export_acquire (name);
  if (acquired == NULL)
    return -1;
  pthread_mutex_lock (&exports_lock);
  *export = pin (acquired);
  pthread_mutex_unlock (&exports_lock);
  export_release (acquired);
  return 0;
}

void
export_unpin (struct export *export)
{
  qed_slot_leave (export->slot);
  pthread_mutex_lock (&exports_lock);
  if (--export->pins == 0)
    pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&exports_lock);
}

size_t
exports_pin_open (struct export **list, size_t max)
{
  struct export *export;
  size_t n = 0;

  pthread_mutex_lock (&exports_lock);
  for (export = exports; export != NULL && n < max; export = export->next)
    if (pin (export) != NULL)
      list[n++] = export;
  pthread_mutex_unlock (&exports_lock);
  return n;
}

/* With the lock. */
static enum export_state
state_of (const struct export *export)
{
  if (export->state != EXPORT_OPEN)
    return export->state;
  switch (qed_slot_state (export->slot)) {
  case QED_SLOT_ACTIVE:     return EXPORT_OPEN;
  case QED_SLOT_STANDBY:    return EXPORT_STANDBY;
  case QED_SLOT_ACTIVATING: return EXPORT_ACTIVATING;
  case QED_SLOT_RELEASING:  return EXPORT_RELEASING;
  case QED_SLOT_RELEASED:   return EXPORT_RELEASED;
  case QED_SLOT_FAILED:     return EXPORT_FAILED;
  }
  return EXPORT_CLOSED;
}

enum export_state
export_state (const struct qed_file_id *id, unsigned *clients)
{
  enum export_state state = EXPORT_CLOSED;
  const struct export *export;

  *clients = 0;
  pthread_mutex_lock (&exports_lock);
  export = find_export (id);
  if (export != NULL) {
    state = state_of (export);
    *clients = export->clients;
  }
  pthread_mutex_unlock (&exports_lock);
  return state;
}

/* ---- Handing it over --------------------------------------------------- */

void
exports_look_at_file (struct export_entry *entry)
{
  struct qed_file_id id;

  pthread_mutex_lock (&exports_lock);
  entry->id = exports->id;
  entry->state = state_of (exports);
  entry->clients = exports->clients;
  pthread_mutex_unlock (&exports_lock);
  /* While another server has it, it may put another file there. */
  if (entry->state != EXPORT_OPEN &&
      qed_file_identify (plugin_config.options.path, NULL, &id) == 0)
    entry->id = id;
}

struct export *
exports_file (void)
{
  return exports;
}

int
exports_release_file (void)
{
  return qed_slot_release (exports->slot);
}

int
exports_activate_file (void)
{
  return qed_slot_activate (exports->slot);
}
