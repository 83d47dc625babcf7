/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the fuzzers share.  Each is a function LLVMFuzzerTestOneInput in a file
 * of its own, which libFuzzer calls, or standalone.c where there is none.
 */

#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

/* libFuzzer's own mutations; or those of standalone.c. */
size_t LLVMFuzzerMutate (uint8_t *data, size_t size, size_t max_size);

/* A promise was broken: say which, and end the program as a crash does. */
void fuzz_fail (const char *fmt, ...)
  __attribute__ ((noreturn, format (printf, 1, 2)));

/* ---- Input, from its start to its end; then zeros ---- */

struct fuzz_input {
  const uint8_t *at, *end;
};

static inline size_t
fuzz_left (const struct fuzz_input *in)
{
  return (size_t) (in->end - in->at);
}

static inline uint64_t
fuzz_take (struct fuzz_input *in, unsigned bytes)
{
  uint64_t v = 0;
  unsigned i;

  for (i = 0; i < bytes && in->at < in->end; i++)
    v |= (uint64_t) *in->at++ << 8 * i;
  return v;
}

/* ---- A directory for files that must be real ---- */

/* Make it, once; it goes when the program ends. */
const char *fuzz_directory (void);

/* The path of a file there, to be freed. */
char *fuzz_path (const char *name);

#endif /* FUZZ_H */
