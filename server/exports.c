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
 * X3. What is open is closed only when it has no clients.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "directory.h"
#include "exports.h"
#include "plugin.h"

/* So long an image stays open without clients: a tool of several connections
 * one after another finds it open, and a person need not wait for it.
 */
#define IDLE_SECONDS 3

/* How long a client sleeps before it looks whether nbdkit ends. */
#define WAIT_SLICE_NS 100000000

/* nbdkit takes no longer lists. */
#define LIST_MAX 10000

enum export_state { EXPORT_OPENING, EXPORT_OPEN, EXPORT_CLOSING };

struct export {
  struct export *next;
  char *path;
  struct qed_file_id id;        /* not with file= */
  enum export_state state;
  unsigned clients;
  struct timespec close_at;     /* if it is open and has no clients */
  struct qed_image *image;      /* if it is open or closing */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* A state, or the last client left. */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct export *exports;  /* with file=, that one; with dir=, those that
                                 * are in use, or were just then */

static pthread_t closer;        /* with dir= */
static bool closer_runs;        /* only start and close look at it */
static bool closer_ends;

struct qed_image *
export_image (const struct export *export)
{
  return export->image;
}

const char *
export_path (const struct export *export)
{
  return export->path;
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
  struct export *export = calloc (1, sizeof *export);

  if (export == NULL) {
    nbdkit_error ("%s: out of memory", path);
    free (path);
    return NULL;
  }
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

/* ---- Opening and closing an image (without the lock) ------------------- */

/* The name may have been given to another file since it was looked up. */
static int
check_identity (const struct export *export)
{
  const struct qed_file_id id = qed_identify (export->image);

  if (id.device == export->id.device && id.inode == export->id.inode)
    return 0;
  nbdkit_error ("%s: another file has taken its place just now: connect again",
                export->path);
  return -ESTALE;
}

/* For its first client.  Returns a negative errno if that fails. */
static int
open_image (struct export *export)
{
  struct qed_options options = plugin_config.options;
  int r;

  options.path = export->path;
  options.beneath = plugin_config.directory;
  r = qed_open (&options, &export->image);
  if (r < 0)
    return r;
  r = check_identity (export);
  if (r == 0)
    r = qed_start (export->image);
  if (r < 0)
    qed_close (export->image);
  return r;
}

static void
close_image (struct export *export)
{
  if (qed_close (export->image) < 0)
    nbdkit_error ("%s: not everything could be written; the image stays "
                  "marked as in need of a check", export->path);
}

/* With the lock, which is let go meanwhile (X2). */
static void
close_export (struct export *export)
{
  export->state = EXPORT_CLOSING;
  pthread_mutex_unlock (&lock);
  close_image (export);
  pthread_mutex_lock (&lock);
  remove_export (export);
}

/* ---- The thread that closes what nobody uses --------------------------- */

/* The export without clients that is to be closed first. */
static struct export *
next_to_close (void)
{
  struct export *export, *next = NULL;

  for (export = exports; export != NULL; export = export->next)
    if (export->state == EXPORT_OPEN && export->clients == 0 &&
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
  pthread_mutex_lock (&lock);
  while (!closer_ends) {
    export = next_to_close ();
    if (export == NULL) {
      pthread_cond_wait (&changed, &lock);
      continue;
    }
    close_at = &export->close_at;
    now = from_now (0, 0);
    if (is_before (&now, close_at)) {
      now = *close_at;          /* the export may be gone when this returns */
      pthread_cond_clockwait (&changed, &lock, CLOCK_MONOTONIC, &now);
    }
    else
      close_export (export);
  }
  pthread_mutex_unlock (&lock);
  return NULL;
}

/* Signals are for nbdkit's own threads. */
static int
start_closer (void)
{
  sigset_t all, before;
  int r;

  closer_ends = false;
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &before);
  r = pthread_create (&closer, NULL, closer_thread, NULL);
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  if (r != 0) {
    errno = r;
    nbdkit_error ("cannot start a thread: %m");
    return -1;
  }
  closer_runs = true;
  return 0;
}

static void
stop_closer (void)
{
  if (!closer_runs)
    return;
  closer_runs = false;
  pthread_mutex_lock (&lock);
  closer_ends = true;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
  pthread_join (closer, NULL);
}

/* ---- The server's life ------------------------------------------------- */

/* The one image of file=.  There are no other threads yet. */
static int
open_file (void)
{
  static const struct qed_file_id no_id;
  struct export *export;
  char *path = strdup (plugin_config.options.path);

  if (path == NULL) {
    nbdkit_error ("out of memory");
    return -1;
  }
  export = add_export (path, &no_id);
  if (export == NULL)
    return -1;
  export->state = EXPORT_OPEN;
  export->clients = 0;
  if (qed_open (&plugin_config.options, &export->image) == 0)
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
  return qed_start (exports->image) < 0 ? -1 : 0;
}

void
exports_close (void)
{
  stop_closer ();
  pthread_mutex_lock (&lock);
  while (exports != NULL)
    close_export (exports);
  pthread_mutex_unlock (&lock);
}

/* ---- Names ------------------------------------------------------------- */

int
exports_list (struct nbdkit_exports *list)
{
  struct directory_names found;
  size_t i;
  int r;

  if (plugin_config.directory == NULL)
    return nbdkit_add_export (list, plugin_config.name, EXPORT_DESCRIPTION);
  r = directory_read (plugin_config.directory, LIST_MAX, &found);
  for (i = 0; r == 0 && i < found.count; ++i)
    r = nbdkit_add_export (list, found.names[i], EXPORT_DESCRIPTION);
  directory_names_free (&found);
  return r;
}

const char *
exports_default (void)
{
  struct directory_names found;
  const char *name = NULL;

  if (plugin_config.directory == NULL)
    return plugin_config.name;
  if (directory_read (plugin_config.directory, 2, &found) == 0 &&
      found.count == 1)
    name = nbdkit_strdup_intern (found.names[0]);
  directory_names_free (&found);
  return name;
}

/* ---- Clients ----------------------------------------------------------- */

/* Names are strict: a client that asks for another disk must not get this
 * one.
 */
static struct export *
acquire_file (const char *name)
{
  char printable[80];

  if (name[0] != '\0' && strcmp (name, plugin_config.name) != 0) {
    name_copy_printable (printable, sizeof printable, name);
    nbdkit_error ("there is no export \"%s\"; use \"%s\" or \"\"",
                  printable, plugin_config.name);
    nbdkit_set_error (ENOENT);
    return NULL;
  }
  pthread_mutex_lock (&lock);
  exports->clients++;
  pthread_mutex_unlock (&lock);
  return exports;
}

/* The first client of an image opens it; if that fails it is his failure
 * alone, and whoever waited tries it himself.
 */
static struct export *
open_for_client (struct export *export)
{
  const int r = open_image (export);

  pthread_mutex_lock (&lock);
  if (r < 0) {
    remove_export (export);
    export = NULL;
    nbdkit_set_error (-r);
  }
  else {
    export->state = EXPORT_OPEN;
    pthread_cond_broadcast (&changed);
  }
  pthread_mutex_unlock (&lock);
  return export;
}

/* Until something changes in the table, for one slice at most.  With the
 * lock, which is let go.  Returns -1 if there is no sense in going on.
 */
static int
wait_for_change (void)
{
  const struct timespec end = from_now (0, WAIT_SLICE_NS);

  pthread_cond_clockwait (&changed, &lock, CLOCK_MONOTONIC, &end);
  pthread_mutex_unlock (&lock);
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
    pthread_mutex_lock (&lock);
    export = find_export (&id);
    if (export == NULL) {
      export = add_export (path, &id);
      pthread_mutex_unlock (&lock);
      return export != NULL ? open_for_client (export) : NULL;
    }
    free (path);
    if (export->state == EXPORT_OPEN) {
      export->clients++;
      pthread_mutex_unlock (&lock);
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
  pthread_mutex_lock (&lock);
  if (--export->clients == 0) {
    export->close_at = from_now (IDLE_SECONDS, 0);
    pthread_cond_broadcast (&changed);
  }
  pthread_mutex_unlock (&lock);
}
