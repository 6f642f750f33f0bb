# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# The steps of a swap, there and back. Each is in the journal before it begins and after it is done, looks at
# what is there before it acts, and so may be repeated; the switch of a file is one rename.

TROUBLE=''

# forward_steps MODE; what is behind `hold` may have changed the node.
forward_steps() {
    case $1 in
    in-place) echo record backup place seed hold arm switch_runc stop_kubelet switch_kubelet start_kubelet verify finish ;;
    drained) echo record backup place seed hold arm stop_kubelet stop_pods stop_engine remove_cgroups switch_runc switch_kubelet start_engine start_kubelet verify finish ;;
    reboot) echo record backup place seed hold wait_for_boot arm switch_runc switch_kubelet start_engine start_kubelet verify finish ;;
    esac
}

# Back is always the same: each step does only what there is to do.
readonly BACK_STEPS='record place stop_kubelet restore_kubelet restore_runc restore_state start_engine start_kubelet verify_old finish'

# for_good DIRECTION NAME: whether a step is done, and need not be done again by who goes on with a run. What
# was there before a kill may have changed since; on the way back nothing is taken for granted.
for_good() {
    case $1/$2 in
    back/* | forward/arm) return 1 ;;
    # as long as no other kubelet has touched them
    forward/record) noted forward start_kubelet begin || rebooted || return 1 ;;
    esac
    noted "$1" "$2" ok
}

# step DIRECTION NAME: one step, unless it is done. 0 done, 1 it failed: TROUBLE says why. The way back does
# not end where nothing can be written.
step() {
    local direction=$1 step=$2
    ! for_good "$direction" "$step" || return 0
    progress "$direction: ${step//_/ }"
    note "$direction" "$step" begin || [ "$direction" = back ] || { TROUBLE="the journal cannot be written"; return 1; }
    TROUBLE=''
    if "${direction}_$step"; then
        note "$direction" "$step" ok || [ "$direction" = back ] || { TROUBLE="the journal cannot be written"; return 1; }
    else
        TROUBLE=${TROUBLE:-"$step failed"}
        note "$direction" "$step" failed "$TROUBLE" || true
        return 1
    fi
}

# beside TARGET WHAT: the hidden file beside a target that is renamed to it: new, or old.
beside() { printf '%s/.%s.nokmem-%s' "${1%/*}" "${1##*/}" "$2"; }

# The plan has a line "target COMPONENT OLD NEW PATH" for each file that is replaced.
targets() { sed -n 's/^target [a-z]* [0-9a-f]* [0-9a-f]* //p' "$RUN/plan"; }
component() { of_target "$1" 2; }
old_of() { of_target "$1" 3; }
new_of() { of_target "$1" 4; }
of_target() {
    path=$1 awk -v field="$2" '$1 == "target" {
        path = $0; sub(/^target [a-z]* [0-9a-f]* [0-9a-f]* /, "", path)
        if (path == ENVIRON["path"]) { print $field; exit } }' "$RUN/plan"
}

# snapshot WHEN: what runs, for a comparison afterwards: WHEN.containers, .cgroups, .names, .kubelet, .heartbeat.
snapshot() {
    look_around
    containers | write "$RUN/$1.containers" 0600 && cgroups_now | write "$RUN/$1.cgroups" 0600 &&
        names | write "$RUN/$1.names" 0600 && kubelet_process | write "$RUN/$1.kubelet" 0600 &&
        { heartbeat || true; } | write "$RUN/$1.heartbeat" 0600 ||
        { TROUBLE="$RUN cannot be written"; return 1; }
}

forward_record() { snapshot forward; }

# What is kept besides the binaries; a cpu_manager_state of 1.18 and later stops an older kubelet.
to_keep() {
    local one
    one=$(unit "$KUBELET_UNIT" FragmentPath)
    [ ! -f "$one" ] || printf '%s\n' "$one"
    for one in $(unit "$KUBELET_UNIT" DropInPaths); do [ ! -f "$one" ] || printf '%s\n' "$one"; done
    for one in "$KUBELET_CONFIG" "$(kubelet_root)"/{config.yaml,kubeadm-flags.env,cpu_manager_state,memory_manager_state,kubelet_internal_checkpoint,version-cache.json}; do
        [ ! -f "$one" ] || printf '%s\n' "$one"
    done | sort -u
}

