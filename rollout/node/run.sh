# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# How a swap is run: detached from the terminal, resumed after a kill or a reboot, undone where it fails or
# where nobody confirms it.

BOOT='' SHOWN=0
UNITS=/run/systemd/system
readonly BOOT_UNIT=/etc/systemd/system/nokmem-rollout-boot.service
readonly BOOT_WANTED=/etc/systemd/system/multi-user.target.wants/nokmem-rollout-boot.service
readonly TIMER=nokmem-rollout-unconfirmed # and the number of the run

# apply: look, plan, and have the work done by a unit of systemd, whose journal is followed here.
apply() {
    [ "$(id -u)" = 0 ] || result $REFUSED "this must run as root"
    [ "$VARIANT" = nokmem ] || result $REFUSED "this was built as the control: it leaks"
    if [ -z "$DRY_RUN" ]; then
        lock
        staged || bring "$FROM" || result $REFUSED "$TROUBLE"
    fi
    check_preflight
    [ "$REFUSALS" -eq 0 ] || result $REFUSED "$(refused_by): this node is left as it is"
    local what
    what=$(what_changes)
    if [ -z "$what" ] && [ "$MODE" != drained ]; then
        result $ALREADY "kubelet and runc are in place already"
    fi
    if [ -n "$DRY_RUN" ]; then
        result $DONE "would replace ${what:-nothing, and make the cgroups anew}, $MODE: $(forward_steps "$MODE")"
    fi
    # shellcheck disable=SC2015 # either failing is one failure
    RUN=$(new_run) && write_plan && make_current && prune || result $REFUSED "$STATE cannot be written"
    detach work
    follow
}

# write_plan: what this run will do, decided once: a line "key value" each. A package may have replaced the
# file: what runs is asked.
write_plan() {
    local stock='' seed='' one exe=/proc/$KUBELET_PID/exe running file before after
    KUBELET_VERSION_NOW=$(kubelet_version "$exe")
    grep -qaF nokmem_adoption_build_info "$exe" || stock=yes
    running=$(digest "$exe") && file=$(digest "$KUBELET_PATH") || return 1
    # of which files kubelet is to run, afterwards and once all is put back
    after=$KUBELET_SHA256 before=$file
    if [ "$ONLY" = runc ]; then
        after=$file
        [ "$MODE" != in-place ] || after=$running
    fi
    if [ "$MODE" = in-place ] && [ "$running" = "$after" ]; then before=$running; fi
    if [ -n "$KUBELET_ADOPTS" ] && [ "$ONLY" != runc ] && [ "$MODE" = in-place ]; then
        # a kubelet that adopts has its state; a stock one needs a seed, also where an old state was left
        if [ -n "$stock" ] || [ ! -e "$ADOPTION" ]; then seed=yes; fi
    fi
    {
        echo "schema $SCHEMA"
        echo "build $BUILD"
        echo "mode $MODE"
        echo "from $KUBELET_VERSION_NOW"
        echo "boot $(boot_id)"
        echo "before $before"
        echo "after $after"
        echo "unit $KUBELET_UNIT"
        echo "timeout $TIMEOUT"
        echo "settle $SETTLE"
        echo "stable $STABLE"
        [ -z "$stock" ] || echo "stock yes"
        [ -z "$CONFIRM" ] || echo "confirm $CONFIRM"
        [ -z "$KEEP_GOING" ] || echo "keep yes"
        [ -z "$TEXTFILES" ] || echo "textfiles $TEXTFILES"
        [ -z "$DISABLE_HTTP2" ] || [ -e "$DROP_IN/$HTTP2" ] || echo "http2 yes"
        if [ -n "$seed" ]; then
            echo "seed yes"
            [ -e "$ADOPTION" ] || echo "seeded yes"
            one=$(setting pod-manifest-path staticPodPath '')
            [ ! -d "$one" ] || echo "manifests $one"
        fi
        [ "$running" = "$after" ] || echo "kubelet yes"
        if [ "$ONLY" != runc ] && [ "$file" != "$after" ]; then target kubelet "$file" "$after" "$KUBELET_PATH"; fi
        for one in ${ENGINE_UNITS[@]+"${ENGINE_UNITS[@]}"}; do echo "engine $one"; done
        if [ "$ONLY" != kubelet ]; then
            while IFS= read -r one; do
                target runc "$(digest "$one")" "$RUNC_SHA256" "$one"
            done < <(to_replace)
        fi
        for one in "${KUBELET_ARGV[@]}"; do printf 'argument %s\n' "${one//$'\n'/ }"; done
    } | write "$RUN/plan" 0600 && { cat "$STATE/swapped" 2>/dev/null || true; } | write "$RUN/swapped" 0600 &&
        head -c 1048576 /dev/zero | write "$RUN/reserve" 0600
}

