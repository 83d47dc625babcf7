/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Bytes of a file, for tests that change an image, or an undo file, which
 * nobody has open.  Offsets and sizes are in bytes; the test fails where a call
 * does.
 */

#ifndef FILE_BYTES_H
#define FILE_BYTES_H

#include <stddef.h>
#include <stdint.h>

/* Make a file that holds this, in place of any that is there. */
void store_file (const char *name, const void *buf, size_t n);

/* Overwrite a part of a file. */
void poke_file (const char *name, uint64_t at, const void *buf, size_t n);

/* Numbers as the format has them, little-endian. */
void poke_file64 (const char *name, uint64_t at, uint64_t value);
uint64_t peek_file64 (const char *name, uint64_t at);

#endif /* FILE_BYTES_H */
