/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Telling the service manager: see notify.h.
 *
 * A thread looks at the images a few times a second.
 *
 *   starting --all images may be used--> ready --told to end--> stopping
 *
 * While it starts, which takes long where a large image is repaired, it asks
 * for more time again and again.  The watchdog gets its sign of life only if
 * the loop of each image has had its turn since the last one: a server whose
 * loop hangs answers some requests still, and makes nothing durable.
 */

#include <config.h>

#include "notify.h"

#ifdef HAVE_LIBSYSTEMD

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <systemd/sd-daemon.h>

#include "control-command.h"
#include "exports.h"
#include "plugin.h"
#include "thread.h"

#define LOOK_NS 250000000
#define LOOK_US (LOOK_NS / 1000)

/* So much more time is asked for, at every look. */
#define EXTEND_US 20000000

#define IMAGES_MAX 1024
#define TEXT_SIZE 200

static sem_t wake;              /* by notify_stop */
static atomic_bool stopping;
static bool running;            /* start and stop, the same thread */
static pthread_t thread;

/* The thread's own. */
static struct export *images[IMAGES_MAX];
static size_t nr_images;
static bool ready;
static uint64_t watchdog_us;    /* 0: there is none */
static uint64_t since_sign_us;
static char told[TEXT_SIZE];

/* ---- In words ---------------------------------------------------------- */

static const char *
state_to_text (enum qed_state state)
{
  switch (state) {
  case QED_STATE_CLEAN:   return "clean";
  case QED_STATE_DIRTY:   return "in use";
  case QED_STATE_DAMAGED: return "DAMAGED: it needs qedctl check --repair";
  case QED_STATE_FAILED:  return "FAILED: what was written may be lost";
  }
  return "";
}

static void
describe_image (struct export *export, char text[TEXT_SIZE])
{
  struct control_check_look check;
  struct qed_status status;

  qed_status (export_image (export), &status);
  control_check_look (export, &check);
  if (!status.scanned)
    snprintf (text, TEXT_SIZE, "Opening %s: %" PRIu64 " of %" PRIu64
              " tables are read", export_name (export), status.tables_read,
              status.tables_known);
  else if (check.running)
    snprintf (text, TEXT_SIZE, "Serving %s, %s; a check is at %" PRIu64 " %%",
              export_name (export), state_to_text (status.state),
              check.total > 0 ? check.done * 100 / check.total : 0);
  else
    snprintf (text, TEXT_SIZE, "Serving %s, %s", export_name (export),
              state_to_text (status.state));
}

static void
describe_directory (char text[TEXT_SIZE])
{
  const unsigned checks = control_checks_running ();

  if (checks > 0)
    snprintf (text, TEXT_SIZE, "Serving a directory, %zu images in use, %u "
              "checks under way", nr_images, checks);
  else
    snprintf (text, TEXT_SIZE, "Serving a directory, %zu images in use",
              nr_images);
}

/* The one of file=, while this server doesn't have it. */
static void
describe_absence (char text[TEXT_SIZE])
{
  struct export_entry entry;

  exports_look_at_file (&entry);
  switch (entry.state) {
  case EXPORT_STANDBY:
    snprintf (text, TEXT_SIZE, "Standing by for %s", plugin_config.name);
    break;
  case EXPORT_RELEASED:
    snprintf (text, TEXT_SIZE, "Has released %s", plugin_config.name);
    break;
  case EXPORT_FAILED:
    snprintf (text, TEXT_SIZE, "FAILED to take over %s: it needs qedctl "
              "activate", plugin_config.name);
    break;
  default:                      /* soon over */
    snprintf (text, TEXT_SIZE, "Handing over %s", plugin_config.name);
  }
}

/* What is new. */
static void
tell_status (void)
{
  char text[TEXT_SIZE] = "";

  if (plugin_config.directory != NULL)
    describe_directory (text);
  else if (nr_images > 0)
    describe_image (images[0], text);
  else
    describe_absence (text);
  if (strcmp (text, told) == 0)
    return;
  strcpy (told, text);
  sd_notifyf (0, "STATUS=%s", text);
}

/* ---- Ready ------------------------------------------------------------- */

/* With dir= images are opened for their clients.  A standby is ready when it
 * has taken over; an image that isn't there else has been handed over.
 */
static bool
is_ready (void)
{
  if (plugin_config.directory != NULL)
    return true;
  return nr_images > 0 ? qed_scanned (export_image (images[0]))
    : !plugin_config.standby;
}

/* After the status that goes with it. */
static void
tell_ready (bool now)
{
  if (ready)
    return;
  ready = now;
  if (ready)
    sd_notify (0, "READY=1");
  else
    sd_notifyf (0, "EXTEND_TIMEOUT_USEC=%d", EXTEND_US);
}

/* ---- Alive ------------------------------------------------------------- */

/* Twice in the time after which the service manager loses patience. */
static void
give_sign (void)
{
  bool alive = true;
  size_t i;

  since_sign_us += LOOK_US;
  if (watchdog_us == 0 || since_sign_us < watchdog_us / 2)
    return;
  since_sign_us = 0;
  for (i = 0; i < nr_images; i++)
    alive = qed_beats (export_image (images[i])) && alive;
  if (alive)
    sd_notify (0, "WATCHDOG=1");
}

/* ---- The thread -------------------------------------------------------- */

static void
look (void)
{
  bool now;
  size_t i;

  nr_images = exports_pin_open (images, IMAGES_MAX);
  now = is_ready ();
  tell_status ();
  tell_ready (now);
  give_sign ();
  for (i = 0; i < nr_images; i++)
    export_unpin (images[i]);
}

static void
sleep_until_next (void)
{
  struct timespec end;

  clock_gettime (CLOCK_REALTIME, &end);
  end.tv_nsec += LOOK_NS;
  if (end.tv_nsec >= 1000000000) {
    end.tv_nsec -= 1000000000;
    end.tv_sec++;
  }
  sem_timedwait (&wake, &end);
}

static void *
notify_thread (void *arg)
{
  (void) arg;
  while (!stopping) {
    look ();
    sleep_until_next ();
  }
  sd_notify (0, "STOPPING=1");
  return NULL;
}

int
notify_start (void)
{
  if (getenv ("NOTIFY_SOCKET") == NULL)
    return 0;
  if (sd_watchdog_enabled (0, &watchdog_us) <= 0)
    watchdog_us = 0;
  sem_init (&wake, 0, 0);
  if (thread_start (&thread, notify_thread, NULL) == -1)
    return -1;
  running = true;
  return 0;
}

void
notify_stop (void)
{
  if (!running)
    return;
  running = false;
  stopping = true;
  sem_post (&wake);
  pthread_join (thread, NULL);
  sem_destroy (&wake);
}

#else

int
notify_start (void)
{
  return 0;
}

void
notify_stop (void)
{
}

#endif
