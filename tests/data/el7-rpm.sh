#!/bin/sh
# An rpm that knows what the yum beside it has installed.
shift
for word; do
    grep -qxF "$word" /installed || {
        echo "package $word is not installed"
        exit 1
    }
done
