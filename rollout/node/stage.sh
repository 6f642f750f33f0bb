# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# Bring the proven binaries to this node; nothing that runs is touched, and nothing is downloaded later.

# stage: from beside this script, from another folder, from a URL, or from installed packages.
stage() {
    local from=$FROM name
    [ "$(id -u)" = 0 ] || result $REFUSED "this must run as root"
    [ -z "$DRY_RUN" ] || result $DONE "would put kubelet and runc of $BUILD into $STAGED, from $(source_of)"
    lock
    if staged; then result $ALREADY "$STAGED holds both, as they were proven"; fi
    bring "$from" || result $REFUSED "$TROUBLE"
    for name in kubelet runc; do
        finding ok "$name" "sha256 $(baked $name SHA256)"
    done
    result $DONE "$STAGED holds kubelet and runc of $BUILD"
}

# source_of: where they would come from, in words.
source_of() { without_login "${FROM:-$([ "$VIA" = rpm ] && echo packages || echo "${SELF%/*}")}"; }

# staged: all that a run needs is here; a later text of this script is another one.
staged() { is "$STAGED/kubelet" "$KUBELET_SHA256" && is "$STAGED/runc" "$RUNC_SHA256" && cmp -s "$SELF" "$STAGED/nokmem-rollout"; }

# bring FROM: fill $STAGED; whole or not at all. TROUBLE says why not.
bring() {
    local from=$1 part name source
    local one keep=''
    if one=$(current); then keep=$(sed -n 's/^build //p' "$one/plan"); fi
    for one in "$STATE"/staged/* "$STATE"/staged/.part.*; do
        case ${one##*/} in "$BUILD" | "$keep") ;; *) rm -rf "$one" ;; esac
    done
    mkdir -p "$STATE/staged" || { TROUBLE="$STATE/staged cannot be made"; return 1; }
    part=$(mktemp -d "$STATE/staged/.part.XXXXXXXX") || { TROUBLE="$STATE/staged cannot be written"; return 1; }
    LEAVINGS=$part
    if [ "$VIA" = rpm ] && ! { is "$KUBELET_PAYLOAD" "$KUBELET_SHA256" && is "$RUNC_PAYLOAD" "$RUNC_SHA256"; }; then
        install_packages "$from" || return 1
    fi
    for name in kubelet runc; do
        source=${from:-${SELF%/*}}/$name
        # a script that came by its package has its binaries where theirs put them
        if [ "$VIA" = rpm ] || { [ -z "$from" ] && [ ! -f "$source" ]; }; then
            source=$([ $name = kubelet ] && echo "$KUBELET_PAYLOAD" || echo "$RUNC_PAYLOAD")
        fi
        get "$source" "$part/$name" "$(baked $name SIZE)" || return 1
        if ! is "$part/$name" "$(baked $name SHA256)"; then
            TROUBLE="$source is not the $name that was proven: sha256 $(digest "$part/$name"), not $(baked $name SHA256)"
            return 1
        fi
        chmod 0755 "$part/$name"
    done
    if ! dd if="$SELF" of="$part/nokmem-rollout" conv=fsync status=none; then
        TROUBLE="this script could not be copied to $STATE"
        return 1
    fi
    rm -rf "$STAGED"
    mv -T "$part" "$STAGED" && LEAVINGS='' && persist "$STATE/staged" || { TROUBLE="$STAGED cannot be written"; return 1; }
}

# get SOURCE FILE SIZE: a copy of a file or of what a URL gives, no longer than it must be.
get() {
    case $1 in
    http://* | https://*)
        if type -P curl >/dev/null; then
            curl --silent --show-error --fail --location --proto '=http,https' --max-filesize "$3" \
                --connect-timeout 20 --speed-limit 1024 --speed-time 60 --output "$2" "$1"
        elif type -P wget >/dev/null; then
            wget -q --timeout=60 -O "$2" "$1"
        else
            TROUBLE="neither curl nor wget is installed: copy the files beside this script"
            return 1
        fi || { TROUBLE="$(without_login "$1") could not be fetched"; return 1; }
        dd if=/dev/null of="$2" conv=notrunc,fsync status=none
        ;;
    *://*)
        TROUBLE="$(without_login "$1") is no address that can be fetched from: give a folder, or http(s)"
        return 1
        ;;
    *)
        [ -f "$1" ] || { TROUBLE="there is no $1: give its folder or its URL with --from"; return 1; }
        dd if="$1" of="$2" bs=1M conv=fsync status=none 2>/dev/null || { TROUBLE="$1 could not be copied to $2: is there room?"; return 1; }
        ;;
    esac
}

# without_login URL: as it may be shown.
without_login() { if [[ $1 =~ ^([a-z]+://)[^/@]*@(.*)$ ]]; then printf '%s' "${BASH_REMATCH[1]}${BASH_REMATCH[2]}"; else printf '%s' "$1"; fi; }

# install_packages [FOLDER]: by yum from a repository, or from RPMs in a folder. They put nothing into place.
install_packages() {
    local rpms
    if [ -n "$1" ]; then
        rpms=("$1"/kubelet-nokmem-*.rpm "$1"/runc-nokmem-*.rpm)
        [ ${#rpms[@]} -eq 2 ] || { TROUBLE="$1 must hold one package of kubelet-nokmem and one of runc-nokmem"; return 1; }
    else
        rpms=("$KUBELET_PACKAGE" "$RUNC_PACKAGE")
    fi
    if type -P yum >/dev/null; then
        # it waits for another yum without an end, and this has the lock
        timeout --foreground --kill-after=60 1800 yum --assumeyes --quiet install "${rpms[@]}" >&2
    elif [ -n "$1" ]; then
        timeout --foreground --kill-after=60 1800 rpm --upgrade "${rpms[@]}" >&2
    else
        TROUBLE="yum is not installed: give a folder with the packages"
        return 1
    fi || { TROUBLE="the packages could not be installed: ${rpms[*]}"; return 1; }
}
