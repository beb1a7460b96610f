#!/bin/bash
# check-no-fp.sh OBJDUMP ELF: fails when a function of the image other than save_fp and load_fp names an FP or SIMD register.
# The code below EL0 does not save them on its way in: it would change another world's or process's.
set -euo pipefail
found=$("$1" -d --no-show-raw-insn "$2" | awk -F '\t' '
    /^[0-9a-f]+ <.*>:$/ { name = $1; sub(/.* </, "", name); sub(/>:$/, "", name) }
    NF >= 3 && $3 ~ /(^|[ ,[{])[vqdshb][0-9]+([.,} ]|\]|$)/ { print name }' | sort -u | grep -vxE 'save_fp|load_fp' || true)
[ -z "$found" ] || { echo "$2 uses FP registers in: $found" >&2; exit 1; }
