/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The nbdkit plugin: nbdkit's callbacks on top of the engine.
 *
 * nbdkit calls the data callbacks on many threads, and each carries out its
 * request itself (plugin-request.c).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <ev.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "client.h"
#include "control.h"
#include "control-export.h"
#include "control-link.h"
#include "exports.h"
#include "mailbox.h"
#include "message.h"
#include "notify.h"
#include "pending-directories.h"
#include "plugin.h"
#include "requests.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define MAXIMUM_REQUEST (UINT32_C (32) << 20)

/* -D qed.trace=1: one line for each step of the engine, to nbdkit's debug
 * output (-v).
 */
NBDKIT_DLL_PUBLIC int qed_debug_trace = 0;

/* ---- The life of the plugin -------------------------------------------- */

/* Any thread.  nbdkit has no level between debug, which nobody sees, and
 * error: a warning must be seen.
 */
static void
log_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  switch (level) {
  case QED_LOG_ERROR:
    message_error ("%s", message);
    break;
  case QED_LOG_REQUEST:
    if (!requests_keep_cause (message) && requests_may_log_others ())
      message_error ("%s", message);
    break;
  case QED_LOG_WARNING:
    message_warning (message);
    break;
  case QED_LOG_INFO:
  case QED_LOG_TRACE:
    nbdkit_debug ("%s", message);
    break;
  }
}

static void
plugin_load (void)
{
  if (requests_load () == -1)
    exit (EXIT_FAILURE);
  plugin_config_load ();
}

/* What of it was started.  A client of the control socket gets an answer to
 * what it asked before its images are closed.
 */
static void
stop (void)
{
  notify_stop ();
  plugin_quit_stop ();
  control_stop ();
  control_socket_stop ();
  exports_close ();
}

/* .cleanup comes only after .after_fork: this is for an image that was opened
 * by a server that then failed to start.
 */
static void
plugin_unload (void)
{
  stop ();
  plugin_config_unload ();
  requests_unload ();
}

static void
plugin_dump (void)
{
  printf ("qed_version=%s\n", PACKAGE_VERSION);
  printf ("qed_libev_version=%d.%d\n",
          ev_version_major (), ev_version_minor ());
  printf ("qed_clean_after_default=%d\n", QED_CLEAN_AFTER_DEFAULT);
  printf ("qed_metadata_cache_default=%" PRIu64 "\n",
          QED_METADATA_CACHE_DEFAULT);
  printf ("qed_metadata_cache_minimum=%" PRIu64 "\n",
          QED_METADATA_CACHE_MIN);
  printf ("qed_standby_timeout_default=%d\n", STANDBY_TIMEOUT_DEFAULT);
  printf ("qed_export_description=%s\n", EXPORT_DESCRIPTION);
  printf ("qed_control_export=%s\n", MAILBOX_NAME);
}

/* A limit on file sizes (ulimit -f) is ENOSPC to a client, no reason to die.
 * Not SIG_IGN, which what nbdkit runs would inherit.
 */
static void
note_file_limit (int signal)
{
  (void) signal;
}

static void
survive_file_limit (void)
{
  const struct sigaction action = {
    .sa_handler = note_file_limit, .sa_flags = SA_RESTART,
  };

  sigaction (SIGXFSZ, &action, NULL);
}

static int
plugin_get_ready (void)
{
  struct qed_options *options = &plugin_config.options;

  survive_file_limit ();
  options->read_only = plugin_readonly ();
  if (options->pending_directories == NULL)
    options->pending_directories = pending_directories ();
  options->log.fn = log_message;
  options->log.trace = qed_debug_trace != 0;
  if (options->read_only &&
      plugin_config.control_export != CONTROL_EXPORT_OFF) {
    nbdkit_error ("control-export= does not work with nbdkit's option -r: "
                  "commands are written to it; use control=SOCKET");
    return -1;
  }
  if (options->read_only && plugin_config.standby) {
    nbdkit_error ("standby=on does not work with nbdkit's option -r: readers "
                  "need not wait for one another");
    return -1;
  }
  if (exports_open () == -1)
    return -1;
  return control_socket_bind ();
}

static int
plugin_after_fork (void)
{
  (void) pending_directories ();        /* of the user that we are now */
  control_links_start (plugin_config.control);
  if (exports_start () == -1 || control_socket_start () == -1 ||
      notify_start () == -1)
    return -1;
  return plugin_quit_start ();
}

