/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A flat model of a disk: what a read may return when many requests were in
 * flight at once.  Nothing in here talks to a server.
 *
 * Every change of the disk (write, zero, trim) is a record with the times, on
 * a logical clock, at which it was issued and completed.  Each 512-byte
 * sector keeps the list of records that touch it, and of each byte is asked
 * which of those that cover it may still be seen:
 *
 *   - a record v is superseded, for a read issued at time t, once there is a
 *     record w that covers the byte, was issued after v had completed, and
 *     completed before t;
 *   - what is not superseded may be returned.  So writes that were in flight
 *     together may win in any order, byte by byte, and a read that overlaps
 *     a write may return the old or the new byte: no more than that is
 *     promised by NBD, and no less is accepted here;
 *   - once a read has seen a sector that nothing was changing, its bytes are
 *     settled: every later read must return the same.
 *
 * After a crash (model_check with 'crash') only records that were durable
 * supersede: those completed before a flush was issued that completed, and
 * completed FUA requests.  Whatever came later may or may not be there.
 *
 * The bytes of a write are a bijective mix of (record number, offset), word
 * by word, so that data found in the wrong place or time can be named.
 */

#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct model;

enum model_kind {
  MODEL_WRITE,                  /* a pattern that names record and offset */
  MODEL_ZERO,                   /* zeros */
  MODEL_TRIM,                   /* zeros, or what was there before */
};

/* A disk of zeros.  'key' is mixed into all patterns. */
struct model *model_new (uint64_t size, uint64_t key);
void model_free (struct model *m);

/* The disk held this file's content at first, and zeros only behind its end:
 * to be called before anything else is done with a new or loaded model.
 */
void model_set_initial (struct model *m, const char *path);

uint64_t model_size (const struct model *m);
uint64_t model_key (const struct model *m);

/* The number of records so far. */
uint32_t model_records (const struct model *m);

/* The next moment of the logical clock; for reads and flushes, which have no
 * record.
 */
uint64_t model_tick (struct model *m);

/* A change is about to be sent: returns its record number. */
uint32_t model_issue (struct model *m, enum model_kind kind, uint64_t offset,
                      uint64_t count);

/* Fill 'buf' with what record 'seq' (of MODEL_WRITE) writes. */
void model_fill (const struct model *m, uint32_t seq, unsigned char *buf);

/* The change was answered.  One that failed may have happened or not. */
void model_complete (struct model *m, uint32_t seq, bool ok, bool fua);

/* The server was killed: what wasn't answered may have happened or not. */
void model_server_died (struct model *m);

/* After a crash all was read, with 'crash': that is the truth from now on. */
void model_crash_seen (struct model *m);

/* A flush completed that had been issued at that time. */
void model_flushed (struct model *m, uint64_t issued);

/* No read that was issued before 'oldest' is still under way. */
void model_set_horizon (struct model *m, uint64_t oldest);

/* Check what a read returned that was issued at time 'issued'.  Returns true
 * if every byte may be so; else prints the first wrong byte, what it may be,
 * where the value found belongs, and how many bytes are wrong.
 */
bool model_check (struct model *m, uint64_t offset, uint64_t count,
                  const unsigned char *buf, uint64_t issued, bool crash,
                  FILE *report);

/* The first stretch at or after 'offset' that any record touched, rounded to
 * MODEL_CHUNK: returns false if there is none.
 */
#define MODEL_CHUNK (UINT64_C (1) << 20)
bool model_next_touched (const struct model *m, uint64_t offset,
                         uint64_t *start);

/* Write the disk's content to a raw file; all of it must have been checked
 * since its last change.
 */
void model_dump (const struct model *m, const char *path);

/* Keep a model in a file (of this host's byte order), without what it held at
 * first.  All that have a path exit the program with status 2 and a message
 * when the file can't be had.
 */
void model_save (const struct model *m, const char *path);
struct model *model_load (const char *path);

#endif /* MODEL_H */
