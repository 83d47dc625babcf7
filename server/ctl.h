/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl: what its commands share. */

#ifndef QED_CTL_H
#define QED_CTL_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "qed.h"

/* Exit status of all commands but check and repair. */
#define CTL_OK 0
#define CTL_FAILED 1

/* ---- Commands ---------------------------------------------------------- */

struct ctl_command {
  const char *name;
  const char *arguments;        /* after the name, in one line of usage */
  const char *summary;          /* one sentence, without a full stop */
  const char *help;             /* the options, as printed by --help */
  /* argv[0] is the command's name.  Returns the exit status. */
  int (*run) (const struct ctl_command *command, int argc, char **argv);
};

extern const struct ctl_command ctl_activate_command;
extern const struct ctl_command ctl_check_command;
extern const struct ctl_command ctl_commit_command;
extern const struct ctl_command ctl_create_command;
extern const struct ctl_command ctl_explain_command;
extern const struct ctl_command ctl_flush_command;
extern const struct ctl_command ctl_info_command;
extern const struct ctl_command ctl_list_command;
extern const struct ctl_command ctl_map_command;
extern const struct ctl_command ctl_metrics_command;
extern const struct ctl_command ctl_rebase_command;
extern const struct ctl_command ctl_release_command;
extern const struct ctl_command ctl_resize_command;
extern const struct ctl_command ctl_status_command;
extern const struct ctl_command ctl_top_command;
extern const struct ctl_command ctl_undo_command;

/* ---- Options ----------------------------------------------------------- */

/* Values of options that have no letter. */
#define CTL_OPT_FIRST 256

/* An option's place in a list of those that were given. */
struct ctl_options {
  const struct ctl_command *command;
  const struct option *longopts;
  const char *shortopts;        /* begins with ':' */
  bool given[64];               /* by index in longopts */
};

/* What ctl_options_next returns beside the options' values. */
#define CTL_OPTIONS_END -1
#define CTL_OPTIONS_EXIT -2     /* help was printed or a message written */

/* The next option.  --help is printed here (*status is 0); an unknown
 * option, a missing or superfluous value and an option given twice get their
 * one line (*status is CTL_FAILED).
 */
int ctl_options_next (struct ctl_options *options, int argc, char **argv,
                      int *status);

/* Check the number of arguments that are not options. */
bool ctl_arguments (const struct ctl_command *command, int argc, int count);

/* Parse "10G", "512", "64KiB": suffixes K M G T P E are powers of 1024.  On
 * failure a message names 'what'.
 */
bool ctl_parse_size (const char *what, const char *text, uint64_t *size);

/* What --allow-backing says: "beside", "any" or a directory.  False, with a
 * message, if there is no such directory.
 */
bool ctl_parse_allow_backing (const char *text, struct qed_options *options);

/* ---- Messages ---------------------------------------------------------- */

/* "qedctl: MESSAGE" in one line on stderr. */
void ctl_error (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));

/* Unless it is NULL, to be called before a message is written: who has taken
 * the terminal gives it back.
 */
extern void (*ctl_before_error) (void);

/* Write out what was printed on stdout: the exit status, with a message if
 * that failed.
 */
int ctl_end_output (void);

/* The engine's messages to stderr, as ctl_error does. */
void ctl_log_init (struct qed_log *log);

/* ---- Text -------------------------------------------------------------- */

/* A string that a stranger may have made, harmless for a terminal: whatever
 * is not printable text, and the backslash, becomes \xNN.  To be freed; NULL
 * without memory.
 */
char *ctl_escape (const char *s);

/* The same in place, for what has no room for that: each byte becomes a '?'.
 */
void ctl_make_harmless (char *s);

/* The bytes of the character at s; 0 if the byte there must not be shown. */
size_t ctl_printable_length (const char *s);

/* Print JSON as jansson does with these flags, but with all control characters
 * escaped.  0, or -1 on failure.
 */
struct json_t;
int ctl_json_print (const struct json_t *json, FILE *f, size_t flags);

/* A number of bytes, for people: "10 GiB", "1.50 MiB". */
#define CTL_SIZE_TEXT 32
void ctl_size_to_text (uint64_t bytes, char text[CTL_SIZE_TEXT]);

/* ---- Files that are written whole or not at all ------------------------ */

/* A new file that takes the place of 'path' when it is complete. */
struct ctl_file {
  FILE *stream;
  const char *path;
  char *temporary;
};

/* Start one, in the same directory.  What 'path' leads to must be a regular
 * file, if it is there.  False, with a message, on failure.
 */
bool ctl_file_begin (struct ctl_file *file, const char *path);

/* Put it in place; or (not 'ok') drop it.  False, with a message, if it
 * should be put in place and wasn't.
 */
bool ctl_file_end (struct ctl_file *file, bool ok);

/* ---- Long work --------------------------------------------------------- */

/* A bar on stderr, if that is a terminal, and a way to stop: from the start
 * on SIGINT, SIGTERM and SIGHUP only ask for the end, which the engine grants
 * at the next piece.  One at a time.
 */
struct ctl_progress {
  struct qed_progress progress; /* for the engine */
  const char *what;             /* "commit" */
  bool terminal;
  uint64_t drawn_at;            /* in tenths of seconds */
};

void ctl_progress_start (struct ctl_progress *progress, const char *what);

/* Make room for a message; the bar comes back by itself.  Any thread. */
void ctl_progress_hide (void);

/* Remove the bar.  True, with a message, if a signal asked for the end. */
bool ctl_progress_end (struct ctl_progress *progress);

/* ---- Reports ----------------------------------------------------------- */

/* What a command tells about one object, said once and printed as aligned
 * text or as a JSON object.  'key' is the JSON name, NULL for text only;
 * 'label' the text's, NULL for JSON only.  Running out of memory is
 * remembered and reported by ctl_report_print.
 */
struct ctl_report;

struct ctl_report *ctl_report_new (void);
void ctl_report_string (struct ctl_report *report, const char *key,
                        const char *label, const char *value);
void ctl_report_bool (struct ctl_report *report, const char *key,
                      const char *label, bool value);
/* A number of bytes: "10 GiB (10737418240 bytes)". */
void ctl_report_size (struct ctl_report *report, const char *key,
                      const char *label, uint64_t bytes);
/* A number with its unit in the text: "4 clusters"; unit may be "". */
void ctl_report_number (struct ctl_report *report, const char *key,
                        const char *label, uint64_t value, const char *unit);
/* A set of bits, of an offset too: "0x...", in JSON a string, since not all
 * readers carry 64 bits.
 */
void ctl_report_bits (struct ctl_report *report, const char *key,
                      const char *label, uint64_t bits);
/* A list of words, ended by NULL; "none" in the text if there is none. */
void ctl_report_words (struct ctl_report *report, const char *key,
                       const char *label, const char *const *words);

/* For JSON only; takes over 'value', which is a json_t. */
void ctl_report_json (struct ctl_report *report, const char *key,
                      struct json_t *value);

/* Print on stdout and free.  False, with a message, if that failed. */
bool ctl_report_print (struct ctl_report *report, bool json);

/* The same for a JSON object whose first members, each with a comma behind
 * it, were printed already.
 */
bool ctl_report_print_rest (struct ctl_report *report);

/* The report of an image, for those who know or have just made it. */
bool ctl_info_print (const char *path, const struct qed_info *info, bool json);

#endif /* QED_CTL_H */
