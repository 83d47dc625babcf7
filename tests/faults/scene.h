/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is done to an image while something fails.
 *
 * For each run the files are made anew ('prepare'), the scene is played while
 * calls fail ('act'), then the same is done without failures where that makes
 * sense ('finish'), and the image is judged.  One thread.
 */

#ifndef SCENE_H
#define SCENE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "fault.h"
#include "guest.h"
#include "qed.h"

#define KIB 1024u
#define CLUSTER 4096u
#define TABLE_SPAN (512u * CLUSTER)     /* what an L2 table describes */
#define AT_L1 CLUSTER

struct scene {
  const char *name;
  void (*prepare) (void);
  void (*act) (void);
  void (*finish) (void);        /* or NULL */
  bool slow;                    /* a run takes a second */
};

extern const struct scene live_scenes[], log_scenes[], repair_scenes[],
  shape_scenes[], slot_scenes[];

/* What fails in this run. */
extern struct run {
  const struct scene *scene;
  enum fault_call call;
  int error;                    /* an errno */
  unsigned times, nth;
  bool armed;
  bool trace;
  unsigned failures;            /* errors that the scene has got */
} run;

/* In the working directory. */
#define IMAGE "image.qed"
#define BASE "base"
#define BASE_QED "base.qed"
#define UNDO "undo"
#define UNDO_AT_OPEN IMAGE ".undo"

/* Say what is wrong with the engine, and how to see it again; exit. */
void broken (const char *format, ...)
  __attribute__ ((format (printf, 1, 2), noreturn));

/* Something of the test itself. */
void must (bool it_is, const char *what);

/* An error that the engine returned while 'image', which may be NULL, was
 * open: whether it is one that may come.
 */
void note_error (struct qed_image *image, const char *what, int r);

/* ---- Files ---- */

/* Remove all of them. */
void clear_files (void);

/* Where pending logs are; it is on tmpfs. */
extern char scene_log_directory[160];

void make_image (const char *path, uint64_t size, const char *backing,
                 bool raw);
void make_raw (const char *path, uint64_t size, unsigned char byte);

/* Look into a file, and change it. */
uint64_t peek64 (const char *path, uint64_t at);
void poke64 (const char *path, uint64_t at, uint64_t value);
uint64_t length_of (const char *path);
bool need_check (const char *path);

/* All of a file, to be freed. */
unsigned char *load (const char *path, size_t *bytes);

/* ---- An image that is open ---- */

/* With the trace. */
void scene_options (struct qed_options *options, const char *path);

/* Open and start: NULL if it failed.  What is acknowledged is kept by
 * 'pending', or by nothing.
 */
struct qed_image *start (const char *path);
struct qed_image *start_kept (const char *path, enum qed_pending_mode pending);

struct op {
  enum qed_op op;
  uint64_t at, count;
  unsigned char byte;           /* of a write */
  unsigned flags;
};

/* The empty one behind the last, and those that have no range. */
#define END { QED_OP_READY, 0, 0, 0, 0 }
#define FLUSH { QED_OP_FLUSH, 0, 0, 0, 0 }
#define CLEAN { QED_OP_CLEAN, 0, 0, 0, 0 }

/* Do this, and note what the guest's disk may hold then. */
int do_op (struct qed_image *image, const struct op *op);

/* Operations, and reads of what they touched, to an empty one; then, if a sync
 * has failed, see that the image has (O8).
 */
void do_ops (struct qed_image *image, const struct op *ops);
void finish_image (struct qed_image *image, const char *path);

/* Both, without failures. */
void fill (const char *path, const struct op *ops);

/* A scene's 'prepare': an image without a backing file, in which these were
 * written.
 */
extern const struct op scene_old[];
void scene_prepare_plain (void);

/* What the guest's disk holds is as it may be. */
void read_all (struct qed_image *image);

/* ---- Without failures ---- */

/* Check, or repair, a closed image; what came of it.  'undo' or NULL. */
int check_closed (const char *path, enum qed_repair repair, const char *undo,
                  struct qed_check_result *result);

/* All there is to say of the image in the end. */
void judge (const char *path);

/* And of pending logs: none is left, nor mapped. */
void judge_logs (void);

#endif /* SCENE_H */
