#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Make the guest: build-guest.sh CACHE
#
# Leaves in the directory CACHE:
#   vmlinuz    Debian's cloud kernel
#   busybox    the guest's, which also packs the archives
#   base.cpio  an initramfs with that kernel's modules, busybox, nbd-client and
#              e2fsprogs, but without an /init: functions.sh appends a second
#              archive with the scripts at each boot, so that editing a script
#              needs no rebuild
#
# Nothing is installed on the host: packages that are missing are downloaded
# and unpacked inside CACHE.  What is there already is used again; remove CACHE
# to start anew.  Exit status 77, with the reason, if something can't be had.

set -e
set -o pipefail

# In the order in which they are loaded.  One that is compiled into the kernel
# is left out.
modules="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev
         virtio_pci failover net_failover virtio_net nbd
         crc16 crc32c_generic mbcache jbd2 ext4"

# Binaries of the guest, each with the package that has it.
binaries="busybox:busybox-static nbd-client:nbd-client
          mkfs.ext4:e2fsprogs e2fsck:e2fsprogs"

# What nbd-client needs and a host without nbd-client may not have.
library_packages="libnl-3-200 libnl-genl-3-200"

PATH=$PATH:/usr/sbin:/sbin

if [ $# -ne 1 ]; then
  echo "usage: $0 CACHE" >&2
  exit 1
fi
self=$(realpath "$0")
mkdir -p "$1"
cache=$(cd "$1" && pwd)
work=$cache/work

unavailable ()
{
  echo "build-guest.sh: $*" >&2
  exit 77
}

# Download PACKAGE and unpack it into DIRECTORY.
unpack_package ()
{
  local package=$1 directory=$2

  type apt-get dpkg-deb >/dev/null 2>&1 ||
    unavailable "$package can't be downloaded: no apt-get and dpkg-deb here"
  mkdir -p "$work/deb" "$directory"
  (cd "$work/deb" &&
     timeout 120 apt-get -qq -o APT::Sandbox::User=root \
             download "$package") >&2 ||
    unavailable "$package can't be downloaded; try apt-get update"
  dpkg-deb -x "$work"/deb/*.deb "$directory"
  rm -rf "$work/deb"
}

# The package behind linux-image-cloud-amd64, which itself is empty.
kernel_package ()
{
  apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1 || true
}

# Copy module NAME from the kernel's directory to FILE, uncompressed; the
# init script has no decompressors.  Nothing is copied if it is built in.
copy_module ()
{
  local directory=$1 name=$2 file=$3 pattern found

  pattern=${name//_/[-_]}
  found=$(find "$directory" -name "$pattern.ko*" | head -n 1)
  case $found in
    *.ko) cp "$found" "$file" ;;
    *.ko.xz) xz -dc "$found" >"$file" ;;
    *.ko.zst) zstd -qdc "$found" >"$file" ;;
    *.ko.gz) gzip -dc "$found" >"$file" ;;
    *)
      grep -q "/$pattern\.ko" "$directory/modules.builtin" ||
        echo "build-guest.sh: this kernel has no module $name" >&2
      ;;
  esac
}

# Fill CACHE/kernel with the kernel and its numbered modules.
make_kernel ()
{
  local package directory number=10 name

  package=$(kernel_package)
  [ -n "$package" ] ||
    unavailable "no package linux-image-cloud-amd64; try apt-get update"
  unpack_package "$package" "$work/unpacked"
  directory=$(echo "$work"/unpacked/lib/modules/*)
  mkdir -p "$work/kernel/modules"
  for name in $modules; do
    copy_module "$directory" "$name" \
                "$work/kernel/modules/$number-$name.ko"
    number=$((number + 1))
  done
  cp "$work"/unpacked/boot/vmlinuz-* "$work/kernel/vmlinuz"
  echo "$package" >"$work/kernel/version"
  # All or nothing: an interrupted run leaves no half-filled directory.
  mv "$work/kernel" "$cache/kernel"
}

# Print the path of a guest binary: the host's, or one from a package.
find_binary ()
{
  local name=$1 package=$2 path

  if path=$(type -P "$name"); then
    echo "$path"
    return
  fi
  if [ ! -d "$cache/$package" ]; then
    unpack_package "$package" "$work/$package"
    mv "$work/$package" "$cache/$package"
  fi
  find "$cache/$package" -type f -name "$name" -perm -u+x | head -n 1
}

libraries_of ()
{
  local libraries=$cache/libraries directory=lib/x86_64-linux-gnu

  LD_LIBRARY_PATH=$libraries/$directory:$libraries/usr/$directory ldd "$1"
}

# Copy a binary and the libraries that it needs into the guest's root.  The
# libraries go flat into /lib, the loader to where the binary asks for it.
copy_binary ()
{
  local path=$1 root=$2 package library

  cp -L "$path" "$root/bin/"
  # A static binary has no libraries, and ldd says so by its exit status.
  ldd "$path" >/dev/null 2>&1 || return 0
  if ldd "$path" | grep -q 'not found' && [ ! -d "$cache/libraries" ]; then
    for package in $library_packages; do
      unpack_package "$package" "$work/libraries"
    done
    mv "$work/libraries" "$cache/libraries"
  fi
  if libraries_of "$path" | grep 'not found' >&2; then
    unavailable "$path lacks a library; install its package with apt-get"
  fi
  for library in $(libraries_of "$path" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p')
  do
    cp -L "$library" "$root/lib/"
  done
  for library in $(libraries_of "$path" | sed -n 's/^\t\(\/[^ ]*\) .*/\1/p')
  do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
  done
}

make_base ()
{
  local root=$work/root path

  mkdir -p "$root"/{bin,lib,dev,proc,sys,tmp,mnt,modules}
  cp "$cache"/kernel/modules/*.ko "$root/modules/"
  for path in $paths; do
    copy_binary "$path" "$root"
  done
  # Not compressed: an emulated processor takes longer to decompress it than
  # qemu takes to load it.
  (cd "$root" && find . | "$busybox" cpio -o -H newc) \
    >"$work/base.cpio" 2>/dev/null
  mv "$work/base.cpio" "$cache/base.cpio"
}

[ "$(uname -m)" = x86_64 ] || unavailable "the guest is built on x86_64 only"

# Two tests that start at once must not build in the same place.
exec 9>"$cache/lock"
flock 9
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT

[ -d "$cache/kernel" ] || make_kernel
paths=
for binary in $binaries; do
  path=$(find_binary "${binary%%:*}" "${binary##*:}")
  [ -n "$path" ] ||
    unavailable "package ${binary##*:} has no ${binary%%:*}"
  paths="$paths $path"
done
busybox=${paths# }
busybox=${busybox%% *}

# Made from these; a new version of any of them makes a new archive.
stamp=$(cat "$self" "$cache/kernel/version" $paths | sha256sum)
if [ "$stamp" != "$(cat "$cache/stamp" 2>/dev/null)" ]; then
  make_base
  cp "$cache/kernel/vmlinuz" "$cache/vmlinuz"
  cp "$busybox" "$cache/busybox"
  echo "$stamp" >"$cache/stamp"
fi
