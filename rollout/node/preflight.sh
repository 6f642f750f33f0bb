# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# May this node be swapped at all, by what runs on it? Nothing here changes anything.

preflight() {
    check_preflight
    if [ "$REFUSALS" -gt 0 ]; then
        result $REFUSED "$(refused_by): this node is left as it is"
    fi
    local what
    what=$(what_changes)
    [ -n "$what" ] || result $ALREADY "kubelet and runc are in place already"
    result $DONE "would replace $what, $MODE"
}

# what_changes: the files that an apply would replace, in words; nothing where all are in place.
what_changes() {
    local one text=''
    if [ "$ONLY" != runc ]; then
        if ! is "$KUBELET_PATH" "$KUBELET_SHA256"; then
            text=$KUBELET_PATH
        elif [ "$(running_digest)" != "$KUBELET_SHA256" ]; then
            text="the kubelet that runs, not its file"
        fi
    fi
    if [ "$ONLY" != kubelet ]; then
        while IFS= read -r one; do text+="${text:+, }$one"; done < <(to_replace)
    fi
    printf '%s' "$text"
}

check_preflight() {
    [ "$(id -u)" = 0 ] || result $REFUSED "this must run as root"
    look_at_kernel
    look_at_kubelet
    look_at_engine
    look_at_runcs
    look_at_cgroups
    check_machine
    check_kubelet
    check_staged
    check_engine
    check_runcs
    check_cgroups
    check_files
    check_certificate
    check_health
    check_config
    check_pods
    check_window
    check_other_run
}