/* All connections are closed. */
static void
plugin_cleanup (void)
{
  stop ();
}

/* ---- Exports ----------------------------------------------------------- */

static int
plugin_list_exports (int readonly, int is_tls, struct nbdkit_exports *exports)
{
  (void) readonly;
  (void) is_tls;
  return exports_list (exports);
}

/* What "" stands for; nbdkit tells the client. */
static const char *
plugin_default_export (int readonly, int is_tls)
{
  char *name = exports_default ();
  const char *copy = name != NULL ? nbdkit_strdup_intern (name) : NULL;

  (void) readonly;
  (void) is_tls;
  free (name);
  return copy;
}

/* A connection is to a disk, or to the control export. */
struct connection {
  struct mailbox *mailbox;      /* or NULL */
  struct client client;         /* of the disk */
};

static struct client *
disk (void *handle)
{
  return &((struct connection *) handle)->client;
}

static struct mailbox *
mailbox (void *handle)
{
  return ((struct connection *) handle)->mailbox;
}

static int
connect_to (struct connection *conn, const char *name)
{
  int r;

  message_connecting (true);
  if (mailbox_is_wanted (name)) {
    conn->mailbox = mailbox_open ();
    r = conn->mailbox != NULL ? 0 : -1;
  }
  else
    r = client_open (&conn->client, name);
  message_connecting (false);
  return r;
}

static void *
plugin_open (int readonly)
{
  const char *name = nbdkit_export_name ();
  struct connection *conn = calloc (1, sizeof *conn);

  (void) readonly;              /* nbdkit itself keeps such a client from
                                 * writing */
  if (name == NULL || conn == NULL || connect_to (conn, name) == -1) {
    free (conn);
    return NULL;
  }
  return conn;
}

static void
plugin_close (void *handle)
{
  if (mailbox (handle) != NULL)
    mailbox_close (mailbox (handle));
  else {
    requests_log_rest (disk (handle)->export, true);
    client_close (disk (handle));
  }
  free (handle);
}

static const char *
plugin_export_description (void *handle)
{
  return mailbox (handle) != NULL ? MAILBOX_DESCRIPTION : EXPORT_DESCRIPTION;
}

static int64_t
plugin_get_size (void *handle)
{
  return mailbox (handle) != NULL
    ? (int64_t) MAILBOX_BYTES : (int64_t) disk (handle)->size;
}

/* Requests of whole clusters are the best, within reason; smaller ones than
 * a page cost the kernel a read.
 */
static int
plugin_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                   uint32_t *maximum)
{
  const uint32_t cluster_size = mailbox (handle) != NULL
    ? 4096 : disk (handle)->cluster_size;

  *minimum = 1;
  *preferred = cluster_size < 65536 ? cluster_size : 65536;
  if (*preferred < 4096)
    *preferred = 4096;
  *maximum = MAXIMUM_REQUEST;
  return 0;
}

/* Once for a connection, when it is made. */
static int
plugin_can_write (void *handle)
{
  return mailbox (handle) != NULL || disk (handle)->writable;
}

/* A mailbox is read and written, and nothing else.  A disk has all. */
static int
plugin_is_disk (void *handle)
{
  return mailbox (handle) == NULL;
}

static int
plugin_can_fua (void *handle)
{
  return plugin_is_disk (handle) ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
}

/* All connections of an export share one image: a flush on one covers all.
 * Each has a mailbox of its own.
 */
static int
plugin_can_multi_conn (void *handle)
{
  return plugin_is_disk (handle);
}

/* Zeroing changes entries and punches holes; where it would have to write, a
 * client that asked for speed gets ENOTSUP.
 */
static int
plugin_can_fast_zero (void *handle)
{
  return plugin_is_disk (handle);
}

static int
plugin_can_cache (void *handle)
{
  return plugin_is_disk (handle) ? NBDKIT_CACHE_NATIVE : NBDKIT_CACHE_NONE;
}

/* ---- Data -------------------------------------------------------------- */

static int
carry_out (struct client *client, enum qed_op op, void *buf, uint32_t count,
           uint64_t offset, uint32_t flags)
{
  struct qed_request request;

  qed_request_init (&request, op, buf, count, offset,
                    flags & NBDKIT_FLAG_FUA ? QED_FUA : 0);
  return plugin_carry_out (client, &request);
}

