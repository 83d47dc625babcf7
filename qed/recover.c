/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The repair at open of an image that was not closed cleanly: exactly what is
 * certain, and nothing where anything is not.
 *
 *   the scan ends -> what was found is weighed
 *     nothing wrong, or entries beyond the end of the file that must be debris
 *       of a crash: their old values are saved and logged, the entries are
 *       dropped, and what leaked is punched; make-clean then cuts the tail and
 *       clears NEED_CHECK (O7)
 *     anything else: it is named, nothing is touched, changes are refused
 *
 * An entry beyond the end is debris only without a backing file, or behind its
 * end: over one the entry is written after its cluster (O3).  NEED_CHECK is
 * set, so O1 holds; changes wait for the end of the scan, so no one else
 * changes an entry meanwhile, and no gate is needed.  Loop only, but for the
 * step that reads and changes pages, which runs on one of its threads.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "image.h"
#include "undo.h"

/* A client's open waits for the repair: what leaks beyond that is not punched,
 * but used for what is written next, all the same.
 */
#define PUNCH_SECONDS 1.
#define PUNCH_BYTES (UINT64_C (16) << 20)       /* at a time */

/* More can't be the debris of one crash: it is no longer certain. */
#define DROPS_MAX 65536u

struct recover {
  struct job job;
  struct qed_image *image;
  struct qed_problem *drops;    /* entries beyond the end */
  size_t count, capacity;
  bool uncertain;               /* something else is wrong */
  bool saved;                   /* the undo file was made */
  size_t dropped;
  struct loop_work work;        /* of the step that drops */
  int result;
};

/* ---- What the scan found ---- */

struct recover *
recover_new (struct qed_image *image)
{
  struct recover *recover = calloc (1, sizeof *recover);

  if (recover)
    recover->image = image;
  return recover;
}

void
recover_free (struct recover *recover)
{
  if (recover)
    free (recover->drops);
  free (recover);
}

/* Whether the guest's range lies where no backing file holds anything. */
static bool
is_debris (const struct recover *recover, const struct qed_problem *problem)
{
  const struct qed_image *image = recover->image;

  if (problem->code != QED_PROBLEM_L1_PAST_END &&
      problem->code != QED_PROBLEM_L2_PAST_END)
    return false;
  return image->backing == NULL ||
    problem->guest >= backing_size (image->backing);
}

static bool
add_drop (struct recover *recover, const struct qed_problem *problem)
{
  size_t capacity = recover->capacity ? recover->capacity * 2 : 64;
  struct qed_problem *drops;

  if (recover->count == DROPS_MAX)
    return false;
  if (recover->count == recover->capacity) {
    drops = realloc (recover->drops, capacity * sizeof *drops);
    if (drops == NULL)
      return false;
    recover->drops = drops;
    recover->capacity = capacity;
  }
  recover->drops[recover->count++] = *problem;
  return true;
}

void
recover_found (struct recover *recover, const struct qed_problem *problem)
{
  char text[QED_PROBLEM_TEXT_SIZE];

  if (!recover->uncertain && is_debris (recover, problem) &&
      add_drop (recover, problem))
    return;
  recover->uncertain = true;
  qed_problem_to_text (problem, text);
  image_damage (recover->image, "%s", text);
}

/* What was held back is damage like the rest. */
static void
give_up (struct recover *recover)
{
  char text[QED_PROBLEM_TEXT_SIZE];
  size_t i;

  for (i = recover->dropped; i < recover->count; i++) {
    qed_problem_to_text (&recover->drops[i], text);
    image_damage (recover->image, "%s", text);
  }
}

bool
recover_weigh (struct recover *recover)
{
  struct qed_image *image = recover->image;

  if (!recover->uncertain && !atomic_load (&image->damaged))
    return true;
  give_up (recover);
  log_error (&image->options.log, "%s: was not closed cleanly and is damaged "
             "in a way that a server must not decide about by itself: it is "
             "served read-only until it is repaired (qedctl check --repair)",
             image->path);
  return false;
}

/* ---- The job ---- */

static int save_old_values (struct job *job);
static int drop_entries (struct job *job);
static int write_back (struct job *job);
static int go_on (struct job *job);
static int punch_leaks (struct job *job);

static const struct job_step recover_steps[] = {
  { "save-old-values",  save_old_values },
  { "drop-entries",     drop_entries },
  { "write-back",       write_back },
  { "go-on",            go_on },        /* if the cache was too small */
  { "punch-leaks",      punch_leaks },  /* O5: nothing names them */
  { NULL, NULL }
};

static struct recover *
recover_of (struct job *job)
{
  return (struct recover *) job;
}

/* ---- save-old-values: IMAGE.undo ---- */

