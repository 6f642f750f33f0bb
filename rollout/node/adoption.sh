# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# The state by which a kubelet takes over the containers of another one: begun here before the first
# such kubelet starts, and ended here if it must end before the last of them is gone.

ADOPTION=/var/lib/kubelet/version-cache.json
DROP_IN=''
readonly MARK=20-nokmem-adoption.conf HTTP2=30-nokmem-http2.conf

# seed: tell the first kubelet that adopts which one ran before it.
seed() {
    local code=0
    sow "$SEED_FROM" "$MANIFESTS" || code=$?
    case $code in
    0)
        [ -z "$DRY_RUN" ] || result $DONE "would write into $ADOPTION that $SEED_FROM ran before"
        result $DONE "$ADOPTION says that $SEED_FROM ran before"
        ;;
    10) result $ALREADY "$ADOPTION is there already" ;;
    20) result $REFUSED "$TROUBLE" ;;
    *) result $FAILED "$TROUBLE; nothing that runs was changed" ;;
    esac
}

# sow VERSION MANIFESTS: 0 written, 10 was there, 20 makes no sense (nothing was written), 30 no room.
# First the mark, then the state: a state that is marked and lost is damage, not a fresh node.
sow() {
    local from=$1 manifests=$2 place path sum entries='' text version
    version='^v1\.[0-9]{1,2}\.[0-9]{1,3}([-+][0-9A-Za-z.+-]{1,64})?$'
    if [[ ! $from =~ $version ]]; then
        TROUBLE="'$from' is no version of a kubelet: give what the old one's --version says, such as v1.15.3"
        return 20
    fi
    while [ "$manifests" != "${manifests%/}" ]; do manifests=${manifests%/}; done
    for place in "$ADOPTION" "$DROP_IN" ${manifests:+"$manifests"}; do
        if [[ $place != /* || $place =~ //|/\.\.?(/|$) || $place == *[[:cntrl:]\"\\%]* ]]; then
            TROUBLE="'$place' is no plain absolute path: give it without //, /./, /../, quotes and percent signs"
            return 20
        fi
    done
    [ -d "${ADOPTION%/*}" ] || { TROUBLE="there is no ${ADOPTION%/*}: is this a node? give --state"; return 20; }
    if [ -n "$manifests" ] && [ ! -d "$manifests" ]; then
        TROUBLE="there is no folder $manifests: give the old kubelet's --pod-manifest-path, or none if it has none"
        return 20
    fi
    # Kubelet reads every plain file of the folder whose name begins with no dot.
    if [ -n "$manifests" ]; then
        for path in "$manifests"/*; do
            [ -f "$path" ] || continue
            [[ $path != *[[:cntrl:]\"\\]* ]] || { TROUBLE="'$path' cannot be written down: rename that manifest"; return 20; }
            sum=$(digest "$path") || { TROUBLE="$path cannot be read"; return 30; }
            entries+="${entries:+,}"$'\n'"  \"$path\": {\"sha256\": \"$sum\"}"
        done
    fi
    [ -z "$entries" ] || entries+=$'\n '
    text='{
 "schema": 1,
 "build": "'$from'",
 "retired": false,
 "containers": {},
 "manifests": {'$entries'}
}'
    # A kubelet that has run since wrote its own build: of the same version it knows what runs.
    if [ -e "$ADOPTION" ] && [ -z "$FORCE" ]; then
        if [ "$(cat "$ADOPTION")" = "$text" ] || grep -qF "\"build\": \"$from+nokmem." "$ADOPTION"; then
            [ ! -f "$DROP_IN/$MARK" ] || return 10
        else
            TROUBLE="$ADOPTION is there and is of another time or of another kubelet: look at it; if a stock kubelet ran since, use --force"
            return 20
        fi
    fi
    if [ -n "$DRY_RUN" ]; then return 0; fi
    if [ ! -d "$DROP_IN" ]; then
        { mkdir -p "$DROP_IN" && chmod 0755 "$DROP_IN"; } 2>/dev/null || { TROUBLE="$DROP_IN cannot be made"; return 30; }
    fi
    write "$DROP_IN/$MARK" 0644 <<CONF || { TROUBLE="$DROP_IN/$MARK cannot be written"; return 30; }
# Without this mark a lost $ADOPTION would be taken for a fresh node.
[Service]
Environment="NOKMEM_ADOPTION=required" "NOKMEM_ADOPTION_FILE=$ADOPTION"
CONF
    if [ ! -e "$ADOPTION" ] || [ -n "$FORCE" ]; then
        write "$ADOPTION" 0600 <<<"$text" || { TROUBLE="$ADOPTION cannot be written"; return 30; }
    fi
    return 0
}

# state_build: which kubelet the state says ran last.
state_build() { sed -n 's/^ "build": "\([^"]*\)",*$/\1/p' "$ADOPTION" 2>/dev/null | head -n 1; }

# kept_ids: the containers that the state keeps, an id a line; those of which it has but the image are not kept.
kept_ids() { sed -n 's,^  "[a-z-]*://\([0-9a-f]*\)": {.*,\1,p' "$ADOPTION" 2>/dev/null; }

# expected BUILD: a line "id hash" for each container of which that build noted what it expects.
expected() {
    awk -v build="\"$1\":" '
        /^  "[a-z-]*:\/\/[0-9a-f]*"/ { id = $1; gsub(/.*:\/\/|[":]/, "", id) }
        $1 == build { sub(/,$/, "", $2); print id, $2 }' "$ADOPTION" 2>/dev/null
}

# hashes ID...: a line "id hash" for each, as its kubelet noted it when it started the container, in decimal;
# none where the engine cannot be asked.
hashes() {
    local id text
    [ $# -gt 0 ] || return 0
    case $RUNTIME in
    docker) timeout 60 docker inspect --format '{{.Id}} {{index .Config.Labels "annotation.io.kubernetes.container.hash"}}' "$@" 2>/dev/null || true ;;
    *)
        for id in "$@"; do
            text=$(timeout 20 crictl inspect "$id" 2>/dev/null | grep -m 1 -o '"io.kubernetes.container.hash": *"[0-9a-f]*"') || continue
            text=${text%\"}
            printf '%s %s\n' "$id" "${text##*\"}"
        done
        ;;
    esac | while read -r id text; do
        [[ ! $text =~ ^[0-9a-f]{1,8}$ ]] || printf '%s %d\n' "$id" "0x$text"
    done
}

# would_restart: the kept containers that a kubelet restarts once it keeps none, and those of which nobody knows.
would_restart() {
    local ids
    ids=$(comm -12 <(kept_ids | sort) <(containers | cut -d ' ' -f 1 | sort))
    # shellcheck disable=SC2086 # words
    comm -23 <(printf '%s' "${ids:+$ids$'\n'}") \
        <(comm -12 <(hashes $ids | sort) <(expected "$(state_build)" | sort) | cut -d ' ' -f 1)
}

# retire: end the keeping now. Says beforehand what restarts; the build's id and what static pods were made
# of stay, so that the next change of build works.
retire() {
    look_at_kubelet
    look_at_engine
    look_at_cgroups
    [ -f "$ADOPTION" ] || result $ALREADY "there is no $ADOPTION: nothing is kept"
    ! grep -q '^ "retired": true' "$ADOPTION" || result $ALREADY "$ADOPTION is retired"
    local ids names
    ids=$(would_restart)
    # shellcheck disable=SC2086 # words
    names=$(named $ids)
    if [ -n "$ids" ]; then
        finding refuse restart "these restart as soon as they are not kept: $names" "--accept restart, if they may"
    else
        finding ok restart "no container restarts"
    fi
    [ "$REFUSALS" -eq 0 ] || result $REFUSED "nothing was changed"
    [ -z "$DRY_RUN" ] || result $DONE "would retire $ADOPTION, with kubelet stopped for a moment"
    lock
    trap '' HUP INT TERM # kubelet does not stay down
    # A kubelet that runs would write its own state again.
    systemctl stop "$KUBELET_UNIT" || result $FAILED "kubelet could not be stopped; nothing was changed"
    awk '
        /^ "containers": [{]/ { print " \"containers\": {},"; inside = !/[}],?$/; next }
        inside { if ($0 ~ /^ [}],?$/) inside = 0; next }
        { sub(/^ "retired": false/, " \"retired\": true"); print }' "$ADOPTION" | write "$ADOPTION" 0600 ||
        { systemctl start "$KUBELET_UNIT"; result $FAILED "$ADOPTION could not be written; kubelet keeps as before"; }
    systemctl start "$KUBELET_UNIT" || result $STUCK "kubelet does not start: look at journalctl -u $KUBELET_UNIT"
    result $DONE "$ADOPTION is retired; the next change of build works as ever"
}
