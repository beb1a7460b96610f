#!/bin/sh
# run_arm64.sh PROGRAM CPU: runs an arm64 test program under qemu-user; exit code 77 ("skipped") where that is not possible.
[ -x "$1" ] || { echo "skipped: $1 is not built"; exit 77; }
command -v qemu-aarch64-static >/dev/null || { echo "skipped: qemu-aarch64-static is not installed"; exit 77; }
exec qemu-aarch64-static -cpu "$2" "$1" --gtest_brief=1
