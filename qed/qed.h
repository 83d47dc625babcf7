/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* libqed: read, write, create and inspect QED disk images.
 *
 * This is the one public header of the engine.  Sizes and offsets are in
 * bytes unless a name says clusters.  Functions return 0 (or what they say)
 * on success and a negative errno on failure; the reason in words goes to
 * the log function, one line a failure.
 *
 * Life of an image:  qed_open -> qed_start -> requests -> qed_close.
 * qed_open starts no thread, so that it may come before a fork; qed_start
 * starts the image's loop, which makes every change of metadata on disk.
 */

#ifndef QED_H
#define QED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qed_image;

/* ---- Messages ---------------------------------------------------------- */

enum qed_log_level {
  QED_LOG_ERROR,        /* something failed; the caller gets an errno too */
  QED_LOG_REQUEST,      /* why a request failed, told before it returns, in the
                         * thread that runs it; or why a job for requests did.
                         * It may come as often as they do: whoever writes it
                         * down has to limit it */
  QED_LOG_WARNING,      /* something an administrator should know */
  QED_LOG_INFO,         /* an event of the image's life */
  QED_LOG_TRACE,        /* one line a step, only where tracing is on */
};

/* Where messages go.  'message' is one line without a newline.  Called from
 * any thread.
 */
typedef void (*qed_log_fn) (void *opaque, enum qed_log_level level,
                            const char *message);

struct qed_log {
  qed_log_fn fn;        /* NULL: messages are dropped */
  void *opaque;
  bool trace;           /* whether QED_LOG_TRACE lines are wanted */
};

/* ---- Progress of what takes long --------------------------------------- */

struct qed_progress {
  /* 'done' of 'total' units of the same kind; called now and then, from the
   * thread that waits.  Anything but 0 ends the work early: it returns
   * -ECANCELED, and the image is consistent.
   */
  int (*fn) (void *opaque, uint64_t done, uint64_t total);
  void *opaque;
};

/* Tell 'progress', which may be NULL: 0 or -ECANCELED. */
int qed_progress_tell (const struct qed_progress *progress, uint64_t done,
                       uint64_t total);

/* What a server of ours says of its exports. */
#define QED_EXPORT_DESCRIPTION "nbdkit-qed disk"

/* ---- Opening and closing ----------------------------------------------- */

/* A writable open reads all tables in any case, and takes no changes if
 * something is wrong.
 */
enum qed_check_mode {
  QED_CHECK_AUTO,       /* repair what is certain when NEED_CHECK is set */
  QED_CHECK_ALWAYS,     /* the same; and read all tables of a read-only image
                         * too, to name what is wrong */
  QED_CHECK_NEVER,      /* a dirty image is served read-only */
};

enum qed_discard_mode {
  QED_DISCARD_UNMAP,    /* a trim frees clusters */
  QED_DISCARD_IGNORE,   /* a trim does nothing */
};

enum qed_backing_mode {
  QED_BACKING_BESIDE,   /* files in the image's own directory */
  QED_BACKING_ANY,      /* also NBD servers' exports */
  QED_BACKING_NONE,
  QED_BACKING_BELOW,    /* files in backing_directory */
};

/* What becomes of acknowledged changes of the tables that were not flushed when
 * the process is killed.  Data is in the kernel's hands in any case.
 */
enum qed_pending_mode {
  QED_PENDING_OFF,              /* what was not written back is lost */
  QED_PENDING_LOG,              /* nothing is: they are kept in a file on
                                 * tmpfs; or as follows if there can be none */
  QED_PENDING_WRITE_BACK,       /* nothing is: a change is written back, and
                                 * synced, before it is acknowledged */
};