# target COMPONENT OLD NEW PATH: a file that is replaced, and whether what is there now is of somebody else.
target() {
    echo "target $*"
    grep -qxF "$2  $4" "$STATE/swapped" 2>/dev/null || echo "origin $4"
}

# detach COMMAND: have a unit of systemd do it, with the lock for its own; a lost terminal changes nothing.
detach() {
    local name=nokmem-rollout-${RUN##*/}-$1-$$
    rm -f "$RUN/result" "$RUN/report.txt" "$RUN/report.json"
    SHOWN=$(journal_length)
    call_off
    [ -f "$(own)" ] || dd if="$SELF" of="$RUN/nokmem-rollout" conv=fsync status=none || result $REFUSED "$RUN cannot be written"
    unlock
    worker "$name" "$1" && systemctl start "$name.service" 2>"$SCRATCH/error" ||
        result $REFUSED "systemd does not begin the work: $(tail -n 1 "$SCRATCH/error")"
    WORKER=$name.service
}

# worker NAME WORDS...: its unit, until the next boot. Killed, it goes on by the journal after half a minute: kubelet
# may be down. The transient units of systemd 219 know no Restart.
worker() {
    local file=$UNITS/$1.service
    shift
    { mkdir -p "$UNITS" && cat >"$file" && chmod 0644 "$file"; } 2>"$SCRATCH/error" <<CONF
[Unit]
Description=nokmem-rollout $1 ${RUN##*/}
[Service]
ExecStart=/bin/bash $(own) $* --run ${RUN##*/}
Restart=on-abnormal
RestartSec=30
StartLimitInterval=600
StartLimitBurst=5
CONF
}

# call_off: those that were killed and would go on: another one does now.
call_off() {
    systemctl stop 'nokmem-rollout-[0-9]*-work*.service' 2>/dev/null || true
    rm -f "$UNITS"/nokmem-rollout-[0-9]*-work*.service
}

# goes_on: whether one of them will, of this run.
goes_on() { systemctl list-units --all --no-legend "nokmem-rollout-${RUN##*/}-work*.service" 2>/dev/null | grep -q auto-restart; }

# own: the script of the build that this run is of, where it stays; of an old run, whose build is not staged any more,
# another.
own() {
    local one
    for one in "$STATE/staged/$(plan build)" "$STAGED"; do
        if [ -f "$one/nokmem-rollout" ]; then printf '%s/nokmem-rollout' "$one" && return; fi
    done
    printf '%s/nokmem-rollout' "$RUN"
}

journal_length() { if [ -f "$RUN/journal" ]; then wc -l <"$RUN/journal"; else echo 0; fi; }

# follow: show the journal until there is a result, and end with its code. A signal ends the looking alone.
follow() {
    local shown=$SHOWN line lines state quiet=0
    trap 'result $INTERRUPTED "the work goes on without this terminal: nokmem-rollout status"' INT TERM HUP
    while :; do
        lines=$(journal_length)
        while [ "$shown" -lt "$lines" ]; do
            shown=$((shown + 1))
            line=$(sed -n "${shown}p" "$RUN/journal")
            # shellcheck disable=SC2086 # words
            set -- $line
            [ "${5-}" = begin ] || [ "${5-}" = failed ] || continue
            progress "$(printf '%s  %-8s %s' "${1#*T}" "$3" "${4//_/ }")$([ "$5" = begin ] || echo " FAILED: ${*:6}")"
        done
        if [ -f "$RUN/result" ]; then
            cat "$RUN/report.$([ -n "$JSON" ] && echo json || echo txt)"
            REPORTED=yes
            exit "$(cat "$RUN/result")"
        fi
        # until systemd has ended the last of a unit that was killed, that one holds the lock
        state=$(unit "$WORKER" ActiveState)/$(unit "$WORKER" SubState)
        if [[ ! $state =~ ^(de)?activ(e|ating)/ || $state == */auto-restart* ]]; then
            quiet=$((quiet + 1))
            [ "$(unit "$WORKER" ExecMainStatus)" != $LOCKED ] || result $LOCKED "another run holds $STATE/lock"
            [ $quiet -lt 5 ] || [[ $state != */auto-restart* ]] ||
                result $INTERRUPTED "the work was cut off, and goes on by itself in half a minute; at once by nokmem-rollout resume, or rollback"
            [ $quiet -lt 5 ] || result $INTERRUPTED "the work was cut off: nokmem-rollout resume, or rollback"
        fi
        sleep 0.3
    done
}

# conclude CODE SUMMARY: what the work came to, for whoever follows or asks later. Where the disk is full the room that
# the plan reserved is for it.
conclude() {
    case $COMMAND in work-back) COMMAND=rollback ;; *) COMMAND=apply ;; esac
    write_metrics "$1" || true
    write_down "$@" || { rm -f "$RUN/reserve" && write_down "$@"; } || true
    # systemd need not call it a failure: the result says it
    exit 0
}

write_down() {
    report_text "$1" "$2" | write "$RUN/report.txt" 0600 && report_json "$1" "$2" | write "$RUN/report.json" 0600 &&
        printf '%s\n' "$1" | write "$RUN/result" 0600
}

# take_plan: nothing but the run that counts is worked on, whoever had the lock in between.
take_plan() {
    RUN=$STATE/runs/$RUN_NAME
    [ -s "$RUN/plan" ] || result $REFUSED "there is no plan in $RUN"
    [ "$STATE/current" -ef "$RUN" ] || result $LOCKED "run $RUN_NAME does not count any more"
    MODE=$(plan mode) KUBELET_UNIT=$(plan unit) TIMEOUT=$(plan timeout) SETTLE=$(plan settle) STABLE=$(plan stable)
    TEXTFILES=$(plan textfiles) DROP_IN=/etc/systemd/system/$KUBELET_UNIT.d
    trap '' HUP
    look_around
}

# work: the steps of a run from the first that is not done, in the direction that its journal has.
work() {
    lock 60
    take_plan
    local one
    case $(state_of "$RUN") in
    finished | unconfirmed | undone) nothing_left ;;
    back) go_on_back ;;
    esac
    if rebooted && [ -z "$BOOT" ] && [ "$MODE" != reboot ] && ! noted forward hold ok; then
        undo "the node was started anew before anything was switched"
    fi
    for one in $(forward_steps "$MODE"); do
        if [ "$one" = wait_for_boot ] && [ -z "$BOOT" ]; then
            note forward wait_for_boot begin
            conclude $PENDING "staged and ready: the next boot begins with the switch"
        fi
        if ! step forward "$one"; then
            if [ -n "$(plan keep)" ]; then conclude $STUCK "$TROUBLE; left as it is, as you asked: nokmem-rollout rollback"; fi
            undo "$TROUBLE"
        fi
    done
    [ -n "$(plan confirm)" ] || let_go
    local more=''
    [ -z "$(plan confirm)" ] || more="; rolled back unless nokmem-rollout confirm is called within the $(plan confirm) s that began with the switch"
    case $VERDICT in
    pending) conclude $PENDING "$BUILD runs. $VERDICT_TEXT$more" ;;
    *) conclude $DONE "$BUILD runs. $VERDICT_TEXT$more" ;;
    esac
}