/* L1, by which the image is known again; and the sectors of other tables. */
static int
save_sectors (struct recover *recover, struct undo_file *undo)
{
  struct storage *s = recover->image->storage;
  unsigned char sector[FORMAT_SECTOR];
  uint64_t at, last = UINT64_MAX;
  size_t i;
  int r = undo_file_add_l1 (undo, s);

  for (i = 0; i < recover->count && r == 0; i++) {
    if (recover->drops[i].code == QED_PROBLEM_L1_PAST_END)
      continue;
    at = recover->drops[i].where & -(uint64_t) FORMAT_SECTOR;
    if (at == last)
      continue;
    last = at;
    r = s->ops->pread (s, sector, sizeof sector, at);
    if (r == 0)
      r = undo_file_add (undo, at, sizeof sector, sector);
  }
  return r == 0 ? undo_file_finish (undo, NULL) : r;
}

static void
log_drops (const struct recover *recover, const char *path)
{
  const struct qed_image *image = recover->image;
  char text[QED_PROBLEM_TEXT_SIZE];
  size_t i;

  for (i = 0; i < recover->count && i < 100; i++) {
    qed_problem_to_text (&recover->drops[i], text);
    log_warning (&image->options.log, "%s: debris of a crash is dropped: %s",
                 image->path, text);
  }
  log_warning (&image->options.log, "%s: %zu entries that a crash left are "
               "dropped; their old values are in %s (qedctl undo)",
               image->path, recover->count, path);
}

static int
make_undo_file (struct recover *recover, const char *path)
{
  struct undo_file undo = { .fd = -1 };
  int r = undo_file_create (&undo, path, recover->image->storage,
                            UNDO_F_ENTRIES);

  if (r == 0) {
    r = save_sectors (recover, &undo);
    undo_file_close (&undo);
  }
  return r;
}

/* An older one is kept: the new one gets a number. */
static void
save_work (struct loop_work *work)
{
  struct recover *recover = (struct recover *)
    ((char *) work - offsetof (struct recover, work));
  const struct qed_image *image = recover->image;
  unsigned n = 0;
  char *path;
  int r;

  do {
    if ((n == 0 ? asprintf (&path, "%s.undo", image->path)
         : asprintf (&path, "%s.undo.%u", image->path, n)) < 0) {
      recover->result = -ENOMEM;
      return;
    }
    r = make_undo_file (recover, path);
    if (r == 0)
      log_drops (recover, path);
    else if (r != -EEXIST)
      log_error (&image->options.log, "%s: cannot make the undo file %s: %s",
                 image->path, path, strerror (-r));
    free (path);
  } while (r == -EEXIST && ++n < 100);
  recover->result = r;
}

static void
work_done (struct loop_work *work)
{
  struct recover *recover = (struct recover *)
    ((char *) work - offsetof (struct recover, work));

  job_io_end (&recover->job, recover->result);
}

static int
run_work (struct recover *recover, void (*run) (struct loop_work *work))
{
  recover->work = (struct loop_work) { .run = run, .done = work_done };
  job_io_begin (&recover->job);
  loop_submit (recover->image->loop, &recover->work);
  return JOB_WAIT;
}

/* A storage that is no file has no place beside it. */
static int
save_old_values (struct job *job)
{
  struct recover *recover = recover_of (job);

  if (recover->saved || recover->count == 0 ||
      recover->image->storage->inode == 0)
    return JOB_NEXT;
  recover->saved = true;
  return run_work (recover, save_work);
}

/* ---- drop-entries ---- */

/* Another thread may be reading the page for a lookup. */
static int
drop_one (struct qed_image *image, const struct qed_problem *problem)
{
  struct amendment amendment = amend_problem (image, problem, 0);
  struct qed_request request;
  int r;

  qed_request_init (&request, QED_OP_AMEND, &amendment, 1, 0, 0);
  request.wake = amend_no_wake;
  do {
    r = amend_try (image, &request);
    wait_cancel (&request);
  } while (r == REQUEST_AGAIN || r == QED_WAIT);
  return r;
}

/* As many as the cache has room for; then they are written back. */
static void
drop_work (struct loop_work *work)
{
  struct recover *recover = (struct recover *)
    ((char *) work - offsetof (struct recover, work));
  struct qed_image *image = recover->image;
  size_t before = recover->dropped;
  int r = 0;

  while (r == 0 && recover->dropped < recover->count &&
         !metadata_pressed (&image->metadata)) {
    r = drop_one (image, &recover->drops[recover->dropped]);
    if (r == 0)
      recover->dropped++;
  }
  recover->result = r == -ENOBUFS && recover->dropped > before ? 0 : r;
}

static int
drop_entries (struct job *job)
{
  struct recover *recover = recover_of (job);

  return recover->dropped == recover->count
    ? JOB_NEXT : run_work (recover, drop_work);
}

