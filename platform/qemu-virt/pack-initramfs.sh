#!/bin/bash
# pack-initramfs.sh OUTPUT INIT AGENT [MODULE.ko|PROGRAM...]
# Packs the device's initramfs: busybox with its applets' links, INIT as /init, AGENT as /sbin/flex-agentd, the modules given
# in /lib/flex/ and the programs in /sbin/, and those modules of the stock kernel that the device needs, with their dependencies, for modprobe.
# Not compressed: unpacking would cost more under emulation than reading.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${FLEX_TARGET_DIR:-$here/../../build/target}
output=$1 init=$2 agent=$3
shift 3
# Network to the host, folders shared with the host, files with a page cache of their own (for measurements). All else (PCI host,
# virtio-pci, console) is built in.
needed=(virtio_net 9pnet_virtio 9p loop ext4 crc32c_generic)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,run,etc,root,mnt,lib/flex}
chmod 755 "$root"
install -m 755 "$target/busybox" "$root/bin/busybox"
install -m 755 "$init" "$root/init"
install -m 755 "$agent" "$root/sbin/flex-agentd"
for file in "$@"; do
    case $file in
        *.ko) install -m 644 "$file" "$root/lib/flex/" ;;
        *) install -m 755 "$file" "$root/sbin/" ;;
    esac
done
# busybox runs the applet it is called as; the list cannot be had from an arm64 binary here, so these are what a person needs.
for applet in ash sh cat ls echo mount umount mkdir rmdir ln cp mv rm ps top kill dmesg insmod rmmod lsmod modprobe ip ifconfig \
    route ping nc wget hexdump dd df du free grep sed awk head tail sort uniq wc sleep sync reboot poweroff halt uname date id env \
    test true false touch chmod find xargs less vi stty setsid cttyhack getty mknod printf seq tr cut md5sum sha256sum devmem \
    taskset nproc uptime watch sysctl tee od time timeout usleep pidof killall vmstat getopt expr stat basename dirname hostname; do
    ln -s busybox "$root/bin/$applet"
done
ln -s ../bin/busybox "$root/sbin/modprobe"

release=$(cat "$target/kernel/release")
stock=$target/kernel/lib/modules/$release
wanted=$root/lib/modules/$release
# depmod wants a whole tree; it is made once, beside the fetched kernel.
[ -e "$stock/modules.dep" ] || /sbin/depmod -b "$target/kernel" "$release"
mkdir -p "$wanted"
# modules.dep lists "path: dependency dependency ...", complete and in the order of unloading.
for name in "${needed[@]}"; do
    line=$(grep -E "/${name}\.ko(\.xz)?:" "$stock/modules.dep") || { echo "the kernel has no module $name" >&2; exit 1; }
    for path in ${line//:/ }; do
        plain=${path%.xz}
        mkdir -p "$wanted/$(dirname "$plain")"
        case $path in
            *.xz) xz -dc "$stock/$path" >"$wanted/$plain" ;;
            *) cp "$stock/$path" "$wanted/$plain" ;;
        esac
    done
done
cp "$stock"/modules.{order,builtin,builtin.modinfo} "$wanted/"
/sbin/depmod -b "$root" "$release"
rm -f "$wanted"/modules.{order,builtin,builtin.modinfo,*.bin,symbols,devname,softdep}

# Sorted, owned by root, without times: the same input gives the same archive.
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null -o -H newc --owner root:root --reproducible) >"$output.new"
mv "$output.new" "$output"
