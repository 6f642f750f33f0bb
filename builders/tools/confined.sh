#!/bin/sh
# Run a file that is not trusted, from within fresh namespaces.
#   confined.sh ROOT FILE ID ARGUMENT...
# It sees the machine's libraries, read-only, and itself; no other file, process or network. With
# an ID it becomes that user; without, it stays what it is. Either way it has no capability.
set -eu
root=$1 file=$2 id=$3
shift 3

mount --make-rprivate /
mount -t tmpfs -o nosuid,nodev,mode=755 confined "$root"
for name in usr lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then
        ln -s "$(readlink "/$name")" "$root/$name"
    elif [ -d "/$name" ]; then
        mkdir "$root/$name"
        mount --bind "/$name" "$root/$name"
        mount -o remount,bind,ro "$root/$name"
    fi
done
: >"$root/binary"
mount --bind "$file" "$root/binary"
mount -o remount,bind,ro "$root/binary"
mount -o remount,bind,ro "$root"
cd "$root"
# Not exec: this shell stays the first process, so that its end is the end of all the others,
# whichever session they have moved to.
chroot "$root" /usr/bin/setpriv ${id:+--reuid="$id" --regid="$id" --clear-groups} \
    --bounding-set=-all --inh-caps=-all --no-new-privs -- /binary "$@"
exit $?
