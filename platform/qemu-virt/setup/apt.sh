# shellcheck shell=bash
# Private apt configuration (sourced after common.sh). Mirrors are the user's own; suites that the user has not
# enabled (backports, the next release's sources, arm64 indexes) exist only in here.

# Debian 12; the suite whose kernel and QEMU we take, and the one whose TF-A and cpp-httplib sources we take.
base_suite=bookworm
source_suite=trixie
apt_dir=$target/apt

# mirror_of SUITE: the URI from which the user's apt configuration takes Debian's SUITE.
mirror_of() {
    # Others publish suites of the same name; Origin tells, but only once lists were fetched. Before that (a fresh container) the
    # first source of that name and component must do.
    # shellcheck disable=SC2016  # the $(...) is apt's own substitution syntax
    {
        apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(ORIGIN) $(REPO_URI)' 2>/dev/null | sed -n 's/^\([^ ]* main\) Debian /\1 /p'
        apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 2>/dev/null
    } | awk -v suite="$1" '$1 == suite && $2 == "main" { print $3; exit }'
}

write_apt_configuration() {
    local mirror security keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=$(mirror_of "$base_suite")
    security=$(mirror_of "$base_suite-security")
    [ -n "$mirror" ] || die "apt on this machine has no source for $base_suite; FlexServe needs Debian 12"
    mkdir -p "$apt_dir"/{lists/partial,cache/archives/partial,state,preferences.d}
    : >"$apt_dir/state/status"
    {
        echo "deb [arch=amd64,arm64 signed-by=$keyring] $mirror $base_suite main"
        echo "deb [arch=amd64,arm64 signed-by=$keyring] $mirror $base_suite-updates main"
        echo "deb [arch=amd64,arm64 signed-by=$keyring] $mirror $base_suite-backports main"
        [ -z "$security" ] || echo "deb [arch=amd64,arm64 signed-by=$keyring] $security $base_suite-security main"
        echo "deb-src [signed-by=$keyring] $mirror $source_suite main"
    } >"$apt_dir/sources.list"
    # The hooks are cleared because distributions hang indexers and cache cleaners on them.
    cat >"$apt_dir/apt.conf" <<CONF
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Pre-Invoke;
#clear DPkg::Post-Invoke;
Dir::Etc::sourcelist "$apt_dir/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "$apt_dir/preferences.d";
Dir::State::lists "$apt_dir/lists";
Dir::Cache "$apt_dir/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
CONF
    cp "$apt_dir/apt.conf" "$apt_dir/private.conf"
    echo "Dir::State::status \"$apt_dir/state/status\";" >>"$apt_dir/private.conf"
}

# apt for target packages: sees an empty machine.
private_apt() {
    local tool=$1
    shift
    "$tool" -q -c "$apt_dir/private.conf" "$@"
}

apt_update() {
    write_apt_configuration
    private_apt apt-get update
}

# fetch_deb PACKAGE[:ARCH] SUITE FOLDER: downloads the current version and unpacks it into FOLDER. SUITE is backports, or
# $base_suite for whatever is newest in the stable suite and its security updates.
fetch_deb() {
    local package=$1 suite=$2 into=$3 debs=$target/debs select=()
    [ "$suite" = "$base_suite" ] || select=(-t "$suite")
    mkdir -p "$debs" "$into"
    (
        cd "$debs"
        rm -f "${package%%:*}"_*.deb
        private_apt apt-get "${select[@]}" download "$package"
        for deb in "${package%%:*}"_*.deb; do
            dpkg-deb -x "$deb" "$into"
            echo "${package} $(dpkg-deb -f "$deb" Version)" >>"$target/versions"
        done
        rm -f "${package%%:*}"_*.deb
    )
}

# fetch_source PACKAGE FOLDER: unpacks the source package of $source_suite, Debian's patches applied, into FOLDER.
fetch_source() {
    local package=$1 into=$2 work=$target/src-$1
    rm -rf "$work" "$into"
    mkdir -p "$work"
    (
        cd "$work"
        private_apt apt-get source --only-source "$package"
        echo "$package $(sed -n 's/^Version: //p' ./*.dsc | head -n 1)" >>"$target/versions"
        mv ./"$package"-*/ "$into"
    )
    rm -rf "$work"
}
