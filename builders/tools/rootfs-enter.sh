#!/bin/sh
# Run a command inside a tree, from within fresh namespaces.
#   rootfs-enter.sh TREE WORK GO_CACHE ID COMMAND...
# With ID 0 the tree is writable and the command is its root. Otherwise the tree is read-only,
# WORK and GO_CACHE are bound to /build and /cache/go, and the command runs as ID without any
# capability.
set -eu
tree=$1 work=$2 go_cache=$3 id=$4
shift 4

mount --make-rprivate /
mount --rbind "$tree" "$tree"
mount -t proc -o nosuid,nodev,noexec proc "$tree/proc"
mount -t tmpfs -o nosuid,mode=755 dev "$tree/dev"
for node in null zero full random urandom tty; do
    : >"$tree/dev/$node"
    mount --bind "/dev/$node" "$tree/dev/$node"
done
mkdir "$tree/dev/shm"
mount -t tmpfs -o nosuid,nodev,mode=1777 shm "$tree/dev/shm"
ln -s /proc/self/fd "$tree/dev/fd"
ln -s fd/0 "$tree/dev/stdin"
ln -s fd/1 "$tree/dev/stdout"
ln -s fd/2 "$tree/dev/stderr"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmp "$tree/tmp"

if [ "$id" = 0 ]; then
    exec chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"
fi
mount --bind "$work" "$tree/build"
mount --bind "$go_cache" "$tree/cache/go"
mount -o remount,bind,ro "$tree"
exec chroot "$tree" /usr/bin/setpriv --reuid "$id" --regid "$id" --clear-groups \
    --bounding-set=-all --inh-caps=-all --no-new-privs -- "$@"
