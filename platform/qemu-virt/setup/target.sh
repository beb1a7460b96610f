#!/bin/bash
# Fetches and prepares everything that runs in, or is linked into, the device (see common.sh for what and where).
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/apt.sh"

fetch_kernel() {
    local image=$1 unpack=$target/unpack-kernel
    rm -rf "$unpack" "$target/kernel"
    fetch_deb "$image:arm64" "$base_suite-backports" "$unpack"
    mkdir -p "$target/kernel"
    cp "$unpack"/boot/vmlinuz-* "$target/kernel/Image"
    cp "$unpack"/boot/config-* "$target/kernel/config"
    mv "$unpack/lib" "$target/kernel/lib"
    echo "${image#linux-image-}" >"$target/kernel/release"
    rm -rf "$unpack"
}

# The kernel's headers come in three packages that expect each other below /usr/src and /usr/lib; we keep them side by side.
fetch_headers() {
    local release=$1 root=$target/headers abi kbuild headers
    rm -rf "$root"
    abi=${release%-arm64}
    headers=$root/usr/src/linux-headers-$release
    fetch_deb "linux-headers-$release:arm64" "$base_suite-backports" "$root"
    fetch_deb "linux-headers-$abi-common" "$base_suite-backports" "$root"
    kbuild=linux-kbuild-$abi
    fetch_deb "$kbuild:amd64" "$base_suite-backports" "$root"
    sed -i "s#/usr/src/#$root/usr/src/#g; s#/usr/lib/#$root/usr/lib/#g" "$headers/Makefile"
    find "$headers" "$root/usr/src" -maxdepth 2 -type l | while read -r link; do
        case $(readlink "$link") in
            /usr/*) ln -sfn "$root$(readlink "$link")" "$link" ;;
        esac
    done
    ln -sfn "$headers" "$root/build"
}

fetch_busybox() {
    local unpack=$target/unpack-busybox
    fetch_deb busybox-static:arm64 "$base_suite" "$unpack"
    cp "$unpack/bin/busybox" "$target/busybox"
    rm -rf "$unpack"
}

# The sqlite3 shell with the shared libraries it needs, for the system tests; not part of the device's initramfs.
fetch_sqlite() {
    local unpack=$target/unpack-sqlite package
    rm -rf "$unpack" "$target/sqlite"
    for package in sqlite3 libsqlite3-0 libreadline8 libtinfo6 zlib1g libc6; do
        fetch_deb "$package:arm64" "$base_suite" "$unpack"
    done
    mkdir -p "$target/sqlite"
    cp -L "$unpack/usr/bin/sqlite3" "$unpack"/lib/aarch64-linux-gnu/{ld-linux-aarch64.so.1,libc.so.6,libm.so.6,libz.so.1} \
        "$unpack"/lib/aarch64-linux-gnu/{libreadline.so.8,libtinfo.so.6} "$unpack/usr/lib/aarch64-linux-gnu/libsqlite3.so.0" "$target/sqlite/"
    rm -rf "$unpack"
}

fetch_sysroot() {
    rm -rf "$target/sysroot"
    fetch_deb libssl-dev:arm64 "$base_suite" "$target/sysroot"
    test -e "$target/sysroot/usr/lib/aarch64-linux-gnu/libssl.a"
}

fetch_httplib() {
    fetch_source cpp-httplib "$target/cpp-httplib"
    mkdir -p "$target/httplib"
    cp "$target/cpp-httplib/httplib.h" "$target/httplib/httplib.h"
    rm -rf "$target/cpp-httplib"
}

# SPD=opteed starts BL32 (our trusted OS) at S-EL1; BL32 and BL33 are put into a FIP per device, so TF-A is built once.
build_tfa() {
    local source=$target/arm-trusted-firmware out=$target/tfa
    fetch_source arm-trusted-firmware "$source"
    # CI sets CFLAGS and friends for its own programs; TF-A must not see them.
    env -u CFLAGS -u CPPFLAGS -u LDFLAGS -u MAKEFLAGS make -C "$source" -j"$(nproc)" CROSS_COMPILE=aarch64-linux-gnu- PLAT=qemu \
        SPD=opteed QEMU_USE_GIC_DRIVER=QEMU_GICV3 BL32_RAM_LOCATION=tdram DEBUG=0 BUILD_BASE="$source/out" bl1 bl2 bl31 fiptool
    mkdir -p "$out"
    cp "$source"/out/qemu/release/bl{1,2,31}.bin "$out/"
    cp "$(find "$source/tools/fiptool" "$source/out" -type f -name fiptool | head -n 1)" "$out/fiptool"
}

cd "$target"
steps=(kernel headers busybox sqlite sysroot httplib tfa)
pending=()
for step in "${steps[@]}"; do [ -e "$target/stamp/$step" ] || pending+=("$step"); done
if [ "${1:-}" = --list ]; then # for `flexserve doctor`
    [ ${#pending[@]} = 0 ] || printf '%s\n' "${pending[@]}"
    exit 0
fi
[ ${#pending[@]} != 0 ] || exit 0

# Packages that the mirror has replaced since then cannot be fetched by old lists.
[ -z "$(find "$target/stamp/apt-lists" -mtime +0 2>/dev/null)" ] || rm "$target/stamp/apt-lists"
if [ ! -e "$target/stamp/apt-lists" ]; then say "reading the package lists of your mirror"; fi
once apt-lists apt_update

for step in "${pending[@]}"; do
    case $step in
        kernel)
            # The meta package of the suite names the current kernel.
            image=$(private_apt apt-cache -t "$base_suite-backports" show --no-all-versions linux-image-arm64:arm64 |
                sed -n 's/^Depends: .*\(linux-image-[0-9][^ ,]*-arm64\).*/\1/p' | head -n 1)
            [ -n "$image" ] || die "your mirror's $base_suite-backports has no linux-image-arm64"
            say "fetching the device's kernel, ${image#linux-image-} (about 70 MB)"
            once kernel fetch_kernel "$image"
            ;;
        headers)
            say "fetching that kernel's headers"
            once headers fetch_headers "$(cat "$target/kernel/release")"
            ;;
        busybox) say "fetching busybox for arm64" && once busybox fetch_busybox ;;
        sqlite) say "fetching SQLite for arm64 (the tests run it in the device)" && once sqlite fetch_sqlite ;;
        sysroot) say "fetching OpenSSL for arm64" && once sysroot fetch_sysroot ;;
        httplib) say "fetching cpp-httplib" && once httplib fetch_httplib ;;
        tfa) say "fetching and building Trusted Firmware-A (about 30 s)" && once tfa build_tfa ;;
    esac
done
