/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is acknowledged outlives the process (O10): the pending log, and what
 * is done where there is none.  The process that dies is a copy of this one.
 */

#include <config.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

static void
prepare_over_raw (void)
{
  make_raw (BASE, 24 * KIB, 0xba);
  guest_wrote (0, 24 * KIB, 0xba, 0, true);
  make_image (IMAGE, GUEST_BYTES, BASE, true);
  fill (IMAGE, scene_old);
}

/* With a new table, freed clusters, zero clusters, and a log that is made
 * anew after the image was clean.
 */
static const struct op ops[] = {
  { QED_OP_WRITE, 32 * KIB, 8 * KIB, 3, 0 },
  { QED_OP_WRITE, 2 * TABLE_SPAN - 512, KIB, 4, 0 },
  { QED_OP_TRIM, 4 * KIB, 8 * KIB, 0, 0 },
  FLUSH,
  { QED_OP_WRITE, 20 * KIB, 512, 5, 0 },
  { QED_OP_ZERO, TABLE_SPAN, 6 * KIB, 0, 0 },
  { QED_OP_WRITE, 0, 512, 6, QED_FUA },
  CLEAN,
  { QED_OP_WRITE, 128 * KIB, 12 * KIB, 7, 0 },
  { QED_OP_TRIM, 32 * KIB, 8 * KIB, 0, 0 },
  { QED_OP_WRITE, 3 * TABLE_SPAN, 512, 8, 0 },
  END
};

#define OPS (sizeof ops / sizeof *ops)

static void
play (enum qed_pending_mode pending)
{
  struct qed_image *image = start_kept (IMAGE, pending);
  struct qed_status status;

  if (image == NULL)
    return;
  do_ops (image, ops);
  qed_status (image, &status);
  if (fault_hits () == 0 && pending == QED_PENDING_LOG &&
      (status.pending != QED_PENDING_LOGGED || status.pending_records == 0))
    broken ("there is no pending log, and nothing has failed");
  finish_image (image, IMAGE);
}

static void
act_log (void)
{
  play (QED_PENDING_LOG);
}

static void
act_write_through (void)
{
  play (QED_PENDING_WRITE_BACK);
}

/* ---- A process that dies ---- */

/* What it has to say; nothing of it is lost with the process. */
struct will {
  bool sync_failed;
  unsigned hits, done;          /* calls that failed; operations answered */
  int r[OPS];
};

static void
live_and_die (struct will *will, enum qed_pending_mode pending)
{
  struct qed_image *image;
  struct qed_file_id id;

  prctl (PR_SET_PDEATHSIG, SIGKILL);
  image = start_kept (IMAGE, pending);
  for (; image && ops[will->done].op != QED_OP_READY; will->done++)
    will->r[will->done] = do_op (image, &ops[will->done]);
  fault_disarm ();
  will->hits = fault_hits ();
  if (image) {
    id = qed_identify (image);
    will->sync_failed = fault_hit_sync_of (id.device, id.inode);
  }
  _exit (0);
}

/* Acknowledged is as good as durable, as long as no sync has failed. */
static void
execute (const struct will *will)
{
  const struct op *op;
  unsigned i;
  int r;

  for (i = 0; i < will->done; i++) {
    op = &ops[i];
    r = will->r[i];
    run.failures += r < 0;
    if (op->count > 0)
      guest_wrote (op->at, op->count, op->byte, r,
                   op->flags & QED_FUA || !will->sync_failed);
    else if (r == 0)
      guest_flushed ();
  }
  fault_add_hits (will->hits);
}

