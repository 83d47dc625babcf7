/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The nbdkit plugin: nbdkit's callbacks on top of the engine.
 *
 * nbdkit calls the data callbacks on many threads, and each carries out its
 * request itself (qed_request_run).  A request that must wait sleeps in its
 * own thread, in slices, between which nbdkit is asked whether it still makes
 * sense to go on.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <ev.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "exports.h"
#include "plugin.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* How long a request sleeps before it looks whether nbdkit ends. */
#define WAIT_SLICE_NS 100000000

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
    nbdkit_error ("%s", message);
    break;
  case QED_LOG_WARNING:
    nbdkit_error ("warning: %s", message);
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
  plugin_config_load ();
}

/* .cleanup comes only after .after_fork: this is for an image that was opened
 * by a server that then failed to start.
 */
static void
plugin_unload (void)
{
  plugin_quit_stop ();
  exports_close ();
  plugin_config_unload ();
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
  printf ("qed_export_description=%s\n", EXPORT_DESCRIPTION);
}

static int
plugin_get_ready (void)
{
  struct qed_options *options = &plugin_config.options;

  options->read_only = plugin_readonly ();
  options->log.fn = log_message;
  options->log.trace = qed_debug_trace != 0;
  return exports_open ();
}

static int
plugin_after_fork (void)
{
  if (exports_start () == -1)
    return -1;
  return plugin_quit_start ();
}

/* All connections are closed. */
static void
plugin_cleanup (void)
{
  plugin_quit_stop ();
  exports_close ();
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
  (void) readonly;
  (void) is_tls;
  return exports_default ();
}

static void
plugin_close (void *handle)
{
  export_release (handle);
}

static const char *
plugin_export_description (void *handle)
{
  (void) handle;
  return EXPORT_DESCRIPTION;
}

static int64_t
plugin_get_size (void *handle)
{
  return qed_size (export_image (handle));
}

/* Requests of whole clusters are the best, within reason; smaller ones than
 * a page cost the kernel a read.
 */
static int
plugin_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                   uint32_t *maximum)
{
  const uint32_t cluster_size = qed_cluster_size (export_image (handle));

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
  return qed_writable (export_image (handle));
}

static int
plugin_can_fua (void *handle)
{
  (void) handle;
  return NBDKIT_FUA_NATIVE;
}

/* All connections of an export share one image: a flush on one covers all. */
static int
plugin_can_multi_conn (void *handle)
{
  (void) handle;
  return 1;
}

/* Zeroing changes entries and punches holes; where it would have to write, a
 * client that asked for speed gets ENOTSUP.
 */
static int
plugin_can_fast_zero (void *handle)
{
  (void) handle;
  return 1;
}

static int
plugin_can_cache (void *handle)
{
  (void) handle;
  return NBDKIT_CACHE_NATIVE;
}

/* ---- Data -------------------------------------------------------------- */

/* Where a request's thread sleeps.  It lies on that thread's stack, and the
 * initialisers cost nothing but a few stores: most requests never wait.
 */
struct sleeper {
  pthread_mutex_t lock;
  pthread_cond_t cond;
  bool woken;
};

/* The engine's wake function: any thread, with locks of the engine held,
 * perhaps before qed_request_run has returned.
 *
 * The sleeper may be gone as soon as 'lock' is let go.  So the signal comes
 * before, and the owner takes the lock once after each wake-up.
 */
static void
wake_request (struct qed_request *request)
{
  struct sleeper *sleeper = request->opaque;

  pthread_mutex_lock (&sleeper->lock);
  sleeper->woken = true;
  pthread_cond_signal (&sleeper->cond);
  pthread_mutex_unlock (&sleeper->lock);
}

/* Sleep until woken, for one slice at most.  Returns whether it was. */
static bool
sleep_slice (struct sleeper *sleeper)
{
  struct timespec end;
  bool woken;
  int r = 0;

  clock_gettime (CLOCK_MONOTONIC, &end);
  end.tv_nsec += WAIT_SLICE_NS;
  if (end.tv_nsec >= 1000000000) {
    end.tv_nsec -= 1000000000;
    end.tv_sec++;
  }
  pthread_mutex_lock (&sleeper->lock);
  while (!sleeper->woken && r == 0)
    r = pthread_cond_clockwait (&sleeper->cond, &sleeper->lock,
                                CLOCK_MONOTONIC, &end);
  woken = sleeper->woken;
  sleeper->woken = false;
  pthread_mutex_unlock (&sleeper->lock);
  return woken;
}

/* Go on with a request that returned QED_WAIT, until it is complete, or given
 * up because the server quits or its client has gone; but a flush under way is
 * not given up.
 */
static int
run_waiting (struct qed_image *image, struct qed_request *request,
             struct sleeper *sleeper)
{
  int r = QED_WAIT;

