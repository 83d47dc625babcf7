#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl create: byte for byte what qemu-img makes, in every geometry that
# QEMU can make, and readable in those that it can't; impossible parameters
# are refused before a file is touched; nothing is overwritten without
# --force; a failure leaves nothing behind.

. ./functions.sh
set -e
set -o pipefail

requires qemu-img --version
requires jq --version

cd "$tmpdir"

K=1024
M=$((1024 * K))
G=$((1024 * M))
T=$((1024 * G))
limit=$((0x7ffffffffffffe00))   # 2^63 - 512
qemu_limit=$((0x7fffffffc0000000)) # what QEMU's block layer takes

log2 ()
{
  local n=0 v=$1
  while [ $v -gt 1 ]; do v=$((v / 2)); n=$((n + 1)); done
  echo $n
}

# The largest size of a geometry.
max_size ()
{
  local bits=$((2 * ($(log2 $1) + $(log2 $2) - 3) + $(log2 $1)))
  if [ $bits -ge 63 ]; then echo $limit; else echo $((1 << bits)); fi
}

# What QEMU 7.2 can create and open again.
qemu_can ()
{
  [ $2 -gt 1 ] && [ $(($1 * $2)) -le $((16 * M)) ] &&
    [ $1 -le $((4 * M)) ] &&
    ! { [ $1 -eq $((4 * M)) ] && [ $2 -ge 4 ]; }
}

# Compare with QEMU's image of the same parameters.
compare_with_qemu ()
{
  local cluster=$1 table=$2 size=$3

  [ $size -le $qemu_limit ] || return 0
  qemu-img create -q -f qed -o cluster_size=$cluster,table_size=$table \
           theirs.qed $size
  cmp ours.qed theirs.qed
  info=$(qemu-img info --output=json ours.qed)
  if [[ $info != *"\"virtual-size\": $size,"* ||
        $info != *"\"cluster-size\": $cluster,"* ||
        $info != *"\"format\": \"qed\","* ]]; then
    fail "QEMU reads cluster size $cluster, size $size otherwise: $info"
  fi
  qemu-img check -q ours.qed
  rm theirs.qed
  compared=$((compared + 1))
}

