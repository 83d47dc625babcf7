/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl top: what its parts promise each other.
 *
 * ctl-top.c asks the server now and then; ctl-top-rates.c makes rates of two
 * replies; ctl-top-screen.c is the terminal.
 */

#ifndef QED_CTL_TOP_H
#define QED_CTL_TOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* ---- ctl-top-rates.c --------------------------------------------------- */

#define TOP_BUCKETS_MAX 64u

/* What requests came to between two replies, of one image or of several. */
struct top_rates {
  uint64_t reads, writes, others;
  uint64_t read_bytes, write_bytes;
  uint64_t count;               /* of all of them */
  double seconds;               /* that they took */
  uint64_t latency[TOP_BUCKETS_MAX]; /* the server's buckets */
};

/* Add what an image's counters in 'now' have more than in 'before'; all of
 * them if that is NULL, or the image was opened anew meanwhile.
 */
void top_rates_add (struct top_rates *rates, const json_t *now,
                    const json_t *before);

/* In seconds, negative if there was no request.  The percentile is estimated
 * within its bucket; beyond the last bound it is that bound, and *more is set.
 */
double top_rates_mean (const struct top_rates *rates);
double top_rates_percentile (const struct top_rates *rates,
                             const json_t *bounds, double percent,
                             bool *more);

/* ---- ctl-top-screen.c -------------------------------------------------- */

struct top_screen {
  bool on;                      /* stdout is a terminal */
  unsigned lines, columns;      /* UINT_MAX without a terminal */
};

/* Take the terminal, if 'want', to be given back by the end.  Until then
 * signals are let in only by top_screen_wait.
 */
void top_screen_begin (struct top_screen *screen, bool want);
void top_screen_end (void);

/* Whether a signal is there that asks for the end. */
bool top_screen_interrupted (void);

enum top_event { TOP_TIME, TOP_REDRAW, TOP_QUIT };

/* Wait for what comes first: the moment (CLOCK_MONOTONIC, in seconds), a new
 * size of the terminal, or the end that was asked for.
 */
enum top_event top_screen_wait (struct top_screen *screen, double until);

/* A picture begins; a line of it, which is cut to the width; it is complete.
 * Without a terminal they are just printed.
 */
void top_screen_draw (const struct top_screen *screen);
void top_screen_line (const struct top_screen *screen, const char *text,
                      bool heading);
void top_screen_drawn (const struct top_screen *screen);

double top_now (void);

#endif /* QED_CTL_TOP_H */
