/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An open image: what its parts share.
 *
 * Threads that bring requests run request.c and allocate.c; the loop runs the
 * jobs (mark-dirty, write-back, make-clean, scan), one at a time.
 *
 * The life of the dirty bit (O1, O7):
 *
 *              first change: mark-dirty
 *     CLEAN --------------------------------> DIRTY    gate open
 *       ^                                       |
 *       |            make-clean                 |  clean-after= seconds
 *       +---------------------------------------+  without change; close
 *
 * In CLEAN the gate is closed and NEED_CHECK is durably clear; in DIRTY it is
 * durably set.  Between them a job runs and the gate is closed.  If a job
 * fails on the way to CLEAN the image is still DIRTY.
 *
 * 'refuse' is the errno that changes get: 0; EROFS for a read-only image or
 * one where damage was found; EIO after a failed sync, for good (O8).
 */

#ifndef QED_IMAGE_H
#define QED_IMAGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backing.h"
#include "format.h"
#include "gate.h"
#include "guard.h"
#include "header.h"
#include "job.h"
#include "log.h"
#include "loop.h"
#include "metadata.h"
#include "pending.h"
#include "qed.h"
#include "space.h"
#include "storage.h"
#include "wait.h"

enum dirty_state { STATE_CLEAN, STATE_DIRTY };

/* How far the opening scan is. */
enum scan_state {
  SCAN_NOT_STARTED,
  SCAN_WALKING_L1,      /* reads go on; in-place writes wait */
  SCAN_READING_L2,      /* every L2 table is known; changes wait */
  SCAN_DONE,
};

/* request->phase */
enum request_phase {
  REQUEST_RUNS,
  REQUEST_LISTED,       /* in one of the want lists, or in served */
  REQUEST_SERVED,       /* its job ended; flush_error says how */
};

/* Requests that one run of a job will serve. */
struct request_list {
  struct qed_request *first;
};

struct scan;            /* scan.c */
struct recover;         /* recover.c */
struct reclaim;         /* reclaim.c */

struct qed_image {
  struct qed_options options;
  char *path;                   /* for messages */
  struct storage *storage;
  uint64_t device, inode;       /* of the file */
  struct qed_image *overlay;    /* whose backing file this is, or NULL; it
                                 * lends us its loop */
  struct backing *backing;      /* or NULL */
  bool backing_skipped;         /* there is one, but it was not opened */
  struct backing *new_backing;  /* what rebase will put in its place, or NULL;
                                 * opened before qed_start */
  char *backing_directory;      /* what options.backing_directory points at, if
                                 * it is ours */

  pthread_mutex_t cow_lock;     /* protects the list of claims */
  struct cow *cows;
  struct wait_queue cow_done;   /* who waits for the end of a claim */

  /* Whether a request is making an L2 table, by its number modulo
   * TABLE_CLAIMS; it does not wait meanwhile.  Taken with the L1 page locked.
   */
#define TABLE_CLAIMS 64u
  _Atomic bool making_table[TABLE_CLAIMS];
  struct wait_queue table_made; /* who needs one of them */

  struct format_header header;
  struct format_geometry geometry;
  bool read_only;

  _Atomic int refuse;           /* see above; only ever set by image_refuse */
  _Atomic bool cut_wanted;      /* leaks behind the end of use were freed: the
                                 * next make-clean comes even if it's clean */
  _Atomic bool failed;          /* a sync failed (O8) */
  _Atomic bool damaged;         /* damage was found */
  _Atomic bool recovering;      /* the repair at open has not ended */
  _Atomic bool need_check;      /* the header says so, or is about to */
  _Atomic unsigned reports;     /* lines about damage so far */

  struct guards guards;
  struct gate gate;
  struct pending_log pending;   /* O10 */
  struct metadata metadata;
  struct space space;