# nothing_left: another worker had the lock first, or this one was killed at its very end.
nothing_left() {
    [ ! -f "$RUN/result" ] || exit 0
    case $(state_of "$RUN") in
    unconfirmed) conclude $DONE "$BUILD runs; rolled back unless nokmem-rollout confirm is called in time" ;;
    finished) let_go && conclude $DONE "$BUILD runs" ;;
    esac
    let_go
    if [ "$(why)" = "$ASKED" ]; then
        COMMAND=work-back
        conclude $DONE "the node is as it was before run ${RUN##*/}"
    fi
    conclude $FAILED "$(why); the node is as it was"
}

# go_on_back: a way back that was cut off.
go_on_back() {
    [ "$(why)" != "$ASKED" ] || as_asked
    undo "$(why)"
}

# undo WHY: back to what was.
undo() {
    finding warn why "$1"
    go_back "$1" || conclude $STUCK "$1; and back: $TROUBLE. Look at $RUN, mend it, then: nokmem-rollout rollback"
    conclude $FAILED "$1; the node is as it was$(but_for)"
}

# why: what the journal gives as the reason of a rollback that was cut off.
why() { sed -n 's/^[^ ]* [^ ]* back begun begin \(.*\)/\1/p' "$RUN/journal" | tail -n 1; }