/* ---- write-back ---- */

static void
write_back_done (struct job *job)
{
  struct qed_image *image = (struct qed_image *)
    ((char *) job - offsetof (struct qed_image, write_back));

  job_io_end (&image->recover->job, job->error);
}

static int
write_back (struct job *job)
{
  job_io_begin (job);
  flush_start (recover_of (job)->image, write_back_done);
  return JOB_WAIT;
}

static int
go_on (struct job *job)
{
  struct recover *recover = recover_of (job);

  return recover->dropped < recover->count ? JOB_AGAIN : JOB_NEXT;
}

/* ---- punch-leaks ---- */

/* What nothing refers to may belong to a table whose L1 entry was dropped: as
 * long as the image is open it is not reused, so that undo finds it.
 */
static bool
dropped_table (const struct recover *recover)
{
  size_t i;

  for (i = 0; i < recover->count; i++)
    if (recover->drops[i].code == QED_PROBLEM_L1_PAST_END)
      return true;
  return false;
}

/* The next range in clusters that are free though data may be in it, from the
 * offset 'at' on; a cluster may have several, with holes between them.
 */
static bool
next_leak (struct qed_image *image, uint64_t *at, uint64_t *start,
           uint64_t *end)
{
  uint64_t size = image->geometry.cluster_size, first, last, limit, piece;
  unsigned bits = image->geometry.cluster_bits;
  struct space *space = &image->space;
  struct storage *s = image->storage;

  for (;; *at = last << bits) {
    pthread_mutex_lock (&space->lock);
    limit = space->end;
    first = bitmap_next_clear (&space->used, *at >> bits, limit);
    last = bitmap_next_set (&space->used, first, limit);
    pthread_mutex_unlock (&space->lock);
    if (*at < first << bits)
      *at = first << bits;
    if (first >= limit || s->ops->next_data (s, *at, start, end) < 0 ||
        *start == UINT64_MAX)
      return false;
    if (*start < *at)
      *start = *at;
    if (*end > last << bits)
      *end = last << bits;
    piece = (*start & -size) + (size > PUNCH_BYTES ? size : PUNCH_BYTES);
    if (*end > piece)
      *end = piece;
    if (*end > *start)
      break;
  }
  *at = *end;
  return true;
}

/* Changes wait, so that nothing is handed out meanwhile. */
static void
punch_work (struct loop_work *work)
{
  struct recover *recover = (struct recover *)
    ((char *) work - offsetof (struct recover, work));
  struct qed_image *image = recover->image;
  struct storage *s = image->storage;
  uint64_t at = image->space.base << image->geometry.cluster_bits;
  uint64_t start, end, bytes = 0;
  double until = loop_now () + PUNCH_SECONDS;

  while (loop_now () < until && next_leak (image, &at, &start, &end) &&
         s->ops->punch (s, start, end - start) == 0)
    bytes += end - start;
  if (bytes > 0)
    log_warning (&image->options.log, "%s: leaked clusters are free again: %"
                 PRIu64 " bytes were given back", image->path, bytes);
  recover->result = 0;
}

static int
punch_leaks (struct job *job)
{
  struct recover *recover = recover_of (job);

  return dropped_table (recover) ? JOB_NEXT : run_work (recover, punch_work);
}

static void
recover_done (struct job *job)
{
  struct recover *recover = recover_of (job);
  struct qed_image *image = recover->image;
  int error;

  if (job->error < 0) {
    log_error (&image->options.log, "%s: the repair at open failed (%s): "
               "%s: the image is served read-only until it is repaired "
               "(qedctl check --repair)", image->path, job->failed_at,
               strerror (-job->error));
    give_up (recover);
    image_damage (image, "not repaired");
  }
  else {
    if (dropped_table (recover))
      space_keep_all (&image->space);
    else
      space_complete (&image->space);
    image->want_clean = true;
  }
  error = job->error;
  recover_end (image);
  image_job_done (image, NULL, error);
}

/* What was not read may be damaged. */
void
recover_unknown (struct qed_image *image)
{
  if (image->recover)
    atomic_store (&image->damaged, true);
}

void
recover_end (struct qed_image *image)
{
  recover_free (image->recover);
  image->recover = NULL;
  image->want_recover = false;
  atomic_store (&image->recovering, false);
  atomic_store (&image->scan_state, SCAN_DONE);
  wait_wake_all (&image->scanned);
}

void
recover_start (struct qed_image *image)
{
  struct recover *recover = image->recover;

  image->want_recover = false;
  image->running = &recover->job;
  recover->job = (struct job) {
    .name = "recover", .steps = recover_steps, .done = recover_done,
    .log = &image->options.log, .about = image->path,
  };
  job_start (&recover->job);
}
