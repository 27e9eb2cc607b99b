# shellcheck shell=bash
# What the launchers share; they source it. `dry_run` (yes or no) is the launcher's.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Prints a command as it could be typed.
show() {
    local word
    printf '+'
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./=:,@%+-]* | '') printf ' %q' "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
}

# Prints a command, and runs it unless this is a dry run.
run() {
    show "$@"
    [[ ${dry_run:?} == yes ]] || "$@"
}

# Refuses where a program is missing, unless this is a dry run.
need() {
    [[ ${dry_run:?} == yes ]] || command -v "$1" >/dev/null || fail "$1: no such program; $2"
}
