/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image in a real file and its pending log, for tests in which a child
 * opens the image, works on it and kills itself: then the log is looked at,
 * changed, and the image opened again.  4 KiB clusters, and tables of a page.
 * Some calls of the engine come here (--wrap), where one can be made to fail.
 */

#ifndef KILLED_IMAGE_H
#define KILLED_IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format.h"
#include "pending.h"
#include "qed.h"

#define CLUSTER UINT64_C (4096)
#define ENTRIES UINT64_C (512)  /* of a table, which is a page */
#define CLUSTERS UINT64_C (16384)
#define SIZE (CLUSTERS * CLUSTER)

extern char path[256], log_path[192];
extern const char *directories[2];      /* for logs */
extern char messages[4096];     /* of the last open_image on */
extern bool may_grow;           /* the log, if there is space */

/* What is to fail once: a call, and with what. */
extern const char *failing;
extern int failing_error;

/* The calls, while 'recording': s a sync, else what is written: h the header,
 * l L1, t a table.
 */
extern char calls[64];
extern bool recording;

/* What read_log has read; write_log writes 'size' bytes of it. */
extern union log_file {
  struct pending_head head;
  unsigned char bytes[PENDING_BYTES];
} pending_log;

void read_log (void);
void write_log (size_t size);
struct pending_record *record_at (unsigned half, unsigned slot);

/* With a sum that is right. */
void put_record (unsigned half, unsigned slot, uint64_t where, uint64_t value,
                 uint64_t count);

/* Empty, with these generations. */
void clear_log (uint64_t first, uint64_t second);

/* For each test: an empty image. */
int killed_setup (void **state);
int killed_teardown (void **state);

#define KILLED_TEST(f) \
  cmocka_unit_test_setup_teardown (f, killed_setup, killed_teardown)

/* The result of 'run', which runs a group of tests; 77 if there is no tmpfs for
 * the log.
 */
int killed_run (int (*run) (void));

int try_open (bool read_only, struct qed_image **image);
struct qed_image *open_image (bool read_only);
void write_cluster (struct qed_image *image, uint64_t n, unsigned char fill);
void expect_cluster (struct qed_image *image, uint64_t n, unsigned char fill);

/* Work in a child, which does not survive it. */
void die_after (void (*work) (struct qed_image *image));

/* Work: the clusters 3, 4 and 1000; and what they hold is expected after a
 * replay that leaves nothing behind.
 */
void write_three (struct qed_image *image);
void expect_three (unsigned char third, unsigned char fourth,
                   unsigned char thousandth);

#endif /* KILLED_IMAGE_H */