struct qed_options {
  const char *path;             /* the image file; with 'remote', or
                                 * 'examine' and 'skip_backing', it may lie
                                 * on an NBD server: a URI */
  bool remote;
  bool raw_image;               /* at a URI: it may be written to, and it is
                                 * an image file also if the server says that
                                 * it serves disks */
  const char *beneath;          /* NULL, or an absolute directory without
                                 * symlinks: the path begins with it, and no
                                 * symlink on the way may lead out of it */
  bool read_only;               /* never change the file */
  bool need_write;              /* fail with -EROFS, say why, where the image
                                 * would be opened for reading only */
  bool lock;                    /* take QEMU's file locks */
  bool quiet_lock;              /* -EAGAIN, as someone else holds them, and
                                 * -EBUSY, as a device is in use, without a
                                 * message */
  bool take_over;               /* another host may have written to the files
                                 * until now: what the page cache holds of
                                 * them is dropped */
  bool skip_backing;            /* leave the backing file alone: what lies
                                 * there reads as a hole, and only requests
                                 * that need nothing of it are carried out
                                 * (no write, trim or zero) */
  bool examine;                 /* for check.h: open what is damaged too, take
                                 * nothing in it for granted, scan nothing */
  uint64_t grow_to;             /* if larger than the image, requests may
                                 * reach so far; its header stays as it is */
  enum qed_backing_mode backing;        /* which backing files are opened */
  const char *backing_directory;        /* for QED_BACKING_BELOW: absolute,
                                         * without symlinks */
  enum qed_check_mode check;
  enum qed_discard_mode discard;
  bool detect_zeroes;           /* whole clusters of zeros that are written
                                 * are not stored */
  unsigned clean_after;         /* seconds without change until NEED_CHECK is
                                 * cleared; 0: only at close */
  enum qed_pending_mode pending;        /* for images of this host's files;
                                         * QED_PENDING_OFF unless it is set */
  const char *const *pending_directories; /* where logs may be, NULL-terminated,
                                           * absolute; the first one that can
                                           * be had is for new ones.  Or NULL:
                                           * nowhere.  A log is replayed
                                           * whatever 'pending' says */
  uint64_t metadata_cache;      /* bytes of table pages kept in memory, at
                                 * least QED_METADATA_CACHE_MIN */
  struct qed_log log;
};

#define QED_CLEAN_AFTER_DEFAULT 5
#define QED_METADATA_CACHE_DEFAULT (UINT64_C (64) << 20)
#define QED_METADATA_CACHE_MIN (UINT64_C (256) << 10)

/* Fill in the defaults of everything but the path. */
void qed_options_init (struct qed_options *options);

/* Open, lock and validate an image.  Plain calls, no thread.  On success
 * *image is the caller's, to be given to qed_close.
 */
int qed_open (const struct qed_options *options, struct qed_image **image);

/* Start the loop and its threads, and with them the opening scan.  Once for
 * an image, after any fork.
 */
int qed_start (struct qed_image *image);

/* Write everything back, clear NEED_CHECK, cut the file to its end of use,
 * drop the lock, stop the threads, free the image.  No request may be under
 * way.  Returns a negative errno if something could not be made durable
 * (NEED_CHECK then stays set); the image is gone in any case.
 */
int qed_close (struct qed_image *image);

/* Which file it is, as stat tells: two paths may lead to the same one. */
struct qed_file_id {
  uint64_t device, inode;
};

/* Which file a path leads to, without opening it.  'beneath' as in struct
 * qed_options: -EXDEV if it leads out of there.  -EINVAL if an image can't
 * lie on such a file, as on a directory.
 */
int qed_file_identify (const char *path, const char *beneath,
                       struct qed_file_id *id);

/* The file that was opened. */
struct qed_file_id qed_identify (const struct qed_image *image);

/* Wait until the opening scan has ended.  0, or -EROFS if it found damage or
 * the image is read-only.
 */
int qed_wait_scanned (struct qed_image *image);

uint64_t qed_size (const struct qed_image *image);
uint32_t qed_cluster_size (const struct qed_image *image);

/* Whether a client that connects now may write.  It becomes false when
 * damage is found or a sync fails.
 */
bool qed_writable (const struct qed_image *image);

/* Whether the opening scan, and a repair at open, have ended: from then on all
 * damage in the tables is known.
 */
bool qed_scanned (const struct qed_image *image);

/* ---- Status ------------------------------------------------------------ */

enum qed_state {
  QED_STATE_CLEAN,              /* NEED_CHECK is not set */
  QED_STATE_DIRTY,              /* it is */
  QED_STATE_DAMAGED,            /* damage was found */
  QED_STATE_FAILED,             /* a sync failed: writes fail for good */
};

/* Whether changes are accepted, and if not, why. */
enum qed_access {
  QED_ACCESS_WRITABLE,
  QED_ACCESS_READ_ONLY,         /* it was opened so */
  QED_ACCESS_NO_PERMISSION,     /* the file can't be opened for writing */
  QED_ACCESS_NEED_CHECK,        /* NEED_CHECK was set at open */
  QED_ACCESS_DAMAGED,
  QED_ACCESS_NOT_SCANNED,       /* not all tables could be read */
  QED_ACCESS_FAILED,            /* reads go on */
};

/* How acknowledged changes survive the death of the process. */
enum qed_pending_state {
  QED_PENDING_NOT_KEPT,         /* they don't, or nothing is ever changed */
  QED_PENDING_LOGGED,
  QED_PENDING_WRITTEN_BACK,
};

