/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Test data that says who wrote it where: each aligned 8-byte word is a
 * bijective mix of a number (24 bits) and its own place (40 bits, enough for
 * 8 TiB), so that every byte of it differs from its neighbours' and the word
 * can be decoded when it is found in the wrong place.
 */

#ifndef PATTERN_H
#define PATTERN_H

#include <stdint.h>

/* Offsets beyond this look like those below it. */
#define PATTERN_SPAN (UINT64_C (1) << 43)

/* A bijection whose every output bit depends on every input bit. */
uint64_t pattern_mix (uint64_t x);

/* The byte at 'offset' that 'number' writes. */
unsigned char pattern_byte (uint64_t key, uint32_t number, uint64_t offset);

/* Fill 'buf' with 'count' of them. */
void pattern_fill (uint64_t key, uint32_t number, uint64_t offset,
                   uint64_t count, unsigned char *buf);

/* Decode the 8 bytes of an aligned word. */
void pattern_decode (uint64_t key, const unsigned char *word,
                     uint32_t *number, uint64_t *offset);

#endif /* PATTERN_H */
