#!/bin/sh
# mix.sh alone|shim cgroupfs|systemd FIRST SECOND: FIRST starts two containers; SECOND is renamed into
# its place and does all with the one and half with the other; FIRST comes back and does the rest.
# mix.sh alone|shim cgroupfs|systemd --starts COUNT FIRST SECOND: COUNT starts while the two are renamed
# into that place in turns, as fast as it goes.
# Both are names below /opt/runcs. Fails with who was to do what with whose container.
set -eu
way=$1 driver=$2
place=/usr/sbin/runc root=/run/mix/root log=/run/mix/log
loop='' what='be put in place' who=''
mkdir -p $root

cleanup() {
    status=$?
    set +e
    [ -z "$loop" ] || kill "$loop"
    if [ $status != 0 ]; then
        echo "$who: $what"
        tail -n 3 $log
    fi
    # whatever is left, whoever could not end it
    find /sys/fs/cgroup/freezer -mindepth 1 -type d | while read -r one; do
        echo THAWED >"$one/freezer.state"
        while read -r pid; do kill -KILL "$pid"; done <"$one/cgroup.procs"
    done
    for id in "$root"/*; do
        [ ! -e "$id" ] || "/opt/runcs/$first/runc" --root $root $flags delete --force "${id##*/}"
    done >$log 2>&1
    docker ps -aq | timeout 15 xargs -r docker rm --force >$log 2>&1
    rm -rf /run/mix
    exit $status
} 2>/dev/null
trap cleanup EXIT
trap 'exit 1' TERM

rename_in() {
    who=$1
    cp "/opt/runcs/$1/runc" $place.new
    mv $place.new $place
}

flags=''
[ "$driver" = cgroupfs ] || flags=--systemd-cgroup

# What a runc's own spec needs to run by itself and to be accounted.
edit='s|"terminal": true|"terminal": false|; s|"sh"|"sleep", "1000"|; s|"path": "rootfs"|"path": "/opt/rootfs"|
s|"resources": {|&"memory": {"limit": 67108864},|'

# The words of runc, whoever says them.
if [ "$way" = alone ]; then
    say() { $place --root $root $flags "$@" </dev/null; }
    start() {
        mkdir -p "/run/mix/$1"
        path=/mix/$1
        [ "$driver" = cgroupfs ] || path=system.slice:mix:$1
        (cd "/run/mix/$1" && say spec)
        sed -i "$edit; s|\"linux\": {|&\"cgroupsPath\": \"$path\",|" "/run/mix/$1/config.json"
        say run --detach --bundle "/run/mix/$1" "$1" >$log 2>&1
    }
    id_of() { echo "$1"; }
    execute() { say exec "$@"; }
    state() { say state "$1"; }
    end() { say kill "$1" KILL; }
else
    start() {
        docker run --detach --name "$1" --memory 64m --network none --log-driver none \
            --security-opt seccomp=unconfined --entrypoint /bin/sh app:1 -c 'exec sleep 1000' >$log 2>&1
    }
    say() {
        word=$1
        shift
        case $word in resume) word='unpause' ;; delete) word='rm' ;; esac
        docker "$word" "$@"
    }
    id_of() { docker inspect --format '{{.Id}}' "$1"; }
    execute() { docker exec "$@"; }
    state() { $place --root /run/docker/runtime-runc/moby $flags state "$(id_of "$1")"; }
    end() { docker kill "$1"; }
fi

step() {
    what=$1
    shift
    "$@" >$log 2>&1
}
is() {
    what="say that it is $2"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        ! state "$1" >$log 2>&1 || ! grep -q "\"status\": \"$2\"" $log || return 0
        sleep 0.1
    done
    return 1
}
executed() {
    what='exec'
    [ "$(execute "$1" cat /etc/image 2>$log)" = app:1 ]
}
# Where the driver puts it, with the limit that was asked for.
confined() {
    what="put it into a cgroup of $driver"
    folder=$(find /sys/fs/cgroup/memory -type d -name "*$1*" -prune)
    case $driver$folder in systemd*.scope) ;; cgroupfs*.scope | systemd*) return 1 ;; esac
    [ "$(cat "$folder/memory.limit_in_bytes")" = 67108864 ]
}
ended() {
    step kill end "$1"
    # the shim's engine has deleted it by then
    [ "$way" = shim ] || is "$1" stopped
    step delete say delete "$1"
    what='leave no cgroup'
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -n "$(find /sys/fs/cgroup/memory -type d -name "*$2*")" ] || return 0
        sleep 0.1
    done
    return 1
}

if [ "$3" = --starts ]; then
    count=$4 first=$5 second=$6
    rename_in "$first"
    while :; do
        rename_in "$second"
        rename_in "$first"
        echo
    done >/run/mix/renames &
    loop=$!
    who='one of both' what='start'
    for i in $(seq "$count"); do
        start "mix-$i"
        [ "$way" = shim ] || is "mix-$i" running
        step delete say delete --force "mix-$i"
    done
    kill $loop
    loop=''
    echo "$((2 * $(wc -l </run/mix/renames))) renames"
    exit
fi

first=$3 second=$4
rename_in "$first"
what='start'
start mix-whole
start mix-half
whole=$(id_of mix-whole) half=$(id_of mix-half)
confined "$whole"
confined "$half"
rename_in "$second"
for one in mix-whole mix-half; do
    is $one running
    executed $one
    step pause say pause $one
    is $one paused
done
step resume say resume mix-whole
is mix-whole running
executed mix-whole
ended mix-whole "$whole"
rename_in "$first"
is mix-half paused
step resume say resume mix-half
is mix-half running
executed mix-half
step pause say pause mix-half
step resume say resume mix-half
ended mix-half "$half"
echo ok
