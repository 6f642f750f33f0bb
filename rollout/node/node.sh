# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# What this node is: its kubelet, its engine, its runcs, and where its cgroups are. Read from what
# runs, not from where things usually are.

KUBELET_UNIT=kubelet.service
KUBELET_PID=0 KUBELET_PATH='' KUBELET_CONFIG='' KUBELET_VERSION_NOW='' RUNTIME='' ENGINE_PID=0
declare -a KUBELET_ARGV=() ENGINE_UNITS=() RUNC_PATHS=() RUNC_KINDS=()
MEMORY='' KUBEPODS='' CGROUPS_OF=''

# unit UNIT PROPERTY: systemctl show of EL7 knows no --value.
unit() {
    local text
    text=$(systemctl show -p "$2" "$1" 2>/dev/null) || return 0
    printf '%s' "${text#*=}"
}

argv_of() { # argv_of PID ARRAY-NAME: bash 4.2 has no name references
    local word
    eval "$2=()"
    { while IFS= read -r -d '' word; do eval "$2+=(\"\$word\")"; done <"/proc/$1/cmdline"; } 2>/dev/null || true
}

look_at_kubelet() {
    local exec
    KUBELET_PID=$(unit "$KUBELET_UNIT" MainPID)
    KUBELET_PID=${KUBELET_PID:-0}
    if [ "$KUBELET_PID" != 0 ] && [ -e "/proc/$KUBELET_PID/exe" ]; then
        argv_of "$KUBELET_PID" KUBELET_ARGV
        KUBELET_PATH=$(readlink "/proc/$KUBELET_PID/exe") || KUBELET_PATH=''
        KUBELET_PATH=${KUBELET_PATH% (deleted)}
    else
        KUBELET_PID=0
        exec=$(unit "$KUBELET_UNIT" ExecStart)
        exec=${exec#*path=}
        KUBELET_PATH=$(readlink -f "${exec%% *}") || KUBELET_PATH=''
        # one that a run has stopped will be started with the same words
        if [ -n "$RUN" ]; then
            KUBELET_ARGV=()
            while IFS= read -r exec; do KUBELET_ARGV+=("$exec"); done < <(plan argument)
        fi
    fi
    KUBELET_CONFIG=$(flag config)
}

# flag NAME: the last value of a flag of the running kubelet.
flag() {
    local i value=''
    for ((i = 1; i < ${#KUBELET_ARGV[@]}; i++)); do
        case ${KUBELET_ARGV[i]} in
        "--$1="*) value=${KUBELET_ARGV[i]#*=} ;;
        "--$1") value=${KUBELET_ARGV[i + 1]-} ;;
        esac
    done
    printf '%s' "$value"
}

# setting FLAG KEY DEFAULT: a flag, else a key at the top of its configuration file.
setting() {
    local value
    value=$(flag "$1")
    if [ -z "$value" ] && [ -n "$2" ] && [ -r "$KUBELET_CONFIG" ]; then
        value=$(sed -n "s/^\"\{0,1\}$2\"\{0,1\}:[[:space:]]*//p" "$KUBELET_CONFIG" | tail -n 1)
        value=${value%%[[:space:]]#*}
        value=${value//[\"\',[:space:]]/}
    fi
    printf '%s' "${value:-$3}"
}

look_at_engine() {
    local endpoint
    endpoint=$(setting container-runtime-endpoint containerRuntimeEndpoint '')
    RUNTIME=docker
    if [ "$(flag container-runtime)" = remote ] || [[ $endpoint != '' && $endpoint != *dockershim* ]]; then
        case $endpoint in
        *containerd*) RUNTIME=containerd ;;
        *crio*) RUNTIME=crio ;;
        *) RUNTIME=unknown ;;
        esac
    fi
    ENGINE_UNITS=() ENGINE_PID=0
    local one
    for one in docker.service containerd.service crio.service; do
        [ "$(unit $one ActiveState)" = active ] || continue
        case $RUNTIME/$one in
        docker/docker.service | docker/containerd.service | containerd/containerd.service | crio/crio.service)
            ENGINE_UNITS+=("$one")
            ENGINE_PID=$(unit $one MainPID)
            ;;
        esac
    done
}

# engine_answers: 0 it does, 1 it does not within 20 s, 2 there is no program to ask it with.
engine_answers() {
    local endpoint
    endpoint=$(setting container-runtime-endpoint containerRuntimeEndpoint '')
    case $RUNTIME in
    docker) timeout 20 docker ps --quiet ;;
    *)
        if type -P crictl; then
            timeout 20 crictl --runtime-endpoint "$endpoint" version
        elif [ "$RUNTIME" = containerd ] && type -P ctr; then
            timeout 20 ctr --address "${endpoint#unix://}" version
        else
            return 2
        fi
        ;;
    esac >/dev/null 2>&1 || return 1
}

