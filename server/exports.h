/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The exports, and the open images behind them.
 *
 * With file= there is one, open from .get_ready to .cleanup.  With dir= each
 * image in the directory is one: it is opened for its first client and closed,
 * cleanly, some seconds after its last one has left, so that it can be handed
 * to other programs.  All clients of an image share one engine.
 *
 * The image of file= may be handed over to another server while it has clients
 * (qed/handover.h): the export stays.
 *
 * What returns -1 or NULL has logged one line that says why.
 */

#ifndef SERVER_EXPORTS_H
#define SERVER_EXPORTS_H

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "handover.h"

/* Scripts and our own tools recognise exports of ours by it. */
#define EXPORT_DESCRIPTION QED_EXPORT_DESCRIPTION

struct export;

/* Before the fork: what is wrong with the image or the directory fails nbdkit
 * here, where an operator sees it.
 */
int exports_open (void);

/* After the fork, which no thread survives. */
int exports_start (void);

/* Close all.  There are no clients any more.  Also after a server that failed
 * to start; a second call does nothing.
 */
void exports_close (void);

/* For a client that asks for a list, or names none.  exports_default returns
 * a name to be freed; NULL, without a message, if there is not just one.
 */
int exports_list (struct nbdkit_exports *list);
char *exports_default (void);

/* A client comes and goes.  export_acquire may wait until another client's
 * open, or a close, is done.  On failure nbdkit's error is set.
 */
struct export *export_acquire (const char *name);
void export_release (struct export *export);

/* For as long as it is acquired, or pinned.  The image is in the slot; for one
 * that is pinned it is there.  The name is one of those that clients use for
 * it.
 */
struct qed_slot *export_slot (const struct export *export);
struct qed_image *export_image (const struct export *export);
const char *export_path (const struct export *export);
const char *export_name (const struct export *export);

/* ---- Counters ---------------------------------------------------------- */

enum export_request {
  EXPORT_READ,
  EXPORT_WRITE,
  EXPORT_FLUSH,
  EXPORT_TRIM,
  EXPORT_ZERO,
  EXPORT_CACHE,
  EXPORT_BLOCK_STATUS,
};
#define EXPORT_REQUESTS 7u

/* How long requests took is counted by bounds (requests.h). */
#define EXPORT_LATENCY_BUCKETS 20u

/* What clients asked for since the image was opened.  Added to in relaxed
 * order, on cache lines of their own; the first buckets, which most requests
 * are in, share one with the sums.
 */
#define EXPORT_COUNTERS_ALIGN 64

struct export_counter {
  _Alignas (EXPORT_COUNTERS_ALIGN) _Atomic uint64_t bytes;
  _Atomic uint64_t ns;
  _Atomic uint64_t latency[EXPORT_LATENCY_BUCKETS];
};

/* How many lines about failures were logged lately (requests.c). */
struct export_log_limit {
  uint64_t began_ns;
  uint64_t told_ns;             /* of those that were dropped */
  unsigned lines;
  _Atomic uint64_t dropped;
};

struct export_counters {
  struct export_counter kinds[EXPORT_REQUESTS];
  _Alignas (EXPORT_COUNTERS_ALIGN) _Atomic uint64_t errors;
  struct export_log_limit log;
};

struct export_counters *export_counters (struct export *export);

/* ---- For the admin door (any thread) ----------------------------------- */

enum export_state {
  EXPORT_OPENING,
  EXPORT_OPEN,
  EXPORT_CLOSING,
  EXPORT_CLOSED,                /* not in use */
  EXPORT_STANDBY,               /* the others are those of qed/handover.h */
  EXPORT_ACTIVATING,
  EXPORT_RELEASING,
  EXPORT_RELEASED,
  EXPORT_FAILED,
};
#define EXPORT_STATES 9u

/* Hold an image so that it stays open, without being a client of it.  The
 * name is one that clients may use.  If it isn't open, 'open' says whether to
 * open it as for a client; else *export is NULL, as it is if the image isn't
 * ours now.  -1 if there is no such image or it can't be opened.
 */
int export_pin (const char *name, bool open, struct export **export);
void export_unpin (struct export *export);

/* Pin all that are open; returns how many. */
size_t exports_pin_open (struct export **list, size_t max);

enum export_state export_state (const struct qed_file_id *id,
                                unsigned *clients);

struct export_entry {
  char *name;
  struct qed_file_id id;
  enum export_state state;
  unsigned clients;
};

struct export_entries {
  struct export_entry *list;
  size_t count;
};

/* All that can be served, sorted by name.  To be ended in any case. */
int exports_look (struct export_entries *entries);
void exports_look_end (struct export_entries *entries);

/* The image of file=, whoever has it now; and its export, whose image is not
 * to be used.
 */
void exports_look_at_file (struct export_entry *entry);
struct export *exports_file (void);

/* Hand over the image of file=, as qed_slot_release and qed_slot_activate
 * say.
 */
int exports_release_file (void);
int exports_activate_file (void);

#endif /* SERVER_EXPORTS_H */
