/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An export as storage, whose connection (nbd-link.h), commands (nbd-flight.h),
 * loop and clock are the test's own: what is sent is held until the test lets
 * it end.  The linker leads the calls here (--wrap in Makefile.am); all is one
 * thread.
 */

#ifndef FAKE_NBD_H
#define FAKE_NBD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "storage-nbd.h"

#define SIZE (UINT64_C (256) << 20)     /* of the export */
#define MIB (UINT64_C (1) << 20)

/* ---- The loop ---- */

extern double clock_now;
extern bool timer_runs;
extern int timer_error;         /* what its making returns */

/* ---- Memory ---- */

extern unsigned allocations;    /* so many pass, then one fails */

/* ---- The commands ---- */

#define SENT_MAX 200u

extern struct fetch *sent[SENT_MAX];    /* not answered, in order */
extern unsigned sent_count;
extern bool answers;            /* the server does, at once, */
extern int answer_error;        /* with this */
extern bool full;               /* nothing more can be sent */

/* The n-th of them has its answer. */
void end_sent (unsigned n, int error);

/* ---- The connection ---- */

extern struct nbd_export server;        /* what it says it has */
extern int connect_error, wait_error, init_error;
extern bool worker_is_out;      /* so that the link can't stop yet */

/* ---- The storage ---- */

extern struct storage *storage;
extern struct storage_nbd *nbd; /* the same */
extern const struct qed_log say;
extern char said[1024];         /* the last message */
extern unsigned errors;         /* messages that were errors */
extern unsigned stopped_calls;

/* For each test. */
int fake_nbd_setup (void **state);
int fake_nbd_teardown (void **state);

#define FAKE_NBD_TEST(f) \
  cmocka_unit_test_setup_teardown (f, fake_nbd_setup, fake_nbd_teardown)

int open_storage (unsigned flags);
int start_storage (void);
void open_and_start (unsigned flags);

/* The last message has this in it; it is forgotten. */
void expect_said (const char *what);

/* The connection comes, has its turn, and goes. */
void go_up (void);
void turn (void);
void go_down (void);

#endif /* FAKE_NBD_H */