# go_back WHY: all steps of the way back. Where it ends before its end engine and kubelet run all the same.
go_back() {
    local one
    rm -f "$RUN/reserve"
    note back begun begin "$1" || true
    install_boot_unit || true
    for one in $BACK_STEPS; do
        step back "$one" || { leave_running; return 1; }
    done
    let_go
}

leave_running() {
    local one
    for one in $(plan engine | tac) "$KUBELET_UNIT"; do
        [ "$(unit "$one" ActiveState)" = active ] || systemctl start --no-block "$one" || true
    done
}

# resume: finish what was cut off, in whichever direction it was going.
resume() {
    local state
    [ -n "$DRY_RUN" ] || lock
    RUN=$(current) || result $ALREADY "nothing was begun here"
    state=$(state_of "$RUN")
    case $state in
    finished | undone)
        [ -n "$DRY_RUN" ] || let_go
        result $ALREADY "run ${RUN##*/} is finished: $state"
        ;;
    unconfirmed) result $ALREADY "run ${RUN##*/} waits for its confirmation: nokmem-rollout confirm, or rollback" ;;
    waiting) result $ALREADY "run ${RUN##*/} waits for the next boot" ;;
    esac
    [ -z "$DRY_RUN" ] || result $DONE "would go on with run ${RUN##*/}, $state"
    detach work
    follow
}

# rollback: to what was before the last run, whether it is done or was cut off; or before that of --run.
rollback() {
    local state names ids one
    [ -n "$DRY_RUN" ] || lock
    RUN=$(current) || result $ALREADY "nothing was swapped here"
    choose_run
    state=$(state_of "$RUN")
    case $state in
    undone) result $ALREADY "run ${RUN##*/} is rolled back already$(one=$(replacing) && printf '; what was before run %s: rollback --run %s' "${one##*/}" "${one##*/}" || true)" ;;
    esac
    KUBELET_UNIT=$(plan unit)
    look_around
    while IFS= read -r one; do
        if foreign "$one"; then
            finding refuse changed "$one is neither what run ${RUN##*/} put there nor what was before: somebody replaced it" \
                "--accept changed leaves it as it is; where the old file is to be there, move this one away first"
            continue
        fi
        restorable "$one" || finding never backup "the backup of $one is missing or damaged: $RUN/backup$one" \
            "put the file there that $one was before (sha256 $(old_of "$one"))"
    done < <(targets)
    if [ "$state" = finished ] && [ -n "$(plan stock)" ] && [ -n "$(plan kubelet)" ]; then
        if [ "$(minor "$(plan from)")" != "$(minor "$KUBERNETES")" ]; then
            ids=$(comm -23 <(containers | cut -d ' ' -f 1 | sort) <(cut -d ' ' -f 1 "$RUN/forward.containers" | sort))
            # shellcheck disable=SC2086 # words
            names=$(named $ids)
            [ -z "$names" ] || finding refuse restart "the stock kubelet before may restart what was born since: $names" \
                "roll back to a patched one, or --accept restart"
        else
            finding ok restart "the stock kubelet before is of the same minor and hashes alike: it restarts nothing"
        fi
    fi
    [ "$REFUSALS" -eq 0 ] || result $REFUSED "nothing was changed"
    [ -z "$DRY_RUN" ] || result $DONE "would put back $(targets | tr '\n' ' ')"
    [ "$STATE/current" -ef "$RUN" ] || make_current || result $REFUSED "$STATE cannot be written"
    detach work-back
    follow
}

