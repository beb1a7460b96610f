#!/bin/bash
# Boots QEMU on given images with UART0 on stdio: for those who work on the monitor or the trusted OS.
# The product's launcher is `flexserve device up`; both use the same machine.
#
#   boot.sh BL32.bin BL33.bin [KERNEL [INITRD]]
#
# Environment: CORES (2), MEMORY in MiB (2048), CPU, CMDLINE (the kernel's), FLASH (a device's flash file; made when absent),
# SECURE_LOG (file of the secure UART; default stderr's terminal is not used), TIMEOUT in s, QEMU_EXTRA (further options).
# KERNEL and INITRD default to the fetched kernel and no initramfs. QEMU exits on reset (-no-reboot) unless REBOOT=1.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${FLEX_TARGET_DIR:-$here/../../build/target}
[ $# -ge 2 ] || { sed -n '2,10p' "$0" >&2; exit 2; }
bl32=$1 bl33=$2 kernel=${3:-$target/kernel/Image} initrd=${4:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flash=${FLASH:-$work/flash.bin}
secure_log=${SECURE_LOG:-$work/secure.log}

"$target/tfa/fiptool" create --tb-fw "$target/tfa/bl2.bin" --soc-fw "$target/tfa/bl31.bin" --tos-fw "$bl32" --nt-fw "$bl33" "$work/fip.bin"
if [ ! -e "$flash" ]; then
    truncate -s 63M "$flash"
    # Root key, then erased flash, as a new device has it.
    { head -c 32 /dev/urandom; head -c $((1048576 - 32)) /dev/zero | tr '\0' '\377'; } >>"$flash"
fi
dd if="$target/tfa/bl1.bin" of="$flash" conv=notrunc status=none
dd if="$work/fip.bin" of="$flash" bs=256K seek=1 conv=notrunc status=none

size_of() { if [ -n "$1" ]; then stat -L -c %s "$1"; else echo 0; fi; }
python3 - "$work/info.bin" "$(size_of "$kernel")" "$(size_of "$initrd")" "${CMDLINE:-console=ttyAMA0}" <<'PY'
import struct, sys
path, kernel, initrd, command_line = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
open(path, "wb").write((struct.pack("<8sQQ", b"FLEXBOOT", kernel, initrd) + command_line).ljust(4096, b"\0"))
PY

qemu=(qemu-system-aarch64
    -machine virt-9.1,secure=on,virtualization=on,gic-version=3,iommu=smmuv3,its=off,acpi=off,highmem-ecam=off,highmem-mmio=off,memory-backend=ram
    -global arm-smmuv3.stage=2
    -object "memory-backend-memfd,id=ram,size=${MEMORY:-2048}M,share=on"
    -m "${MEMORY:-2048}M" -smp "${CORES:-2}" -cpu "${CPU:-max,sve=off,sme=off,pauth=off,lpa2=off}"
    -accel tcg,thread=multi -nodefaults -display none -vga none
    -drive "if=pflash,unit=0,format=raw,file=$flash"
    -device "loader,file=$kernel,addr=0x44000000,force-raw=on"
    -device "loader,file=$work/info.bin,addr=0x43fff000,force-raw=on"
    -serial mon:stdio -serial "file:$secure_log")
[ -z "$initrd" ] || qemu+=(-device "loader,file=$initrd,addr=0x4c000000,force-raw=on")
[ -n "${REBOOT:-}" ] || qemu+=(-no-reboot)
# shellcheck disable=SC2206  # words on purpose
qemu+=(${QEMU_EXTRA:-})
if [ -n "${TIMEOUT:-}" ]; then timeout --foreground "$TIMEOUT" "${qemu[@]}"; else "${qemu[@]}"; fi