/* How an image is just now.  What isn't known is UINT64_MAX. */
struct qed_status {
  enum qed_state state;
  enum qed_access access;
  bool need_check;              /* the header says so */
  bool scanned;                 /* as qed_scanned says */
  uint64_t tables_read, tables_known;   /* by the opening scan, so far */
  uint64_t size;                /* the guest's */
  uint32_t cluster_size;
  uint64_t file_size;           /* the length of the file */
  uint64_t end_of_use;          /* where use ends in it */
  uint64_t used_bytes;          /* of header, tables and data */
  uint64_t freed_clusters;      /* freed, and not yet to be used again */
  uint64_t dirty_pages;         /* of the tables, 4 KiB each: to be written */
  uint64_t cached_pages, cached_pages_max;
  enum qed_pending_state pending;
  uint64_t pending_records;     /* used of the log */
  uint64_t table_loads;         /* reads of tables by requests, which the
                                 * cache did not spare, since the open */
};

/* From any thread, of an image that is open; takes locks only briefly. */
void qed_status (struct qed_image *image, struct qed_status *status);

/* Ask the image's loop for a sign of life; whether it has given the one that
 * was asked for before.  For a watchdog, from one thread.
 */
bool qed_beats (struct qed_image *image);

/* ---- Requests ---------------------------------------------------------- */

enum qed_op {
  QED_OP_READ,
  QED_OP_WRITE,
  QED_OP_FLUSH,
  QED_OP_TRIM,                  /* whole clusters are freed and read as zeros;
                                 * nothing happens with QED_DISCARD_IGNORE */
  QED_OP_ZERO,                  /* all of the range reads as zeros, and whole
                                 * clusters are freed */
  QED_OP_FORGET,                /* whole clusters lose what this image holds:
                                 * the backing file shows; parts are left */
  QED_OP_CACHE,                 /* read ahead what the range needs */
  QED_OP_EXTENTS,               /* call 'extent' for each piece of the range */
  QED_OP_READY,                 /* wait for the end of a repair at open; no
                                 * range */
  QED_OP_CLEAN,                 /* write everything back, cut the file, clear
                                 * NEED_CHECK; no range */
  QED_OP_AMEND,                 /* the engine's own: an entry is repaired */
};

#define QED_FUA 1u              /* durable, with its metadata, when done */
#define QED_FAST 4u             /* QED_OP_ZERO: fail with -EOPNOTSUPP rather
                                 * than write data */
#define QED_REQ_ONE 2u          /* QED_OP_EXTENTS: the first one is enough */

enum qed_extent {
  QED_EXTENT_DATA,
  QED_EXTENT_ZERO,              /* a zero cluster */
  QED_EXTENT_HOLE,              /* not allocated: reads as zeros */
};

/* qed_request_run returned this: the request waits, and its wake function
 * will be called.
 */
#define QED_WAIT 1

/* A place in a queue of those who wait for the same event (engine's). */
struct qed_waiter {
  struct qed_waiter *next, **link;
  void *queue;
};

/* A request.  The caller fills in the first part and clears the rest
 * (qed_request_init), then calls qed_request_run until it returns something
 * else than QED_WAIT, each time after wake was called.  So whoever brings a
 * request carries it out, on its own thread, and no other thread touches its
 * data.
 */
struct qed_request {
  enum qed_op op;
  unsigned flags;               /* QED_FUA */
  uint64_t offset, count;
  void *buf;                    /* read into, or written from */

  /* Called once for each QED_WAIT, from any thread, perhaps before
   * qed_request_run has returned.  It must only tell the owner to run the
   * request again: it is called with locks held.
   */
  void (*wake) (struct qed_request *request);
  void *opaque;                 /* the caller's, for wake and extent */

  /* NULL, or where the engine notes the step that the request is at, for
   * those who watch it.  Only its owner's thread writes there.  The steps:
   *   run             none of the others
   *   read-data, write-data, read-backing
   *                   the storage does that
   *   load-table      a page of a table is read, by this request or another
   *   fetch           the backing file's server is to answer
   *   scan            the opening scan, or the repair at open, is to end
   *   mark-dirty      NEED_CHECK is to become durable
   *   write-back      tables are to be written, and synced
   *   make-clean      NEED_CHECK is to be cleared
   *   change-header   the header is to be written
   *   copy-on-write   another request fills the same cluster
   *   make-table      an L2 table is made, by this request or another
   *   grow            the file is made longer
   *   reclaim         clusters that were freed are to become usable
   */
  const char *_Atomic *step;