static int
plugin_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  if (mailbox (handle) != NULL)
    return mailbox_pread (mailbox (handle), buf, count, offset);
  return carry_out (disk (handle), QED_OP_READ, buf, count, offset, flags);
}

static int
plugin_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
               uint32_t flags)
{
  if (mailbox (handle) != NULL)
    return mailbox_pwrite (mailbox (handle), buf, count, offset);
  return carry_out (disk (handle), QED_OP_WRITE, (void *) buf, count, offset,
                    flags);
}

static int
plugin_flush (void *handle, uint32_t flags)
{
  return carry_out (disk (handle), QED_OP_FLUSH, NULL, 0, 0, flags);
}

static int
plugin_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  return carry_out (disk (handle), QED_OP_TRIM, NULL, count, offset, flags);
}

/* Zeroing frees clusters.  A client that wants them kept gets zeros written
 * by nbdkit, or nothing if it asked for speed.
 */
static int
plugin_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct qed_request request;

  if (!(flags & NBDKIT_FLAG_MAY_TRIM)) {
    nbdkit_set_error (EOPNOTSUPP);
    return -1;
  }
  qed_request_init (&request, QED_OP_ZERO, NULL, count, offset,
                    (flags & NBDKIT_FLAG_FUA ? QED_FUA : 0) |
                    (flags & NBDKIT_FLAG_FAST_ZERO ? QED_FAST : 0));
  return plugin_carry_out (disk (handle), &request);
}

static int
plugin_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  return carry_out (disk (handle), QED_OP_CACHE, NULL, count, offset, flags);
}

/* A block status request: where its extents go, beside the sleeper. */
struct extents_request {
  struct qed_request request;
  struct nbdkit_extents *extents;
};

static int
add_extent (struct qed_request *request, uint64_t offset, uint64_t bytes,
            enum qed_extent kind)
{
  struct extents_request *r = (struct extents_request *) request;
  const uint32_t type = kind == QED_EXTENT_DATA ? 0
    : kind == QED_EXTENT_ZERO ? NBDKIT_EXTENT_ZERO
    : NBDKIT_EXTENT_ZERO | NBDKIT_EXTENT_HOLE;

  return nbdkit_add_extent (r->extents, offset, bytes, type) < 0
    ? (errno ? -errno : -EIO) : 0;
}

static int
plugin_extents (void *handle, uint32_t count, uint64_t offset,
                uint32_t flags, struct nbdkit_extents *extents)
{
  struct extents_request r = { .extents = extents };

  qed_request_init (&r.request, QED_OP_EXTENTS, NULL, count, offset,
                    flags & NBDKIT_FLAG_REQ_ONE ? QED_REQ_ONE : 0);
  r.request.extent = add_extent;
  return plugin_carry_out (disk (handle), &r.request);
}

/* What is not here is nbdkit's default: not rotational. */
static struct nbdkit_plugin plugin = {
  .name = "qed",
  .longname = "nbdkit QED disk image plugin",
  .version = PACKAGE_VERSION,
  .description = "Serve a QED disk image.",
  .magic_config_key = "file",
  .config_help = plugin_config_help,
  .load = plugin_load,
  .unload = plugin_unload,
  .dump_plugin = plugin_dump,
  .config = plugin_config_parse,
  .config_complete = plugin_config_complete,
  .get_ready = plugin_get_ready,
  .after_fork = plugin_after_fork,
  .cleanup = plugin_cleanup,
  .list_exports = plugin_list_exports,
  .default_export = plugin_default_export,
  .open = plugin_open,
  .close = plugin_close,
  .export_description = plugin_export_description,
  .get_size = plugin_get_size,
  .block_size = plugin_block_size,
  .can_write = plugin_can_write,
  .can_flush = plugin_is_disk,
  .can_trim = plugin_is_disk,
  .can_zero = plugin_is_disk,
  .can_extents = plugin_is_disk,
  .can_fua = plugin_can_fua,
  .can_multi_conn = plugin_can_multi_conn,
  .can_fast_zero = plugin_can_fast_zero,
  .can_cache = plugin_can_cache,
  .pread = plugin_pread,
  .pwrite = plugin_pwrite,
  .flush = plugin_flush,
  .trim = plugin_trim,
  .zero = plugin_zero,
  .extents = plugin_extents,
  .cache = plugin_cache,
};

/* What nbdkit looks up; the macro defines it. */
struct nbdkit_plugin *plugin_init (void);

NBDKIT_REGISTER_PLUGIN (plugin)