forward_backup() {
    local file copy
    [ "$KUBELET_PID" != 0 ] || look_around
    rm -rf "$RUN/backup.part" "$RUN/backup"
    mkdir "$RUN/backup.part" || { TROUBLE="$RUN cannot be written"; return 1; }
    while IFS= read -r file; do
        copy=$RUN/backup.part$file
        mkdir -p "${copy%/*}" && cp --preserve=all --no-dereference "$file" "$copy" 2>"$SCRATCH/error" &&
            dd if=/dev/null of="$copy" conv=notrunc,fsync status=none ||
            { TROUBLE="$file could not be kept: $(tail -n 1 "$SCRATCH/error")"; return 1; }
    done < <({ targets && to_keep; } | sort -u)
    (cd "$RUN/backup.part" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum) >"$RUN/backup.part/SHA256SUMS" ||
        { TROUBLE="the backup could not be read again"; return 1; }
    while IFS= read -r file; do
        is "$RUN/backup.part$file" "$(old_of "$file")" && is "$file" "$(old_of "$file")" ||
            { TROUBLE="$file is not what it was when this began"; return 1; }
    done < <(targets)
    mv -T "$RUN/backup.part" "$RUN/backup" && persist "$RUN" || { TROUBLE="$RUN cannot be written"; return 1; }
}

# place_copy SOURCE TARGET WHAT SHA256 LIKE: the content of SOURCE beside TARGET, with owner, mode, label and
# attributes of LIKE.
place_copy() {
    local file
    file=$(beside "$2" "$3")
    # also one with the right content may have been cut off before it had them
    if ! is "$file" "$4"; then
        rm -f "$file" && dd if="$1" of="$file" bs=1M conv=fsync status=none
    fi 2>"$SCRATCH/error" &&
        cp --attributes-only --preserve=all "$5" "$file" 2>"$SCRATCH/error" && touch "$file" && is "$file" "$4" &&
        persist "${2%/*}" && return 0
    TROUBLE="$file could not be written: $(tail -n 1 "$SCRATCH/error")"
    rm -f "$file"
    return 1
}

forward_place() {
    local target
    while IFS= read -r target; do
        place_copy "$STAGED/$(component "$target")" "$target" new "$(new_of "$target")" "$target" || return 1
        # the way back needs no room: a second name of the old file
        ln -fT "$target" "$(beside "$target" old)" && persist "${target%/*}" ||
            { TROUBLE="$(beside "$target" old) could not be made"; return 1; }
    done < <(targets)
}

forward_seed() {
    local code=0
    if [ -n "$(plan http2)" ]; then
        mkdir -p "$DROP_IN" && write "$DROP_IN/$HTTP2" 0644 <<'CONF' || { TROUBLE="$DROP_IN/$HTTP2 cannot be written"; return 1; }
# The client of these kubelets keeps using a dead HTTP/2 connection: "use of closed network connection".
[Service]
Environment=DISABLE_HTTP2=1
CONF
    fi
    [ -n "$(plan seed)" ] || return 0
    # a state beside a stock kubelet is of another time
    FORCE=yes
    sow "$(plan from)" "$(plan manifests)" || code=$?
    [ $code = 0 ] || [ $code = 10 ] || return 1
}

# hold: from here on a reboot finishes what was begun.
forward_hold() {
    install_boot_unit || { TROUBLE="the unit for the next boot could not be written"; return 1; }
}

# arm: from here on a confirmation that does not come undoes it. No timer outlives a boot; that of another run
# says nothing of this one.
forward_arm() {
    [ -n "$(plan confirm)" ] && [ "$(unit "$(timer).timer" ActiveState)" != active ] || return 0
    arm "$(plan confirm)" || { TROUBLE="the timer for the confirmation could not be started"; return 1; }
}

# ready TARGET: that what is about to be renamed is what was proven, or has been renamed already.
ready() {
    is "$(beside "$1" new)" "$(new_of "$1")" || is "$1" "$(new_of "$1")" ||
        { TROUBLE="$(beside "$1" new) is not what was placed there"; return 1; }
    known "$1"
}

