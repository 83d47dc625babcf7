/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The plugin's parameters: one table, read while nbdkit reads its command
 * line.  On one thread.
 */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "mailbox.h"
#include "plugin.h"

/* More than a day is surely a mistake. */
#define SECONDS_MAX 86400u

/* More memory than a host has to spare. */
#define METADATA_CACHE_MAX (UINT64_C (1) << 40)

struct plugin_config plugin_config;

static char *absolute_path;     /* what options.path points at */
static char *remote_name;       /* what plugin_config.name does, of a URI */
static char *directory;         /* likewise */
static char *backing_directory; /* likewise */
static char *pending_directory; /* likewise, of pending_directories */
static char *control_path;      /* what plugin_config.control points at */

const char plugin_config_help[] =
  "[file=]<IMAGE>     (required, or dir) The QED image to serve; or the URI of\n"
  "                   another NBD server's export (nbd://...) that holds the\n"
  "                   image file, and that nobody else uses.\n"
  "dir=<DIRECTORY>    (required, or file) Serve each *.qed in the directory,\n"
  "                   as an export of its file name.  It is open only while\n"
  "                   it has clients, and some seconds longer.\n"
  "backing=beside|any|none|<DIRECTORY>\n"
  "                   Which backing files may be opened: those in the image's\n"
  "                   own directory (default), any, none, or those in a\n"
  "                   directory. With \"any\" a name may also be the URI of\n"
  "                   an NBD server's export, whose content is raw.\n"
  "check=auto|always|never\n"
  "                   What happens at open to an image that was not closed\n"
  "                   cleanly: what a crash left is repaired (default); the\n"
  "                   same, and an image that is only read is checked too;\n"
  "                   or it is served read-only.\n"
  "clean-after=<SECONDS>\n"
  "                   Idle time after which the image is marked clean\n"
  "                   (default 5; 0: only when the server ends).\n"
  "control=<SOCKET>   Make a Unix socket on which root and the server's own\n"
  "                   user can look at images, check and repair them while\n"
  "                   they are served: qedctl status --control <SOCKET>.\n"
  "control-export=off|check|admin\n"
  "                   Serve an export " MAILBOX_NAME ", not listed, for the\n"
  "                   same from afar: check looks and checks, admin repairs\n"
  "                   too, and is served over TLS or a Unix socket only:\n"
  "                   qedctl status nbds://server/.\n"
  "detect-zeroes=off|on\n"
  "                   Do not store clusters of zeros that a client writes.\n"
  "discard=unmap|ignore\n"
  "                   What trim does: free clusters (default), or nothing.\n"
  "lock=on|off        Lock the image against other programs (default on).\n"
  "metadata-cache=<SIZE>\n"
  "                   Memory for the image's tables (default 64M).\n"
  "on-release=wait|fail\n"
  "                   What clients ask for after qedctl release waits until\n"
  "                   the image is activated again (default), or fails.\n"
  "pending-log=on|off|<DIRECTORY>\n"
  "                   Keep what was acknowledged and not flushed if the server\n"
  "                   is killed (default); or don't; or keep it in this\n"
  "                   directory, which is on tmpfs.\n"
  "standby=off|on     Leave the image alone until the server that has it lets\n"
  "                   it go, or dies; then take over.  With file= only.\n"
  "standby-timeout=<SECONDS>\n"
  "                   So long a client that connects waits for the image\n"
  "                   while another server has it (default 60).";

/* ---- One function for each parameter ----------------------------------- */

/* The value of two hexadecimal digits, -1 if they are none. */
static int
hex_byte (const char *s)
{
  unsigned byte;

  return isxdigit ((unsigned char) s[0]) && isxdigit ((unsigned char) s[1]) &&
    sscanf (s, "%2x", &byte) == 1 ? (int) byte : -1;
}

/* The last part of the export's name in a URI, "" if there is none that could
 * be a file's.  To be freed.
 */
