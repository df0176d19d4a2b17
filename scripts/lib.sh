# shellcheck shell=bash
# Shared by the other scripts, which source it. It finds the repository, what a script needs, and its processes.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${CARGO_TARGET_DIR:=$root/target}"
export CARGO_TARGET_DIR

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
    if ! install_package "$package"; then
        apt-get update -qq >/dev/null 2>&1 || true
        install_package "$package" || return 1
    fi
    has_command "$command"
}

install_package() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1
}

# need_package COMMAND PACKAGE: as try_package, but a script that cannot go on without it ends.
need_package() {
    try_package "$1" "$2" || fail "$1 is missing: apt-get install $2"
}

need_rust() {
    [ -d "$HOME/.cargo/bin" ] && PATH=$PATH:$HOME/.cargo/bin
    need_command cargo "install Rust 1.88 or newer from https://rustup.rs"
    need_package cc build-essential
}

# The directory for a script's own files; goes when the script ends.
make_temporary() {
    temporary=$(mktemp -d "${TMPDIR:-/tmp}/ringcar.XXXXXX")
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