# The places where engines of these years have their runc; what the engine executes is found besides.
readonly RUNC_PLACES='/usr/bin/runc /usr/sbin/runc /usr/local/bin/runc /usr/local/sbin/runc
/usr/bin/docker-runc /usr/libexec/docker/docker-runc-current /usr/libexec/crio/runc'

# kind FILE: nokmem (libcontainer without accounting), leaks, wrapper (a script), other.
kind() {
    local magic=''
    IFS= read -r -n 2 magic <"$1" 2>/dev/null || true
    [ "$magic" != '#!' ] || { echo wrapper; return; }
    if ! grep -qaF 'libcontainer/cgroups' "$1"; then
        echo other
    elif grep -qaF -e memory.kmem.limit_in_bytes -e cgroups/fs.EnableKernelMemoryAccounting "$1"; then
        echo leaks
    else
        echo nokmem
    fi
}

# engine_path: the PATH by which the engine finds its runc.
engine_path() {
    local word path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    if [ "${ENGINE_PID:-0}" != 0 ]; then
        {
            while IFS= read -r -d '' word; do
                [[ $word != PATH=* ]] || path=${word#PATH=}
            done <"/proc/$ENGINE_PID/environ"
        } 2>/dev/null || true
    fi
    printf '%s' "$path"
}

# engine_config DEFAULT: the configuration file that the engine was started with.
engine_config() {
    local argv=() file=$1 pid i
    pid=$(unit "$RUNTIME.service" MainPID)
    [ "${pid:-0}" = 0 ] || argv_of "$pid" argv
    for ((i = 0; i < ${#argv[@]}; i++)); do
        case ${argv[i]} in
        --config=* | --config-file=*) file=${argv[i]#*=} ;;
        --config | --config-file | -c) file=${argv[i + 1]-} ;;
        esac
    done
    printf '%s' "$file"
}

# runtimes: what the engine says that it executes, a line each, as it has it: a path, or a name.
runtimes() {
    local file
    case $RUNTIME in
    docker)
        # a socket that waits for its engine would have this wait for it too
        if [ "$ENGINE_PID" != 0 ] && timeout 20 docker info --format '{{range .Runtimes}}{{.Path}}{{"\n"}}{{end}}' 2>/dev/null; then return; fi
        file=$(engine_config /etc/docker/daemon.json)
        grep -o '"path"[[:space:]]*:[[:space:]]*"[^"]*"' "$file" 2>/dev/null | sed 's/.*"\([^"]*\)"$/\1/' || true
        printf '%s\n' runc docker-runc
        ;;
    containerd)
        file=$(engine_config /etc/containerd/config.toml)
        sed -n 's/^[[:space:]]*\(BinaryName\|runtime_engine\|runtime\)[[:space:]]*=[[:space:]]*"\([^"]*\)".*/\2/p' "$file" 2>/dev/null || true
        echo runc
        ;;
    crio)
        sed -n 's/^[[:space:]]*\(runtime_path\|runtime\)[[:space:]]*=[[:space:]]*"\([^"]*\)".*/\2/p' /etc/crio/crio.conf /etc/crio/crio.conf.d/* 2>/dev/null || true
        echo runc
        ;;
    *) printf '%s\n' runc docker-runc ;;
    esac
}

# look_at_runcs: RUNC_PATHS are those that the engine executes, RUNC_KINDS what each is. What is no runc calls
# one: of a script by the words in it, of another program by the usual names.
look_at_runcs() {
    local path place i
    RUNC_PATHS=() RUNC_KINDS=()
    path=$(engine_path)
    while IFS= read -r place; do also_runc "$place" "$path"; done < <(runtimes)
    for ((i = 0; i < ${#RUNC_PATHS[@]}; i++)); do
        case ${RUNC_KINDS[i]} in
        wrapper) while IFS= read -r place; do also_runc "$place" "$path"; done < <(grep -v '^[[:space:]]*#' "${RUNC_PATHS[i]}" | grep -oE '[A-Za-z0-9._/-]*runc[A-Za-z0-9._-]*') ;;
        other) for place in docker-runc runc; do also_runc "$place" "$path"; done ;;
        esac
    done
}

# also_runc PLACE PATH: take note of a program that is executed, once.
also_runc() {
    local file=$1 one
    case $1 in
    /*) ;;
    '' | */*) return 0 ;;
    *) file=$(PATH=$2 type -P -- "$1") || return 0 ;;
    esac
    file=$(readlink -f -- "$file") || return 0
    [ -f "$file" ] && [ -x "$file" ] || return 0
    for one in ${RUNC_PATHS[@]+"${RUNC_PATHS[@]}"}; do [ "$one" != "$file" ] || return 0; done
    RUNC_PATHS+=("$file")
    RUNC_KINDS+=("$(kind "$file")")
}