# choose_run: the run that is to be undone: that of --run, or the last; where that one is done and replaced no file,
# as drained does that makes cgroups anew, the last one that did.
choose_run() {
    local last=$RUN state
    state=$(state_of "$RUN")
    if [ -n "$RUN_NAME" ]; then
        RUN=$STATE/runs/$(printf '%04d' $((10#$RUN_NAME)))
        [ -s "$RUN/plan" ] || result $REFUSED "there is no run $RUN_NAME in $STATE/runs"
    elif [ "$state" = finished ] && [ -z "$(targets)" ]; then
        RUN=$(replacing) || result $REFUSED "run ${last##*/} replaced no file, and no earlier one is kept that did"
    fi
    [ ! "$RUN" -ef "$last" ] || return 0
    case $state/$(state_of "$RUN") in
    finished/finished | undone/finished | */undone) ;;
    finished/* | undone/*) result $REFUSED "run ${RUN##*/} never came to its end: nothing of it is there" ;;
    *) result $REFUSED "run ${last##*/} is $state: finish it first, with nokmem-rollout resume, confirm or rollback" ;;
    esac
    [ -n "$(targets)" ] || result $REFUSED "run ${RUN##*/} replaced no file"
    finding note run "undone is run ${RUN##*/}, not the last one"
    progress "undone is run ${RUN##*/}"
}

# replacing: the last run before this one that is done and replaced files.
replacing() {
    local one
    while IFS= read -r one; do
        if [ $((10#${one##*/})) -lt $((10#${RUN##*/})) ] && [ "$(state_of "$one")" = finished ] && grep -q '^target ' "$one/plan"; then printf '%s' "$one" && return; fi
    done < <(runs_kept)
    return 1
}

# work_back: a rollback that somebody asked for is done when it is done.
work_back() {
    # what nobody confirmed goes back however long the work takes that has the lock: nobody else would see to it
    if [ -n "$UNCONFIRMED" ]; then lock forever; else lock $((TIMEOUT + 600)); fi
    take_plan
    case $UNCONFIRMED/$(state_of "$RUN") in
    */undone) nothing_left ;;
    yes/back) go_on_back ;;
    yes/unconfirmed | yes/forward) undo "nobody confirmed run ${RUN##*/}" ;;
    yes/*) exit 0 ;;
    esac
    as_asked
}

readonly ASKED='asked for'
as_asked() {
    COMMAND=work-back
    go_back "$ASKED" || conclude $STUCK "back: $TROUBLE. Look at $RUN, mend it, then: nokmem-rollout rollback"
    conclude $DONE "the node is as it was before run ${RUN##*/}$(but_for)"
}

