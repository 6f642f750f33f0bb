# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# Is it so? Asked of what runs: executables, kubelet, its node, containers, cgroups, the log.

VERDICT='' VERDICT_TEXT=''
look_around() {
    look_at_kernel
    look_at_kubelet
    look_at_engine
    look_at_runcs
    look_at_cgroups
}

# heartbeat: "status time" of the node's Ready condition, as the API has it.
heartbeat() {
    local text
    text=$(api "api/v1/nodes/$(node_identity)") || return 1
    [[ $text =~ \{\"type\":\"Ready\",\"status\":\"([A-Za-z]+)\",\"lastHeartbeatTime\":\"([^\"]*)\" ]] || return 1
    printf '%s %s\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
}

healthy() {
    local address port
    address=$(setting healthz-bind-address healthzBindAddress 127.0.0.1)
    address=${address//[][]/}
    port=$(setting healthz-port healthzPort 10248)
    # what listens everywhere listens there too
    [[ $address != 0.0.0.0 && $address != :: ]] || address=127.0.0.1
    [ "$port" = 0 ] || [ "$(http "$address" "$port" /healthz)" = ok ]
}

# await_kubelet SHA256: until the kubelet that runs is that file and says that it is well. One that keeps
# dying is not waited for.
await_kubelet() {
    local deadline=$(($(since_boot) + TIMEOUT)) pid last=0 deaths=0
    while [ "$(since_boot)" -lt $deadline ]; do
        pid=$(unit "$KUBELET_UNIT" MainPID)
        if [ "${pid:-0}" = 0 ] && [ "$(unit "$KUBELET_UNIT" ActiveState)" = failed ]; then
            TROUBLE="kubelet does not stay: $(last_words)"
            return 1
        fi
        if [ "${pid:-0}" != 0 ] && [ "$pid" != "$last" ]; then
            [ "$last" = 0 ] || deaths=$((deaths + 1))
            last=$pid
            if [ $deaths -ge 3 ]; then
                TROUBLE="kubelet died $deaths times: $(last_words)"
                return 1
            fi
        fi
        if [ "${pid:-0}" != 0 ] && look_at_kubelet && healthy; then
            runs "$pid" "$1" && return 0
            TROUBLE="the kubelet that runs is not the file that was put into place"
            return 1
        fi
        sleep 0.5
    done
    TROUBLE="kubelet did not become healthy within $TIMEOUT s: $(last_words)"
    return 1
}

# kubelet_process: the pid and the start of the kubelet that runs.
kubelet_process() {
    local pid stat
    pid=$(unit "$KUBELET_UNIT" MainPID)
    { IFS= read -r stat <"/proc/${pid:-0}/stat"; } 2>/dev/null || return 0
    # shellcheck disable=SC2086 # fields
    set -- ${stat##*) }
    printf '%s %s\n' "$pid" "${20}"
}

# await_node: until the API has a heartbeat that it did not have before, and Ready. No clock is compared. A
# kubelet that was not started anew since need not have one: they are minutes apart.
await_node() {
    local deadline=$(($(since_boot) + TIMEOUT)) now='' before
    [ -n "$(flag kubeconfig)" ] || { finding note node "this kubelet knows no API server"; return 0; }
    before=$(cat "$RUN/$1.heartbeat" 2>/dev/null) || before=''
    if [ "$(kubelet_process)" = "$(cat "$RUN/$1.kubelet" 2>/dev/null)" ]; then before=''; fi
    if ! now=$(heartbeat); then
        finding unseen node "the API server does not tell kubelet's own credentials about this node"
        [ -n "$before" ] || return 0
    fi
    while [ "$(since_boot)" -lt $deadline ]; do
        if now=$(heartbeat) && [[ $now == 'True '* && ${now#* } != "${before#* }" ]]; then
            finding ok node "Ready, heartbeat ${now#* }"
            return 0
        fi
        sleep 1
    done
    TROUBLE="the node is not Ready, or its heartbeat does not move: ${now:-no answer}"
    return 1
}

# stable DIRECTION: those containers of a snapshot that had run for STABLE seconds; one that was restarted
# and is young looks like a crash loop, and is named and not blamed. Ticks come 100 a second on x86_64.
stable() {
    local now
    now=$(sed -n "s/^[^ ]* \([0-9]*\) $1 record begin.*/\1/p" "$RUN/journal" | tail -n 1)
    awk -v now="$now" -v stable="$STABLE" -v names="$RUN/$1.names" '
        BEGIN { while ((getline <names) > 0) restarts[$1] = $NF }
        { age = now - $2 / 100 }
        age >= stable && (restarts[$1] + 0 == 0 || age >= 600) { print $1, $2 }' "$RUN/$1.containers"
}

# await_containers DIRECTION: that each which was stable before is there, with its id and its start, now and for as
# long as SETTLE: a kubelet decides about its pods in its first seconds. What ended by itself is not missed.
await_containers() {
    local end=$(($(since_boot) + SETTLE)) before lost ended gone='' unstable patience
    before=$(scratch)
    stable "$1" | sort >"$before"
    while :; do
        lost=$(containers | cut -d ' ' -f 1,2 | sort | comm -13 - "$before" | cut -d ' ' -f 1)
        # the API hears of an end some seconds later
        patience=$(($(since_boot) + 15))
        while [ -n "$lost" ]; do
            # shellcheck disable=SC2086 # words
            ended=$(churned "$1" $lost)
            gone+=${ended:+ ${ended//$'\n'/ }}
            lost=$(comm -23 <(sort <<<"$lost") <(sort <<<"$ended"))
            [ -n "$lost" ] && [ -n "$(flag kubeconfig)" ] && [ "$(since_boot)" -lt $patience ] || break
            sleep 1
        done
        if [ -n "$lost" ]; then
            # shellcheck disable=SC2086 # words
            TROUBLE="containers that ran before are gone or restarted: $(NAMES_BEFORE=$RUN/$1.names named $lost)"
            return 1
        fi
        [ -z "$gone" ] || { grep -vF "$(tr ' ' '\n' <<<"${gone# }")" "$before" || true; } >"$before.left"
        [ -z "$gone" ] || mv -f "$before.left" "$before"
        [ "$(since_boot)" -lt $end ] || break
        sleep 1
    done
    finding "$([ -s "$before" ] && echo ok || echo note)" containers "$(wc -l <"$before") that were stable run on, with their ids and start times"
    # shellcheck disable=SC2086 # words
    [ -z "$gone" ] || finding note containers "not counted, because somebody deleted their pods or they ran to their end: $(NAMES_BEFORE=$RUN/$1.names named $gone)"
    unstable=$(cut -d ' ' -f 1 "$RUN/$1.containers" | sort | comm -23 - <({ cut -d ' ' -f 1 "$before" && tr ' ' '\n' <<<"$gone"; } | sort))
    # shellcheck disable=SC2086 # words
    [ -z "$unstable" ] || finding note containers "not counted, because they were young or restarting before: $(named $unstable)"
}

# churned DIRECTION ID...: those whose pod somebody deleted, or which ran to its end, as the API has it, a line each.
# No kubelet deletes a pod of the API (nor is this said of static ones, which it does), and one of which it ended or
# restarted a container has not Succeeded.
churned() {
    local direction=$1 id uid place pods line
    shift
    # the node is known by this name, and so are its pods
    [ -n "$(flag kubeconfig)" ] && heartbeat >/dev/null || return 0
    pods=$(api "api/v1/pods?fieldSelector=spec.nodeName%3D$(node_identity)" | sed 's/{"metadata":{"name":/\n&/g') || return 0
    [[ $pods == '{"kind":"PodList"'* ]] || return 0
    for id in "$@"; do
        place=$(grep -m 1 "[/-]$id\(\.scope\)\{0,1\}\$" "$RUN/$direction.cgroups") || continue
        place=${place%/*}
        uid=${place##*pod}
        uid=${uid%.slice}
        uid=${uid//_/-}
        [[ $uid =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] || continue
        line=$(grep -m 1 -F "\"uid\":\"$uid\"" <<<"$pods") || { printf '%s\n' "$id" && continue; }
        [[ $line != *'"deletionTimestamp":"'* && $line != *'"status":{"phase":"Succeeded"'* ]] || printf '%s\n' "$id"
    done
}

# check_log: what a kubelet says when it ends what nobody changed.
check_log() {
    local pid lines said code=0
    said=$(scratch)
    pid=$(unit "$KUBELET_UNIT" MainPID)
    timeout 60 journalctl -b -q --no-pager -o cat "_PID=${pid:-0}" >"$said" 2>/dev/null || code=$?
    if [ $code = 124 ]; then
        finding unseen log "the journal does not answer"
        return
    fi
    lines=$(grep -E 'Container definition changed|container .* (hash|definition) changed|Killing unwanted pod' "$said" | head -n 3) || lines=''
    rm -f "$said"
    if [ -n "$lines" ]; then
        TROUBLE="kubelet says: ${lines//$'\n'/ | }"
        return 1
    fi
    finding ok log "kubelet ends nothing that nobody changed"
}

# verify_node DIRECTION: everything; TROUBLE says what is not so. What restarts on the way back is named, but
# there is no other way left.
verify_node() {
    local target want kubelet
    if [ "$1" = forward ]; then kubelet=$(plan after); else kubelet=$(kubelet_back); fi
    while IFS= read -r target; do
        [ "$1" = forward ] || [ -z "${LEFT[$target]-}" ] || continue
        if [ "$1" = forward ]; then want=$(new_of "$target"); else want=$(old_of "$target"); fi
        is "$target" "$want" || { TROUBLE="$target is another file"; return 1; }
        finding ok "$(component "$target")" "$target is ${want:0:16}"
    done < <(targets)
    await_kubelet "$kubelet" || return 1
    finding ok executable "kubelet runs from ${kubelet:0:16} and is healthy"
    await_node "$1" || return 1
    if [ "$(plan mode)" = in-place ] && ! rebooted; then
        look_at_cgroups
        await_containers "$1" && check_log || { [ "$1" = back ] && finding warn containers "$TROUBLE"; } || return 1
    else
        sleep "$SETTLE"
    fi
    [ "$(unit "$KUBELET_UNIT" MainPID)" = "$KUBELET_PID" ] && healthy || { TROUBLE="kubelet did not stay"; return 1; }
    look_at_kernel
    look_at_cgroups
    CGROUPS=$RUN/after.kmem
    look_before "$RUN"
    scan "$CGROUPS" "$BEFORE"
    count "$CGROUPS"
    judge "$CGROUPS"
    fact verdict "$VERDICT"
    if [ "$1" = forward ] && [ "$VERDICT" = leaking ]; then
        TROUBLE=$VERDICT_TEXT
        return 1
    fi
    case $VERDICT in
    pending | leaking) finding note kmem "$VERDICT_TEXT" ;;
    unknown) finding unseen kmem "$VERDICT_TEXT" ;;
    *) finding ok kmem "$VERDICT_TEXT" ;;
    esac
}

# rebooted: whether this is another boot than the one that the plan was made in.
rebooted() { [ "$(plan boot)" != "$(boot_id)" ]; }

# boot_id: of this boot; in a container the host's stays, so pid 1's own start goes with it.
boot_id() {
    local id stat
    id=$(first_line "$ROOT/proc/sys/kernel/random/boot_id")
    stat=$(first_line "$ROOT/proc/1/stat")
    # shellcheck disable=SC2086 # fields
    set -- ${stat##*) }
    printf '%s.%s' "$id" "${20-}"
}

# verify: what a swap promised, asked again at any time.
verify() {
    RUN=$(current) || result $REFUSED "nothing was swapped here: nokmem-rollout apply"
    look_around
    case $(state_of "$RUN") in
    finished | unconfirmed) ;;
    undone) result $REFUSED "the last run was rolled back: there is nothing new to verify" ;;
    *) result $INTERRUPTED "run ${RUN##*/} is not finished: nokmem-rollout resume, or rollback" ;;
    esac
    [ -z "$DRY_RUN" ] || result $DONE "would ask files, kubelet, node and cgroups"
    local target
    while IFS= read -r target; do
        is "$target" "$(new_of "$target")" && finding ok "$(component "$target")" "$target" ||
            finding never "$(component "$target")" "$target is another file now" "apply again"
    done < <(targets)
    SETTLE=0
    if [ -n "$(plan kubelet)" ]; then
        TIMEOUT=10
        await_kubelet "$KUBELET_SHA256" && finding ok executable "kubelet runs from it and is healthy" || finding never executable "$TROUBLE"
    fi
    await_node_now || finding never node "$TROUBLE"
    CGROUPS=$(scratch)
    look_before "$RUN"
    scan "$CGROUPS" "$BEFORE"
    count "$CGROUPS"
    judge "$CGROUPS"
    fact verdict "$VERDICT"
    write_metrics
    case $VERDICT in
    leaking) finding never kmem "$VERDICT_TEXT" ;;
    unknown) finding unseen kmem "$VERDICT_TEXT" ;;
    esac
    [ "$REFUSALS" -eq 0 ] || result $REFUSED "$(refused_by): this is not as it was left"
    if [ "$VERDICT" = pending ]; then result $PENDING "$VERDICT_TEXT"; fi
    result $DONE "$VERDICT_TEXT"
}

await_node_now() {
    local now
    [ -n "$(flag kubeconfig)" ] || { finding note node "this kubelet knows no API server"; return 0; }
    now=$(heartbeat) || { finding unseen node "the API server does not tell kubelet's own credentials about this node"; return 0; }
    [[ $now == 'True '* ]] || { TROUBLE="the node is not Ready: $now"; return 1; }
    finding ok node "Ready, heartbeat ${now#* }"
}
