# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# The words on the command line.

usage() {
    cat <<TEXT
nokmem-rollout COMMAND [OPTIONS], for $BUILD

  diagnose     does this node leak, how far has it come, which cgroups are accounted; changes nothing
  preflight    may this node be swapped; changes nothing
  stage        bring the proven binaries here; nothing that runs is touched
  apply        replace kubelet and runc, prove it, or roll back
  verify       ask again whether all is as apply left it
  status       where this node is: run, state, drift, what is adopted
  confirm      what apply --confirm-within swapped stays
  resume       finish what a kill or a reboot cut off
  rollback     put back what was before the last apply
  seed         begin the state by which the first patched kubelet keeps what runs; apply does it too
  retire       end that state before the last container of another build is gone
  help         this

  --mode in-place|drained|reboot   apply: replace kubelet under running pods (default); stop engine and
                     pods and make their cgroups anew; or switch at the beginning of the next boot
  --only kubelet|runc              replace one of them
  --via files|rpm    stage: from files (default) or from the packages
  --from PLACE       stage: a folder or an http(s) URL, instead of the folder of this script; with
                     rpm a folder of packages, instead of yum's repositories.   seed: the old version
  --confirm-within SECONDS         apply: roll back unless confirmed; counted from the first switch
  --timeout SECONDS  how long a kubelet may take to be healthy, and its node to be Ready (default 180)
  --settle SECONDS   how long containers are watched after that (default 30)
  --stable SECONDS   how long one must have run before to be watched (default 60)
  --no-rollback      apply: leave a failure as it is
  --disable-http2    apply: set DISABLE_HTTP2 for kubelet
  --run NUMBER       rollback: to what was before that run, instead of the last
  --accept ID[,ID]   go on although this refuses; what nothing can make good cannot be accepted
  --unit UNIT        kubelet's unit, if it is not kubelet.service
  --manifests DIR, --state FILE, --drop-in DIR, --force            seed
  --textfiles DIR    where node_exporter reads metrics (default /var/lib/node_exporter/textfile_collector)
  --root DIR         diagnose: where another root is mounted, such as /host in a pod
  --dry-run          only say what would be done
  --json             one JSON document instead of text

Exit codes: 0 done, 1 unforeseen, 2 usage, 10 already done, 20 refused, 30 failed and rolled back, 31 not
rolled back, 40 locked by another run, 50 done but pending: takes effect after a drain or reboot, 60 interrupted.
TEXT
}

misused() {
    if [ -n "$JSON" ]; then
        finding refuse usage "$1" "nokmem-rollout help"
        result $USAGE "$1"
    fi
    printf 'nokmem-rollout: %s\n  next  nokmem-rollout help\n' "$(printable "$1")" >&2
    REPORTED=yes
    exit $USAGE
}

SELF=$(readlink -f "${BASH_SOURCE[0]}")
readonly SELF
COMMAND='' ROOT='' JSON='' DRY_RUN='' MODE=in-place ONLY='' VIA=files FROM='' SEED_FROM='' CONFIRM=''
TIMEOUT=180 SETTLE=30 STABLE=60 KEEP_GOING='' DISABLE_HTTP2='' ACCEPT='' MANIFESTS='' FORCE='' TEXTFILES=''
RUN_NAME='' UNCONFIRMED='' WORKER='' NUMBER='' SCRATCH='' PROBE='' LEAVINGS=''

