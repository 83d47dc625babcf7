/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A file for tests of what lies on files, and the system calls of the engine,
 * which the linker leads here (--wrap), where the next ones can be made to
 * fail, to be short, or to lie.
 */

#ifndef FILE_CALLS_H
#define FILE_CALLS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kept-message.h"
#include "qed.h"
#include "storage.h"

/* What fails next: error is an errno, or 0: it is short, or a lie. */
extern struct plan {
  const char *call;
  int error;
  unsigned skip, times;
} plan;

void fail_next (const char *call, int error, unsigned skip, unsigned times);

/* A lie: files are block devices, of 1 MiB. */
extern bool are_devices;

/* As a device does: a part of a block of 4096 bytes can't be a hole. */
extern bool punches_blocks;

/* As some file systems do: stat says another device than /proc. */
extern bool are_elsewhere;

/* The file, and a name beside it where nothing is. */
extern char directory[], path[64], other[64];

/* To open the file with; the last message is kept. */
extern struct qed_options options;

/* An empty file, and none of the lies. */
int file_setup (void **state);

struct storage *open_file (void);

/* For the whole group. */
int file_setup_all (void **state);
int file_teardown_all (void **state);

#define FILE_TEST(f) cmocka_unit_test_setup (f, file_setup)

#endif /* FILE_CALLS_H */
