#!/bin/bash
# Installs the build and run tools of the host (Debian packages). Silent when all are there.
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/apt.sh"

packages=(g++ make cmake ninja-build libgtest-dev libcli11-dev libspdlog-dev nlohmann-json3-dev libssl-dev libedit-dev
    g++-aarch64-linux-gnu device-tree-compiler dpkg-dev kmod qemu-user-static cpio xz-utils gzip python3 python3-jinja2)
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done

qemu_version() { dpkg-query -W -f '${Version}' qemu-system-arm 2>/dev/null; }
need_qemu=no
if ! dpkg --compare-versions "$(qemu_version)" ge 1:10.0; then need_qemu=yes; fi

if [ "${1:-}" = --list ]; then # for `flexserve doctor`
    [ ${#missing[@]} = 0 ] || printf '%s\n' "${missing[@]}"
    [ $need_qemu = no ] || echo "qemu-system-arm (10.0 or later, from $base_suite-backports)"
    exit 0
fi
if [ ${#missing[@]} = 0 ] && [ $need_qemu = no ]; then exit 0; fi

say "reading the package lists of your mirror"
once apt-lists apt_update
if [ ${#missing[@]} != 0 ]; then
    say "installing build tools: ${missing[*]}"
    logged tools as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -c "$apt_dir/apt.conf" install -y --no-install-recommends "${missing[@]}"
fi
if [ $need_qemu = yes ]; then
    say "installing QEMU 10 from $base_suite-backports (about 20 s)"
    logged qemu as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -c "$apt_dir/apt.conf" install -y --no-install-recommends -t "$base_suite-backports" qemu-system-arm
fi