# make_scratch: a folder that is gone when this ends: in memory, where that can be, for a full disk is no
# reason to stop. Here-documents are files to old shells, and go there too. What a kill left goes as well.
make_scratch() {
    local one
    for one in /run/nokmem.*.*; do
        one=${one#/run/nokmem.}
        [ -d "/proc/${one%%.*}" ] || rm -rf "/run/nokmem.$one"
    done
    SCRATCH=$(mktemp -d "/run/nokmem.$$.XXXXXXXX" 2>/dev/null || mktemp -d)
    TMPDIR=$SCRATCH
    trap ended EXIT
}

# scratch: a file that is gone when this ends.
scratch() { mktemp "$SCRATCH/XXXXXXXX"; }

# ended: what is left when this ends, in whichever way.
ended() {
    local code=$?
    [ -z "$PROBE" ] || rmdir "$PROBE" 2>/dev/null || true
    if [ $code -ne 0 ] && [ -z "$REPORTED" ]; then
        CGROUPS='' # it may be cut off
        report $UNFORESEEN "ended with code $code where nothing was expected to" "$JSON"
        code=$UNFORESEEN
    fi
    rm -rf "$SCRATCH" ${LEAVINGS:+"$LEAVINGS"}
    exit $code
}

# number OPTION VALUE LEAST: VALUE as it may be counted with.
number() {
    [[ $2 =~ ^0*([0-9]{1,6})$ ]] && [ "${BASH_REMATCH[1]}" -ge "$3" ] || misused "$1 '$2' is no number of seconds from $3 on"
    NUMBER=${BASH_REMATCH[1]}
}

main() {
    local word value
    for word in "$@"; do [ "$word" != --json ] || JSON=yes; done
    [ $# -gt 0 ] && [ "$1" != --json ] || misused "no command is given"
    case $1 in
    diagnose | preflight | stage | apply | verify | status | confirm | resume | rollback | seed | retire) ;;
    work | work-back | work-booted | boot) ;;
    help | --help | -h)
        COMMAND=help
        [ -z "$JSON" ] || result $DONE "$(usage)"
        usage && exit $DONE
        ;;
    *) misused "unknown command: $1" ;;
    esac
    COMMAND=$1
    shift
    while [ $# -gt 0 ]; do
        word=$1
        shift
        case $word in
        --dry-run) DRY_RUN=yes && continue ;;
        --json) JSON=yes && continue ;;
        --no-rollback) KEEP_GOING=yes && continue ;;
        --disable-http2) DISABLE_HTTP2=yes && continue ;;
        --force) FORCE=yes && continue ;;
        --unconfirmed) UNCONFIRMED=yes && continue ;;
        --*=*) value=${word#*=} word=${word%%=*} ;;
        --*)
            [ $# -gt 0 ] && [[ $1 != --* ]] || misused "$word needs a value, or is no option"
            value=$1
            shift
            ;;
        *) misused "unknown word: $word" ;;
        esac
        case $word in
        --mode) MODE=$value ;;
        --only) ONLY=$value ;;
        --via) VIA=$value ;;
        --from) if [ "$COMMAND" = seed ]; then SEED_FROM=$value; else FROM=${value%/}; fi ;;
        --confirm-within) number "$word" "$value" 60 && CONFIRM=$NUMBER ;;
        --timeout) number "$word" "$value" 1 && TIMEOUT=$NUMBER ;;
        --settle) number "$word" "$value" 0 && SETTLE=$NUMBER ;;
        --stable) number "$word" "$value" 0 && STABLE=$NUMBER ;;
        --accept) ACCEPT+=" ${value//,/ }" ;;
        --unit) KUBELET_UNIT=$value ;;
        --manifests) MANIFESTS=$value ;;
        --state) ADOPTION=$value ;;
        --drop-in) DROP_IN=$value ;;
        --textfiles) TEXTFILES=$value ;;
        --root)
            [ "$COMMAND" = diagnose ] || misused "--root is for diagnose"
            [ -n "$value" ] && [ -d "$value/proc" ] && [[ $value != *$'\n'* ]] || misused "--root '$value' has no proc"
            ROOT=${value%/}
            ;;
        --run) RUN_NAME=$value ;;
        *) misused "unknown option: $word" ;;
        esac
    done
    [[ $MODE =~ ^(in-place|drained|reboot)$ ]] || misused "--mode '$MODE': in-place, drained or reboot"
    [[ $ONLY =~ ^(|kubelet|runc)$ ]] || misused "--only '$ONLY': kubelet or runc"
    [[ $VIA =~ ^(files|rpm)$ ]] || misused "--via '$VIA': files or rpm"
    [[ $KUBELET_UNIT =~ ^[A-Za-z0-9@._-]+$ ]] || misused "--unit '$KUBELET_UNIT' is no unit's name"
    [[ $KUBELET_UNIT == *.service ]] || KUBELET_UNIT+=.service
    DROP_IN=${DROP_IN:-/etc/systemd/system/$KUBELET_UNIT.d}
    [[ $RUN_NAME =~ ^[0-9]*$ ]] || misused "--run '$RUN_NAME' is no run"
    STATE=$ROOT$STATE
    STAGED=$STATE/staged/$BUILD
    make_scratch
    case $COMMAND in
    work* | boot) ;; # systemd ends them, and resume goes on
    *) trap 'result $INTERRUPTED "a signal ended this"' INT TERM HUP ;;
    esac
    "${COMMAND//-/_}"
}