check_machine() {
    local machine libc
    machine=$(uname -m)
    if [ "$machine" = "$MACHINE" ]; then
        finding ok machine "$machine, Linux $KERNEL"
    else
        finding never machine "this is $machine, the binaries are for $MACHINE" "build for this machine"
    fi
    if [ -z "$KERNEL_LEAKS" ]; then
        finding warn kernel "Linux $KERNEL does not leak accounted cgroups: a swap gains nothing here"
    elif [ -n "$KMEM_OFF" ]; then
        finding warn kernel "this kernel was started with cgroup.memory=nokmem: a swap gains nothing here"
    fi
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=''
    libc=${libc##* }
    if [ -z "$libc" ]; then
        finding unseen glibc "getconf does not say which glibc this is"
    elif [ "$(printf '%s\n' "$GLIBC" "$libc" | sort -V | head -n 1)" = "$GLIBC" ]; then
        finding ok glibc "$libc, needed is $GLIBC"
    else
        finding never glibc "$libc is older than $GLIBC" "build for this system"
    fi
    local version
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    if [ "${version:-0}" -ge 219 ]; then
        finding ok systemd "$version"
    else
        finding never systemd "systemd ${version:-?} is older than 219"
    fi
    if timeout 5 timedatectl 2>/dev/null | grep -qiE 'synchronized: yes'; then
        finding ok clock "synchronized"
    else
        finding note clock "the clock is not synchronized, or nobody says so; no rule here but config looks at it"
    fi
    if [ -n "${http_proxy-}${https_proxy-}${HTTPS_PROXY-}${HTTP_PROXY-}" ]; then
        finding note proxy "proxy variables are set: only stage downloads, and uses them"
    fi
}

check_kubelet() {
    local exec name
    if [ "$(unit "$KUBELET_UNIT" LoadState)" != loaded ]; then
        finding never kubelet "there is no $KUBELET_UNIT" "name kubelet's unit with --unit"
        return
    fi
    exec=$(unit "$KUBELET_UNIT" ExecStart)
    exec=${exec#*path=}
    exec=${exec%% *}
    # a script may have become what it starts
    for name in "$exec" "$KUBELET_PATH"; do
        case ${name##*/} in
        docker | podman | rkt | nerdctl | runc | crictl | systemd-nspawn)
            finding never kubelet "$KUBELET_UNIT starts kubelet in a container ($name)" \
                "this replaces files of the host; put the binary into your kubelet's image instead"
            return
            ;;
        hyperkube*)
            finding never kubelet "kubelet is a hyperkube ($name)" \
                "replacing it would take the other servers along; install a kubelet of its own first"
            return
            ;;
        esac
    done
    if [ "$KUBELET_PID" = 0 ]; then
        finding never kubelet "$KUBELET_UNIT does not run" "start it, or mend what keeps it from running"
    elif grep -qE '/(docker|kubepods|libpod|machine.slice)[/-]' "/proc/$KUBELET_PID/cgroup"; then
        finding never kubelet "kubelet runs in a container" "this replaces files of the host; put the binary into your kubelet's image instead"
    elif ! grep -qaF k8s.io/kubernetes/cmd/kubelet "/proc/$KUBELET_PID/exe"; then
        finding never kubelet "what $KUBELET_UNIT runs is no kubelet: $KUBELET_PATH" "have the unit run kubelet itself, with exec if it is started by a script"
    elif [ ! -f "$KUBELET_PATH" ]; then
        finding never kubelet "the running kubelet's file is gone: $KUBELET_PATH" "restart kubelet, then try again"
    else
        KUBELET_VERSION_NOW=$(kubelet_version "/proc/$KUBELET_PID/exe")
        finding ok kubelet "${KUBELET_VERSION_NOW:-unknown version} at $KUBELET_PATH, pid $KUBELET_PID"
        check_skew
    fi
}

# minor VERSION: 20 of v1.20.2.
minor() {
    local text=${1#v1.}
    text=${text%%.*}
    [[ $text =~ ^[0-9]+$ ]] && printf '%s' "$text" || printf 0
}

check_skew() {
    local now new
    now=$(minor "$KUBELET_VERSION_NOW") new=$(minor "$KUBERNETES")
    if [ "$now" = 0 ]; then
        finding refuse version "kubelet's --version cannot be understood" "look at: $KUBELET_PATH --version"
    elif [ "$now" = "$new" ] && [ "$(printf '%s\n' "${KUBELET_VERSION_NOW%%[-+]*}" "$KUBERNETES" | sort -V | tail -n 1)" != "$KUBERNETES" ]; then
        finding warn version "$KUBELET_VERSION_NOW becomes the older $KUBERNETES" "build for $KUBELET_VERSION_NOW, if what it mended is missed"
    elif [ "$now" = "$new" ]; then
        finding ok version "$KUBELET_VERSION_NOW becomes $KUBERNETES"
    elif [ "$new" -lt "$now" ]; then
        finding refuse version "$KUBELET_VERSION_NOW would become the older $KUBERNETES" \
            "a kubelet must not be newer than its API server, and may be two minors older"
    else
        finding refuse version "$KUBELET_VERSION_NOW would become $KUBERNETES: this is an upgrade" \
            "the first hop is the same version, patched; the API server must be $KUBERNETES already"
    fi
    if [ "$new" -lt 18 ] && [ "$now" -ge 18 ] && [ -e "$(kubelet_root)/cpu_manager_state" ]; then
        finding refuse cpu-manager "cpu_manager_state was written by $KUBELET_VERSION_NOW and stops a kubelet before 1.18" \
            "drain the node and remove it"
    fi
}

kubelet_root() { setting root-dir '' /var/lib/kubelet; }

check_staged() {
    local file problem='' output status
    for file in kubelet runc; do
        [ "$ONLY" = "" ] || [ "$ONLY" = $file ] || continue
        if ! is "$STAGED/$file" "$(baked $file SHA256)"; then problem+="${problem:+, }$file"; fi
    done
    if [ -n "$problem" ] && [ "$COMMAND$DRY_RUN" = applyyes ]; then
        finding note staged "$problem: would be staged first, from $(source_of)"
        finding unseen flags "whether the new kubelet takes this node's flags is asked once it is staged"
        return
    fi
    if [ -n "$problem" ]; then
        finding never staged "$problem: not staged in $STAGED, or not what was proven" "nokmem-rollout stage"
        return
    fi
    finding ok staged "$STAGED, by their hashes"
    [ "$ONLY" != runc ] && [ "$KUBELET_PID" != 0 ] || return 0
    # kubelet reads its flags before it looks at --version
    status=0
    output=$(cd / && timeout 30 "$STAGED/kubelet" ${KUBELET_ARGV[@]+"${KUBELET_ARGV[@]:1}"} --version 2>&1) || status=$?
    if [ $status = 0 ]; then
        finding ok flags "the staged kubelet knows all ${#KUBELET_ARGV[@]} words of the running one's command line"
    else
        finding never flags "the staged kubelet does not take this node's flags: $({ grep -m 1 -iE 'unknown|error|invalid|fail' <<<"$output" || tail -n 1 <<<"$output"; } | head -c 300)" \
            "take the flag out, or build the version that knows it"
    fi
}

# baked NAME WHAT: SHA256 or SIZE of kubelet or runc.
baked() {
    local variable=${1^^}_$2
    printf '%s' "${!variable}"
}

check_engine() {
    local driver ours answers
    if [ ${#ENGINE_UNITS[@]} -eq 0 ]; then
        finding never engine "no unit of $RUNTIME runs" "start it, or say which engine this is"
        return
    fi
    answers=0
    engine_answers || answers=$?
    case $answers in
    0) finding ok engine "$RUNTIME, ${ENGINE_UNITS[*]}" ;;
    1) finding refuse engine "$RUNTIME runs and does not answer: ${ENGINE_UNITS[*]}" "mend that first; a swap would be blamed for it, and undone" ;;
    *) finding unseen engine "$RUNTIME, ${ENGINE_UNITS[*]}: there is no crictl to ask it with" ;;
    esac
    ours=$(setting cgroup-driver cgroupDriver cgroupfs)
    driver=''
    case $RUNTIME in
    docker) driver=$(timeout 20 docker info --format '{{.CgroupDriver}}' 2>/dev/null) || driver='' ;;
    containerd) driver=$(grep -qE '^[[:space:]]*(SystemdCgroup|systemd_cgroup)[[:space:]]*=[[:space:]]*true' "$(engine_config /etc/containerd/config.toml)" 2>/dev/null && echo systemd || echo cgroupfs) ;;
    crio) driver=$(sed -n 's/^[[:space:]]*cgroup_manager[[:space:]]*=[[:space:]]*"\([a-z]*\)".*/\1/p' /etc/crio/crio.conf /etc/crio/crio.conf.d/* 2>/dev/null | tail -n 1) || driver='' ;;
    esac
    if [ -z "$driver" ]; then
        finding unseen driver "$RUNTIME does not say its cgroup driver"
    elif [ "$driver" = "$ours" ]; then
        finding ok driver "kubelet and $RUNTIME: $ours"
    else
        finding never driver "kubelet's cgroup driver is $ours, that of $RUNTIME $driver" "mend that first: kubelet would not start a pod"
    fi
    if [ "$MODE" = drained ] && [ "$RUNTIME" = docker ]; then
        if timeout 20 docker info --format '{{.LiveRestoreEnabled}}' 2>/dev/null | grep -q true; then
            finding note live-restore "live-restore is on; drained ends the pods' containers all the same"
        fi
    fi
    if [ "$ONLY" != kubelet ] && [ -n "$(to_replace)" ] && [[ " $RUNC_TAGS " != *' selinux '* ]] && engine_uses_selinux; then
        finding never selinux "$RUNTIME runs with SELinux enabled, and this runc was built without the selinux tag: it would start nothing" \
            "build with --runc-tags 'seccomp selinux', or apply --only kubelet"
    fi
}

engine_uses_selinux() {
    case $RUNTIME in
    docker) timeout 20 docker info --format '{{.SecurityOptions}}' 2>/dev/null | grep -q selinux ;;
    containerd) grep -qE '^[[:space:]]*enable_selinux[[:space:]]*=[[:space:]]*true' "$(engine_config /etc/containerd/config.toml)" 2>/dev/null ;;
    crio) grep -qhE '^[[:space:]]*selinux[[:space:]]*=[[:space:]]*true' /etc/crio/crio.conf /etc/crio/crio.conf.d/* 2>/dev/null ;;
    *) return 1 ;;
    esac
}

check_runcs() {
    local i path old new count=0
    for ((i = 0; i < ${#RUNC_PATHS[@]}; i++)); do
        path=${RUNC_PATHS[i]}
        case ${RUNC_KINDS[i]} in
        leaks)
            count=$((count + 1))
            finding ok runc "$path ($(runc_version "$path")) switches accounting on and would become $RUNC_VERSION"
            ;;
        nokmem) finding ok runc "$path ($(runc_version "$path")) is clean and stays" ;;
        wrapper) finding note runc "$path is a script, and stays; the runcs in its words are looked at" ;;
        *) finding note runc "$path is no runc that is known here, and stays; those that it may call are looked at" ;;
        esac
    done
    [ ${#RUNC_PATHS[@]} -gt 0 ] || finding refuse runc "no runc was found that $RUNTIME executes" \
        "name the engine's unit, or apply --only kubelet"
    while IFS= read -r path; do
        finding note runc "$path is not executed by $RUNTIME, and stays"
    done < <(runcs_elsewhere)
    [ "$ONLY" != kubelet ] && [ $count -gt 0 ] || return 0
    check_mix
}

# runc_roots: where the engines of these years keep the states of their containers.
readonly RUNC_ROOTS='/run/docker/runtime-*/moby /run/runc /run/containerd/runc/k8s.io
/run/containerd/runc/moby /run/docker/runtime-runc'

# check_mix: the staged runc must understand each live container.
check_mix() {
    is "$STAGED/runc" "$RUNC_SHA256" || return 0
    local root state id text failed='' count=0
    for root in $RUNC_ROOTS; do
        for state in "$root"/*/state.json; do
            id=${state%/state.json}
            id=${id##*/}
            count=$((count + 1))
            # one that ended meanwhile is not missed
            text=$(timeout 20 "$STAGED/runc" --root "$root" state "$id" 2>&1) || [ ! -e "$state" ] ||
                failed+="${failed:+, }${id:0:12} ($(tail -n 1 <<<"$text" | head -c 120))"
        done
    done
    if [ -n "$failed" ]; then
        finding never mix "the staged runc does not understand containers that run: $failed" \
            "the engine's runc is of another age; drain the node and use --mode drained"
    else
        finding ok mix "the staged runc understands all $count containers that run"
    fi
    check_age
}