  while (r == QED_WAIT) {
    if (sleep_slice (sleeper))
      r = qed_request_run (image, request);
    else if (!qed_request_drains (request) &&
             nbdkit_nanosleep (0, 1) == -1) {
      r = errno != 0 ? -errno : -ESHUTDOWN;
      qed_request_withdraw (image, request);
    }
  }
  pthread_cond_destroy (&sleeper->cond);
  pthread_mutex_destroy (&sleeper->lock);
  return r;
}

static int
run_request (struct qed_image *image, struct qed_request *request)
{
  struct sleeper sleeper = { .lock = PTHREAD_MUTEX_INITIALIZER,
                             .cond = PTHREAD_COND_INITIALIZER };
  int r;

  request->wake = wake_request;
  request->opaque = &sleeper;
  r = qed_request_run (image, request);
  return r == QED_WAIT ? run_waiting (image, request, &sleeper) : r;
}

/* The scan of a usual image takes less than this: a client that connects at
 * the very start should know whether damage keeps it from writing.
 */
#define SCAN_WAIT_MS 100

static void
wait_for_scan (const struct qed_image *image)
{
  unsigned i;

  for (i = 0; i < SCAN_WAIT_MS && !qed_scanned (image); i++)
    if (nbdkit_nanosleep (0, 1000000) == -1)
      return;
}

/* The handle is the export.  An image that was not closed cleanly is repaired
 * first, so that the client learns whether it may write.
 */
static void *
plugin_open (int readonly)
{
  const char *name = nbdkit_export_name ();
  struct export *export = name != NULL ? export_acquire (name) : NULL;
  struct qed_request request;
  int r;

  (void) readonly;              /* nbdkit itself keeps such a client from
                                 * writing */
  if (export == NULL)
    return NULL;
  qed_request_init (&request, QED_OP_READY, NULL, 0, 0, 0);
  r = run_request (export_image (export), &request);
  if (r < 0) {
    nbdkit_error ("%s: the client gave up waiting for the repair",
                  export_path (export));
    export_release (export);
    return NULL;
  }
  wait_for_scan (export_image (export));
  return export;
}

static const char *
op_to_text (enum qed_op op)
{
  switch (op) {
  case QED_OP_READ: return "read";
  case QED_OP_WRITE: return "write";
  case QED_OP_FLUSH: return "flush";
  case QED_OP_TRIM: return "trim";
  case QED_OP_ZERO: return "zero";
  case QED_OP_FORGET: return "forget";
  case QED_OP_CACHE: return "cache";
  case QED_OP_EXTENTS: return "block status";
  case QED_OP_READY: return "open";
  case QED_OP_CLEAN: return "clean";
  case QED_OP_AMEND: return "repair";
  }
  return "request";
}

/* Tell the log and nbdkit of a negative errno.  When a request is given up
 * nbdkit_nanosleep has said why.
 */
static void
report_failure (const struct export *export,
                const struct qed_request *request, int r)
{
  const char *path = export_path (export);

  errno = -r;                   /* for %m */
  if (r == -ESHUTDOWN)
    nbdkit_debug ("%s: request given up: %m", path);
  else if (r == -EOPNOTSUPP)
    nbdkit_debug ("%s: a fast zero would be slow", path);
  else if (request->op == QED_OP_FLUSH)
    nbdkit_error ("%s: flush failed: %m", path);
  else
    nbdkit_error ("%s: %s of %" PRIu64 " bytes at 0x%" PRIx64 " failed: %m",
                  path, op_to_text (request->op),
                  request->count, request->offset);
  nbdkit_set_error (-r);
}

/* Carry a request out.  Returns what nbdkit wants: 0, or -1 with its error
 * set and one line logged.
 */
static int
carry_out_request (struct export *export, struct qed_request *request)
{
  int r = run_request (export_image (export), request);

  if (r < 0) {
    report_failure (export, request, r);
    return -1;
  }
  return 0;
}

static int
carry_out (struct export *export, enum qed_op op, void *buf, uint32_t count,
           uint64_t offset, uint32_t flags)
{
  struct qed_request request;

  qed_request_init (&request, op, buf, count, offset,
                    flags & NBDKIT_FLAG_FUA ? QED_FUA : 0);
  return carry_out_request (export, &request);
}

static int
plugin_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  return carry_out (handle, QED_OP_READ, buf, count, offset, flags);
}

static int
plugin_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
               uint32_t flags)
{
  return carry_out (handle, QED_OP_WRITE, (void *) buf, count, offset, flags);
}

static int
plugin_flush (void *handle, uint32_t flags)
{
  return carry_out (handle, QED_OP_FLUSH, NULL, 0, 0, flags);
}

static int
plugin_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  return carry_out (handle, QED_OP_TRIM, NULL, count, offset, flags);
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
  return carry_out_request (handle, &request);
}

static int
plugin_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  return carry_out (handle, QED_OP_CACHE, NULL, count, offset, flags);
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
  return carry_out_request (handle, &r.request);
}

/* What is not here is nbdkit's default: whether there is trim, zero and
 * extents follows from the callbacks; not rotational.
 */
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