static char *
name_in_uri (const char *uri)
{
  const char *p = strchr (strstr (uri, "://") + 3, '/');
  char *name = calloc (1, strlen (uri) + 1);
  size_t n = 0;
  int c;

  if (name == NULL || p == NULL)
    return name;
  for (p++; *p != '\0' && *p != '?' && *p != '#'; p++) {
    c = (unsigned char) *p;
    if (c == '%' && (c = hex_byte (p + 1)) != -1)
      p += 2;
    if (c < 0x20 || c == 0x7f) {
      n = 0;
      break;
    }
    if (c == '/')
      n = 0;
    else
      name[n++] = (char) c;
  }
  name[n] = '\0';
  return name;
}

static int
parse_uri (const char *value)
{
  absolute_path = strdup (value);
  remote_name = name_in_uri (value);
  if (absolute_path == NULL || remote_name == NULL) {
    nbdkit_error ("file=%s: out of memory", value);
    return -1;
  }
  plugin_config.options.path = absolute_path;
  plugin_config.options.remote = true;
  plugin_config.name = remote_name;
  return 0;
}

static int
parse_file (const char *value)
{
  if (qed_backing_is_nbd (value))
    return parse_uri (value);
  absolute_path = nbdkit_absolute_path (value);
  if (absolute_path == NULL)
    return -1;
  plugin_config.options.path = absolute_path;
  plugin_config.name = strrchr (absolute_path, '/') + 1;
  return 0;
}

static int
parse_dir (const char *value)
{
  struct stat st;

  directory = nbdkit_realpath (value);
  if (directory == NULL)
    return -1;
  if (stat (directory, &st) == -1 || !S_ISDIR (st.st_mode)) {
    nbdkit_error ("dir=%s: is not a directory; one image is served with "
                  "file=%s", value, value);
    return -1;
  }
  plugin_config.directory = directory;
  return 0;
}

static int
parse_backing (const char *value)
{
  struct qed_options *options = &plugin_config.options;

  if (strcmp (value, "beside") == 0)
    options->backing = QED_BACKING_BESIDE;
  else if (strcmp (value, "any") == 0)
    options->backing = QED_BACKING_ANY;
  else if (strcmp (value, "none") == 0)
    options->backing = QED_BACKING_NONE;
  else {
    backing_directory = nbdkit_realpath (value);
    if (backing_directory == NULL)
      return -1;
    options->backing = QED_BACKING_BELOW;
    options->backing_directory = backing_directory;
  }
  return 0;
}

static int
parse_check (const char *value)
{
  if (strcmp (value, "auto") == 0)
    plugin_config.options.check = QED_CHECK_AUTO;
  else if (strcmp (value, "always") == 0)
    plugin_config.options.check = QED_CHECK_ALWAYS;
  else if (strcmp (value, "never") == 0)
    plugin_config.options.check = QED_CHECK_NEVER;
  else {
    nbdkit_error ("check=%s: must be auto, always or never", value);
    return -1;
  }
  return 0;
}

static int
parse_seconds (const char *key, const char *value, unsigned *seconds)
{
  unsigned long n;
  char *end;

  errno = 0;
  n = strtoul (value, &end, 10);
  if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 ||
      n > SECONDS_MAX) {
    nbdkit_error ("%s=%s: must be a number of seconds, 0 to %u", key, value,
                  SECONDS_MAX);
    return -1;
  }
  *seconds = n;
  return 0;
}

static int
parse_clean_after (const char *value)
{
  return parse_seconds ("clean-after", value,
                        &plugin_config.options.clean_after);
}

static int
parse_switch (const char *key, const char *value, bool *on)
{
  if (strcmp (value, "on") == 0)
    *on = true;
  else if (strcmp (value, "off") == 0)
    *on = false;
  else {
    nbdkit_error ("%s=%s: must be on or off", key, value);
    return -1;
  }
  return 0;
}

static int
parse_control (const char *value)
{
  control_path = nbdkit_absolute_path (value);
  if (control_path == NULL)
    return -1;
  plugin_config.control = control_path;
  return 0;
}

