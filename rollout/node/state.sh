# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# What this script writes down: plain files below $STATE, each whole or not there, the journal line by
# line, with nothing believed before it is on the disk.
#
#   lock               who writes here holds it
#   staged/BUILD/      kubelet, runc and this script, as they were proven
#   runs/NNNN/         one apply each: plan, journal, backup/, forward.*, back.*, report.txt, report.json, result,
#                      and swapped as it was before
#   current            the run that counts
#   swapped            what was put into place, as sha256sum writes it; packages compare with it
#   drift              what packages found changed since, a line each

# below --root, if there is one
STATE=/var/lib/nokmem
STAGED=''
readonly SCHEMA=1
RUN=''

# lock [SECONDS|forever]: have the state to oneself, or leave with 40.
lock() {
    mkdir -p "$STATE/runs" || result $REFUSED "$STATE cannot be made: is this a node, are you root?"
    { exec 9>>"$STATE/lock"; } 2>/dev/null || result $REFUSED "$STATE/lock cannot be written: is it mounted read-only?"
    case ${1-} in
    forever) flock 9 ;;
    '') flock -n 9 ;;
    *) flock -w "$1" 9 ;;
    esac ||
        result $LOCKED "another run holds $STATE/lock; nokmem-rollout status shows it"
}

unlock() { exec 9>&-; }

# write FILE MODE: stdin becomes FILE, whole or not at all, and stays when the power goes.
write() {
    local part
    part=$(mktemp "$1.part.XXXXXXXX") || return 1
    # conv=fsync: a sync of everything would wait for every dead mount
    if dd of="$part" conv=fsync status=none && chmod "$2" "$part" && mv -fT "$part" "$1" && persist "${1%/*}"; then
        return 0
    fi
    rm -f "$part"
    return 1
}

# persist FOLDER: have renames in it on the disk. Coreutils of EL7 sync no folder; a file that is
# synced takes along what its filesystem was told before.
persist() {
    local mark
    mark=$(mktemp "$1/.nokmem-sync.XXXXXXXX") || return 1
    dd if=/dev/zero of="$mark" bs=1 count=1 conv=fsync status=none || { rm -f "$mark"; return 1; }
    rm -f "$mark"
}

# since_boot: in seconds; the only clock that a run looks at, because nobody sets it.
since_boot() {
    local up
    read -r up _ </proc/uptime
    printf '%s' "${up%.*}"
}

# note DIRECTION STEP begin|ok|failed [DETAIL]: a line of the journal, on the disk when it returns. Where
# the disk is full the room that the plan reserved is for it.
note() {
    local line
    line="$(date -u +%Y-%m-%dT%H:%M:%SZ) $(since_boot) $1 $2 $3 ${4-}"
    append "$line" || { rm -f "$RUN/reserve" && append "$line"; }
}

# append LINE: also behind one that was cut off.
append() {
    local line=$1
    [ -z "$(tail -c 1 "$RUN/journal" 2>/dev/null)" ] || line=$'\n'$line
    printf '%s\n' "$line" | dd of="$RUN/journal" oflag=append conv=notrunc,fsync status=none
}

noted() { grep -qE "^[^ ]+ [^ ]+ $1 $2 $3( |\$)" "$RUN/journal" 2>/dev/null; }

# plan KEY: the values that the plan of this run has for it, a line each.
plan() { sed -n "s/^$1 //p" "$RUN/plan"; }

# state_of RUN: where it is: planned, forward, waiting (for the next boot), back, unconfirmed, finished,
# undone.
state_of() {
    local RUN=$1
    if noted back finish ok; then
        echo undone
    elif grep -qE '^[^ ]+ [^ ]+ back ' "$RUN/journal" 2>/dev/null; then
        echo back
    elif noted forward finish ok; then
        if [ -n "$(plan confirm)" ] && ! noted forward confirmed ok; then echo unconfirmed; else echo finished; fi
    elif tail -n 1 "$RUN/journal" 2>/dev/null | grep -qE '^[^ ]+ [^ ]+ forward wait_for_boot begin'; then
        echo waiting
    elif [ -s "$RUN/journal" ]; then
        echo forward
    else
        echo planned
    fi
}

# current: the run that counts, or nothing.
current() {
    [ -L "$STATE/current" ] && [ -d "$STATE/current/." ] || return 1
    readlink -f "$STATE/current"
}

# new_run: make the next run's folder and print it; it counts once it has a plan.
new_run() {
    local last=0 one
    for one in "$STATE"/runs/[0-9]*/; do
        one=${one%/}
        one=${one##*/}
        [[ ! $one =~ ^[0-9]+$ ]] || [ $((10#$one)) -le "$last" ] || last=$((10#$one))
    done
    one=$(printf '%s/runs/%04d' "$STATE" $((last + 1)))
    mkdir "$one" && printf '%s' "$one"
}

# make_current: from here on this run counts.
make_current() {
    ln -sfn "runs/${RUN##*/}" "$STATE/current.new" && mv -fT "$STATE/current.new" "$STATE/current" && persist "$STATE"
}

# runs_kept: all that there are, the last one first.
runs_kept() { find "$STATE/runs" -mindepth 1 -maxdepth 1 -name '[0-9]*' | sort -rV; }

# prune: what stays are the last three runs, the one that counts, and of each file that was replaced the last run that
# has what was there before anything of this project.
prune() {
    local one path number=0 held=$'\n' hold
    while IFS= read -r one; do
        number=$((number + 1)) hold=''
        case $(state_of "$one") in
        finished | unconfirmed)
            while IFS= read -r path; do
                [[ $held == *$'\n'"$path"$'\n'* ]] || held+=$path$'\n' hold=yes
            done < <(sed -n 's/^origin //p' "$one/plan")
            ;;
        esac
        [ $number -le 3 ] || [ -n "$hold" ] || [ "$one" -ef "$STATE/current" ] || rm -rf "$one"
    done < <(runs_kept)
}

digest() {
    local sum
    sum=$(sha256sum <"$1") || return 1
    printf '%s' "${sum%% *}"
}

# is FILE SHA256
declare -A IS=()
is() { [ -f "$1" ] && [ "$(digest "$1" 2>/dev/null)" = "$2" ] && IS[_$2]=$1; }

# runs PID SHA256: whether it is that executable. One file is read once: nobody writes into what runs.
runs() {
    [ "/proc/$1/exe" -ef "${IS[_$2]-}" ] || [ "$(digest "/proc/$1/exe" 2>/dev/null)" = "$2" ]
}
