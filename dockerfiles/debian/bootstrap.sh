#!/bin/sh
# Turn an unpacked tree into a toolchain. Runs inside the tree, the same in both builders.
# BUILDER_ID: the user and group id that compiles.
set -eu

# debootstrap's own second stage. "lxc" is its word for "device nodes are not yours to make",
# which holds in a container and in a user namespace.
if ! container=lxc DEBOOTSTRAP_DIR=/debootstrap /debootstrap/debootstrap --second-stage; then
    tail -n 40 /debootstrap/debootstrap.log >&2
    exit 1
fi

echo "builder:x:$BUILDER_ID:$BUILDER_ID::/build:/usr/sbin/nologin" >>/etc/passwd
echo "builder:x:$BUILDER_ID:" >>/etc/group
install -d -o "$BUILDER_ID" -g "$BUILDER_ID" /build /cache/go

# What no build reads, what names a mirror or a time, and what held the packages.
rm -rf /nokmem /debootstrap /etc/apt/sources.list /etc/machine-id \
    /var/cache/apt /var/cache/debconf /var/cache/ldconfig /var/lib/apt/lists /var/log/* \
    /usr/share/doc /usr/share/info /usr/share/locale /usr/share/man
