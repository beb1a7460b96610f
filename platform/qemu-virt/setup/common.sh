# shellcheck shell=bash
# shellcheck disable=SC2034
# Shared by the set-up scripts (sourced). Everything they produce lies under build/target and is described here:
#
#   apt/                 private apt state; the user's own apt configuration is read, never written
#   kernel/Image         stock Debian arm64 kernel; kernel/release its version; kernel/lib/modules/<release>/
#   headers/build        `make -C headers/build M=...` builds modules for that kernel
#   sysroot/             arm64 OpenSSL (static) headers and libraries
#   busybox              static arm64 busybox
#   sqlite/              arm64 sqlite3 shell, its libraries and their loader
#   httplib/httplib.h    cpp-httplib, single header
#   tfa/                 bl1.bin bl2.bin bl31.bin fiptool
#   versions             what was taken from where: "package version" lines
set -euo pipefail

setup_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$setup_dir/../../.." && pwd)
target=${FLEX_TARGET_DIR:-$repo/build/target}
mkdir -p "$target/stamp"

# Progress goes to stderr so that scripts can print results on stdout.
say() { printf '%s\n' "flexserve: $*" >&2; }
die() {
    say "$*"
    exit 1
}

# logged NAME COMMAND...: its output goes to a log file; shown only when it fails.
logged() {
    local log=$target/$1.log started=$SECONDS
    local name=$1
    shift
    # A sign of life for whoever waits.
    (
        trap 'kill $!; exit' TERM
        while true; do
            sleep 15 &
            wait $!
            say "  ... $((SECONDS - started)) s"
        done
    ) &
    local ticker=$!
    # Not "if ! (...)": within a condition bash would ignore the inner set -e.
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1
    local status=$?
    set -e
    { kill $ticker && wait $ticker; } 2>/dev/null || true
    if [ $status != 0 ]; then
        tail -n 15 "$log" >&2
        die "'$name' failed; the whole output is in $log"
    fi
    say "  done in $((SECONDS - started)) s"
}

# once NAME COMMAND...: as logged, unless it was done before.
once() {
    [ -e "$target/stamp/$1" ] && return 0
    logged "$@"
    touch "$target/stamp/$1"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root to run: $*  (become root or install sudo)"
    fi
}
