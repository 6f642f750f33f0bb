#!/bin/sh
# A yum that says what it was asked, and leaves out what /left-out names without a word.
set -eu
[ "$1" = clean ] && exit 0
left_out=$(cat /left-out)
for name in http_proxy HTTP_PROXY https_proxy HTTPS_PROXY no_proxy NO_PROXY; do
    eval "echo \"$name is \${$name-}\""
done
{
    # shellcheck disable=SC3045 # this sh is bash
    echo "descriptors $(ulimit -n)"
    echo "repositories" /etc/yum.repos.d/*
    echo "words $*"
} >/asked
mkdir -p /var/cache/yum/x86_64 /var/log
echo later >/var/log/yum.log
for word; do
    case $word in install | --* | "$left_out") ;; *) echo "$word" >>/installed ;; esac
done