static int
parse_control_export (const char *value)
{
  if (strcmp (value, "off") == 0)
    plugin_config.control_export = CONTROL_EXPORT_OFF;
  else if (strcmp (value, "check") == 0)
    plugin_config.control_export = CONTROL_EXPORT_CHECK;
  else if (strcmp (value, "admin") == 0)
    plugin_config.control_export = CONTROL_EXPORT_ADMIN;
  else {
    nbdkit_error ("control-export=%s: must be off, check or admin", value);
    return -1;
  }
  return 0;
}

static int
parse_detect_zeroes (const char *value)
{
  return parse_switch ("detect-zeroes", value,
                       &plugin_config.options.detect_zeroes);
}

static int
parse_lock (const char *value)
{
  return parse_switch ("lock", value, &plugin_config.options.lock);
}

static int
parse_standby (const char *value)
{
  return parse_switch ("standby", value, &plugin_config.standby);
}

static int
parse_standby_timeout (const char *value)
{
  return parse_seconds ("standby-timeout", value,
                        &plugin_config.standby_timeout);
}

static int
parse_on_release (const char *value)
{
  plugin_config.fail_released = strcmp (value, "fail") == 0;
  if (plugin_config.fail_released || strcmp (value, "wait") == 0)
    return 0;
  nbdkit_error ("on-release=%s: must be wait or fail", value);
  return -1;
}

static int
parse_discard (const char *value)
{
  if (strcmp (value, "unmap") == 0)
    plugin_config.options.discard = QED_DISCARD_UNMAP;
  else if (strcmp (value, "ignore") == 0)
    plugin_config.options.discard = QED_DISCARD_IGNORE;
  else {
    nbdkit_error ("discard=%s: must be unmap or ignore", value);
    return -1;
  }
  return 0;
}

/* A number and one letter; not nbdkit_parse_size, whose messages do not name
 * the parameter.  Returns 0 if it is no size or beyond the limit.
 */
static uint64_t
parse_size (const char *value, uint64_t limit)
{
  static const char units[] = "bkmgt";
  const char *unit = units;
  unsigned long long n;
  unsigned shift;
  char *end;

  errno = 0;
  n = strtoull (value, &end, 10);
  if (value[0] < '0' || value[0] > '9' || errno != 0)
    return 0;
  if (*end != '\0') {
    unit = strchr (units, tolower ((unsigned char) *end));
    if (unit == NULL || end[1] != '\0')
      return 0;
  }
  shift = 10 * (unit - units);
  return n <= limit >> shift ? n << shift : 0;
}

static int
parse_metadata_cache (const char *value)
{
  const uint64_t size = parse_size (value, METADATA_CACHE_MAX);

  if (size < QED_METADATA_CACHE_MIN) {
    nbdkit_error ("metadata-cache=%s: must be a size, %" PRIu64 "K to "
                  "%" PRIu64 "G", value, QED_METADATA_CACHE_MIN >> 10,
                  METADATA_CACHE_MAX >> 30);
    return -1;
  }
  plugin_config.options.metadata_cache = size;
  return 0;
}

/* A directory of one's own is the only one. */
static int
parse_pending_log (const char *value)
{
  static const char *only[2];
  struct qed_options *options = &plugin_config.options;

  options->pending = QED_PENDING_LOG;
  if (strcmp (value, "off") == 0)
    options->pending = QED_PENDING_OFF;
  else if (value[0] == '/') {
    free (pending_directory);
    pending_directory = strdup (value);
    if (pending_directory == NULL) {
      nbdkit_error ("out of memory");
      return -1;
    }
    only[0] = pending_directory;
    options->pending_directories = only;
  }
  else if (strcmp (value, "on") != 0) {
    nbdkit_error ("pending-log=%s: must be on, off or an absolute directory "
                  "on tmpfs", value);
    return -1;
  }
  return 0;
}

