/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The layout of the control export, for the server and for qedctl.
 * docs/qed-control.pod explains it.  Numbers are big-endian; offsets and
 * lengths are bytes.
 */

#ifndef SERVER_MAILBOX_H
#define SERVER_MAILBOX_H

#include <stddef.h>
#include <stdint.h>

#define MAILBOX_NAME "qed-control"
#define MAILBOX_DESCRIPTION "nbdkit-qed control"
#define MAILBOX_BYTES (UINT64_C (4) << 20)
#define MAILBOX_VERSION 1u

/* The identity, at 0. */
#define MAILBOX_MAGIC "nbdkit-qed mail\n"
#define MAILBOX_MAGIC_BYTES 16u
#define MAILBOX_AT_VERSION 16u          /* u32 */
#define MAILBOX_AT_RIGHTS 20u           /* u32, MAILBOX_RIGHTS_... */
#define MAILBOX_AT_PLACES 24u           /* three times u64 offset, length:
                                         * progress, request, reply */
#define MAILBOX_IDENTITY_BYTES 72u
#define MAILBOX_RIGHTS_CHECK 1u
#define MAILBOX_RIGHTS_ADMIN 2u

/* Each of the three begins with a header. */
#define MAILBOX_HEADER_BYTES 16u
#define MAILBOX_HEADER_SEQUENCE 0u      /* u64: of the request */
#define MAILBOX_HEADER_STATE 8u         /* u32: see below */
#define MAILBOX_HEADER_LENGTH 12u       /* u32: of the text behind it */

/* Progress: the state is the number of events so far. */
#define MAILBOX_PROGRESS UINT64_C (0x1000)
#define MAILBOX_PROGRESS_BYTES 4096u

/* Request: the state is 0. */
#define MAILBOX_REQUEST UINT64_C (0x10000)
#define MAILBOX_REQUEST_BYTES (MAILBOX_HEADER_BYTES + (64u << 10))

/* Reply. */
#define MAILBOX_REPLY UINT64_C (0x100000)
#define MAILBOX_REPLY_BYTES (MAILBOX_HEADER_BYTES + (2u << 20))
#define MAILBOX_NONE 0u
#define MAILBOX_WORKING 1u
#define MAILBOX_COMPLETE 2u

static inline void
mailbox_put32 (unsigned char *p, uint32_t v)
{
  p[0] = v >> 24;
  p[1] = v >> 16 & 255;
  p[2] = v >> 8 & 255;
  p[3] = v & 255;
}

static inline uint32_t
mailbox_get32 (const unsigned char *p)
{
  return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 |
    (uint32_t) p[2] << 8 | p[3];
}

static inline void
mailbox_put64 (unsigned char *p, uint64_t v)
{
  mailbox_put32 (p, v >> 32);
  mailbox_put32 (p + 4, v & UINT32_MAX);
}

static inline uint64_t
mailbox_get64 (const unsigned char *p)
{
  return (uint64_t) mailbox_get32 (p) << 32 | mailbox_get32 (p + 4);
}

#endif /* SERVER_MAILBOX_H */