  struct loop *loop;            /* NULL before qed_start */
  struct loop_task dispatch;
  struct loop_task gate_drained;
  struct loop_task beat;        /* qed_beats posts it */
  _Atomic bool beat_awaited;    /* from then until it has run */
  _Atomic int scan_state;       /* enum scan_state; changed on the loop */
  _Atomic uint64_t tables_read, tables_known;   /* by the scan, so far */
  struct wait_queue scanned;    /* who waits for the scan */
  struct scan *scan;            /* while it runs */

  _Atomic double last_change;   /* loop_now () of the last published entry */

  /* A change whose clusters' content must be durable before its entry was
   * published since the last copy (O3).
   */
  _Atomic bool sync_data_first;

  pthread_mutex_t lock;         /* protects the five that follow */
  struct request_list want_mark;  /* they wait for NEED_CHECK */
  struct request_list want_flush; /* they wait for a write-back that starts
                                   * after they came */
  struct request_list want_make_clean; /* they wait for NEED_CHECK to go */
  struct request_list want_header; /* it waits for header_change, which it
                                    * has set */
  bool want_close;

  struct header_change *header_change;

  /* Loop only, from here on. */
  enum dirty_state state;
  struct job *running;          /* the one job, or NULL */
  struct request_list served;   /* whom the running job serves */
  bool want_write_back;         /* dirty pages are 5 s old */
  bool want_clean;              /* clean-after= has passed */
  struct loop_timer write_back_timer, clean_timer;

  struct reclaim *reclaim;
  struct recover *recover;      /* while a repair at open may come, or runs */
  bool want_recover;            /* the scan has ended for it */

  struct job job;               /* mark-dirty, make-clean, scan, close */
  struct job write_back;        /* alone, or as a step of make-clean */
  struct write_back *wb;        /* flush.c's working memory */
  struct log_limit mark_dirty_log, write_back_log;
  unsigned char sector[FORMAT_SECTOR]; /* the header, while it is updated */
  struct storage_io header_io;
  bool cut;                     /* make-clean shortened the file, perhaps not
                                 * durably yet */
  bool drop_tables;             /* at close: set before it, by qed_close's
                                 * caller, who saw that they are empty */
  bool closing;                 /* the last make-clean was started */
  int close_error;              /* why the image was left dirty */

  pthread_cond_t closed_cond;   /* with 'lock' */
  bool closed;
};

/* ---- image.c ---- */

/* Open the image that lies on 'storage', which becomes the image's, also on
 * failure.  For qed_open and for the tests' own storage.
 */
int image_open_storage (const struct qed_options *options,
                        struct storage *storage, struct qed_image **image);

/* The same for the backing file of 'overlay'. */
int image_open_backing (const struct qed_options *options,
                        struct storage *storage, struct qed_image *overlay,
                        struct qed_image **image);

/* Between open and start: requests may reach so far.  'size' is possible. */
void image_reach (struct qed_image *image, uint64_t size);

/* Changes are refused from now on; the first reason stays, but EIO is worse
 * than EROFS.
 */
void image_refuse (struct qed_image *image, int error);

