/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A small image on a storage in memory, and the engine on it: 4 KiB clusters,
 * tables of one cluster (512 entries, 2 MiB of the guest's disk).
 */

#ifndef FAKE_IMAGE_H
#define FAKE_IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fake-storage.h"
#include "image.h"
#include "sync-request.h"

#define CLUSTER UINT64_C (4096)
#define AT_L1 CLUSTER                   /* behind the header */
#define AT_END (2 * CLUSTER)            /* of the empty image */
#define TABLE_SPAN (512 * CLUSTER)      /* what an L2 table describes */
#define TABLES 120u
#define IMAGE_SIZE (TABLES * TABLE_SPAN)

extern struct fake_storage *fake;
extern struct qed_image *image;

/* What open_image asks for; QED_CHECK_AUTO unless a test changes it. */
extern enum qed_check_mode fake_check;

/* Seconds; 0 unless a test changes it. */
extern unsigned fake_clean_after;

/* For each test: an empty image, not yet opened. */
int fake_image_setup (void **state);
int fake_image_teardown (void **state);

#define FAKE_IMAGE_TEST(f) \
  cmocka_unit_test_setup_teardown (f, fake_image_setup, fake_image_teardown)

/* Write the header anew. */
void format_image (uint64_t features, uint64_t autoclear);

int open_image (void);          /* without starting it */
void start_image (void);        /* open and start it, and wait for the scan */
void wait_scanned (void);
int close_image (void);

/* 512 bytes of the guest's disk, filled with a byte. */
int write_byte (uint64_t offset, unsigned char byte, unsigned flags);
int flush_image (void);
int read_result (uint64_t offset);
void expect_byte (uint64_t offset, unsigned char byte);

struct pending *start_write (uint64_t offset, unsigned char byte);
struct pending *start_flush (void);

bool need_check (void);         /* in the header, on disk */

/* The calls that change something, since fake_forget, are exactly these. */
void expect_calls (const struct fake_call *expected, size_t n);

#endif /* FAKE_IMAGE_H */
