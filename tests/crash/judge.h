/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Is a state that a crash left what was promised? */

#ifndef CRASH_JUDGE_H
#define CRASH_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "disk.h"
#include "promise.h"
#include "walk.h"

struct verdict {
  const char *what;             /* what kind of state it is, for messages */
  uint64_t time;                /* of the crash */
  bool clean;                   /* NEED_CHECK must be clear */
  bool running;                 /* no power was lost: what ended is there */
  bool replayed;                /* the tables are not those of 'reference' */
  const struct walk *reference; /* the tables when NEED_CHECK was last clear */
  uint64_t image_sizes[2];      /* the size is one of these */
  bool beyond;                  /* there may be entries beyond it */
};

/* Judge a state: the tables as walk_image found them, and what the guest
 * would find; a violation ends the program.
 */
void judge_state (const struct disk *disk, const struct walk *walk,
                  const struct promise *promise,
                  const struct verdict *verdict);

/* Judge a file that was closed cleanly, against what was there when it was
 * opened: nothing leaked, and cut to its use if any entry was changed.
 */
void judge_closed (const struct disk *disk, const struct walk *walk,
                   const struct disk *before, const struct walk *was,
                   bool changed);

/* Let the engine read what was written to, and compare. */
void judge_engine (struct disk *disk, const struct walk *walk,
                   const struct promise *promise, struct random *random);

/* What the death of the process left, and its log (or NULL): opened again all
 * that had ended is there (O10).  Power fails meanwhile, and it is killed
 * again.
 */
void judge_survival (const struct disk *disk, const void *log,
                     const struct promise *promise,
                     const struct verdict *verdict, struct random *random);

#endif /* CRASH_JUDGE_H */
