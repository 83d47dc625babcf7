/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl top: the terminal.
 *
 * It has another screen while we use it, so that the one before comes back.
 * Signals are blocked but in ppoll: none is lost between a look at what came
 * and the wait, and whoever waits gives the terminal back before it ends.
 */

#include <config.h>

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"
#include "ctl-top.h"

#define ENTER "\033[?1049h\033[?25l"
#define LEAVE "\033[?25h\033[?1049l"
#define HOME "\033[H"
#define REST_OF_LINE "\033[K"
#define REST_OF_SCREEN "\033[J"
#define REVERSE "\033[7m"
#define PLAIN "\033[0m"

static volatile sig_atomic_t got_end, got_stop;

static bool taken;
static bool keys;               /* stdin is a terminal, and gives single keys */
static struct termios keys_before;
static sigset_t mask_before, mask_waiting;

double
top_now (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static void
note (int signal)
{
  if (signal == SIGTSTP)
    got_stop = 1;
  else if (signal != SIGWINCH)
    got_end = 1;
}

/* ---- Taking the terminal ----------------------------------------------- */

static void
enter (void)
{
  struct termios raw;

  fputs (ENTER, stdout);
  keys = tcgetattr (STDIN_FILENO, &keys_before) == 0;
  if (!keys)
    return;
  raw = keys_before;
  raw.c_lflag &= ~(tcflag_t) (ICANON | ECHO);
  raw.c_cc[VMIN] = 0;
  raw.c_cc[VTIME] = 0;
  tcsetattr (STDIN_FILENO, TCSADRAIN, &raw);
}

static void
leave (void)
{
  fputs (LEAVE, stdout);
  fflush (stdout);
  if (keys)
    tcsetattr (STDIN_FILENO, TCSADRAIN, &keys_before);
}

static void
catch_signals (void)
{
  static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGWINCH };
  struct sigaction action = { .sa_handler = note };
  sigset_t ours;
  size_t i;

  sigemptyset (&action.sa_mask);
  sigemptyset (&ours);
  for (i = 0; i < sizeof signals / sizeof signals[0]; i++) {
    sigaddset (&ours, signals[i]);
    sigaction (signals[i], &action, NULL);
  }
  sigprocmask (SIG_BLOCK, &ours, &mask_before);
  mask_waiting = mask_before;
  for (i = 0; i < sizeof signals / sizeof signals[0]; i++)
    sigdelset (&mask_waiting, signals[i]);
}

static void
measure (struct top_screen *screen)
{
  struct winsize size;

  screen->lines = 24;
  screen->columns = 80;
  if (ioctl (STDOUT_FILENO, TIOCGWINSZ, &size) == -1)
    return;
  if (size.ws_row > 0)
    screen->lines = size.ws_row;
  if (size.ws_col > 0)
    screen->columns = size.ws_col;
}

void
top_screen_begin (struct top_screen *screen, bool want)
{
  *screen = (struct top_screen) {
    .on = want && isatty (STDOUT_FILENO) == 1,
    .lines = UINT_MAX, .columns = UINT_MAX,
  };
  if (!screen->on)
    return;
  catch_signals ();
  enter ();
  taken = true;
  ctl_before_error = top_screen_end;
  measure (screen);
}

void
top_screen_end (void)
{
  if (!taken)
    return;
  taken = false;
  ctl_before_error = NULL;
  leave ();
  sigprocmask (SIG_SETMASK, &mask_before, NULL);
}

bool
top_screen_interrupted (void)
{
  sigset_t pending;

  if (!taken)
    return false;
  sigpending (&pending);
  return sigismember (&pending, SIGINT) || sigismember (&pending, SIGTERM) ||
    sigismember (&pending, SIGHUP);
}

/* ---- Waiting ----------------------------------------------------------- */

/* Whether a key was pressed that asks for the end. */
static bool
quit_key (void)
{
  char buf[64];
  ssize_t n = read (STDIN_FILENO, buf, sizeof buf);

  if (n <= 0) {
    keys = n == 0 ? keys : false;
    return false;
  }
  return memchr (buf, 'q', (size_t) n) != NULL ||
    memchr (buf, 'Q', (size_t) n) != NULL;
}

/* Ctrl-Z: the terminal is given back meanwhile. */
static void
stop (void)
{
  got_stop = 0;
  leave ();
  raise (SIGSTOP);
  enter ();
}

enum top_event
top_screen_wait (struct top_screen *screen, double until)
{
  struct pollfd fd = { .fd = keys ? STDIN_FILENO : -1, .events = POLLIN };
  double left = until - top_now ();
  struct timespec timeout;
  int r;

  if (left < 0)
    left = 0;
  timeout.tv_sec = (time_t) left;
  timeout.tv_nsec = (long) ((left - (double) timeout.tv_sec) * 1e9);
  r = ppoll (&fd, 1, &timeout, screen->on ? &mask_waiting : NULL);
  if (got_end || (r > 0 && (fd.revents & (POLLHUP | POLLERR))))
    return TOP_QUIT;
  if (r > 0)
    return quit_key () ? TOP_QUIT : TOP_REDRAW;
  if (got_stop)
    stop ();
  if (screen->on)
    measure (screen);
  return r == 0 ? TOP_TIME : TOP_REDRAW;
}

/* ---- Drawing ----------------------------------------------------------- */

void
top_screen_draw (const struct top_screen *screen)
{
  if (screen->on)
    fputs (HOME, stdout);
}

/* How much of a line there is room for; characters of several bytes count as
 * that many columns, and stay whole.
 */
static int
visible (const char *text, unsigned columns)
{
  size_t n = strlen (text);

  if (n > columns) {
    n = columns;
    while (n > 0 && ((unsigned char) text[n] & 0xc0) == 0x80)
      n--;
  }
  return (int) n;
}

void
top_screen_line (const struct top_screen *screen, const char *text,
                 bool heading)
{
  if (!screen->on) {
    puts (text);
    return;
  }
  printf ("%s%.*s%s" REST_OF_LINE "\r\n", heading ? REVERSE : "",
          visible (text, screen->columns), text, heading ? PLAIN : "");
}

void
top_screen_drawn (const struct top_screen *screen)
{
  if (screen->on)
    fputs (REST_OF_SCREEN, stdout);
}