# confirm: what was swapped stays.
confirm() {
    lock 60
    RUN=$(current) || result $REFUSED "nothing was swapped here"
    case $(state_of "$RUN") in
    unconfirmed) ;;
    finished) result $ALREADY "run ${RUN##*/} is confirmed" ;;
    *) result $REFUSED "run ${RUN##*/} is $(state_of "$RUN"): there is nothing to confirm" ;;
    esac
    [ -z "$DRY_RUN" ] || result $DONE "would confirm run ${RUN##*/}"
    note forward confirmed ok || result $REFUSED "$RUN/journal cannot be written"
    clean_up
    let_go
    result $DONE "run ${RUN##*/} stays"
}

# arm SECONDS: a timer that rolls back; it counts no wall clock.
arm() {
    disarm
    worker "$(timer)" work-back --unconfirmed && cat >"$UNITS/$(timer).timer" <<CONF || return 1
[Unit]
Description=Roll back what nobody confirmed of nokmem-rollout
[Timer]
OnActiveSec=$1
AccuracySec=1s
CONF
    chmod 0644 "$UNITS/$(timer).timer" && systemctl daemon-reload && systemctl start "$(timer).timer"
}

timer() { printf '%s-%s' $TIMER "${RUN##*/}"; }

disarm() {
    systemctl stop "$TIMER*.timer" 2>/dev/null || true
    rm -f "$UNITS/$TIMER"*.timer
    systemctl reset-failed 'nokmem-rollout-*' 2>/dev/null || true
}

install_boot_unit() {
    write $BOOT_UNIT 0644 <<CONF || return 1
[Unit]
Description=Finish what a reboot cut short of nokmem-rollout
Before=$(plan unit) docker.service containerd.service crio.service
ConditionPathExists=$STATE/current
[Service]
Type=oneshot
TimeoutStartSec=600
ExecStart=/bin/bash $(own) boot --run ${RUN##*/}
[Install]
WantedBy=multi-user.target
CONF
    mkdir -p "${BOOT_WANTED%/*}" && ln -sfn $BOOT_UNIT $BOOT_WANTED && persist "${BOOT_WANTED%/*}"
}

remove_boot_unit() { rm -f $BOOT_WANTED $BOOT_UNIT $BOOT_UNIT.part.* "${BOOT_WANTED%/*}"/.nokmem-sync.* "${BOOT_UNIT%/*}"/.nokmem-sync.*; }

# let_go: nothing waits for a boot or for the timer any more. Not before the journal says that all is done: what a
# loss of power cuts off before that is finished at the boot.
let_go() {
    remove_boot_unit && systemctl daemon-reload || finding warn leftovers "$BOOT_UNIT could not be removed"
    disarm
}

# boot: before kubelet and engine start: the files become those that should be there, whole; the rest of
# the work waits until they run. Nobody confirmed before this boot: what was swapped goes back.
boot() {
    local one
    lock 60
    take_plan
    BOOT=yes
    case $(state_of "$RUN") in
    unconfirmed) note back begun begin "the node was started anew before anybody confirmed" ;;
    forward | waiting | back) ;;
    *) remove_boot_unit && exit 0 ;;
    esac
    # what somebody replaced since is left as it is, and nothing else is switched
    if [ "$(state_of "$RUN")" != back ] && [ -z "$(plan keep)" ] && ! each_target "" ready; then
        progress "$TROUBLE"
        note back begun begin "$TROUBLE" || true
    fi
    if [ "$(state_of "$RUN")" = back ]; then
        each_target "" restore_proven || progress "$TROUBLE"
    else
        each_target "" switch_proven || progress "$TROUBLE"
    fi
    detach work-booted
}

work_booted() {
    BOOT=yes
    local deadline=$(($(since_boot) + 300))
    KUBELET_UNIT=$(sed -n 's/^unit //p' "$STATE/runs/$RUN_NAME/plan")
    # what systemd does on its own at a boot is waited for, not raced
    while [ "$(unit "$KUBELET_UNIT" ActiveState)" != active ] && [ "$(since_boot)" -lt $deadline ]; do sleep 1; done
    work
}