  /* QED_OP_EXTENTS: called in order, neighbours of a kind joined.  A negative
   * errno ends the request.
   */
  int (*extent) (struct qed_request *request, uint64_t offset,
                 uint64_t bytes, enum qed_extent kind);

  /* The engine's. */
  uint64_t done;                /* bytes carried out so far */
  _Atomic int phase;            /* whose turn it is: ours, or a job's */
  int flush_error;              /* the result of the flush that served us */
  struct qed_waiter waiter;
  struct qed_request *flush_next;
  bool unwritten;               /* what it did, or found done, is to be
                                 * written back before it ends */
  struct cow *cow;              /* a copy on write under way */
  struct fetch *fetch;          /* what it wants from a server, or has got */
  enum qed_extent kind;         /* of the extent that ends at 'done' */
  uint64_t kind_start;          /* and where it starts in the range */
};

void qed_request_init (struct qed_request *request, enum qed_op op, void *buf,
                       uint64_t count, uint64_t offset, unsigned flags);

/* Carry the request on as far as possible.  Returns 0 when it is complete, a
 * negative errno when it failed, QED_WAIT when it must wait.  -EINVAL if the
 * range is not within the image.
 */
int qed_request_run (struct qed_image *image, struct qed_request *request);

/* The same as a plain call, which waits as long as it takes. */
int qed_request_sync (struct qed_image *image, enum qed_op op, void *buf,
                      uint64_t count, uint64_t offset, unsigned flags);

/* What the range begins with, and how far that goes. */
int qed_extent_sync (struct qed_image *image, uint64_t offset, uint64_t count,
                     enum qed_extent *kind, uint64_t *bytes);

/* Whether a request that waits does so for the image's write-back or header
 * update, which takes as long as the disk does: a server that ends lets it
 * end, so that what was asked is drained.  Other waits may be given up.
 */
bool qed_request_drains (const struct qed_request *request);

/* Give up a request that waits.  After this wake is not called any more.
 * What it had done stays done.
 */
void qed_request_withdraw (struct qed_image *image,
                           struct qed_request *request);

/* ---- Creating ---------------------------------------------------------- */

#define QED_CLUSTER_SIZE_DEFAULT 65536
#define QED_TABLE_SIZE_DEFAULT 4

struct qed_create_options {
  const char *path;             /* a file, a block device, or the URI of an
                                 * export, which needs 'force' */
  uint64_t size;                /* the guest's bytes, a multiple of 512 */
  uint32_t cluster_size;        /* bytes */
  uint32_t table_size;          /* clusters */
  const char *backing;          /* name to be stored, or NULL */
  bool backing_raw;             /* store BACKING_FORMAT_NO_PROBE; an NBD URI
                                 * has it in any case */
  bool force;                   /* overwrite an existing file */
  struct qed_log log;
};

void qed_create_options_init (struct qed_create_options *options);

/* Whether a backing name is the URI of an NBD server's export, which is raw
 * whatever its content looks like.
 */
bool qed_backing_is_nbd (const char *name);

/* Make a new image, durably.  All parameters are validated before the file is
 * touched; an existing file is replaced only with 'force', and only if no
 * one else holds its lock.
 */
int qed_create (const struct qed_create_options *options);

/* ---- Changing an image as a whole -------------------------------------- */

/* These open the image themselves, for writing, and close it.  'options' say
 * where it is and how to open it (path, lock, backing, log; need_write goes
 * without saying).  An image that needs a check is refused.  While they work
 * the image is consistent at each moment, for a crash as for -ECANCELED, which
 * 'progress' (or NULL) may ask for.
 */

struct qed_resize {
  enum {
    QED_RESIZE_TO,
    QED_RESIZE_BY_MORE,
    QED_RESIZE_BY_LESS,
  } how;
  uint64_t size;                /* bytes; what it comes to is a multiple of
                                 * 512 */
  bool shrink;                  /* the image may become smaller: -EINVAL
                                 * without it */
  bool force;                   /* even if it loses data: else -ENOTEMPTY */

  uint64_t was, is;             /* the guest's bytes: before, and now */
};

/* What grows reads as zeros.  What is cut off is lost once the header says so,
 * and never comes back.
 */
int qed_resize (const struct qed_options *options, struct qed_resize *resize,
                const struct qed_progress *progress);

struct qed_rebase {
  const char *backing;          /* the name to be stored; NULL: no backing
                                 * file from now on */
  enum {
    QED_REBASE_PROBE,           /* as QED, if that is what it is */
    QED_REBASE_RAW,
    QED_REBASE_QED,
  } format;
  bool unsafe;                  /* change the name alone; neither the old nor
                                 * the new file is looked into */
};