# known TARGET: that it is one of the two files; what somebody else put there is not overwritten.
known() {
    is "$1" "$(old_of "$1")" || is "$1" "$(new_of "$1")" ||
        { TROUBLE="$1 is not the file that was there when this began: somebody replaced it"; return 1; }
}

# switch TARGET: one rename, unless it is done. A second name of the old file needs no reading while kubelet is down.
switch() {
    local new
    new=$(beside "$1" new)
    [ -e "$new" ] || return 0
    [ "$1" -ef "$(beside "$1" old)" ] || known "$1" || return 1
    mv -fT "$new" "$1" 2>"$SCRATCH/error" && persist "${1%/*}" || { TROUBLE="$1 could not be replaced: $(tail -n 1 "$SCRATCH/error")"; return 1; }
}

switch_proven() { ready "$1" && switch "$1"; }

each_target() { # each_target COMPONENT COMMAND...: of all where it is empty
    local kind=$1 target
    shift
    while IFS= read -r target; do
        [ "$(component "$target")" != "${kind:-$(component "$target")}" ] || "$@" "$target" || return 1
    done < <(targets)
}

forward_switch_runc() { each_target runc switch_proven && stood_too; }

# kubelet is down from here to start_kubelet: what takes time is done before.
forward_stop_kubelet() {
    [ -n "$(plan kubelet)" ] || [ "$(plan mode)" != in-place ] || return 0
    each_target kubelet ready || return 1
    # a boot has ended everything, and begun with what should run
    if rebooted && [ "$(running_digest)" = "$(plan after)" ]; then return 0; fi
    stop_kubelet
}

stop_kubelet() { systemctl daemon-reload && systemctl stop "$KUBELET_UNIT" || { TROUBLE="kubelet could not be stopped"; return 1; }; }

forward_switch_kubelet() { each_target kubelet switch; }

forward_start_kubelet() {
    [ "$(running_digest)" = "$(plan after)" ] || stood_too || return 1
    run_kubelet "$(plan after)"
}

# stood_too: until now the binaries before could make cgroups: what stands here is theirs as well.
stood_too() { cgroups_now >>"$RUN/forward.cgroups" || { TROUBLE="$RUN cannot be written"; return 1; }; }

# run_kubelet SHA256: have the kubelet run that is in place, which is that file, unless it runs already. One
# that died too often before would not be started by systemd.
run_kubelet() {
    [ "$(running_digest)" != "$1" ] || return 0
    systemctl reset-failed "$KUBELET_UNIT" 2>/dev/null || true
    systemctl daemon-reload && systemctl restart "$KUBELET_UNIT" || { TROUBLE="kubelet does not start: $(last_words)"; return 1; }
}

# last_words: what kubelet said at last.
last_words() { timeout 20 journalctl -q --no-pager -o cat -n 200 -u "$KUBELET_UNIT" 2>/dev/null | grep -E '^[EF][0-9]|rror|atal' | tail -n 1 | cut -c 1-300 || true; }

# stop_pods: end what is left of pods: first asked, then made; the engine sees them go.
forward_stop_pods() {
    local pids round
    [ -n "$KUBEPODS" ] && ! rebooted || return 0
    for round in TERM WAIT WAIT WAIT KILL WAIT WAIT KILL WAIT; do
        pids=$(find "$KUBEPODS" -name cgroup.procs -exec cat {} + 2>/dev/null)
        [ -n "$pids" ] || return 0
        # shellcheck disable=SC2086 # words
        case $round in
        WAIT) sleep 3 ;;
        *) kill -s "$round" $pids 2>/dev/null || true ;;
        esac
    done
    pids=$(find "$KUBEPODS" -name cgroup.procs -exec cat {} + 2>/dev/null)
    [ -z "$pids" ] || { TROUBLE="processes of pods do not end: ${pids//$'\n'/ }"; return 1; }
}

forward_stop_engine() {
    local one
    ! rebooted || return 0
    for one in $(plan engine); do
        # its socket would start it again
        if [ "$(unit "${one%.service}.socket" ActiveState)" = active ]; then systemctl stop "${one%.service}.socket"; fi
        systemctl stop "$one" || { TROUBLE="$one could not be stopped"; return 1; }
    done
}

