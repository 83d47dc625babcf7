/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A client and the image that comes and goes: see client.h. */

#include <config.h>

#include <errno.h>
#include <string.h>
#include <time.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "client.h"
#include "exports.h"
#include "message.h"
#include "plugin.h"
#include "requests.h"

/* How long a client sleeps before it looks whether nbdkit ends. */
#define SLICE_MS 100

/* ---- Waiting for the image --------------------------------------------- */

/* Whether those who come to an image that isn't there are sent away. */
static int
refusal (enum qed_slot_state state)
{
  switch (state) {
  case QED_SLOT_RELEASING:
  case QED_SLOT_RELEASED:
    return plugin_config.fail_released ? -ESHUTDOWN : 0;
  case QED_SLOT_FAILED:
    return -EIO;
  default:
    return 0;
  }
}

/* Where a request is that waits here, for those who watch it. */
static void
note_step (const char *step)
{
  const char *_Atomic *place = requests_step ();

  if (place != NULL)
    atomic_store_explicit (place, step, memory_order_release);
}

/* For one slice at most.  0 or a negative errno. */
static int
wait_slice (struct qed_slot *slot)
{
  const int r = refusal (qed_slot_state (slot));

  if (r < 0)
    return r;
  note_step ("hand-over");
  /* Even if the image is there: a client that has gone may have repeated its
   * request elsewhere.
   */
  (void) qed_slot_wait (slot, SLICE_MS);
  if (nbdkit_nanosleep (0, 1) == 0)
    return 0;
  return errno != 0 ? -errno : -ESHUTDOWN;
}

/* ---- An image that came back ------------------------------------------- */

/* The scan of a usual image takes less than this: a client that connects at
 * the very start should know whether damage keeps it from writing.
 */
#define SCAN_WAIT_MS 100

/* Until the image can be used.  0, a negative errno, or PLUGIN_AGAIN. */
static int
wait_ready (struct qed_slot *slot)
{
  struct qed_request request;
  unsigned i;
  int r;

  qed_request_init (&request, QED_OP_READY, NULL, 0, 0, 0);
  r = plugin_run_request (slot, &request);
  for (i = 0; r == 0 && i < SCAN_WAIT_MS &&
         !qed_scanned (qed_slot_image (slot)); i++)
    if (nbdkit_nanosleep (0, 1000000) == -1)
      break;
  return r;
}

/* The slot was entered and has another image than before. */
static int
meet_again (struct client *client)
{
  struct qed_slot *slot = export_slot (client->export);
  int r = wait_ready (slot);

  if (r != 0)
    return r;
  if (qed_slot_same_since (slot) <= client->since &&
      qed_writable (qed_slot_image (slot)) == client->writable) {
    atomic_store (&client->generation, qed_slot_generation (slot));
    return 0;
  }
  if (!atomic_exchange (&client->stale, true))
    nbdkit_error ("%s: its size, its backing files or whether it may be "
                  "written have changed while it was released, or not all "
                  "could be written before: a client has to connect anew",
                  export_path (client->export));
  return -ESHUTDOWN;
}

static int
enter_once (struct client *client)
{
  struct qed_slot *slot = export_slot (client->export);
  int r;

  if (qed_slot_enter (slot) == NULL)
    return PLUGIN_AGAIN;
  if (atomic_load_explicit (&client->generation, memory_order_relaxed) ==
      qed_slot_generation (slot))
    return 0;
  r = meet_again (client);
  if (r != 0)
    qed_slot_leave (slot);
  return r;
}

/* nbdkit before 1.34 dies of a second reply to a connection that is lost, if it
 * is sent before the first has failed.
 */
static void
leave_in_turn (struct client *client)
{
  if (atomic_exchange (&client->hung_up, true))
    nanosleep (&(struct timespec) { .tv_nsec = 200000000 }, NULL);
}

int
client_enter (struct client *client)
{
  int r = PLUGIN_AGAIN;

  while (r == PLUGIN_AGAIN) {
    if (atomic_load_explicit (&client->stale, memory_order_relaxed))
      return -ESHUTDOWN;
    r = enter_once (client);
    if (r == PLUGIN_AGAIN &&
        (r = wait_slice (export_slot (client->export))) == 0)
      r = PLUGIN_AGAIN;
  }
  if (r == -ESHUTDOWN && plugin_quit_hang_up ())
    leave_in_turn (client);
  return r;
}

/* ---- Connecting -------------------------------------------------------- */

/* The slot was entered. */
static void
learn (struct client *client)
{
  struct qed_slot *slot = export_slot (client->export);
  struct qed_image *image = qed_slot_image (slot);

  client->size = qed_size (image);
  client->cluster_size = qed_cluster_size (image);
  client->writable = qed_writable (image);
  client->since = qed_slot_generation (slot);
  atomic_init (&client->generation, client->since);
  atomic_init (&client->stale, false);
  atomic_init (&client->hung_up, false);
}

static int
connect_once (struct client *client)
{
  struct qed_slot *slot = export_slot (client->export);
  int r;

  if (qed_slot_enter (slot) == NULL)
    return PLUGIN_AGAIN;
  r = wait_ready (slot);
  if (r == 0)
    learn (client);
  qed_slot_leave (slot);
  return r;
}

/* Why there is no image to be had, and what to do. */
static const char *
absence_text (enum qed_slot_state state)
{
  switch (state) {
  case QED_SLOT_STANDBY:
    return "this is a standby, and another server has the image: connect to "
      "that, or run qedctl release there";
  case QED_SLOT_ACTIVATING:
    return "the image is being opened: try again";
  case QED_SLOT_RELEASING:
    return "the image is being released to another server: connect to that";
  case QED_SLOT_RELEASED:
    return "the image was released to another server: connect to that, or run "
      "qedctl activate here";
  case QED_SLOT_FAILED:
    return "the image could not be opened: when that is mended, run qedctl "
      "activate";
  case QED_SLOT_ACTIVE:
    break;
  }
  return "the image can not be used: the lines before this say why";
}

static void
tell_failure (const struct client *client, int error)
{
  const char *path = export_path (client->export);
  const enum qed_slot_state state =
    qed_slot_state (export_slot (client->export));
  const char *text = absence_text (state);

  if (error == -ETIMEDOUT)
    message_error ("%s: a client waited %u seconds (standby-timeout) and is "
                   "sent away: %s", path, plugin_config.standby_timeout, text);
  else if (error == -ESHUTDOWN && refusal (state) == 0)
    nbdkit_debug ("%s: a client gave up waiting, or the server ends", path);
  else
    message_error ("%s: a client is sent away (%s%s): %s", path,
                   strerror (-error), refusal (state) == -ESHUTDOWN
                   ? ", on-release=fail" : "", text);
}

int
client_open (struct client *client, const char *name)
{
  struct timespec start, now;
  int r;

  client->export = export_acquire (name);
  if (client->export == NULL)
    return -1;
  clock_gettime (CLOCK_MONOTONIC, &start);
  while ((r = connect_once (client)) == PLUGIN_AGAIN) {
    clock_gettime (CLOCK_MONOTONIC, &now);
    if (now.tv_sec - start.tv_sec >= (time_t) plugin_config.standby_timeout)
      r = -ETIMEDOUT;
    else
      r = wait_slice (export_slot (client->export));
    if (r < 0)
      break;
  }
  if (r == 0)
    return 0;
  tell_failure (client, r);
  nbdkit_set_error (-r);
  export_release (client->export);
  return -1;
}

void
client_close (struct client *client)
{
  export_release (client->export);
}
