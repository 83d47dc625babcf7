#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The plugin's parameters: what is unknown, given twice, empty, no number or
# out of range ends nbdkit with one line that names the parameter, and the
# image stays as it is.  The others do what they say they do.

. ./functions.sh
set -e

requires nbdinfo --version

cd "$tmpdir"
nbdkit=$abs_top_builddir/nbdkit

qedctl create disk.qed 1M
cp disk.qed before

# refused PATTERN ARGUMENT...: nbdkit qed ARGUMENT... ends with one line.
refused ()
{
  local r=0

  # Not "-U -": an nbdkit that fails leaves that socket's directory behind.
  timeout 30 "$nbdkit" -U sock qed "${@:2}" --run 'echo served' >out 2>err ||
    r=$?
  if [ $r -eq 0 ] || [ $r -ge 124 ] || [ -s out ] ||
       [ "$(wc -l <err)" -ne 1 ] || ! grep -q -- "$1" err; then
    cat out err
    fail "qed ${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
  cmp disk.qed before
}

# served ARGUMENT...
served ()
{
  timeout 30 "$nbdkit" -U - qed "$@" --run 'nbdinfo --size "$uri"' >out 2>err ||
    { cat out err; fail "qed $*: exit $?"; }
  test "$(cat out)" = 1048576
  cmp disk.qed before
}

# No image.
refused 'the image is missing'
refused 'the image is missing'          check=auto
refused 'file: the value is missing'    file=
refused 'nothing.qed.*No such file'     nothing.qed

# Unknown ones, among them those that only look right.
refused 'foo=1: unknown parameter'      disk.qed foo=1
refused 'File=disk.qed: unknown'        File=disk.qed
refused 'clean_after=5: unknown'        disk.qed clean_after=5
refused 'check.=auto: unknown'          disk.qed check.=auto

# Twice: also if the value is the same, and the image without its name.
refused 'file=disk.qed: .*before'       disk.qed disk.qed
refused 'file=disk.qed: .*before'       file=disk.qed disk.qed
refused 'check=auto: .*before'          disk.qed check=auto check=auto
refused 'clean-after=2: .*before'       disk.qed clean-after=1 clean-after=2
refused 'lock=off: .*before'            disk.qed lock=on lock=off
refused 'metadata-cache=2M: .*before'   metadata-cache=1M metadata-cache=2M

# No value.
for key in check clean-after lock metadata-cache; do
  refused "$key: the value is missing; .* $key=" disk.qed $key=
done

# Not what may be there.
for value in maybe AUTO auto, ' auto' 1; do
  refused "check=$value: must be auto, always or never" \
          disk.qed "check=$value"
done
for value in maybe ON 1 true; do
  refused "lock=$value: must be on or off" disk.qed lock=$value
done
for value in five 5s -1 +5 ' 5' 5.5 0x5 86401 4294967296 4294967301 \
             18446744073709551616 99999999999999999999999; do
  refused "clean-after=$value: must be a number of seconds, 0 to 86400" \
          disk.qed "clean-after=$value"
done
for value in lots K -1 -64M ' 64M' 64MB 64X 0x100000 0 1 262143 255K 2T \
             1025G 1099511627777 18446744073709551616 17179869185G \
             18014398509482240K; do
  refused "metadata-cache=$value: must be a size, 256K to 1024G" \
          disk.qed "metadata-cache=$value"
done

# All that may be there.
served disk.qed
served file=disk.qed
served "$tmpdir/disk.qed"
for check in auto always never; do served disk.qed check=$check; done
for lock in on off; do served disk.qed lock=$lock; done
for seconds in 0 1 05 86400; do served disk.qed clean-after=$seconds; done
for size in 262144 256K 256k 64M 1g 1T 1099511627776; do
  served disk.qed metadata-cache=$size
done
served check=never clean-after=1 lock=off metadata-cache=1M file=disk.qed

# Strange names of images are names nevertheless.
for name in 'a b.qed' 'x=y.qed' 'ü.qed' -r.qed; do
  cp disk.qed "./$name"
  served file="$name"
done

# All are in the help, and nbdkit knows what we are.
"$nbdkit" qed --help >help
for key in file check clean-after lock metadata-cache; do
  grep -q "\<$key\\]\\?=" help || fail "$key is not in the help"
done
"$nbdkit" qed --dump-plugin >dump
version=$(sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" \
              "$abs_top_builddir/config.log")
test -n "$version"
for line in name=qed "version=$version" "qed_version=$version" \
            magic_config_key=file thread_model=parallel \
            'qed_export_description=nbdkit-qed disk'; do
  grep -qxF -- "$line" dump || { cat dump; fail "not in the dump: $line"; }
done
grep -q '^qed_libev_version=[0-9]*\.[0-9]*$' dump
