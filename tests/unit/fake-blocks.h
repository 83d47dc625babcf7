/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A socket as an image's file, of blocks and with a last one that is cut, which
 * answers at once; and a model of what has to be there.
 */

#ifndef FAKE_BLOCKS_H
#define FAKE_BLOCKS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fetch.h"
#include "fetch-change.h"
#include "fetch-io.h"
#include "storage.h"

#define BLOCK 512u
#define KIB UINT64_C (1024)
#define LENGTH (1024 * KIB + 300)       /* its last block is cut */

extern struct storage sock;
extern unsigned char content[LENGTH], model[LENGTH];
extern int length_error;        /* what asking for the length returns, or 0 */

/* So many allocations of the engine pass, then one fails (--wrap). */
extern unsigned allocations;

extern unsigned calls[FETCH_FLUSH + 1];         /* of each kind */

/* What lies where, in KiB; behind the last there is a hole. */
struct piece {
  uint64_t kib;
  enum qed_extent kind;
};
extern const struct piece *pieces;
extern uint64_t told_at_most;   /* bytes that one answer describes */

extern struct fetch_blocks blocks;
extern struct fetch_window window;

/* For each test. */
int blocks_setup (void **state);
int blocks_teardown (void **state);

/* After 'skip' fetches of this kind the next one fails. */
void fail_next (enum fetch_op op, int error, unsigned skip);

/* The content is the model's. */
void expect_content (void);

#endif /* FAKE_BLOCKS_H */
