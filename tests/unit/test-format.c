/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The format's pure functions: every header field at and beyond its limits,
 * and every class of entry.
 */

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "format.h"
#include "qed.h"

#define K UINT64_C (1024)
#define M (K * K)
#define BIG (UINT64_C (1) << 40)        /* a file that is long enough */
#define SIZE_LIMIT ((UINT64_C (1) << 63) - 512)

/* 64 KiB clusters, tables of 4, 1 GiB, named "base" at 64. */
static struct format_header
good_header (void)
{
  return (struct format_header) {
    .cluster_size = 65536, .table_size = 4, .header_size = 1,
    .l1_table_offset = 65536, .image_size = 1024 * M,
    .features = QED_F_BACKING_FILE,
    .backing_filename_offset = 64, .backing_filename_size = 4,
  };
}

/* Encode, decode; the result, and the message in 'error'. */
static int
decode (const struct format_header *header, uint64_t file_size, char *error)
{
  unsigned char buf[FORMAT_HEADER_BYTES];
  struct format_header decoded;

  format_encode_header (header, buf);
  error[0] = '\0';
  return format_decode_header (buf, file_size, &decoded, error);
}

static void
expect_ok (const struct format_header *header, uint64_t file_size)
{
  char error[FORMAT_ERROR_SIZE];
  const int r = decode (header, file_size, error);

  if (r != 0)
    fail_msg ("refused: %s", error);
}

/* Refused, with one line that names the field and its offset. */
static void
expect_refused (const struct format_header *header, uint64_t file_size,
                int err, const char *field)
{
  char error[FORMAT_ERROR_SIZE];

  assert_int_equal (decode (header, file_size, error), -err);
  if (strstr (error, field) == NULL)
    fail_msg ("'%s' does not name %s", error, field);
  assert_null (strchr (error, '\n'));
  assert_true (strlen (error) < FORMAT_ERROR_SIZE - 1);
}

