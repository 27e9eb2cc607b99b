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

# Whether FLAGs are those of a segmentation by a Dask cluster: --mode=segment, unless segment.engine is "local".
by_dask() {
    local word found=no
    for word in "$@"; do
        case $word in
            --mode=segment) found=yes ;;
            --config.segment.engine=local) return 1 ;;
        esac
    done
    [[ $found == yes ]]
}

# Runs a Dask scheduler, and with it the command that segments; ends both when told to. Workers are started elsewhere.
#
#     segment_by_dask FILE PORT CONFIG WORKDIR [FLAG ...]
#
# FILE becomes the scheduler file; PORT 0 is one that is free; DASK_INTERFACE may name the network interface. Sets `status` to that of the command. `workers` may be the
# process that keeps them: without it the command would wait for ever.
segment_by_dask() {
    local file=$1 port=$2 config=$3 workdir=$4 scheduler command lost=no
    shift 4
    rm -f -- "$file" # of a job that was queued again
    export DASK_LOGGING__DISTRIBUTED=${DASK_LOGGING__DISTRIBUTED:-warning} # the log is the command's
    "${PYTHON:?}" -m dask scheduler "--port=$port" --no-dashboard "--scheduler-file=$file" \
        ${DASK_INTERFACE:+"--interface=$DASK_INTERFACE"} &
    scheduler=$!
    until [[ -s $file ]]; do
        kill -0 "$scheduler" 2>/dev/null || fail "the Dask scheduler has ended; see above"
        sleep 0.2
    done
    "$PYTHON" -m his4mae_jax.main "--config=$config" "--workdir=$workdir" --config.segment.engine=dask \
        "--config.segment.scheduler=$file" "$@" &
    command=$!
    # shellcheck disable=SC2064 # the number that it has now
    trap "kill -TERM $command 2>/dev/null || :" TERM USR1
    while kill -0 "$command" 2>/dev/null; do # a signal ends a wait
        wait -n "$command" ${workers:+"$workers"} || :
        if [[ -n ${workers:-} && $lost == no ]] && ! kill -0 "$workers" 2>/dev/null; then
            lost=yes
            kill -TERM "$command" 2>/dev/null || :
        fi
    done
    status=0
    wait "$command" || status=$?
    if [[ $lost == yes && $status -eq 75 ]]; then
        printf 'error: all workers have ended; see above\n' >&2
        status=1
    fi
    kill "$scheduler" 2>/dev/null || :
    wait "$scheduler" || :
    rm -f -- "$file"
}