# status: where this node is.
status() {
    local state=none
    look_at_kubelet
    if RUN=$(current); then
        state=$(state_of "$RUN")
        fact run "${RUN##*/}, $(plan mode), $(plan build)"
        fact state "$state"
        fact step "$(tail -n 1 "$RUN/journal" 2>/dev/null | cut -d ' ' -f 3-)"
        [ ! -f "$RUN/result" ] || fact result "$(cat "$RUN/result")"
        [ "$state" != unconfirmed ] || finding warn confirm "rolled back unless confirmed" "nokmem-rollout confirm"
        case $state in
        planned | forward | back)
            if under_way; then
                finding note run "under way: its unit is nokmem-rollout-${RUN##*/}-*"
            elif goes_on; then
                finding note run "run ${RUN##*/} was cut off, and goes on by itself in half a minute"
            else
                finding warn run "run ${RUN##*/} was cut off" "nokmem-rollout resume, or rollback"
            fi
            ;;
        esac
    fi
    fact kubelet "$(kubelet_version "${KUBELET_PATH:-/nowhere}") at $KUBELET_PATH"
    fact staged "$(staged && echo "$STAGED" || echo nothing of this build)"
    fact adoption "$(adoption_words)"
    local drift
    drift=$(drifted)
    fact drift "${drift:-none}"
    [ -z "$drift" ] || finding warn drift "not what was put into place any more: ${drift//$'\n'/ }" "apply puts it back"
    write_metrics || true
    result $DONE "$state"
}

# under_way: whether somebody holds the lock.
under_way() { ! flock -n "$STATE/lock" true 2>/dev/null; }

adoption_words() {
    [ -f "$ADOPTION" ] || { echo none; return; }
    printf '%s, %d containers kept%s' "$(state_build)" "$(kept_ids | wc -l)" "$(grep -q '^ "retired": true' "$ADOPTION" && echo ', retired' || true)"
}

# drifted: the files that were put into place and are others now.
drifted() {
    local sum file
    [ -f "$STATE/swapped" ] || return 0
    while read -r sum file; do is "$file" "$sum" || printf '%s\n' "$file"; done <"$STATE/swapped"
}

# write_metrics [CODE]: for node_exporter's textfile collector.
write_metrics() {
    local folder=${TEXTFILES:-/var/lib/node_exporter/textfile_collector} class code=${1-}
    [ -d "$folder" ] && [ -w "$folder" ] || return 0
    if [ -z "$code" ] && [ -f "$RUN/result" ]; then code=$(cat "$RUN/result"); fi
    {
        echo '# HELP nokmem_rollout_info What nokmem-rollout put onto this node.'
        echo '# TYPE nokmem_rollout_info gauge'
        printf 'nokmem_rollout_info{build="%s",verdict="%s"} 1\n' "$BUILD" "${VERDICT:-unknown}"
        echo '# HELP nokmem_rollout_result The exit code of the last apply.'
        echo '# TYPE nokmem_rollout_result gauge'
        [ -z "$code" ] || printf 'nokmem_rollout_result %d\n' "$code"
        echo '# HELP nokmem_rollout_drift How many files that were put into place are others now.'
        echo '# TYPE nokmem_rollout_drift gauge'
        printf 'nokmem_rollout_drift %d\n' "$(drifted | grep -c . || true)"
        echo '# HELP nokmem_rollout_adopted How many containers of another build are kept.'
        echo '# TYPE nokmem_rollout_adopted gauge'
        printf 'nokmem_rollout_adopted %d\n' "$(kept_ids | wc -l)"
        if [ ${#COUNT[@]} -gt 0 ]; then
            echo '# HELP nokmem_rollout_cgroups Memory cgroups of pods by class.'
            echo '# TYPE nokmem_rollout_cgroups gauge'
            for class in $CLASSES; do
                printf 'nokmem_rollout_cgroups{class="%s"} %d\n' "$class" "${COUNT[$class]}"
            done
        fi
    } | write "$folder/nokmem.prom" 0644
}
