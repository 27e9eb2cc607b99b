# shellcheck shell=bash
# What the launchers share; they source it.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Reads the options in front of CONFIG. What is behind them, CONFIG WORKDIR [FLAG ...], becomes the array `words`.
#
#     read_options "name zone" "$@"
#
# sets the variable of each option that is named in the first argument, as in --name=VALUE; sets dry_run to yes or no;
# and prints the launcher's `usage` for --help.
read_options() {
    local known=" $1 " option
    shift
    dry_run=no
    while [[ $# -gt 0 ]]; do
        option=${1#--}
        option=${option%%=*}
        case $1 in
            --dry-run) dry_run=yes ;;
            -h | --help) printf '%s\n' "${usage:?}"; exit 0 ;;
            --*=*) [[ $known == *" $option "* ]] || fail "unknown option $1 before CONFIG; $usage"
                printf -v "$option" %s "${1#*=}" ;;
            -*) fail "unknown option $1 before CONFIG; $usage" ;;
            *) break ;;
        esac
        shift
    done
    [[ $# -ge 2 ]] || fail "$usage"
    # shellcheck disable=SC2034 # the launchers read it
    words=("$@")
}

# Refuses a CONFIG that is neither a file nor the name of one in configs/; an argument may follow a colon.
need_config() {
    local name=${1%%:*}
    [[ -f $name || -f configs/$name.py ]] || fail "$1: no such config file"
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
