#!/bin/bash
# flexserve doctor: what is missing on this machine, and how to mend it. Changes nothing. Exit code 1 when something is missing.
source "$(dirname "$0")/common.sh"
set +e

json=no
for word in "$@"; do [ "$word" != --json ] || json=yes; done
problems=0
entries=()

json_text() { printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g'; }

# report good|missing|warning WHAT MEND
report() {
    [ "$1" != missing ] || problems=$((problems + 1))
    if [ $json = yes ]; then
        entries+=("{\"state\":\"$1\",\"what\":\"$(json_text "$2")\",\"mend\":\"$(json_text "${3:-}")\"}")
    else
        printf '%-8s %s\n' "$1" "$2"
        [ -z "${3:-}" ] || printf '         -> %s\n' "$3"
    fi
}

check_system() {
    local id codename free
    # shellcheck disable=SC1091
    id=$(. /etc/os-release && echo "$ID ${VERSION_ID:-}")
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ "$codename" = bookworm ]; then report good "Debian 12"; else
        report warning "this is $id; FlexServe is made for Debian 12" "package names and versions may differ"
    fi
    free=$(df --output=avail -m "$repo" | tail -n 1)
    if [ "$free" -ge 4000 ]; then report good "disk space ($free MiB free)"; else
        report missing "disk space: $free MiB free" "free 4 GB on the file system of $repo"
    fi
    free=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    if [ "$free" -ge 3000 ]; then report good "memory ($free MiB available)"; else
        report warning "memory: $free MiB available; a device wants 2 GiB and a bit" "flexserve device up --memory 1G"
    fi
    if [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; then report good "root or sudo, to install packages"; else
        report warning "neither root nor sudo" "only needed when tools are to be installed"
    fi
}

check_tools() {
    local missing
    missing=$("$setup_dir/tools.sh" --list)
    if [ -z "$missing" ]; then report good "build tools and QEMU"; return; fi
    while read -r package; do
        report missing "package $package" "./flexserve installs it; or by hand: apt-get install ${package%% *}"
    done <<<"$missing"
}

check_target() {
    local missing
    missing=$("$setup_dir/target.sh" --list)
    if [ -z "$missing" ]; then report good "device's kernel, libraries and firmware (build/target)"; return; fi
    report missing "for the device, not fetched yet: ${missing//$'\n'/ }" "run ./flexserve device up with a network connection"
}

check_build() {
    local image images=(tos.bin monitor.bin initramfs.cpio)
    if [ -x "$repo/build/host/flexserve" ]; then report good "flexserve program"; else
        report missing "the flexserve program is not built" "run ./flexserve device status; a failing build leaves build/host.log"
    fi
    for image in "${images[@]}"; do
        if [ -e "$repo/build/device/images/$image" ]; then report good "image $image"; else
            report missing "image $image is not built" "run ./flexserve device up; a failing build leaves build/device.log"
        fi
    done
}

check_home() {
    local home=${FLEXSERVE_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/flexserve} parent
    [ -n "${FLEXSERVE_HOME:-}" ] || home=${XDG_DATA_HOME:-$HOME/.local/share}/flexserve
    parent=$home
    while [ ! -e "$parent" ]; do parent=$(dirname "$parent"); done
    if [ -w "$parent" ]; then report good "data folder $home"; else
        report missing "cannot write to $parent" "make it writable, or set FLEXSERVE_HOME to another folder"
    fi
}

check_system
check_tools
check_target
check_build
check_home
if [ $json = yes ]; then
    printf '{"problems":%d,"checks":[%s]}\n' $problems "$(IFS=,; echo "${entries[*]}")"
elif [ $problems = 0 ]; then echo "nothing is missing"; else echo "$problems missing"; fi
[ $problems = 0 ]