# remove_cgroups: the cgroups of all pods, in every hierarchy, so that they are made anew without accounting.
forward_remove_cgroups() {
    local root relative place left
    [ -n "$KUBEPODS" ] && ! rebooted || return 0
    relative=${KUBEPODS#"$MEMORY"}
    while read -r root; do
        place=$root$relative
        [ -d "$place" ] || continue
        find "$place" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done < <(awk '$3 == "cgroup" { print $2 }' /proc/mounts | sort -u)
    [ ! -d "$KUBEPODS" ] || { left=$(find "$KUBEPODS" -type d | wc -l); TROUBLE="$left cgroups under $KUBEPODS cannot be removed"; return 1; }
}

forward_start_engine() {
    local one
    for one in $(plan engine | tac); do
        [ "$(unit "$one" ActiveState)" != active ] || continue
        systemctl reset-failed "$one" 2>/dev/null || true
        systemctl start "$one" || { TROUBLE="$one does not come back"; return 1; }
    done
}

# wait_for_boot: nothing more is done before the next boot, whose first act is the switch.
forward_wait_for_boot() { [ -n "$BOOT" ]; }

forward_verify() { verify_node forward; }

forward_finish() {
    local target text=''
    while IFS= read -r target; do text+="$(new_of "$target")  $target"$'\n'; done < <(targets)
    { others_swapped && printf '%s' "$text"; } | write "$STATE/swapped" 0644 || { TROUBLE="$STATE/swapped cannot be written"; return 1; }
    rm -f "$STATE/drift"
    [ -n "$(plan confirm)" ] || clean_up
}

# others_swapped: what earlier runs put into place that this one has nothing to do with.
others_swapped() {
    local sum file
    [ -f "$STATE/swapped" ] || return 0
    while read -r sum file; do
        targets | grep -qxF "$file" || printf '%s  %s\n' "$sum" "$file"
    done <"$STATE/swapped"
}

# swapped_before: what earlier runs had put there where this one put its own, and what is there again. Of a run
# that did not write down what it found, the list itself says it, if it did not come to change it.
swapped_before() {
    local sum file list=$RUN/swapped
    [ -f "$list" ] || list=$STATE/swapped
    [ -f "$list" ] || return 0
    while read -r sum file; do
        ! targets | grep -qxF "$file" || [ "$sum" != "$(old_of "$file")" ] || printf '%s  %s\n' "$sum" "$file"
    done <"$list"
}

# clean_up: what is beside the targets, also what a kill left. The backup stays.
clean_up() {
    local target
    while IFS= read -r target; do
        rm -f "$(beside "$target" new)" "$(beside "$target" old)" "${target%/*}"/.nokmem-{probe,sync}.* ||
            finding warn leftovers "what stands beside $target could not be removed"
    done < <(targets)
    rm -rf "$STATE"/{,staged/,runs/*/}{.nokmem-sync.*,*.part.*} "$RUN/backup.part" "$ADOPTION".part.* || true
}

# ---- back

# record: what nobody can write down is no reason to stay.
back_record() { snapshot back || finding warn record "$TROUBLE: what restarts on the way back is not seen"; }

# place: all that is put back stands beside its target before anything is stopped.
back_place() { each_target "" place_old; }

# foreign TARGET: whether it is neither of the two files, nor one that another run put there.
foreign() {
    local sum
    sum=$(digest "$1" 2>/dev/null) || return 1
    [ "$sum" != "$(old_of "$1")" ] && [ "$sum" != "$(new_of "$1")" ] && ! grep -qxF "$sum  $1" "$STATE/swapped" 2>/dev/null
}

# The targets that the way back leaves as they are.
declare -A LEFT=()

# but_for: them in words.
but_for() {
    local target text=''
    while IFS= read -r target; do
        [ -z "${LEFT[$target]-}" ] || text+="${text:+, }$target"
    done < <(targets)
    printf '%s' "${text:+, but for what somebody replaced: $text}"
}

# place_old TARGET: by the second name that the old file has, else from the backup.
place_old() {
    local old copy=$RUN/backup$1 like=$1
    old=$(old_of "$1")
    if foreign "$1"; then
        [ -n "${LEFT[$1]-}" ] || finding warn changed "$1 is neither the file before nor the new one: it is left as it is"
        LEFT[$1]=yes
        return 0
    fi
    if is "$1" "$old" || is "$(beside "$1" old)" "$old"; then return 0; fi
    is "$copy" "$old" || { TROUBLE="the backup of $1 is missing or damaged: $copy"; return 1; }
    # a label that the backup was given where it lies is none for this place
    [ -f "$like" ] || like=$copy
    place_copy "$copy" "$1" old "$old" "$like"
}

back_stop_kubelet() {
    [ -n "$(plan kubelet)" ] || return 0
    if [ "$(running_digest)" = "$(kubelet_back)" ] && each_target kubelet is_back; then return 0; fi
    stop_kubelet
}

# kubelet_back: which kubelet is to run once all is put back. Where its file is somebody else's by now, that one,
# unless the one before runs still.
kubelet_back() {
    local target
    target=$(each_target kubelet echo)
    if [ -n "${LEFT[${target:-none}]-}" ] && [ "$(running_digest)" != "$(plan before)" ]; then
        digest "$target"
    else
        plan before
    fi
}

running_digest() {
    local pid
    pid=$(unit "$KUBELET_UNIT" MainPID)
    [ "${pid:-0}" != 0 ] && digest "/proc/$pid/exe" 2>/dev/null || true
}

is_back() { [ -n "${LEFT[$1]-}" ] || is "$1" "$(old_of "$1")"; }

# restore TARGET: one rename, unless it is done.
restore() {
    local file
    file=$(beside "$1" old)
    # two names of one file are not renamed
    if [ -n "${LEFT[$1]-}" ] || [ ! -e "$file" ] || [ "$file" -ef "$1" ]; then return 0; fi
    mv -fT "$file" "$1" 2>"$SCRATCH/error" && persist "${1%/*}" || { TROUBLE="$1 could not be put back: $(tail -n 1 "$SCRATCH/error")"; return 1; }
}

restore_proven() { place_old "$1" && restore "$1"; }

back_restore_kubelet() { each_target kubelet restore; }
back_restore_runc() { each_target runc restore; }

# restorable TARGET: whether it could be put back.
restorable() { is "$1" "$(old_of "$1")" || is "$(beside "$1" old)" "$(old_of "$1")" || is "$RUN/backup$1" "$(old_of "$1")"; }

# restore_state: a stock kubelet reads no version-cache, and one that it left behind would be believed later.
# A kubelet that adopts goes on with the state as it is. cpu_manager_state has another form from 1.18 on.
back_restore_state() {
    local file new old
    if [ -n "$(plan http2)" ]; then rm -f "$DROP_IN/$HTTP2" || { TROUBLE="$DROP_IN/$HTTP2 could not be removed"; return 1; }; fi
    if [ -n "$(plan stock)" ] && [ -n "$(plan kubelet)" ]; then
        rm -f "$ADOPTION" "$DROP_IN/$MARK" || { TROUBLE="$ADOPTION could not be removed"; return 1; }
    fi
    rmdir "$DROP_IN" 2>/dev/null || true
    systemctl daemon-reload || true
    file=$(kubelet_root)/cpu_manager_state
    new=$(minor "$KUBERNETES") old=$(minor "$(plan from)")
    if [ "$new" -ge 18 ] && [ "$old" -lt 18 ] && [ -f "$RUN/backup$file" ] && ! cmp -s "$file" "$RUN/backup$file"; then
        cp --preserve=all "$RUN/backup$file" "$file.part" && mv -fT "$file.part" "$file" || { TROUBLE="$file could not be put back"; return 1; }
    fi
}

back_start_engine() { forward_start_engine; }

back_start_kubelet() { run_kubelet "$(kubelet_back)"; }

back_verify_old() { verify_node back; }

back_finish() {
    local text
    text=$(others_swapped && swapped_before)
    if [ "$text" != "$(cat "$STATE/swapped" 2>/dev/null)" ]; then
        printf '%s' "${text:+$text$'\n'}" | write "$STATE/swapped" 0644 || { TROUBLE="$STATE/swapped cannot be written"; return 1; }
    fi
    clean_up
}