/* Name damage; from here on changes get EROFS. */
void image_damage (struct qed_image *image, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

/* A repair found that nothing is wrong any more: changes go on. */
void image_mended (struct qed_image *image);

/* A sync failed: nothing may be reported durable any more (O8). */
void image_fail (struct qed_image *image, const char *step, int error);

/* A sync has ended, and failed the image if anything may be lost: what its
 * job gets.
 */
int image_sync_result (struct qed_image *image, const char *step, int error);

/* Say why a request failed ("writing data at file offset"). */
void image_report (struct qed_image *image, const char *what,
                   uint64_t offset, int error);

/* ---- dispatch.c ---- */

/* After metadata_init.  The timers: after the loop was created. */
void dispatch_init (struct qed_image *image);
int dispatch_init_timers (struct qed_image *image);
void dispatch_destroy_timers (struct qed_image *image);

/* Whether qed_close waits. */
bool image_close_wanted (struct qed_image *image);

/* Let the loop look for something to do.  Any thread. */
void image_kick (struct qed_image *image);

/* Queue a request for the next mark-dirty or write-back.  Any thread. */
void image_queue (struct qed_image *image, struct request_list *list,
                  struct qed_request *request);

/* Answer all that the running job served, and look for the next job. */
void image_job_done (struct qed_image *image, struct job *job, int error);

/* ---- dirty.c ---- */

void dirty_mark (struct qed_image *image);
void dirty_make_clean (struct qed_image *image);

/* ---- flush.c ---- */

int flush_init (struct qed_image *image);
void flush_destroy (struct qed_image *image);

/* Write everything back.  Loop only; 'done' is the caller's. */
void flush_start (struct qed_image *image, void (*done) (struct job *job));

/* The same as a step of image->job. */
int flush_step (struct job *job);

/* ---- reclaim.c ---- */

/* After the loop was created. */
int reclaim_init (struct qed_image *image);
void reclaim_destroy (struct qed_image *image);

/* Loop only: start, unless it runs or there is nothing to do; wait for its
 * end as a piece of I/O of another job.
 */
void reclaim_start (struct qed_image *image);
bool reclaim_active (const struct qed_image *image);
void reclaim_wait (struct qed_image *image, struct job *job);

/* ---- scan.c ---- */

void scan_start (struct qed_image *image);

/* ---- lookup.c ---- */

/* The guest's range as the tables have it now: 'bytes' from its start are of
 * the class, and where they're allocated they lie at 'offset' in one piece.
 */
struct extent {
  enum format_entry class;
  uint64_t offset;
  uint64_t bytes;
};

/* What a function of a request returns beside 0, QED_WAIT and errors: things
 * have changed, or were brought in; look up again.
 */
#define REQUEST_AGAIN 2

/* Look up guest address 'at', for at most 'bytes'; and not beyond the entries
 * of one page, so that it costs little to ask again where only a small part
 * was of use.  With a guard held.  Returns 0; REQUEST_AGAIN after a page was
 * loaded; QED_WAIT or an error.
 */
int request_lookup (struct qed_image *image, struct qed_request *request,
                    uint64_t at, uint64_t bytes, struct extent *extent);

/* Bring in the page of the tables that a lookup or a change needs, the L1
 * page first.  Returns REQUEST_AGAIN, QED_WAIT, -ENOBUFS if the cache has no
 * room now, or an error.
 */
int request_load (struct qed_image *image, struct qed_request *request,
                  uint64_t at);

/* The table that an L1 entry names: *table 0 if there is none.  Returns
 * -EIO, and names the damage, if the entry is invalid.
 */
int request_check_l1 (struct qed_image *image, uint64_t l1_index,
                      uint64_t entry, uint64_t *table);

/* ---- request.c ---- */

/* For overlays: as in backing.h. */
int request_read (struct qed_image *image, struct qed_request *request,
                  uint64_t at, uint64_t bytes, void *buf, uint64_t *done);
int request_extent (struct qed_image *image, struct qed_request *request,
                    uint64_t at, uint64_t bytes, enum qed_extent *kind,
                    uint64_t *done);
int request_prefetch (struct qed_image *image, struct qed_request *request,
                      uint64_t at, uint64_t bytes, uint64_t *done);

/* Whether changes are refused now: a negative errno.  Damage does not stop a
 * repair.
 */
int request_refused (const struct qed_image *image,
                     const struct qed_request *request);

/* Wait until the scan has come so far.  Returns 0 or QED_WAIT. */
int request_wait_scan (struct qed_image *image, struct qed_request *request,
                       enum scan_state state);

/* Wait for the next write-back or mark-dirty; always QED_WAIT. */
int request_wait_job (struct qed_image *image, struct request_list *list,
                      struct qed_request *request);

/* How the job ended that served the request; QED_WAIT if none has yet. */
int request_job_result (struct qed_image *image,
                        struct qed_request *request);

/* What the image itself, not its backing file, has in the first *done bytes
 * of the range; likewise.
 */
int request_own (struct qed_image *image, struct qed_request *request,
                 uint64_t at, uint64_t bytes, enum format_entry *class,
                 uint64_t *done);

/* ---- sync.c ---- */

/* Call 'run' with a request, which it may queue, until it returns something
 * else than QED_WAIT and REQUEST_AGAIN, waiting where it must.  Not on the
 * loop.
 */
int sync_run (int (*run) (struct qed_request *request, void *opaque),
              void *opaque);

/* As a plain call: request_own. */
int sync_own (struct qed_image *image, uint64_t at, uint64_t bytes,
              enum format_entry *class, uint64_t *done);

/* As plain calls: request_extent, or that of a backing file, if there is one,
 * piece by piece: what the request's range (QED_OP_EXTENTS) has at 'at',
 * *done bytes.  With the request what a server tells of the rest of the range
 * outlives a call; fetch_drop ends it.
 */
int sync_extent (struct qed_image *image, struct backing *backing,
                 struct qed_request *request, uint64_t at,
                 enum qed_extent *kind, uint64_t *done);

/* As a plain call: backing_read, all of it. */
int sync_backing_read (struct backing *backing, uint64_t at, uint64_t bytes,
                       void *buf);

/* ---- allocate.c ---- */

/* Every change of entries happens between these.  change_begin enters the
 * gate and returns 0, or QED_WAIT or an error.
 */
int change_begin (struct qed_image *image, struct qed_request *request);
void change_end (struct qed_image *image);

/* Make sure that there is an L2 table for 'at'; hand out clusters; publish
 * them in a locked page.  In the gate.  0, REQUEST_AGAIN, QED_WAIT or an
 * error.
 */
int allocate_table (struct qed_image *image, struct qed_request *request,
                    uint64_t at);
int allocate_reserve (struct qed_image *image, struct qed_request *request,
                      uint64_t want, struct space_run *run);

/* Too much is freed and not yet free: wait, for a write-back first if need
 * be.
 */
int allocate_wait_reclaim (struct qed_image *image,
                           struct qed_request *request);

/* Whether clusters that were not published are free again, after what is no
 * success: those that the storage failed to write are not.
 */
bool allocate_may_reuse (int r);
/* -ENOBUFS: a write-back has to come first. */
int allocate_publish (struct qed_image *image, struct page *page,
                      unsigned index, const struct space_run *run);

/* Bring in a page that a change needs; REQUEST_AGAIN, QED_WAIT or an error. */
int change_load (struct qed_image *image, struct qed_request *request,
                 uint64_t at);

/* Give the unallocated or zero clusters at guest address 'at' a place, for at
 * most 'bytes'.  With a guard held.  Returns 0: *extent is published and may
 * be written; REQUEST_AGAIN, QED_WAIT or an error.
 */
int allocate_extent (struct qed_image *image, struct qed_request *request,
                     uint64_t at, uint64_t bytes, struct extent *extent);

/* ---- cow.c ---- */

/* Write into an extent that is not allocated, over a backing file; 'data'
 * NULL writes zeros.  The request must come back here, with the same range,
 * while request->cow is set.  Returns 0 (*done bytes are written),
 * REQUEST_AGAIN, QED_WAIT or an error.
 */
int cow_extent (struct qed_image *image, struct qed_request *request,
                uint64_t at, const struct extent *extent, const void *data,
                uint64_t *done);
#define COW_LOST 3              /* within cow.c: another changed the entry */

/* Enter the clusters that copies on write under way have reserved. */
int cow_add_unnamed (struct qed_image *image, struct bitmap *into);

/* Give up a copy on write, if one is under way. */
void cow_abort (struct qed_image *image, struct qed_request *request);

/* ---- discard.c ---- */

/* Trim or zero the first part of the guest's range; *done says how many
 * bytes.  With a guard held.  Returns 0,
 * REQUEST_AGAIN, QED_WAIT or an error.
 */
int discard_some (struct qed_image *image, struct qed_request *request,
                  enum qed_op op, uint64_t at, uint64_t bytes,
                  uint64_t *done);

/* ---- resize.c ---- */

/* Resize an image that was opened and not yet started: it is started, and
 * must be closed afterwards.
 */
int resize_image (struct qed_image *image, struct qed_resize *resize,
                  const struct qed_progress *progress);

/* ---- rebase.c ---- */

/* Likewise; with options.skip_backing for an unsafe rebase. */
int rebase_image (struct qed_image *image, const struct qed_rebase *rebase,
                  const struct qed_progress *progress);

/* The image on top of the chain, whose loop serves all of them. */
static inline struct qed_image *
image_top (struct qed_image *image)
{
  while (image->overlay)
    image = image->overlay;
  return image;
}

/* The next image of the chain. */
static inline struct qed_image *
image_below (const struct qed_image *image)
{
  return image->backing ? backing_image (image->backing) : NULL;
}

/* The first image of the chain that rebase will put beneath this one. */
static inline struct qed_image *
image_below_new (const struct qed_image *image)
{
  return image->new_backing ? backing_image (image->new_backing) : NULL;
}

/* ---- amend.c ---- */

/* A change of one entry, for repairs: the request's op is QED_OP_AMEND, its
 * buffer this, its count 1, its offset 0.  -ESTALE: it wasn't 'old' any more.
 * With 'old' as 'new' nothing is changed, but NEED_CHECK is set.
 */
struct amendment {
  uint64_t key;                 /* of the page in the cache */
  uint64_t page;                /* where that lies in the file */
  unsigned index;
  uint64_t old, new;            /* as on disk */
  uint64_t freed;               /* so many clusters from 'old' on are in use no
                                 * longer */
};

int amend_some (struct qed_image *image, struct qed_request *request);

/* The same where no one else changes entries: without the gate.  -EBUSY,
 * -ENOBUFS: a write-back has to come first.
 */
int amend_try (struct qed_image *image, struct qed_request *request);

/* For requests that nobody waits for. */
void amend_no_wake (struct qed_request *request);

/* The entry, of L1 or of a table, that a problem is about. */
struct qed_problem;
struct amendment amend_problem (const struct qed_image *image,
                                const struct qed_problem *problem,
                                uint64_t new);

/* ---- recover.c ---- */

/* Loop only, but for recover_new and recover_free. */
struct recover *recover_new (struct qed_image *image);
void recover_free (struct recover *recover);

/* The scan found a problem; it ended: true if the repair at open is to run,
 * else what was found has been named as damage.
 */
void recover_found (struct recover *recover,
                    const struct qed_problem *problem);
bool recover_weigh (struct recover *recover);

/* Drop what has to be dropped, as the loop's job; the scan is done when it
 * ends.
 */
void recover_start (struct qed_image *image);

/* The scan did not see everything: an image that was not closed cleanly stays
 * marked.
 */
void recover_unknown (struct qed_image *image);

/* The end of it, or it never comes to it. */
void recover_end (struct qed_image *image);

/* Where a guest address lies in the tables. */
static inline uint64_t
image_cluster (const struct qed_image *image, uint64_t at)
{
  return at >> image->geometry.cluster_bits;
}

static inline uint64_t
image_l2_key (const struct qed_image *image, uint64_t at)
{
  return METADATA_KEY_L2 (image_cluster (image, at) / PAGE_ENTRIES);
}

static inline unsigned
image_l2_index (const struct qed_image *image, uint64_t at)
{
  return image_cluster (image, at) % PAGE_ENTRIES;
}

static inline uint64_t
image_l1_index (const struct qed_image *image, uint64_t at)
{
  return image_cluster (image, at) >> image->geometry.entries_bits;
}

#endif /* QED_IMAGE_H */
