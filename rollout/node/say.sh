# shellcheck shell=bash disable=SC2015,SC2034,SC2086,SC2153,SC2154
# What a person or a machine reads: findings, facts, one result, as text or as one JSON document.

readonly DONE=0 UNFORESEEN=1 USAGE=2 ALREADY=10 REFUSED=20 FAILED=30 STUCK=31 LOCKED=40 PENDING=50 INTERRUPTED=60
declare -A WORD=(
    [$DONE]='done' [$UNFORESEEN]=unforeseen [$USAGE]=usage [$ALREADY]='already done' [$REFUSED]=refused [$FAILED]='failed and rolled back'
    [$STUCK]='failed, and not rolled back' [$LOCKED]='locked by another run'
    [$PENDING]='done, but pending' [$INTERRUPTED]=interrupted
)

FINDINGS=0 REFUSALS=0
declare -a STATUS=() ID=() FACT=() NEXT=()
declare -a FACT_KEYS=() FACT_VALUES=()

# finding STATUS ID FACT [NEXT]: ok; note; warn; unseen: could not be looked at; refuse: --accept ID
# makes it a warning; never: nothing does.
finding() {
    local status=$1
    case $status in
    refuse)
        if [[ " $ACCEPT " == *" $2 "* || " $ACCEPT " == *" all "* ]]; then
            status=warn
        else
            REFUSALS=$((REFUSALS + 1))
        fi
        ;;
    never)
        status=refuse
        REFUSALS=$((REFUSALS + 1))
        ;;
    esac
    STATUS+=("$status") ID+=("$2") FACT+=("$3") NEXT+=("${4-}")
    FINDINGS=$((FINDINGS + 1))
}

# refused_by: the ids of what refuses.
refused_by() {
    local i text=''
    for ((i = 0; i < FINDINGS; i++)); do
        [ "${STATUS[i]}" != refuse ] || text+="${text:+, }${ID[i]}"
    done
    printf '%s' "$text"
}

# fact KEY VALUE: the last one counts.
fact() {
    local i
    for ((i = 0; i < ${#FACT_KEYS[@]}; i++)); do
        if [ "${FACT_KEYS[i]}" = "$1" ]; then
            FACT_VALUES[i]=$2
            return
        fi
    done
    FACT_KEYS+=("$1")
    FACT_VALUES+=("$2")
}

# progress TEXT: a line on the way, never part of the result.
progress() {
    printf '%s\n' "$*" >&2
}

printable() { printf '%s' "${1//[^[:print:]]/?}"; }

quoted() {
    local s=$1
    s=${s//\\/\\\\}
    s=${s//\"/\\\"}
    s=${s//$'\n'/\\n}
    s=${s//$'\t'/\\t}
    printf '"%s"' "${s//[^[:print:]]/?}"
}

# result CODE SUMMARY: print everything and leave the script with that code. CGROUPS, if it is set,
# names a file with a line "class usage path" for each cgroup.
result() {
    report "$1" "$2" "$JSON"
    exit "$1"
}

REPORTED=''
report() {
    REPORTED=yes
    if [ -n "$3" ]; then report_json "$1" "$2"; else report_text "$1" "$2"; fi
}

report_text() {
    local i
    for ((i = 0; i < ${#FACT_KEYS[@]}; i++)); do
        printf '%-16s %s\n' "${FACT_KEYS[i]}" "$(printable "${FACT_VALUES[i]}")"
    done
    [ ${#FACT_KEYS[@]} -eq 0 ] || [ "$FINDINGS" -eq 0 ] || echo
    for ((i = 0; i < FINDINGS; i++)); do
        printf '%-7s %-14s %s\n' "${STATUS[i]}" "${ID[i]}" "$(printable "${FACT[i]}")"
        [ -z "${NEXT[i]}" ] || printf '%-7s %-14s %s\n' '' next "$(printable "${NEXT[i]}")"
    done
    [ "$FINDINGS" -eq 0 ] || echo
    printf '%s: %s\n' "${WORD[$1]}" "$(printable "$2")"
}

report_json() {
    local i separator=''
    printf '{"schema": 1, "command": %s, "build": %s, "node": %s, "time": %s,\n' \
        "$(quoted "$COMMAND")" "$(quoted "$BUILD")" "$(quoted "$(node_name)")" "$(date +%s)"
    printf ' "code": %d, "result": %s, "summary": %s,\n "facts": {' "$1" \
        "$(quoted "${WORD[$1]}")" "$(quoted "$2")"
    for ((i = 0; i < ${#FACT_KEYS[@]}; i++)); do
        printf '%s\n  %s: %s' "$separator" "$(quoted "${FACT_KEYS[i]}")" "$(quoted "${FACT_VALUES[i]}")"
        separator=,
    done
    printf '},\n "findings": ['
    separator=''
    for ((i = 0; i < FINDINGS; i++)); do
        printf '%s\n  {"status": %s, "id": %s, "fact": %s, "next": %s}' "$separator" \
            "$(quoted "${STATUS[i]}")" "$(quoted "${ID[i]}")" "$(quoted "${FACT[i]}")" "$(quoted "${NEXT[i]}")"
        separator=,
    done
    printf '],\n "cgroups": ['
    if [ -n "${CGROUPS-}" ] && [ -s "$CGROUPS" ]; then
        awk '{
            class = $1; usage = ($2 == "-") ? "null" : $2; sub(/^[^ ]+ [^ ]+ /, "")
            gsub(/\\/, "&&"); gsub(/"/, "\\\""); gsub(/\t/, "\\t"); gsub(/[^ -~]/, "?")
            printf "%s\n  {\"class\": \"%s\", \"kmem\": %s, \"path\": \"%s\"}", comma, class, usage, $0
            comma = ","
        }' "$CGROUPS"
    fi
    printf ']}\n'
}

node_name() { first_line "$ROOT/proc/sys/kernel/hostname"; }

# first_line FILE: nothing where it cannot be read.
first_line() {
    local line=''
    { IFS= read -r line <"$1"; } 2>/dev/null || true
    printf '%s' "$line"
}
