/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A storage in memory for unit tests, whose calls can be made to fail or to
 * wait, and which remembers what was called.  Any thread.
 */

#ifndef FAKE_STORAGE_H
#define FAKE_STORAGE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "storage.h"

enum fake_op {
  FAKE_READ,
  FAKE_WRITE,
  FAKE_ZERO,
  FAKE_RESIZE,                  /* its offset is the new length */
  FAKE_SYNC,                    /* offset 0 */
  FAKE_ANY,                     /* in a rule: all of them */
};

struct fake_call {
  enum fake_op op;
  uint64_t offset, count;
};

/* What happens to calls that touch from..to-1. */
struct fake_rule {
  enum fake_op op;
  uint64_t from, to;
  int error;                    /* what they return, or 0: they wait */
  unsigned times;               /* so often, then no more */
  unsigned skip;                /* but that many calls pass before */
  uint64_t at_least;            /* only calls of so many bytes */
};

#define FAKE_PAGE UINT64_C (4096)
#define FAKE_RULES 4u
#define FAKE_CALLS 4096u
#define FAKE_ALWAYS UINT32_MAX

struct fake_storage {
  struct storage storage;
  uint64_t max;                 /* bytes that there's room for */
  unsigned char *data;
  bool sparse;                  /* pages of zeros are holes */

  pthread_mutex_t lock;         /* protects all that follows, and the data */
  pthread_cond_t changed;
  uint64_t length;
  struct fake_rule rules[FAKE_RULES];
  unsigned held;                /* calls that wait */
  struct fake_call calls[FAKE_CALLS];
  size_t call_count;
  bool closed;                  /* by the engine */
};

/* A file of 'length' zeros that can grow to 'max' bytes. */
struct fake_storage *fake_new (uint64_t length, uint64_t max);

/* After the engine has closed it, if it ever had it. */
void fake_free (struct fake_storage *fake);

/* Write the header and the empty L1 table of an image. */
void fake_format (struct fake_storage *fake,
                  const struct format_header *header);

/* Let the next 'times' calls that touch a range fail, or wait (error 0) until
 * they are let go.
 */
void fake_rule_add (struct fake_storage *fake, enum fake_op op, uint64_t from,
                    uint64_t to, int error, unsigned times);
void fake_rule_add_full (struct fake_storage *fake, struct fake_rule rule);

/* Drop the rules that let calls wait, or all rules. */
void fake_let_go (struct fake_storage *fake);
void fake_drop_rules (struct fake_storage *fake);

/* Until so many calls wait. */
void fake_wait_held (struct fake_storage *fake, unsigned n);

/* Look at the content, beside the engine. */
void fake_peek (struct fake_storage *fake, void *buf, size_t count,
                uint64_t offset);
void fake_poke (struct fake_storage *fake, const void *buf, size_t count,
                uint64_t offset);
uint64_t fake_peek64 (struct fake_storage *fake, uint64_t offset);
void fake_poke64 (struct fake_storage *fake, uint64_t offset, uint64_t value);

/* The calls since fake_forget. */
void fake_forget (struct fake_storage *fake);
size_t fake_calls (struct fake_storage *fake, enum fake_op op);

#endif /* FAKE_STORAGE_H */
