/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The progress bar of commands that take long, and how a signal ends them. */

#include <config.h>

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define BAR_MAX 60u
#define BAR_OTHERS 20u          /* the columns beside the bar */

static volatile sig_atomic_t asked_to_stop;

static atomic_bool bar_shown;   /* any thread may have something to say */

/* A second signal ends the program at once: the image then counts as
 * dirty.
 */
static void
stop (int signal)
{
  (void) signal;
  asked_to_stop = 1;
}

static uint64_t
tenths (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * 10 + (uint64_t) now.tv_nsec / 100000000;
}

static unsigned
bar_width (void)
{
  struct winsize size;

  if (ioctl (STDERR_FILENO, TIOCGWINSZ, &size) == -1 ||
      size.ws_col > BAR_MAX + BAR_OTHERS)
    return BAR_MAX;
  return size.ws_col > BAR_OTHERS + 10 ? size.ws_col - BAR_OTHERS : 10;
}

static void
draw (struct ctl_progress *progress, uint64_t done, uint64_t total)
{
  unsigned width = bar_width (), filled, i;
  double share = total > 0 ? (double) done / (double) total : 1;

  if (share > 1)
    share = 1;
  filled = (unsigned) (share * width);
  fprintf (stderr, "\r%-9s [", progress->what);
  for (i = 0; i < width; i++)
    putc (i < filled ? '#' : '-', stderr);
  fprintf (stderr, "] %3u %%", (unsigned) (share * 100));
  fflush (stderr);
  bar_shown = true;
}

void
ctl_progress_hide (void)
{
  if (atomic_exchange (&bar_shown, false))
    fprintf (stderr, "\r%*s\r", (int) (bar_width () + BAR_OTHERS), "");
}

/* Ten times a second is enough for the eye. */
static int
tell (void *opaque, uint64_t done, uint64_t total)
{
  struct ctl_progress *progress = opaque;
  uint64_t now;

  if (progress->terminal) {
    now = tenths ();
    if (now != progress->drawn_at)
      draw (progress, done, total);
    progress->drawn_at = now;
  }
  return asked_to_stop;
}

void
ctl_progress_start (struct ctl_progress *progress, const char *what)
{
  struct sigaction action = { .sa_handler = stop };

  *progress = (struct ctl_progress) {
    .progress = { .fn = tell, .opaque = progress },
    .what = what,
    .terminal = isatty (STDERR_FILENO) == 1,
  };
  asked_to_stop = 0;
  action.sa_flags = (int) SA_RESETHAND;
  sigemptyset (&action.sa_mask);
  sigaction (SIGINT, &action, NULL);
  sigaction (SIGTERM, &action, NULL);
  sigaction (SIGHUP, &action, NULL);
}

bool
ctl_progress_end (struct ctl_progress *progress)
{
  signal (SIGINT, SIG_DFL);
  signal (SIGTERM, SIG_DFL);
  signal (SIGHUP, SIG_DFL);
  ctl_progress_hide ();
  if (asked_to_stop)
    ctl_error ("%s: stopped by a signal", progress->what);
  return asked_to_stop;
}