# at_least VERSION WANTED
at_least() { [ -n "$1" ] && [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# check_age: what no state shows: how the engine calls its runc. Docker to 17.05 and EL7's own 1.13.1 call
# create --console, which went with rc3; the seccomp profile of Docker 20.10.10 and containerd 1.4.10 gives a
# call an errno, and a runc before rc91 begins no container with it (seen with rc4 to rc10).
check_age() {
    local path version wanted
    while IFS= read -r path; do
        if timeout 20 "$path" create --help 2>/dev/null | grep -qE -- '--console[ ,=]'; then
            finding never age "$RUNTIME calls $path with create --console, which the staged $RUNC_VERSION does not know" \
                "update the engine, or apply --only kubelet"
        fi
    done < <(to_replace)
    ! at_least "$(tr - '~' <<<"$RUNC_VERSION")" '1.0.0~rc91' || return 0
    case $RUNTIME in
    docker) version=$(timeout 20 docker version --format '{{.Server.Version}}' 2>/dev/null) wanted=20.10.10 || version='' ;;
    containerd) version=$(timeout 20 containerd --version 2>/dev/null | grep -o '[0-9][0-9.]*' | head -n 1) wanted=1.4.10 || version='' ;;
    *) return 0 ;;
    esac
    ! at_least "${version#v}" "$wanted" || finding never age \
        "the seccomp profile of $RUNTIME $version cannot be read by the staged runc $RUNC_VERSION: no container would begin" \
        "build with --runc 1.0.0-rc92 or later, or apply --only kubelet"
}