static void
kill_one (enum qed_pending_mode pending)
{
  struct will *will;
  int status;
  pid_t pid;

  fault_spare (true);
  will = mmap (NULL, sizeof *will, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fault_spare (false);
  must (will != MAP_FAILED, "mmap");
  pid = fork ();
  must (pid >= 0, "fork");
  if (pid == 0)
    live_and_die (will, pending);
  must (waitpid (pid, &status, 0) == pid, "waitpid");
  if (status != 0)
    broken ("so it is in a process that is to die");
  execute (will);
  munmap (will, sizeof *will);
}

static void
act_killed (void)
{
  kill_one (QED_PENDING_LOG);
}

static void
act_killed_write_through (void)
{
  kill_one (QED_PENDING_WRITE_BACK);
}

/* ---- The log is found at open ---- */

static void
prepare_killed (void)
{
  scene_prepare_plain ();
  kill_one (QED_PENDING_LOG);
  guest_reopened ();
}

/* The log may be gone: after a sync that failed it is thrown away.  Then what
 * was acknowledged may be missing.
 */
static void
doubt (const struct op *op)
{
  for (; op->op != QED_OP_READY; op++)
    if (op->count > 0) {
      guest_wrote (op->at, op->count, 0, -1, false);
      guest_wrote (op->at, op->count, op->byte, -1, false);
    }
}

static void
act_replay (void)
{
  struct qed_image *image = start_kept (IMAGE, QED_PENDING_LOG);

  if (fault_hits () > 0 && run.call == FAULT_SYNC) {
    doubt (scene_old);
    doubt (ops);
  }
  if (image == NULL)
    return;
  do_ops (image, (struct op[]) {
      { QED_OP_READ, 0, GUEST_BYTES / 8, 0, 0 },
      { QED_OP_WRITE, 256 * KIB, 512, 9, 0 },
      { QED_OP_WRITE, 32 * KIB, 512, 10, QED_FUA },
      END });
  finish_image (image, IMAGE);
}

/* Who only looks leaves the log where it is. */
static void
act_look (void)
{
  struct qed_options options;
  struct qed_image *image;
  uint64_t waiting;
  int r;

  scene_options (&options, IMAGE);
  waiting = qed_pending_waiting (IMAGE, options.pending_directories);
  if (waiting == 0 && fault_hits () == 0)
    broken ("no changes are waiting, and nothing has failed");
  options.read_only = true;
  r = qed_open (&options, &image);
  if (r < 0)
    note_error (NULL, "open", r);
  else
    (void) qed_close (image);
}

/* ---- A log that grows ---- */

#define MANY 9000u              /* half of what it begins with, and more */
#define LARGE (GUEST_BYTES + MANY * CLUSTER)

static void
prepare_large (void)
{
  make_image (IMAGE, LARGE, NULL, false);
  fill (IMAGE, scene_old);
}

/* Many changes, of what no one looks at; the calls that fail are the loop's. */
static void
act_grow (void)
{
  struct qed_image *image = start_kept (IMAGE, QED_PENDING_LOG);
  unsigned char data[512] = { 1 };
  unsigned i;
  int r = 0;

  if (image == NULL)
    return;
  fault_spare (true);
  for (i = 0; i < MANY && r == 0; i++)
    r = qed_request_sync (image, QED_OP_WRITE, data, sizeof data,
                          GUEST_BYTES + i * CLUSTER, 0);
  fault_spare (false);
  if (r < 0)
    note_error (image, "write", r);
  do_ops (image, ops);
  finish_image (image, IMAGE);
}

const struct scene log_scenes[] = {
  { "log", scene_prepare_plain, act_log, NULL, false },
  { "log-over-raw", prepare_over_raw, act_log, NULL, false },
  { "log-killed", scene_prepare_plain, act_killed, NULL, false },
  { "log-replay", prepare_killed, act_replay, NULL, false },
  { "log-look", prepare_killed, act_look, NULL, false },
  { "write-through", prepare_over_raw, act_write_through, NULL, false },
  { "write-through-killed", scene_prepare_plain, act_killed_write_through,
    NULL, false },
  { "log-grow", prepare_large, act_grow, NULL, true },
  { NULL, NULL, NULL, NULL, false }
};
