#!/bin/bash
# build.sh [SUBCOMMAND]: builds what changed of what that subcommand of flexserve needs: the device's images, then the host's
# programs; for `test` also the tests and the images without one defence. Silent when nothing changed.
source "$(dirname "$0")/common.sh"

# build NAME WHAT CMAKE_OPTIONS... -- TARGETS...
build() {
    local name=$1 what=$2 options=() folder=$repo/build/$1 log=$repo/build/$1.log
    shift 2
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    # Flags that the environment sets for other programs must not reach ours.
    unset CFLAGS CXXFLAGS CPPFLAGS LDFLAGS MAKEFLAGS
    if [ ! -e "$folder/build.ninja" ]; then
        say "configuring $what"
        cmake -S "$repo" -B "$folder" -G Ninja "${options[@]}" >"$log" 2>&1 || {
            tail -n 20 "$log" >&2
            die "configuring failed; the whole output is in $log"
        }
    fi
    local line announced=0 now=0 status=0
    : >"$log"
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        case $line in
            "@"*)
                # "@finished total description"; the step that re-reads the build files counts to 2 at most
                read -r done_steps total _ <<<"${line#@}"
                now=$SECONDS
                if [ "$total" -gt 2 ] && { [ "$announced" = 0 ] || [ $((now - announced)) -ge 5 ]; }; then
                    say "building $what: $done_steps of $total"
                    announced=$((now > 0 ? now : 1))
                fi
                ;;
        esac
    done < <(
        set +e
        NINJA_STATUS="@%f %t " ninja -C "$folder" "$@" 2>&1
        echo "status $?"
    )
    status=$(sed -n '$s/^status //p' "$log")
    if [ "$status" != 0 ]; then
        # The first failure with what the compiler said.
        sed -n '/^FAILED:/,$p' "$log" | head -n 40 >&2
        die "building $what failed; the whole output is in $log"
    fi
}

device_targets=(images kernel_modules)
host_targets=(flexserve)
if [ "${1:-}" = test ]; then
    device_targets=(all variants)
    host_targets=(all)
fi
build device "the device's images" --toolchain "$repo/cmake/aarch64-linux-gnu.cmake" -- "${device_targets[@]}"
build host "the host's programs" -- "${host_targets[@]}"
