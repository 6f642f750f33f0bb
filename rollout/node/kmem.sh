# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# Does this node leak memory cgroups, which of them are accounted, and how far has it come?

readonly LIMIT=65535 # memory cgroups that Linux 3.10 can number
KERNEL='' KERNEL_LEAKS='' KMEM_OFF='' KMEM_OFF_KNOWN='' CGROUPS='' BEFORE='' COMPARED=''
readonly CLASSES='clean charged legacy inherited leaking always unreadable'
declare -A COUNT=()

# look_at_kernel: 3.x leaks; 4.x and later give a cgroup back, and 5.x account always. One that cannot be
# read is taken for the worst. KMEM_OFF: yes; ignored, where the kernel is not known to take the option.
look_at_kernel() {
    local line='' word major el=0
    KERNEL=$(first_line "$ROOT/proc/sys/kernel/osrelease")
    major=${KERNEL%%.*}
    [[ $major =~ ^[0-9]{1,3}$ ]] || major=0
    KERNEL_LEAKS='' KMEM_OFF='' KMEM_OFF_KNOWN=''
    [ "$major" -ge 4 ] || KERNEL_LEAKS=yes
    [[ ! $KERNEL =~ ^3\.10\.0-([0-9]{1,6})(\.[0-9.]+)?\.el7 ]] || el=${BASH_REMATCH[1]}
    if [ "$major" -ge 4 ] || [ "$el" -ge 1127 ]; then KMEM_OFF_KNOWN=yes; fi
    line=$(first_line "$ROOT/proc/cmdline")
    for word in $line; do
        case $word in cgroup.memory=*) [[ ,${word#*=}, != *,nokmem,* ]] || KMEM_OFF=${KMEM_OFF_KNOWN:-ignored} ;; esac
    done
}

# scan FILE [BEFORE]: a line "class usage path" for each memory cgroup of pods. In 3.10 reading the slabs
# of a cgroup that is not accounted is an input/output error, and kernel memory is counted for a cgroup and
# for all above it; BEFORE names what stood before a swap.
#
#   clean       not accounted, kmem 0
#   charged     not accounted, but kmem of accounted ones below it, there or gone, is counted here
#   legacy      accounted, made before the swap (or there was none)
#   inherited   accounted, made since, under a parent that is
#   leaking     made since, and accounted under a parent that is not: somebody switched it on; or charged
#               by such a one, which is gone
#   always      of a kernel that accounts always and gives back; no fault
#   unreadable  neither could be read
#
# One grep reads them all: a fork for each would take seconds at a thousand.
scan() {
    local before=${2-} places found failed gone place
    : >"$1"
    COMPARED=${before:+yes}
    [ -n "$KUBEPODS" ] || return 0
    places=$(scratch) found=$(scratch) failed=$(scratch) gone=$(scratch)
    # those above decide what is inherited, and are not counted; no line can hold a name with a newline
    place=${KUBEPODS%/*}
    while [ "${#place}" -gt "${#MEMORY}" ]; do
        printf -- '- %s\n' "$place" >>"$places"
        place=${place%/*}
    done
    find "$KUBEPODS" -type d -name $'*\n*' -printf '0 %h/?\n' -prune -o -type d -printf '%i %p\n' >>"$places" 2>/dev/null || true
    awk '{ path = substr($0, length($1) + 2); print path "/memory.kmem.slabinfo"; print path "/memory.kmem.usage_in_bytes" }' "$places" |
        tr '\n' '\0' | xargs -0 -r grep -a -H -m 1 '' >"$found" 2>"$failed" || true
    sed -n 's/^grep: \(.*\)\/memory\.kmem\.usage_in_bytes: No such .*/\1/p' "$failed" |
        while IFS= read -r place; do [ -d "$place" ] || printf '%s\n' "$place"; done >"$gone"
    root=$ROOT old=${before:-/dev/null} awk -v leaks="$KERNEL_LEAKS" -v compared="$COMPARED" -v found="$found" -v failed="$failed" -v gone="$gone" '
        BEGIN {
            while ((getline line <found) > 0) {
                at = index(line, "/memory.kmem.slabinfo:")
                if (at) { slab[substr(line, 1, at - 1)] = 1; continue }
                at = index(line, "/memory.kmem.usage_in_bytes:")
                if (at && (value = substr(line, at + 28)) ~ /^[0-9]+$/) usage[substr(line, 1, at - 1)] = value
            }
            while ((getline line <failed) > 0)
                if (sub(/^grep: /, "", line) && sub(/\/memory\.kmem\.slabinfo: Input\/output error$/, "", line))
                    refused[line] = 1
            while ((getline line <ENVIRON["old"]) > 0) stood[line] = 1
            while ((getline line <gone) > 0) left[line] = 1
        }
        {
            inode = $1; path = substr($0, length($1) + 2)
            if (inode != 0 && path in left) next
            parent[path] = path; sub(/\/[^\/]*$/, "", parent[path])
            if (leaks == "") kind = (path in usage) ? "always" : "unreadable"
            else if (path in slab) kind = "legacy"
            else if ((path in refused) && (path in usage)) kind = usage[path] ~ /^0+$/ ? "clean" : "charged"
            else kind = "unreadable"
            fresh[path] = compared != "" && inode != "-" && !((inode " " own(path)) in stood)
            if (inode != "-") { order[++n] = path }
            class[path] = kind
        }
        function own(path) { return substr(path, length(ENVIRON["root"]) + 1) } # as the node calls it
        function accounted(path) { return class[path] ~ /^(legacy|inherited|leaking)$/ }
        END {
            for (i = 1; i <= n; i++) {
                path = order[i]
                if (class[path] == "legacy" && fresh[path])
                    class[path] = accounted(parent[path]) ? "inherited" : "leaking"
            }
            # find names a folder before those in it
            for (i = n; i >= 1; i--) {
                path = order[i]
                if (class[path] == "charged" && fresh[path] && !(path in below)) class[path] = "leaking"
                if (accounted(path) || (path in below)) below[parent[path]] = 1
            }
            for (i = 1; i <= n; i++) {
                path = order[i]
                print class[path], ((path in usage) ? usage[path] : "-"), own(path)
            }
        }' "$places" | sort -k 3 >"$1"
}

# cgroups_now: a line "inode path" for each cgroup of pods that stands now: what a swap calls old. One may
# go while it is looked at.
cgroups_now() {
    [ -z "$KUBEPODS" ] || find "$KUBEPODS" -type d -printf '%i %p\n' 2>/dev/null || true
}

# look_before RUN: BEFORE names what stood before it, if that was written down; of an earlier boot nothing
# stands.
look_before() {
    local RUN=$1
    BEFORE=''
    [ -f "$RUN/forward.cgroups" ] || return 0
    BEFORE=$RUN/forward.cgroups
    if rebooted; then BEFORE=$(scratch); fi
}

# count FILE: COUNT has how many there are of each class.
count() {
    local class number
    for class in $CLASSES; do COUNT[$class]=0; done
    while read -r number class; do COUNT[$class]=$number; done < <(cut -d ' ' -f 1 "$1" | sort | uniq -c)
}

counts() {
    local class text=''
    for class in $CLASSES; do text+="${text:+, }$class ${COUNT[$class]}"; done
    printf '%s' "$text"
}

# judge FILE: what the cgroups say, in a word and in a sentence: VERDICT and VERDICT_TEXT.
#   clean     no memory cgroup of a pod is accounted
#   pending   those that were are still there; new ones under them inherit it
#   leaking   something switches accounting on
#   immune    this kernel does not leak
#   unknown   what would be accounted could not be read
judge() {
    local class total=0 accounted=$((COUNT[legacy] + COUNT[inherited] + COUNT[leaking])) itself
    for class in $CLASSES; do total=$((total + COUNT[$class])); done
    itself=$(path=${KUBEPODS#"$ROOT"} awk '{ class = $1; sub(/^[^ ]+ [^ ]+ /, "") } $0 == ENVIRON["path"] { print class; exit }' "$1")
    if [ -z "$KERNEL_LEAKS" ]; then
        VERDICT=immune VERDICT_TEXT="Linux $KERNEL gives memory cgroups back: accounting does no harm here"
    elif [ "$KMEM_OFF" = yes ] && [ $accounted -eq 0 ]; then
        VERDICT=immune VERDICT_TEXT="this kernel was started with cgroup.memory=nokmem, and no cgroup is accounted"
    elif [ $total -eq 0 ]; then
        VERDICT=unknown VERDICT_TEXT="there is no memory cgroup of pods"
    elif [ "${COUNT[leaking]}" -gt 0 ]; then
        VERDICT=leaking VERDICT_TEXT="${COUNT[leaking]} of $total cgroups of pods were made since the swap, and accounting was switched on in them: something still does it"
    elif [ $accounted -gt 0 ] && [ -z "$COMPARED" ]; then
        VERDICT=leaking VERDICT_TEXT="$accounted of $total cgroups of pods are accounted: each keeps its id when it goes"
    elif [[ $itself =~ ^(legacy|inherited)$ ]]; then
        VERDICT=pending VERDICT_TEXT="$accounted of $total cgroups of pods are accounted, and so will be all that are made under ${KUBEPODS##*/}: until it is made anew, after a drain or a reboot"
    elif [ $accounted -gt 0 ]; then
        VERDICT=pending VERDICT_TEXT="$accounted of $total cgroups of pods are accounted, and those made under them will be: until these pods are gone"
    elif [ "${COUNT[charged]}" -gt 0 ] && [ -z "$COMPARED" ]; then
        VERDICT=leaking VERDICT_TEXT="to ${COUNT[charged]} of $total cgroups of pods kernel memory of accounted ones is charged that are gone: something switched it on"
    elif [ "${COUNT[unreadable]}" -gt 0 ]; then
        VERDICT=unknown VERDICT_TEXT="${COUNT[unreadable]} of $total cgroups of pods could not be read; none of the others is accounted"
    elif [ "${COUNT[charged]}" -gt 0 ]; then
        VERDICT=clean VERDICT_TEXT="none of $total cgroups of pods is accounted; ${COUNT[charged]} made before the swap hold what leaked until then"
    else
        VERDICT=clean VERDICT_TEXT="kmem is 0 in all $total cgroups of pods"
    fi
}

# look_at_slabs: caches that stay of cgroups which are gone: their names end in an id and the cgroup's name,
# in brackets. num_cgroups in /proc/cgroups does not grow with the leak, whatever advice says, and is not
# looked at.
look_at_slabs() {
    local caches ids leaked slab folder=$ROOT/sys/kernel/slab
    slab=$(awk '$1 == "Slab:" { print int($2 / 1024); exit }' "$ROOT/proc/meminfo" 2>/dev/null) || slab=''
    [ -n "$slab" ] || finding unseen slab "how much Slab there is cannot be read in $ROOT/proc/meminfo"
    if [ ! -d "$folder" ]; then
        finding unseen slabs "there is no $folder: how many ids are used up cannot be seen"
        return
    fi
    read -r caches ids leaked < <({
        [ -z "$MEMORY" ] || find "$MEMORY/" -type d -printf 'L%f\n' 2>/dev/null || true
        find "$folder" -mindepth 1 -maxdepth 1 -name '*([0-9]*' -printf 'C%f\n' 2>/dev/null || true
    } | awk '
        /^L/ { live[substr($0, 2)]++; next }
        match($0, /\([0-9]+:.*\)[^()]*$/) {
            caches++
            id = substr($0, RSTART + 1); sub(/:.*/, "", id)
            if (id in known) next
            known[id] = 1; ids++
            name = substr($0, RSTART, RLENGTH); sub(/^\([0-9]+:/, "", name); sub(/\)[^()]*$/, "", name)
            if (--live[name] < 0) leaked++
        }
        END { print caches + 0, ids + 0, leaked + 0 }')
    fact slabs "$caches caches of $ids memory cgroups${slab:+; Slab is $slab MiB}"
    [ -n "$KERNEL_LEAKS" ] || return 0
    if [ "$leaked" -gt 0 ]; then
        finding warn slabs "caches of $leaked cgroups are kept that are gone: $((leaked * 100 / LIMIT)) % of the $LIMIT ids that this kernel has" \
            "$([ $((leaked * 10)) -lt $((LIMIT * 9)) ] || printf 'drain this node now: ')only a reboot gives ids back"
    else
        finding ok slabs "no cache is kept of a cgroup that is gone"
    fi
}

# probe_mkdir STATUS: whether one more memory cgroup can be made: the leak's last word; STATUS where it cannot.
probe_mkdir() {
    local place="$MEMORY/nokmem-probe.$$" text
    [ -n "$MEMORY" ] || return 0
    if [ -n "$ROOT" ] || [ "$(id -u)" != 0 ]; then
        finding unseen ids "whether one more memory cgroup can be made is only tried as root and without --root"
        return
    fi
    PROBE=$place
    if text=$(mkdir "$place" 2>&1); then
        rmdir "$place" || true
        finding ok ids "one more memory cgroup can be made"
    elif [[ $text == *'No space left on device'* ]]; then
        finding "$1" ids "no memory cgroup can be made any more: No space left on device" \
            "drain and reboot this node: no binary gives the ids back"
    else
        finding unseen ids "a memory cgroup could not be made: $text"
    fi
}

# The lines that the field knows, and what they are of.
look_at_logs() {
    local text=''
    if [ -n "$ROOT" ]; then
        finding unseen logs "logs are not read with --root"
        return
    fi
    text=$(timeout 10 journalctl -q --no-pager -o cat -n 20000 _TRANSPORT=kernel + "_SYSTEMD_UNIT=$KUBELET_UNIT" 2>/dev/null) || text=''
    [ -n "$text" ] || { finding unseen logs "the journal has nothing of the kernel and of $KUBELET_UNIT"; return; }
    local words hits any=''
    for words in 'no space left on device' 'cannot allocate memory' 'SLUB: Unable to allocate memory'; do
        hits=$(grep -ciF "$words" <<<"$text") || true
        [ "$hits" = 0 ] || { any=yes && finding warn logs "$hits lines say \"$words\""; }
    done
    for words in unregister_netdevice 'use of closed network connection'; do
        hits=$(grep -ciF "$words" <<<"$text") || true
        [ "$hits" = 0 ] || {
            any=yes
            case $words in
            unregister*) finding note logs "$hits lines say \"$words\": another disease of this kernel, which this does not cure" ;;
            *) finding note logs "$hits lines say \"$words\": another disease, of HTTP/2 in kubelet" \
                "apply --disable-http2 sets DISABLE_HTTP2, which kubelets 1.10 to 1.20 know" ;;
            esac
        }
    done
    [ -n "$any" ] || finding ok logs "none of the known lines is in the last 20000"
}

describe_binaries() {
    local i version
    if [ -n "$KUBELET_PATH" ] && [ -f "$KUBELET_PATH" ]; then
        version=$(kubelet_version "$KUBELET_PATH")
        fact kubelet "${version:-?} at $KUBELET_PATH: $(kind "$KUBELET_PATH")"
    else
        finding unseen kubelet "$KUBELET_UNIT names no kubelet that is here"
    fi
    if [ ${#ENGINE_UNITS[@]} -gt 0 ]; then
        fact engine "$RUNTIME, ${ENGINE_UNITS[*]}"
    else
        finding unseen engine "no unit of $RUNTIME runs"
    fi
    for ((i = 0; i < ${#RUNC_PATHS[@]}; i++)); do
        version=$(runc_version "${RUNC_PATHS[i]}")
        fact "${RUNC_PATHS[i]}" "runc ${version:-?}: ${RUNC_KINDS[i]}"
    done
    [ ${#RUNC_PATHS[@]} -gt 0 ] || finding unseen runc "no runc of the engine was found"
}

# kubelet_version FILE, runc_version FILE: nothing where it says none.
kubelet_version() {
    local text
    text=$(timeout 20 "$1" --version 2>/dev/null) || true
    [[ ! $text =~ v1\.[0-9]+\.[0-9]+[-+.0-9A-Za-z]* ]] || printf '%s' "${BASH_REMATCH[0]}"
}

runc_version() {
    local text
    text=$(timeout 20 "$1" --version 2>/dev/null) || true
    [[ ! $text =~ version[[:space:]]([-+.~0-9A-Za-z]+) ]] || printf '%s' "${BASH_REMATCH[1]}"
}

diagnose() {
    local run leaks='which leaks accounted memory cgroups'
    look_at_kernel
    if [ -n "$ROOT" ]; then
        finding unseen binaries "kubelet, engine and runc are not asked with --root"
    else
        look_at_kubelet
        look_at_engine
        look_at_runcs
    fi
    look_at_cgroups
    CGROUPS=$(scratch)
    if run=$(current); then look_before "$run"; fi
    scan "$CGROUPS" "$BEFORE"
    count "$CGROUPS"
    judge "$CGROUPS"
    [ -n "$KERNEL_LEAKS" ] || leaks='which does not leak them'
    [ -n "$KERNEL" ] || finding unseen kernel "which kernel this is cannot be read; it is taken for one that leaks"
    fact kernel "${KERNEL:-?}, $leaks"
    fact cgroups "$CGROUPS_OF${KUBEPODS:+, ${KUBEPODS#"$ROOT"}, $(cgroup_layout)}"
    [ -n "$ROOT" ] || describe_binaries
    fact kmem "$(counts)"
    if [ -n "$BEFORE" ]; then
        fact compared "with what stood before run ${run##*/}$([ -s "$BEFORE" ] || printf ', of which nothing is left')"
    elif [ -n "$KERNEL_LEAKS" ]; then
        finding note compared "no swap is known here: when a cgroup was made cannot be told"
    fi
    if [ -z "$MEMORY" ]; then
        finding unseen cgroups "no memory hierarchy of cgroup v1 is mounted"
    elif [ -z "$KUBEPODS" ]; then
        finding unseen cgroups "there is no cgroup of pods below $MEMORY"
    elif [ "${COUNT[unreadable]}" -gt 0 ]; then
        finding unseen cgroups "${COUNT[unreadable]} could not be read, such as $(grep -m 1 '^unreadable ' "$CGROUPS" | cut -d ' ' -f 3-)"
    fi
    look_at_slabs
    probe_mkdir warn
    look_at_logs
    if [ -n "$KERNEL_LEAKS" ]; then
        case $KMEM_OFF/$KMEM_OFF_KNOWN in
        yes/*) finding ok boot "cgroup.memory=nokmem is on the kernel's command line" ;;
        ignored/*) finding warn boot "cgroup.memory=nokmem is on the kernel's command line, but this kernel is not known to take it (3.10.0-1127 and later do)" ;;
        */yes)
            finding note boot "this kernel knows cgroup.memory=nokmem and was started without it" \
                "where a reboot is possible anyway this is the cheapest cure: grubby --update-kernel=ALL --args=cgroup.memory=nokmem"
            ;;
        *) finding note boot "this kernel is not known to take cgroup.memory=nokmem (3.10.0-1127 and later do)" ;;
        esac
    fi
    fact verdict "$VERDICT"
    result $DONE "$VERDICT: $VERDICT_TEXT"
}

cgroup_layout() {
    case ${KUBEPODS##*/} in *.slice) echo 'of the systemd driver' ;; *) echo 'of the cgroupfs driver' ;; esac
}