# runcs_elsewhere: runcs at the usual places that the engine does not execute.
runcs_elsewhere() {
    local place file
    for place in $RUNC_PLACES; do
        file=$(readlink -f "$place") || continue
        [ -f "$file" ] && [[ " ${RUNC_PATHS[*]-} " != *" $file "* ]] || continue
        printf '%s\n' "$file"
    done | sort -u
}

# to_replace: the runcs that the engine executes and that leak, a line each. A clean one stays as it is.
to_replace() {
    local i
    for ((i = 0; i < ${#RUNC_PATHS[@]}; i++)); do
        [ "${RUNC_KINDS[i]}" != leaks ] || printf '%s\n' "${RUNC_PATHS[i]}"
    done
}

# look_at_cgroups: MEMORY is where the memory cgroups are, KUBEPODS the one of all pods; empty where
# there are none.
look_at_cgroups() {
    local _device place kind options _rest mounts=$ROOT/proc/mounts part name='' slices='' folders='' root places
    MEMORY='' KUBEPODS='' CGROUPS_OF=none
    # below another root those of its first process: /proc/mounts are always one's own
    if [ -n "$ROOT" ] && { : <"$ROOT/proc/1/mounts"; } 2>/dev/null; then mounts=$ROOT/proc/1/mounts; fi
    while read -r _device place kind options _rest; do
        case $kind in
        cgroup2) [ "$CGROUPS_OF" = v1 ] || CGROUPS_OF=v2 ;;
        cgroup)
            if [[ ,$options, == *,memory,* ]] && [ -d "$ROOT$place" ]; then
                MEMORY=$ROOT$place CGROUPS_OF=v1
            fi
            ;;
        esac
    done < <(cat "$mounts" 2>/dev/null)
    [ -n "$MEMORY" ] || return 0
    IFS=/ read -r -a root < <(setting cgroup-root cgroupRoot /; echo)
    # the systemd driver makes slices of it: of /a-b/c it is a_b.slice/a_b-c.slice/a_b-c-kubepods.slice
    for part in ${root[@]+"${root[@]}"}; do
        [ -n "$part" ] || continue
        folders+=/$part
        name+=${name:+-}${part//-/_}
        slices+=/$name.slice
    done
    places=("$MEMORY$slices/${name:+$name-}kubepods.slice" "$MEMORY$folders/kubepods" "$MEMORY/kubepods.slice" "$MEMORY/kubepods")
    [ "$(setting cgroup-driver cgroupDriver '')" != cgroupfs ] || places=("${places[1]}" "${places[3]}" "${places[0]}" "${places[2]}")
    for place in "${places[@]}"; do
        if [ -d "$place" ]; then
            KUBEPODS=$place
            break
        fi
    done
    # whose flags cannot be read may have another cgroup root
    if [ -z "$KUBEPODS" ] && [ -n "$ROOT" ]; then
        KUBEPODS=$(find "$MEMORY/" -mindepth 2 -maxdepth 4 -type d \( -name kubepods -o -name '*-kubepods.slice' \) -prune -printf '%d %P\n' | sort -n | head -n 1)
        KUBEPODS=${KUBEPODS:+$MEMORY/${KUBEPODS#* }}
    fi
}

# containers: a line "id start pid" for each running container of a pod, sorted; start is when its first
# process began, in ticks since boot. Asked of the cgroups, so that any engine will do.
containers() {
    local folder id pid stat start first first_pid
    [ -n "$KUBEPODS" ] || return 0
    while IFS= read -r folder; do
        id=${folder##*/}
        id=${id%.scope}
        id=${id##*-}
        [[ $id =~ ^[0-9a-f]{64}$ ]] || continue
        first='' first_pid=''
        # any of them may go while it is looked at
        while read -r pid; do
            IFS= read -r stat <"/proc/$pid/stat" || continue
            # shellcheck disable=SC2086 # fields
            set -- ${stat##*) }
            start=${20}
            if [ -z "$first" ] || [ "$start" -lt "$first" ]; then first=$start first_pid=$pid; fi
        done 2>/dev/null <"$folder/cgroup.procs" || true
        [ -z "$first" ] || printf '%s %s %s\n' "$id" "$first" "$first_pid"
    done < <(find "$KUBEPODS" -mindepth 1 -type d 2>/dev/null) | sort
}

# names: a line "id namespace/pod/container restarts" for each container of a pod that has one: by the links that
# kubelet keeps of their logs, and by docker's labels, which name sandboxes too. Where the log driver writes no
# files there are no links.
names() {
    link_names
    if [ "$RUNTIME" = docker ] && [ "$ENGINE_PID" != 0 ]; then
        timeout 20 docker ps --no-trunc --filter label=io.kubernetes.pod.uid --format \
            '{{.ID}} {{.Label "io.kubernetes.pod.namespace"}}/{{.Label "io.kubernetes.pod.name"}}/{{.Label "io.kubernetes.container.name"}} {{.Label "annotation.io.kubernetes.container.restartCount"}}' 2>/dev/null |
            sed 's/ $/ 0/' || true
    fi
}

link_names() {
    find /var/log/containers -maxdepth 1 -name '*-*.log' -printf '%f %l\n' 2>/dev/null |
        sed -n 's/^\([^_]*\)_\([^_]*\)_\(.*\)-\([0-9a-f]\{64\}\)\.log .*[/_]\([0-9]*\)\.log$/\4 \2\/\1\/\3 \5/p' || true
}

# named ID...: what kubelet calls these, in words.
named() {
    local id line text='' table
    table=$(cat "${NAMES_BEFORE:-/dev/null}" && names)
    for id in "$@"; do
        line=$(grep -m 1 "^$id " <<<"$table") || line=''
        line=${line#* }
        text+="${text:+, }${line% *}"
        [ -n "$line" ] || text+="the sandbox ${id:0:12}"
    done
    printf '%s' "$text"
}

# http ADDRESS PORT PATH: what a server of this node says; nothing where it is silent.
http() {
    # shellcheck disable=SC2016 # its own words
    timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" "$2" >&3 && cat <&3' \
        "$1" "$2" "$3" 2>/dev/null | sed '1,/^\r\{0,1\}$/d' || true
}