/* Change the backing file.  The guest sees the same as before: what the new
 * one has otherwise is copied into the image first (not with 'unsafe').  The
 * new one may lie anywhere; what lies beneath that is opened by the options'
 * policy, where "beside" counts from there.
 */
int qed_rebase (const struct qed_options *options,
                const struct qed_rebase *rebase,
                const struct qed_progress *progress);

#define QED_COMMIT_KEEP 1u      /* the overlay keeps what it holds */

/* Write what an overlay holds into its backing file, durably, then empty the
 * overlay.  What is read through the overlay is the same at every moment, also
 * if this ends early for whatever reason; then it may be called again.
 */
int qed_commit (const struct qed_options *options, unsigned flags,
                const struct qed_progress *progress);

/* ---- Inspecting -------------------------------------------------------- */

/* The feature bits of the header. */
#define QED_F_BACKING_FILE 1u
#define QED_F_NEED_CHECK 2u
#define QED_F_BACKING_FORMAT_NO_PROBE 4u

/* The autoclear features that are the pending log's. */
#define QED_AUTOCLEAR_PENDING UINT64_C (0xffffffff00000000)

struct qed_info {
  uint64_t image_size;          /* what the guest sees */
  uint64_t max_image_size;      /* what this geometry could hold */
  uint64_t file_size;           /* the length of the file */
  uint64_t disk_size;           /* what the file takes on its file system;
                                 * UINT64_MAX: it is on a server */
  uint32_t cluster_size;        /* bytes */
  uint32_t table_size;          /* clusters */
  uint32_t header_size;         /* clusters */
  uint64_t features, compat_features, autoclear_features;
  uint64_t l1_table_offset;     /* in the file */
  char *backing;                /* NULL if there is none */
};

/* Read the header of an image, which may be on an NBD server (a URI).  Takes no
 * lock and writes nothing.  Fill in *info, to be freed with qed_info_free.
 */
int qed_info_read (const char *path, const struct qed_log *log,
                   struct qed_info *info);
void qed_info_free (struct qed_info *info);

/* How many acknowledged changes of a killed server wait in a pending log until
 * the image is opened for writing; 0 if that can't be told.  'directories' as
 * in struct qed_options.
 */
uint64_t qed_pending_waiting (const char *path,
                              const char *const *directories);

/* ---- Mapping ----------------------------------------------------------- */

/* So many files has a chain at most. */
#define QED_CHAIN_MAX 33u

struct qed_chain_file {
  const char *path;             /* the engine's, while the image is open */
  bool raw;                     /* else QED */
  uint64_t size;                /* the guest's bytes */
  uint64_t length;              /* of the file */
  struct qed_file_id id;
};

/* A file of the backing chain: at depth 0 the image itself, at 1 its backing
 * file, and so on.  False if the chain ends before.
 */
bool qed_chain_file (struct qed_image *image, unsigned depth,
                     struct qed_chain_file *file);

enum qed_map_kind {
  QED_MAP_DATA,                 /* at 'offset' of the file at 'depth' */
  QED_MAP_ZERO,                 /* zero clusters of that file */
  QED_MAP_RAW_HOLE,             /* a hole of that file, which is raw, at
                                 * 'offset' */
  QED_MAP_HOLE,                 /* in no file, down to the last, which is at
                                 * 'depth' */
  QED_MAP_BEYOND,               /* in no file down to that at 'depth', and
                                 * the next ends before */
  QED_MAP_DAMAGED,              /* that file's tables don't tell: reads
                                 * fail */
};

struct qed_map_extent {
  uint64_t start, length;       /* of the guest's disk */
  unsigned depth;
  enum qed_map_kind kind;
  uint64_t offset;              /* in the file; 0 where there is no place */
};

struct qed_map_request {
  uint64_t start, length;       /* the guest's range */

  /* Called in order, without gaps.  What goes on from one extent to the next
   * (kind, depth, and place in the file) was joined.  A negative errno ends
   * it.
   */
  int (*extent) (void *opaque, const struct qed_map_extent *extent);
  void *opaque;
  const struct qed_progress *progress;  /* or NULL */
};

/* Tell where a range of the guest's disk lies in the files of the chain.  For
 * an image that was opened read-only and not started; in this thread, in
 * memory that doesn't grow with the number of extents.  Damage is named and
 * doesn't keep the rest from being told; -EIO is returned for it in the end.
 */
int qed_map (struct qed_image *image, const struct qed_map_request *map);

#endif /* QED_H */