/* One field changed, refused by its name. */
#define REFUSE_FIELD(field, value)                                      \
  do {                                                                  \
    struct format_header h_ = good_header ();                           \
    h_.field = (value);                                                 \
    expect_refused (&h_, BIG, EINVAL, "header field " #field " (offset 0x"); \
  } while (0)

#define ACCEPT_FIELD(field, value)              \
  do {                                          \
    struct format_header h_ = good_header ();   \
    h_.field = (value);                         \
    expect_ok (&h_, BIG);                       \
  } while (0)

static void
test_byte_order (void **state)
{
  unsigned char buf[FORMAT_HEADER_BYTES + 1];
  unsigned char *odd = buf + 1;         /* unaligned on purpose */

  (void) state;
  format_put32 (odd, 0x01020304);
  assert_memory_equal (odd, "\4\3\2\1", 4);
  assert_int_equal (format_get32 (odd), 0x01020304);
  format_put64 (odd, UINT64_C (0x0102030405060708));
  assert_memory_equal (odd, "\10\7\6\5\4\3\2\1", 8);
  assert_true (format_get64 (odd) == UINT64_C (0x0102030405060708));
}

/* The layout byte for byte, as the specification has it. */
static void
test_layout (void **state)
{
  static const unsigned char expected[FORMAT_HEADER_BYTES] = {
    'Q', 'E', 'D', 0,           0, 0, 1, 0,
    4, 0, 0, 0,                 1, 0, 0, 0,
    5, 0, 0, 0, 0, 0, 0, 0,     0x11, 0, 0, 0, 0, 0, 0, 0x80,
    0x22, 0, 0, 0, 0, 0, 0, 0,  0, 0, 2, 0, 0, 0, 0, 0,
    0, 0, 0, 0x40, 0, 0, 0, 0,  0x40, 0, 0, 0, 3, 0, 0, 0,
  };
  const struct format_header header = {
    .cluster_size = 65536, .table_size = 4, .header_size = 1,
    .features = 5, .compat_features = UINT64_C (0x8000000000000011),
    .autoclear_features = 0x22, .l1_table_offset = 0x20000,
    .image_size = 1024 * M,
    .backing_filename_offset = 64, .backing_filename_size = 3,
  };
  unsigned char buf[FORMAT_HEADER_BYTES];
  char error[FORMAT_ERROR_SIZE];
  struct format_header decoded;

  (void) state;
  format_encode_header (&header, buf);
  assert_memory_equal (buf, expected, sizeof buf);
  memset (&decoded, 0, sizeof decoded);
  assert_int_equal (format_decode_header (expected, BIG, &decoded, error), 0);
  assert_int_equal (decoded.cluster_size, 65536);
  assert_int_equal (decoded.table_size, 4);
  assert_int_equal (decoded.header_size, 1);
  assert_true (decoded.features == 5);
  assert_true (decoded.compat_features == header.compat_features);
  assert_true (decoded.autoclear_features == 0x22);
  assert_true (decoded.l1_table_offset == 0x20000);
  assert_true (decoded.image_size == 1024 * M);
  assert_int_equal (decoded.backing_filename_offset, 64);
  assert_int_equal (decoded.backing_filename_size, 3);
}

static void
test_magic_and_length (void **state)
{
  const struct format_header header = good_header ();
  unsigned char buf[FORMAT_HEADER_BYTES];
  char error[FORMAT_ERROR_SIZE];
  struct format_header decoded;
  unsigned i;

  (void) state;
  expect_ok (&header, BIG);
  expect_refused (&header, 0, EINVAL, "not a QED image");
  expect_refused (&header, 63, EINVAL, "not a QED image");
  for (i = 0; i < 4; ++i) {
    format_encode_header (&header, buf);
    buf[i] ^= 1;
    assert_int_equal (format_decode_header (buf, BIG, &decoded, error),
                      -EINVAL);
    assert_non_null (strstr (error, "not a QED image"));
  }
}

static void
test_cluster_size (void **state)
{
  unsigned bits;

  (void) state;
  for (bits = 12; bits <= 26; ++bits) {
    struct format_header h = good_header ();

    h.cluster_size = h.l1_table_offset = 1u << bits;
    expect_ok (&h, BIG);
    h.cluster_size |= 512;
    expect_refused (&h, BIG, EINVAL, "cluster_size (offset 0x4)");
  }
  REFUSE_FIELD (cluster_size, 0);
  REFUSE_FIELD (cluster_size, 1);
  REFUSE_FIELD (cluster_size, 2048);
  REFUSE_FIELD (cluster_size, 1u << 27);
  REFUSE_FIELD (cluster_size, 1u << 31);
  REFUSE_FIELD (cluster_size, UINT32_MAX);
}

static void
test_table_and_header_size (void **state)
{
  struct format_header h = good_header ();

  (void) state;
  ACCEPT_FIELD (table_size, 1);
  ACCEPT_FIELD (table_size, 2);
  ACCEPT_FIELD (table_size, 16);
  REFUSE_FIELD (table_size, 0);
  REFUSE_FIELD (table_size, 3);
  REFUSE_FIELD (table_size, 17);
  REFUSE_FIELD (table_size, 32);
  REFUSE_FIELD (table_size, UINT32_MAX);

  REFUSE_FIELD (header_size, 0);
  REFUSE_FIELD (header_size, UINT32_MAX);
  REFUSE_FIELD (header_size, (uint32_t) (BIG / 65536) + 1);
  h.header_size = 3;
  h.l1_table_offset = 3 * 65536;
  expect_ok (&h, BIG);
  h.l1_table_offset = 2 * 65536;        /* the third header cluster */
  expect_refused (&h, BIG, EINVAL, "l1_table_offset (offset 0x28)");
  /* Where the file must hold the header clusters: to the byte. */
  h.l1_table_offset = 3 * 65536;
  expect_refused (&h, 3 * 65536 - 1, EINVAL, "header_size (offset 0xc)");
  expect_refused (&h, 3 * 65536, EINVAL, "l1_table_offset");
}

static void
test_features (void **state)
{
  struct format_header h = good_header ();
  unsigned bit;

  (void) state;
  ACCEPT_FIELD (features, 0);
  ACCEPT_FIELD (features, 7);
  ACCEPT_FIELD (compat_features, UINT64_MAX);
  ACCEPT_FIELD (autoclear_features, UINT64_MAX);
  for (bit = 3; bit < 64; ++bit) {
    char hex[32];

    h.features = 7 | UINT64_C (1) << bit;
    snprintf (hex, sizeof hex, "bits 0x%" PRIx64 ":", UINT64_C (1) << bit);
    expect_refused (&h, BIG, ENOTSUP, hex);
    expect_refused (&h, BIG, ENOTSUP, "features (offset 0x10)");
  }
}

static void
test_l1_offset (void **state)
{
  const struct format_header h = good_header ();
  const uint64_t table_bytes = 4 * 65536;

  (void) state;
  ACCEPT_FIELD (l1_table_offset, BIG - table_bytes);
  REFUSE_FIELD (l1_table_offset, BIG - table_bytes + 65536);
  REFUSE_FIELD (l1_table_offset, 0);
  REFUSE_FIELD (l1_table_offset, 4096);
  REFUSE_FIELD (l1_table_offset, 65536 + 512);
  REFUSE_FIELD (l1_table_offset, BIG);
  /* The sum with the table's size wraps to 0, and beyond. */
  REFUSE_FIELD (l1_table_offset, UINT64_MAX - table_bytes + 1);
  REFUSE_FIELD (l1_table_offset, UINT64_MAX - 65536 + 1);
  REFUSE_FIELD (l1_table_offset, UINT64_MAX);
  REFUSE_FIELD (l1_table_offset, UINT64_C (1) << 63);
  /* The end of the file, to the byte. */
  expect_ok (&h, 65536 + table_bytes);
  expect_refused (&h, 65536 + table_bytes - 1, EINVAL, "l1_table_offset");
}

static void
test_image_size (void **state)
{
  struct format_header h = good_header ();
  const uint64_t max = format_max_image_size (65536, 4);

  (void) state;
  ACCEPT_FIELD (image_size, 0);
  ACCEPT_FIELD (image_size, 512);
  ACCEPT_FIELD (image_size, max);
  REFUSE_FIELD (image_size, 1);
  REFUSE_FIELD (image_size, 511);
  REFUSE_FIELD (image_size, max + 512);
  REFUSE_FIELD (image_size, UINT64_MAX);
  REFUSE_FIELD (image_size, UINT64_MAX - 511);

  /* Where the product overflows 64 bits. */
  h.cluster_size = 1u << 26;
  h.table_size = 16;
  h.l1_table_offset = 1u << 26;
  h.image_size = SIZE_LIMIT;
  expect_ok (&h, BIG);
  h.image_size += 512;
  expect_refused (&h, BIG, EINVAL, "image_size (offset 0x30)");
}

static void
test_backing_place (void **state)
{
  struct format_header h;

  (void) state;
  REFUSE_FIELD (backing_filename_offset, 0);
  REFUSE_FIELD (backing_filename_offset, 63);
  ACCEPT_FIELD (backing_filename_offset, 65536 - 4);
  REFUSE_FIELD (backing_filename_offset, 65536 - 3);
  REFUSE_FIELD (backing_filename_offset, 65536);
  REFUSE_FIELD (backing_filename_offset, UINT32_MAX);   /* would wrap */
  REFUSE_FIELD (backing_filename_size, 0);
  ACCEPT_FIELD (backing_filename_size, 1);
  ACCEPT_FIELD (backing_filename_size, 4095);
  REFUSE_FIELD (backing_filename_size, 4096);
  REFUSE_FIELD (backing_filename_size, UINT32_MAX);

  h = good_header ();                   /* without the bit: not looked at */
  h.features = 0;
  h.backing_filename_offset = h.backing_filename_size = UINT32_MAX;
  expect_ok (&h, BIG);
}

static void
test_backing_name (void **state)
{
  char error[FORMAT_ERROR_SIZE], name[4096];
  unsigned c;

  (void) state;
  memset (name, 'x', sizeof name);
  assert_int_equal (format_check_backing_name (name, 1, error), 0);
  assert_int_equal (format_check_backing_name (name, 4095, error), 0);
  assert_int_equal (format_check_backing_name (name, 4096, error), -EINVAL);
  assert_int_equal (format_check_backing_name (name, 0, error), -EINVAL);
  for (c = 0; c < 256; ++c) {
    name[7] = (char) c;
    assert_int_equal (format_check_backing_name (name, 8, error),
                      c < 0x20 || c == 0x7f ? -EINVAL : 0);
  }
}

static void
test_geometry (void **state)
{
  struct format_geometry g;
  struct format_header h = good_header ();

  (void) state;
  h.header_size = 2;
  h.l1_table_offset = 1 * M;
  format_geometry_init (&g, &h);
  assert_int_equal (g.cluster_size, 65536);
  assert_int_equal (g.cluster_bits, 16);
  assert_true (g.table_bytes == 262144);
  assert_true (g.entries == 32768);
  assert_int_equal (g.entries_bits, 15);
  assert_true (g.header_bytes == 131072);
  assert_true (g.l1_offset == 1 * M);
  assert_true (g.image_size == 1024 * M);

  h.cluster_size = 1u << 26;            /* the largest: 1 GiB tables */
  h.table_size = 16;
  h.header_size = 1u << 12;
  format_geometry_init (&g, &h);
  assert_true (g.table_bytes == 1024 * M);
  assert_true (g.entries == UINT64_C (1) << 27);
  assert_int_equal (g.entries_bits, 27);
  assert_true (g.header_bytes == UINT64_C (1) << 38);
}

static void
test_check_geometry (void **state)
{
  char error[FORMAT_ERROR_SIZE];
  unsigned cluster_bits, table_bits;

  (void) state;
  for (cluster_bits = 12; cluster_bits <= 26; ++cluster_bits)
    for (table_bits = 0; table_bits <= 4; ++table_bits) {
      const uint32_t cluster = 1u << cluster_bits, table = 1u << table_bits;
      const unsigned bits = 2 * (cluster_bits + table_bits - 3) + cluster_bits;
      const uint64_t max = format_max_image_size (cluster, table);

      assert_true (max == (bits < 63 ? UINT64_C (1) << bits : SIZE_LIMIT));
      assert_int_equal (format_check_geometry (cluster, table, max, error), 0);
      assert_int_equal (format_check_geometry (cluster, table, max + 512,
                                               error), -EINVAL);
      assert_int_equal (format_check_geometry (cluster, table, 513, error),
                        -EINVAL);
      assert_non_null (strstr (error, "1024"));
    }
  assert_int_equal (format_check_geometry (65536, 4, 0, error), 0);
  assert_int_equal (format_check_geometry (65536, 4, UINT64_MAX, error),
                    -EINVAL);
  /* Not cut to 32 bits first. */
  assert_int_equal (format_check_geometry ((UINT64_C (1) << 32) + 65536, 4, 0,
                                           error), -EINVAL);
  assert_int_equal (format_check_geometry (65536, (UINT64_C (1) << 32) + 4, 0,
                                           error), -EINVAL);
  assert_int_equal (format_check_geometry (65536, 0, 0, error), -EINVAL);
  assert_int_equal (format_check_geometry (0, 4, 0, error), -EINVAL);
}

/* Header 0..2, L1 8..12, in clusters of 64 KiB. */
static struct format_geometry
entry_geometry (void)
{
  struct format_header h = good_header ();
  struct format_geometry g;

  h.header_size = 2;
  h.l1_table_offset = 8 * 65536;
  format_geometry_init (&g, &h);
  return g;
}

static void
test_classify_l1 (void **state)
{
  const struct format_geometry g = entry_geometry ();
  const uint64_t c = 65536, length = 100 * c;
  static const struct { uint64_t entry; enum format_entry class; } cases[] = {
    { 0, FORMAT_UNALLOCATED },
    { 1, FORMAT_RESERVED_BITS },        /* no zero table in L1 */
    { 4095, FORMAT_RESERVED_BITS },
    { 20 * 65536 + 2048, FORMAT_RESERVED_BITS },
    { UINT64_MAX, FORMAT_RESERVED_BITS },
    { 4096, FORMAT_MISALIGNED },
    { 20 * 65536 + 32768, FORMAT_MISALIGNED },
    { UINT64_MAX - 4095, FORMAT_MISALIGNED },
    { 1 * 65536, FORMAT_INTO_HEADER },
    { 2 * 65536, FORMAT_ALLOCATED },
    { 4 * 65536, FORMAT_ALLOCATED },    /* ends where L1 begins */
    { 5 * 65536, FORMAT_INTO_L1 },      /* its last cluster */
    { 8 * 65536, FORMAT_INTO_L1 },
    { 11 * 65536, FORMAT_INTO_L1 },
    { 12 * 65536, FORMAT_ALLOCATED },
    { 96 * 65536, FORMAT_ALLOCATED },   /* ends with the file */
    { 97 * 65536, FORMAT_PAST_END },
    { 100 * 65536, FORMAT_PAST_END },
    { UINT64_MAX - 65535, FORMAT_PAST_END },    /* the sum wraps */
    { UINT64_C (1) << 63, FORMAT_PAST_END },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i)
    if (format_classify_l1 (&g, cases[i].entry, length) != cases[i].class)
      fail_msg ("0x%" PRIx64 ": %s", cases[i].entry, format_entry_to_text (
                format_classify_l1 (&g, cases[i].entry, length)));
  /* One byte short of the table, and a file shorter than any table. */
  assert_int_equal (format_classify_l1 (&g, 96 * c, length - 1),
                    FORMAT_PAST_END);
  assert_int_equal (format_classify_l1 (&g, 2 * c, c), FORMAT_PAST_END);
  assert_int_equal (format_classify_l1 (&g, 2 * c, 0), FORMAT_PAST_END);
}

static void
test_classify_l2 (void **state)
{
  const struct format_geometry g = entry_geometry ();
  const uint64_t c = 65536, length = 100 * c;
  static const struct { uint64_t entry; enum format_entry class; } cases[] = {
    { 0, FORMAT_UNALLOCATED },
    { 1, FORMAT_ZERO },
    { 2, FORMAT_RESERVED_BITS },
    { 20 * 65536 + 1, FORMAT_RESERVED_BITS },
    { 4096, FORMAT_MISALIGNED },
    { 1 * 65536, FORMAT_INTO_HEADER },
    { 2 * 65536, FORMAT_ALLOCATED },
    { 7 * 65536, FORMAT_ALLOCATED },    /* one cluster: not into L1 */
    { 8 * 65536, FORMAT_INTO_L1 },
    { 11 * 65536, FORMAT_INTO_L1 },
    { 12 * 65536, FORMAT_ALLOCATED },
    { 99 * 65536, FORMAT_ALLOCATED },
    { 100 * 65536, FORMAT_PAST_END },
    { UINT64_MAX - 65535, FORMAT_PAST_END },
    { UINT64_MAX, FORMAT_RESERVED_BITS },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i)
    if (format_classify_l2 (&g, cases[i].entry, length) != cases[i].class)
      fail_msg ("0x%" PRIx64 ": %s", cases[i].entry, format_entry_to_text (
                format_classify_l2 (&g, cases[i].entry, length)));
  /* A partial last cluster is there: the file ends within it. */
  assert_int_equal (format_classify_l2 (&g, 99 * c, 99 * c + 1),
                    FORMAT_ALLOCATED);
  assert_int_equal (format_classify_l2 (&g, 99 * c, 99 * c), FORMAT_PAST_END);
}

static void
test_entry_text (void **state)
{
  int a, b;

  (void) state;
  for (a = FORMAT_UNALLOCATED; a <= FORMAT_PAST_END; ++a)
    for (b = FORMAT_UNALLOCATED; b < a; ++b)
      assert_string_not_equal (format_entry_to_text (a),
                               format_entry_to_text (b));
  assert_string_equal (format_entry_to_text (FORMAT_MISALIGNED),
                       "misaligned");
  assert_string_equal (format_entry_to_text (FORMAT_PAST_END + 1), "unknown");
}

/* ---- Backing names ---- */

static void
test_backing_kind (void **state)
{
  static const struct {
    const char *name;
    int result;
  } names[] = {
    { "file.qed", 0 },
    { "./nbd:thing", 0 },
    { ":x", 0 },
    { "nbd://host/export", 0 },
    { "nbd+unix:///?socket=/run/sock", 0 },
    { "nbd+unix:///?socket=%2Frun%2fsock", 0 },
    { "nbd+unix:///?socket=sock", -EINVAL },
    { "nbds://host/?a=b&tls-certificates=pki", -EINVAL },
    { "nbds://host/?tls-certificates=/pki;tls-psk-file=keys", -EINVAL },
    { "nbds://host/?other=file", 0 },
    { "nbd:host:10809", -ENOTSUP },
    { "json:{}", -ENOTSUP },
    { "C:disk", -ENOTSUP },
  };
  char error[FORMAT_ERROR_SIZE];
  size_t i;

  (void) state;
  for (i = 0; i < sizeof names / sizeof names[0]; i++)
    if (format_check_backing_kind (names[i].name, error) != names[i].result)
      fail_msg ("%s is taken otherwise", names[i].name);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_byte_order),
    cmocka_unit_test (test_layout),
    cmocka_unit_test (test_magic_and_length),
    cmocka_unit_test (test_cluster_size),
    cmocka_unit_test (test_table_and_header_size),
    cmocka_unit_test (test_features),
    cmocka_unit_test (test_l1_offset),
    cmocka_unit_test (test_image_size),
    cmocka_unit_test (test_backing_place),
    cmocka_unit_test (test_backing_name),
    cmocka_unit_test (test_geometry),
    cmocka_unit_test (test_check_geometry),
    cmocka_unit_test (test_classify_l1),
    cmocka_unit_test (test_classify_l2),
    cmocka_unit_test (test_entry_text),
    cmocka_unit_test (test_backing_kind),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
