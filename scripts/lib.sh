# shellcheck shell=bash
# Shared by the other scripts, which source it. It finds the repository, what a script needs, and its processes.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${CARGO_TARGET_DIR:=$root/target}"
case $CARGO_TARGET_DIR in
    /*) ;;
    *) CARGO_TARGET_DIR=$root/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR

# A service that starts us may know no home, and a cron job nothing below sbin.
: "${HOME:=$(getent passwd "$(id -u)" | cut -d : -f 6)}"
export HOME
PATH=$PATH:/usr/sbin:/sbin

# Nothing here calls the outside by these names, and what calls this machine must not go through a proxy.
no_proxy=localhost,127.0.0.1,::1,10.213.0.0/16${no_proxy:+,$no_proxy}
export no_proxy NO_PROXY=$no_proxy

# Who runs this need not be who cloned it; git asks before it reads what is somebody else's.
git_settings=${GIT_CONFIG_COUNT:-0}
export GIT_CONFIG_COUNT=$((git_settings + 1))
export "GIT_CONFIG_KEY_$git_settings=safe.directory" "GIT_CONFIG_VALUE_$git_settings=$root"

say() {
    printf '%s\n' "$*"
}

warn() {
    printf '%s\n' "$*" >&2
}

fail() {
    warn "error: $*"
    exit 1
}

# usage_if_asked SCRIPT ARGUMENTS…: prints the comment at the top of the script and ends, if --help is among them.
usage_if_asked() {
    local script=$1 argument
    shift
    for argument in "$@"; do
        case $argument in
            --) return ;;
            -h | --help)
                sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$script"
                exit 0
                ;;
        esac
    done
}

has_command() {
    command -v "$1" >/dev/null 2>&1
}

# need_command COMMAND HINT: ends with the hint where the command is missing.
need_command() {
    has_command "$1" || fail "$1 is missing: $2"
}

# try_package COMMAND PACKAGE: whether the command is there, after installing its Debian package if we may.
try_package() {
    local command=$1 package=$2
    has_command "$command" && return 0
    [ "$(id -u)" = 0 ] && has_command apt-get || return 1
    warn "installing $package, for $command"
    install_package "$package" && has_command "$command"
}

# install_package PACKAGE: with the lists that are there, which may be none or too old, and else with new ones.
install_package() {
    apt install -y --no-install-recommends "$1" && return 0
    [ -z "${lists_are_new:-}" ] || return 1
    export lists_are_new=yes
    apt update
    apt install -y --no-install-recommends "$1"
}

# apt VERB…: waits for another apt to end, and not for ever for a network that is not there.
apt() {
    DEBIAN_FRONTEND=noninteractive timeout --kill-after=10 "$APT_SECONDS_MAX" apt-get -qq \
        -o DPkg::Lock::Timeout=120 -o Acquire::Retries=1 -o Acquire::http::Timeout=15 \
        -o Acquire::https::Timeout=15 "$@" </dev/null >/dev/null 2>&1
}
# A JDK takes a minute on a slow line.
APT_SECONDS_MAX=300

# need_package COMMAND PACKAGE: as try_package, but a script that cannot go on without it ends.
need_package() {
    try_package "$1" "$2" || fail "$1 is missing: apt-get install $2"
}

need_rust() {
    local directory=${CARGO_HOME:-$HOME/.cargo}/bin
    # In front, or the compiler of a package, once that is installed, would be taken in the place of this cargo's.
    if [ -x "$directory/cargo" ] && { ! has_command cargo || [ "$(command -v cargo)" = "$directory/cargo" ]; }; then
        PATH=$directory:$PATH
    fi
    need_command cargo "install Rust 1.88 or newer from https://rustup.rs"
    need_package cc build-essential
}

# The directory for a script's own files; goes when the script ends.
make_temporary() {
    temporary=$(mktemp -d "${TMPDIR:-/tmp}/ringcar.XXXXXX") || fail "no directory for temporary files: set TMPDIR"
    trap clean_up EXIT
}

started_pids=()

# Whatever a script started ends with it: by its process id, gently, then not.
clean_up() {
    stop_processes "${started_pids[@]}"
    [ -z "${temporary:-}" ] || rm -rf "$temporary"
}

stop_processes() {
    local pid tries
    for pid in "$@"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "$@"; do
        for ((tries = 0; tries < 100; tries++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}

# wait_until SECONDS COMMAND…: whether the command succeeded in time.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}