compared=0
for cluster in 4K 8K 16K 32K 64K 128K 256K 512K 1M 2M 4M 8M 16M 32M 64M; do
  for table in 1 2 4 8 16; do
    c=$((${cluster//[KM]/} * ${cluster//[0-9]/}))
    max=$(max_size $c $table)
    for size in 0 512 $T $max; do
      [ $size -le $max ] || continue
      qedctl create --cluster-size $cluster --table-size $table ours.qed $size
      test $(stat -c %s ours.qed) -eq $((c * (table + 1)))
      # As text: jq's numbers are doubles.
      info=$(qedctl info --json ours.qed)
      for pair in "virtual-size\": $size" "max-virtual-size\": $max" \
                  "cluster-size\": $c" "table-size\": $table"; do
        if [[ $info != *"\"$pair,"* ]]; then
          fail "$cluster x $table, size $size: not \"$pair but $info"
        fi
      done
      if qemu_can $c $table; then compare_with_qemu $c $table $size; fi
      rm ours.qed
    done
    # One sector too many.
    if [ $max -lt $limit ]; then
      if qedctl create --cluster-size $cluster --table-size $table \
                ours.qed $((max + 512)) 2>err; then
        fail "$cluster x $table: a size beyond the largest was accepted"
      fi
      grep -q "$max" err
      test ! -e ours.qed
    fi
  done
done
test $compared -ge 100

# Defaults, and a size with a suffix.
qedctl create ours.qed 1234M
qemu-img create -q -f qed theirs.qed 1234M
cmp ours.qed theirs.qed
for size in 1k 1KiB 1024; do
  qedctl create --force ours.qed $size
  qedctl info ours.qed | grep -q '^virtual size: *1 KiB (1024 bytes)$'
done

# Over a backing file: the name, in its place.
truncate -s 1M base.raw
qemu-img create -q -f qed -b base.raw -F raw theirs.qed 1M
qedctl create --force --backing base.raw --backing-format raw ours.qed 1M
cmp ours.qed theirs.qed
qemu-img create -q -f qed base.qed 1M
qemu-img create -q -f qed -b base.qed -F qed theirs.qed 1M
qedctl create --force --backing base.qed --backing-format qed ours.qed 1M
cmp ours.qed theirs.qed
# A long one takes several sectors; in a small cluster it has to fit.
mkdir -p "$(printf 'd%.0s' {1..200})/$(printf 'e%.0s' {1..200})"
long=$(echo d*/e*)/$(printf 'f%.0s' {1..200})
truncate -s 1M "$long"
qemu-img create -q -f qed -o cluster_size=4096 -b "$long" -F raw theirs.qed 1M
qedctl create --force --cluster-size 4096 --backing "$long" \
       --backing-format raw ours.qed 1M
cmp ours.qed theirs.qed

# The URI of an export is raw by itself, as QEMU has it when it is told.
for uri in nbd://nobody.invalid/disk \
           'nbds+unix:///x?socket=/no/where&tls-psk-file=/no/where'; do
  qemu-img create -q -u -f qed -b "$uri" -F raw theirs.qed 1M
  for format in "" "--backing-format raw"; do
    qedctl create --force --backing "$uri" $format ours.qed 1M
    cmp ours.qed theirs.qed
  done
done

# --json shows what was made.
qedctl create --force --json ours.qed 3M |
  jq -e '.["virtual-size"] == 3145728' >/dev/null

# Refused: one line, exit 1, and no file.
rm -f ours.qed
refused ()
{
  local r=0
  timeout 20 qedctl create "$@" >out 2>err || r=$?
  if [ $r -ne 1 ] || [ $(wc -l <err) -ne 1 ] || [ -s out ]; then
    cat out err
    fail "qedctl create $*: exit $r instead of 1 with one line"
  fi
}
name4095=$(printf 'x%.0s' {1..4095})
while read -r args; do
  refused $args
  test ! -e ours.qed
done <<LIST

ours.qed
ours.qed 1M 2M
ours.qed -1
ours.qed 1
ours.qed 513
ours.qed 1Q
ours.qed 1MB
ours.qed 0x200
ours.qed 16E
ours.qed 99999999999999999999
ours.qed 8E
--cluster-size 0 ours.qed 1M
--cluster-size 2K ours.qed 1M
--cluster-size 5000 ours.qed 1M
--cluster-size 128M ours.qed 1M
--cluster-size 4294971392 ours.qed 1M
--cluster-size 4K --table-size 1 ours.qed 2G
--table-size 0 ours.qed 1M
--table-size 3 ours.qed 1M
--table-size 32 ours.qed 1M
--table-size x ours.qed 1M
--table-size 4294967300 ours.qed 1M
--table-size 4 --table-size 4 ours.qed 1M
--table-size
--backing-format raw ours.qed 1M
--backing base.raw --backing-format qcow2 ours.qed 1M
--backing nbd://localhost/x --backing-format qed ours.qed 1M
--backing nbd:localhost:10809 ours.qed 1M
--backing nbd+unix:///x?socket=relative ours.qed 1M
--backing http://localhost/ ours.qed 1M
--backing json:{} ours.qed 1M
--backing ${name4095}x ours.qed 1M
--cluster-size 4096 --backing $name4095 ours.qed 1M
--nonsense ours.qed 1M
--json=yes ours.qed 1M
no/such/directory/ours.qed 1M
LIST
refused --backing '' ours.qed 1M
refused --backing $'a\nb' ours.qed 1M
test ! -e ours.qed
refused '' 1M

# What exists stays as it is without --force, and with it if refused.
echo precious > ours.qed
cp ours.qed before
refused ours.qed 1M
grep -q -- --force err
refused --force ours.qed 1
refused --force --cluster-size 3 ours.qed 1M
cmp ours.qed before
qedctl create --force ours.qed 1M
qedctl info ours.qed >/dev/null
# Not even through a link; with --force the file behind it is the image.
ln -s ours.qed link.qed
refused link.qed 1M
ln -s nowhere dangling.qed
refused --force dangling.qed 1M
test ! -e nowhere
# All that an image held is gone, not only its header.
qemu-io -f qed -c 'write -P 0x55 0 1M' ours.qed >/dev/null
qedctl create --force link.qed 1M
test -L link.qed
qemu-img create -q -f qed theirs.qed 1M
cmp ours.qed theirs.qed

# It would be its own backing file.
cp ours.qed before
refused --force --backing ours.qed ours.qed 1M
mkdir sub
ln -s ../ours.qed sub/link.qed
refused --force --backing ../ours.qed sub/link.qed 1M
refused --force --backing "$PWD/link.qed" ours.qed 1M
cmp ours.qed before
for option in "" --force; do
  refused $option --backing sub/../fresh.qed fresh.qed 1M
  grep -q 'would be its own backing file' err
  test ! -e fresh.qed
done

# Not files.
mkdir directory
mkfifo fifo
for f in directory fifo /dev/null; do
  refused --force $f 1M
  refused $f 1M
done
test -d directory
test -p fifo

# No room: nothing is left of a new file.
(ulimit -f 64; refused full.qed 1M)
test ! -e full.qed

# A full pipe's end or closed output does not pass for success.
if [ -w /dev/full ]; then
  if qedctl create --json full.qed 1M >/dev/full 2>err; then
    fail "writing to a full device succeeded"
  fi
fi
# Closed standard descriptors are not mistaken for the image.
qedctl create --force ours.qed 1M <&- >&- 2>&-
cmp ours.qed theirs.qed