/* ---- The table --------------------------------------------------------- */

static struct parameter {
  const char *key;
  int (*parse) (const char *value);
  const char *example;          /* for the message when the value is missing */
  bool seen;
} parameters[] = {
  { "backing", parse_backing, "beside", false },
  { "check", parse_check, "auto", false },
  { "clean-after", parse_clean_after, "5", false },
  { "control", parse_control, "/run/disk.control", false },
  { "control-export", parse_control_export, "check", false },
  { "detect-zeroes", parse_detect_zeroes, "off", false },
  { "dir", parse_dir, "/var/lib/disks", false },
  { "discard", parse_discard, "unmap", false },
  { "file", parse_file, "disk.qed", false },
  { "lock", parse_lock, "on", false },
  { "metadata-cache", parse_metadata_cache, "64M", false },
  { "on-release", parse_on_release, "wait", false },
  { "pending-log", parse_pending_log, "on", false },
  { "standby", parse_standby, "on", false },
  { "standby-timeout", parse_standby_timeout, "60", false },
};

static struct parameter *
find_parameter (const char *key)
{
  size_t i;

  for (i = 0; i < sizeof parameters / sizeof parameters[0]; ++i)
    if (strcmp (parameters[i].key, key) == 0)
      return &parameters[i];
  return NULL;
}

void
plugin_config_load (void)
{
  qed_options_init (&plugin_config.options);
  plugin_config.options.pending = QED_PENDING_LOG;
  plugin_config.standby_timeout = STANDBY_TIMEOUT_DEFAULT;
}

void
plugin_config_unload (void)
{
  free (remote_name);
  free (absolute_path);
  free (directory);
  free (backing_directory);
  free (control_path);
  free (pending_directory);
}

int
plugin_config_parse (const char *key, const char *value)
{
  struct parameter *parameter;

  parameter = find_parameter (key);
  if (parameter == NULL) {
    nbdkit_error ("%s=%s: unknown parameter; "
                  "'nbdkit qed --help' lists them all", key, value);
    return -1;
  }
  if (parameter->seen) {
    nbdkit_error ("%s=%s: the parameter was given before; give it once",
                  key, value);
    return -1;
  }
  parameter->seen = true;
  if (value[0] == '\0') {
    nbdkit_error ("%s: the value is missing; write for example %s=%s",
                  key, key, parameter->example);
    return -1;
  }
  return parameter->parse (value);
}

/* What else a standby needs. */
static int
check_standby (void)
{
  if (!plugin_config.standby)
    return 0;
  if (plugin_config.directory != NULL) {
    nbdkit_error ("standby=on works with file= only; images of dir= are open "
                  "only while they have clients");
    return -1;
  }
  if (plugin_config.options.remote) {
    nbdkit_error ("standby=on does not work with an image on an NBD server: "
                  "NBD has no locks, which tell a standby whether another "
                  "server has the image");
    return -1;
  }
  if (!plugin_config.options.lock) {
    nbdkit_error ("standby=on does not work with lock=off: the lock tells a "
                  "standby whether another server has the image");
    return -1;
  }
  return 0;
}

int
plugin_config_complete (void)
{
  const bool file = plugin_config.options.path != NULL;
  const bool dir = plugin_config.directory != NULL;

  if (!file && !dir) {
    nbdkit_error ("the image is missing; write nbdkit qed [file=]IMAGE or "
                  "nbdkit qed dir=DIRECTORY");
    return -1;
  }
  if (file && dir) {
    nbdkit_error ("file=%s and dir=%s exclude each other; give one of them",
                  plugin_config.options.path, plugin_config.directory);
    return -1;
  }
  if (file && plugin_config.control_export != CONTROL_EXPORT_OFF &&
      strcmp (plugin_config.name, MAILBOX_NAME) == 0) {
    nbdkit_error ("file=%s: its name is that of the export that "
                  "control-export= makes; rename the file",
                  plugin_config.options.path);
    return -1;
  }
  return check_standby ();
}