check_cgroups() {
    if [ "$CGROUPS_OF" != v1 ]; then
        finding never cgroups "the memory cgroups are not of version 1 ($CGROUPS_OF)" "such a node does not leak"
        return
    fi
    local layout driver
    driver=$(setting cgroup-driver cgroupDriver cgroupfs)
    # drained ends the pods' cgroups, and could not make them anew
    probe_mkdir "$([ "$MODE" = drained ] && echo never || echo warn)"
    if [ -z "$KUBEPODS" ]; then
        finding warn cgroups "there is no cgroup of pods below $MEMORY"
        return
    fi
    case ${KUBEPODS##*/} in *.slice) layout=systemd ;; *) layout=cgroupfs ;; esac
    if [ $layout = "$driver" ]; then
        finding ok cgroups "$KUBEPODS, by $driver"
    else
        finding never cgroups "$KUBEPODS is of the $layout driver, kubelet says $driver: a restart would end every pod" \
            "mend kubelet's cgroup driver first"
    fi
}

# room_needed: a line "bytes folder" for each place that an apply writes to.
room_needed() {
    local one bytes
    {
        [ "$ONLY" = runc ] || [ ! -f "$KUBELET_PATH" ] || printf '%s %s\n' "$KUBELET_SIZE" "$KUBELET_PATH"
        [ "$ONLY" = kubelet ] || to_replace | sed "s/^/$RUNC_SIZE /"
    } | while read -r bytes one; do
        printf '%s %s\n' "$bytes" "${one%/*}" "$(stat -c %s "$one")" "$STATE"
    done
    # journal, reports, what is kept besides; and what stage brings
    printf '%s %s\n' $((16 << 20)) "$STATE"
    staged || printf '%s %s\n' $((KUBELET_SIZE + RUNC_SIZE)) "$STATE"
}

check_files() {
    local need free folder device file devices=''
    local -A needed=() where=()
    while read -r need folder; do
        while [ ! -d "$folder" ]; do folder=${folder%/*} && folder=${folder:-/}; done
        device=$(stat -c %d "$folder")
        if [ -z "${where[$device]-}" ]; then
            devices+=" $device"
            where[$device]=$folder
            file=$folder/.nokmem-probe.$$
            { : >"$file"; } 2>/dev/null || finding never writable "$folder cannot be written" "is it mounted read-only?"
            rm -f "$file"
        fi
        needed[$device]=$((${needed[$device]-0} + need / 1024 + 1))
    done < <(room_needed)
    for device in $devices; do
        folder=${where[$device]} need=${needed[$device]}
        free=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
        if [ "${free:-0}" -ge "$need" ]; then
            finding ok space "$((free / 1024)) MiB free in $folder, needed are $((need / 1024))"
        else
            finding never space "$folder has ${free:-?} KiB free, needed are $need" "free some room"
        fi
    done
    local one
    while IFS= read -r one; do
        [ -n "$one" ] || continue
        if lsattr -d "$one" 2>/dev/null | cut -d ' ' -f 1 | grep -q '[ia]'; then
            finding never immutable "$one has the attribute immutable or append-only" "chattr -ia $one"
        fi
    done < <(printf '%s\n' "$KUBELET_PATH" && to_replace)
    one=$(setting cni-conf-dir '' /etc/cni/net.d)
    if [ "$(flag network-plugin)" = cni ] || [ "$RUNTIME" != docker ]; then
        if [ -n "$(find "$one" -maxdepth 1 \( -name '*.conf' -o -name '*.conflist' -o -name '*.json' \) 2>/dev/null | head -n 1)" ]; then
            finding ok cni "$one"
        else
            finding refuse cni "there is no network configuration in $one" "a kubelet that starts would hold every pod back"
        fi
        one=$(setting cni-bin-dir '' /opt/cni/bin)
        [ -d "${one%%,*}" ] || finding refuse cni "there is no folder of network plugins: $one" "a kubelet that starts could begin no pod"
    fi
}

# kubeconfig KEY: the first value of a key in the kubelet's kubeconfig.
kubeconfig() {
    local file value
    file=$(flag kubeconfig)
    [ -r "$file" ] || return 0
    value=$(sed -n "s/^[[:space:]{-]*\"\{0,1\}$1\"\{0,1\}:[[:space:]]*//p" "$file" | head -n 1)
    value=${value%%[[:space:],]*}
    value=${value//[\"\']/}
    if [[ $1 =~ ^(client-certificate|client-key|certificate-authority)$ && -n $value && $value != /* ]]; then
        value=${file%/*}/$value
    fi
    printf '%s' "$value"
}

# check_certificate: what a restart would load. An old kubeadm's kubelet.conf keeps the first one, which
# the running kubelet has long replaced in memory.
check_certificate() {
    local file data end
    file=$(flag kubeconfig)
    [ -n "$file" ] || { finding note api "this kubelet knows no API server"; return; }
    if [ ! -r "$file" ]; then
        if [ -r "$(flag bootstrap-kubeconfig)" ]; then
            finding warn certificate "there is no $file: a kubelet that starts would ask for a certificate by $(flag bootstrap-kubeconfig)"
        else
            finding never certificate "there is no $file: this kubelet cannot come back after any restart" "give it its kubeconfig"
        fi
        return
    fi
    file=$(kubeconfig client-certificate)
    data=$(kubeconfig client-certificate-data)
    if [ -z "$file$data" ]; then
        finding note certificate "kubelet's kubeconfig names no client certificate"
    elif ! type -P openssl >/dev/null; then
        finding unseen certificate "openssl is not installed: whether kubelet's certificate is valid cannot be seen"
    else
        end=$({ if [ -n "$data" ]; then base64 -d <<<"$data"; else cat "$file"; fi; } 2>/dev/null |
            openssl x509 -noout -enddate 2>/dev/null) || end=''
        if [ -z "$end" ]; then
            finding never certificate "the certificate that a restart would load cannot be read: ${file:-in the kubeconfig}" "mend kubelet's kubeconfig"
        elif { if [ -n "$data" ]; then base64 -d <<<"$data"; else cat "$file"; fi; } | openssl x509 -noout -checkend 600 >/dev/null 2>&1; then
            finding ok certificate "valid until ${end#*=}"
        else
            finding never certificate "the certificate that a restart would load has expired: ${end#*=} (${file:-in the kubeconfig})" \
                "renew it first: this kubelet cannot come back after any restart"
        fi
    fi
}

# check_health: whether kubelet and node are well now. What is wrong before is wrong afterwards too: a swap would be
# blamed for it, and what undoes it would be no better off. One that has just begun is given some seconds.
check_health() {
    local now end=$(($(since_boot) + 10)) next="mend that first; or --accept"
    [ "$KUBELET_PID" != 0 ] || return 0
    until healthy; do
        [ "$(since_boot)" -lt $end ] || { finding refuse health "kubelet's healthz does not say ok" "$next health, if a restart is the cure" && break; }
        sleep 1
    done
    [ -n "$(flag kubeconfig)" ] || return 0
    while now=$(heartbeat) && [[ $now != 'True '* ]]; do
        [ "$(since_boot)" -lt $end ] || { finding refuse node "the node is not Ready: $now" "$next node, if a restart is the cure" && return; }
        sleep 1
    done
    if [ -n "$now" ]; then
        finding ok node "Ready, heartbeat ${now#* }"
    else
        finding unseen node "the API server does not tell kubelet's own credentials about this node"
    fi
}

# Where systemd has the drop-ins of a unit.
UNIT_FOLDERS='/etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system'

# check_config: a restart loads what is on the disk. What changed since kubelet began nobody has seen it run with,
# and a swap would be blamed for it. Both times are by the clock as it was then. What this project brings is known.
check_config() {
    local began file folder names=' ' changed='' ours='' next='restart kubelet and see that it is well; or --accept config'
    [ "$KUBELET_PID" != 0 ] || return 0
    began=$(TZ=UTC unit "$KUBELET_UNIT" ExecMainStartTimestamp)
    [ -z "$began" ] || began=$(date -d "$began" +%s 2>/dev/null) || began=''
    for file in $(unit "$KUBELET_UNIT" DropInPaths); do
        names+="${file##*/} "
        if [ ! -e "$file" ]; then changed+="${changed:+, }$file is gone"; fi
    done
    # of one name the first counts, which systemd has loaded
    for folder in $UNIT_FOLDERS; do
        for file in "$folder/$KUBELET_UNIT.d"/*.conf; do
            [ -f "$file" ] && [[ $names != *" ${file##*/} "* ]] || continue
            names+="${file##*/} "
            if of_ours "$file"; then ours=yes; else changed+="${changed:+, }$file"; fi
        done
    done
    while IFS= read -r file; do
        [ -f "$file" ] && [ -n "$began" ] && [ "$(stat -L -c %Y "$file")" -gt "$began" ] || continue
        if of_ours "$file"; then ours=yes; else changed+="${changed:+, }$file"; fi
    done < <({
        unit "$KUBELET_UNIT" FragmentPath && echo
        unit "$KUBELET_UNIT" DropInPaths | tr ' ' '\n' && echo
        systemctl show -p EnvironmentFiles "$KUBELET_UNIT" 2>/dev/null | sed -n 's/^EnvironmentFiles=\(.*\) (ignore_errors=.*/\1/p'
        printf '%s\n' "$KUBELET_CONFIG"
    } | sort -u)
    if [ -n "$changed" ]; then
        finding refuse config "changed since kubelet began, and not tried by it: $changed" "$next"
    elif [ -z "$ours" ] && [ "$(unit "$KUBELET_UNIT" NeedDaemonReload)" = yes ]; then
        finding refuse config "$KUBELET_UNIT on the disk is not what systemd has loaded" "systemctl daemon-reload, $next"
    elif [ -z "$began" ]; then
        finding unseen config "systemd does not say when kubelet began: what changed since cannot be seen"
    else
        finding ok config "nothing changed since kubelet began"
    fi
}

# of_ours FILE: a drop-in of this project's packages, of seed or of apply.
of_ours() { [[ $1 =~ /$KUBELET_UNIT\.d/[0-9]+-nokmem-[a-z0-9]+\.conf$ ]]; }

# check_pods: drained ends what runs; only what comes back by itself may be there.
check_pods() {
    local foreign
    [ "$MODE" = drained ] || return 0
    foreign=$(find "$MEMORY" -mindepth 1 -type d -regextype posix-extended \
        -regex ".*/(docker-|cri-containerd-|crio-|libpod-)?[0-9a-f]{64}(\.scope)?" -not -path "${KUBEPODS:-/nowhere}/*" -printf '%f\n' 2>/dev/null |
        while IFS= read -r id; do
            [ -z "$(head -c 1 "$(find "$MEMORY" -name "$id" -type d | head -n 1)/cgroup.procs" 2>/dev/null)" ] || echo "${id:0:22}"
        done)
    if [ -n "$foreign" ]; then
        finding refuse foreign "containers that are not Kubernetes' run here: ${foreign//$'\n'/, }" \
            "drained stops the engine and so ends them; --accept foreign if they may end"
    fi
    local id pid line place mortal='' nameless='' node
    local -A name=() pod=() known=()
    node=$(node_identity)
    while read -r id line; do name[$id]=${name[$id]:-${line% *}}; done < <(names)
    while read -r id _ pid; do
        while IFS=: read -r _ line place; do [[ ,$line, != *,memory,* ]] || pod[$id]=${place%/*}; done < <(cat "/proc/$pid/cgroup" 2>/dev/null)
        line=${name[$id]-}
        [ -n "$line" ] || { nameless+=" $id" && continue; }
        known[${pod[$id]-gone}]=yes
        # namespace/pod/container; of a static pod the name ends in that of its node
        [[ ${line%/*} == *"-$node" ]] || is_daemon "${line%/*}" || mortal+=$line$'\n'
    done < <(containers)
    # a pod of which no container has a name may be anybody's
    for id in $nameless; do
        [ -n "${known[${pod[$id]-gone}]-}" ] || mortal+="a pod without a name (${id:0:12})"$'\n'
    done
    if [ -n "$mortal" ]; then
        # a sandbox is of no interest beside what runs in it
        mortal=$(awk -F / '$3 == "POD" { alone[$1 "/" $2] = $0; next } { print; seen[$1 "/" $2] = 1 }
            END { for (pod in alone) if (!(pod in seen)) print alone[pod] }' <<<"${mortal%$'\n'}" | sort)
        finding refuse pods "pods run that neither a manifest nor a DaemonSet brings back here: ${mortal//$'\n'/, }" \
            "drain the node, or --accept pods if they may die"
    else
        finding ok pods "only pods of manifests and DaemonSets are left"
    fi
}

# node_identity: the name of this node in its cluster.
node_identity() {
    local name
    name=$(flag hostname-override)
    [ -n "$name" ] || name=$(node_name)
    printf '%s' "${name,,}"
}

DAEMONS='' DAEMONS_ASKED=''
# is_daemon NAMESPACE/POD: whether the API says that a DaemonSet owns it.
is_daemon() {
    if [ -z "$DAEMONS_ASKED" ]; then
        DAEMONS_ASKED=yes
        DAEMONS=$(api "api/v1/pods?fieldSelector=spec.nodeName%3D$(node_identity)" |
            sed 's/{"metadata":{"name":/\n&/g' | grep '"kind":"DaemonSet"' |
            sed -n 's/^{"metadata":{"name":"\([^"]*\)".*"namespace":"\([^"]*\)".*"ownerReferences".*/\2\/\1/p') || DAEMONS=''
    fi
    grep -qxF "$1" <<<"$DAEMONS"
}

# check_window: nothing can be confirmed before it is proven.
check_window() {
    local longest=$((2 * TIMEOUT + SETTLE))
    [ -z "$CONFIRM" ] || [ "$CONFIRM" -ge $longest ] || finding refuse window \
        "the proof may take $longest s (--timeout for kubelet, again for its node, --settle): of the $CONFIRM s of --confirm-within nothing may be left" \
        "--confirm-within $((longest + 120)), or less --timeout; or --accept window"
}

check_other_run() {
    local run state
    run=$(current) || return 0
    state=$(state_of "$run")
    case $state in
    forward | back) finding never run "run ${run##*/} was interrupted" "nokmem-rollout resume, or rollback" ;;
    unconfirmed) finding never run "run ${run##*/} waits for its confirmation" "nokmem-rollout confirm, or rollback" ;;
    waiting) finding never run "run ${run##*/} waits for the next boot" "reboot, or nokmem-rollout rollback" ;;
    esac
    if [ -s "$STATE/drift" ]; then
        finding warn drift "changed since the last swap: $(sed 's/.* //' "$STATE/drift" | sort -u | tr '\n' ' ')" "apply puts it back"
    fi
}

# api PATH: what the API server answers to the kubelet's own credentials; fails where it cannot be asked.
# What is secret goes through a pipe, never through arguments. The curl of EL7 reads no EC key, which kubelets
# have, and some nodes have none: openssl stands in.
api() {
    local server folder status=0 token
    server=$(kubeconfig server)
    [ -n "$server" ] && folder=$(mktemp -d "$SCRATCH/XXXXXXXX") || return 1
    token=$(kubeconfig token)
    by_curl "$1" || by_openssl "$1" || status=$?
    rm -rf "$folder"
    return $status
}

by_curl() {
    type -P curl >/dev/null || return 1
    {
        printf 'silent\nfail\nmax-time = 10\nuser-agent = "nokmem-rollout"\nurl = "%s/%s"\n' "${server%/}" "$1"
        if [ "$(kubeconfig insecure-skip-tls-verify)" = true ]; then echo insecure; fi
        local key option file
        while read -r key option; do
            file=$(credential "$key")
            [ -z "$file" ] || printf '%s = "%s"\n' "$option" "$file"
        done <<<$'certificate-authority cacert\nclient-certificate cert\nclient-key key'
        [ -z "$token" ] || printf 'header = "Authorization: Bearer %s"\n' "$token"
    } | curl --config -
}

by_openssl() {
    local place='^https://(\[[0-9a-fA-F:]+\]|[^]/:[]+)(:([0-9]+))?(/.*)?$' host path key option file words answer
    type -P openssl >/dev/null && [[ ${server%/} =~ $place ]] || return 1
    host=${BASH_REMATCH[1]} path=${BASH_REMATCH[4]}/$1
    words=(-quiet -connect "$host:${BASH_REMATCH[3]:-443}")
    host=${host//[][]/}
    if [ "$(kubeconfig insecure-skip-tls-verify)" != true ]; then
        words+=(-verify_return_error)
        if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then words+=(-verify_ip "$host"); else words+=(-verify_hostname "$host" -servername "$host"); fi
    fi
    while read -r key option; do
        file=$(credential "$key")
        [ -z "$file" ] || words+=("$option" "$file")
    done <<<$'certificate-authority -CAfile\nclient-certificate -cert\nclient-key -key'
    answer=$(printf 'GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: nokmem-rollout\r\n%s\r\n' "$path" "$host" "${token:+Authorization: Bearer $token$'\r\n'}" |
        timeout 15 openssl s_client ${words[@]+"${words[@]}"} 2>/dev/null) || true
    [[ $answer =~ ^HTTP/1\.[01]\ 200\  ]] || return 1
    sed '1,/^\r\{0,1\}$/d' <<<"$answer"
}

# credential KEY: the file that has it, be it the kubeconfig's own text.
credential() {
    local data
    data=$(kubeconfig "$1-data")
    if [ -n "$data" ]; then
        base64 -d <<<"$data" >"$folder/$1" && printf '%s' "$folder/$1"
    else
        kubeconfig "$1"
    fi
}
