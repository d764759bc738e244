#!/bin/sh
# Prints the path of a tar file that holds a minimal Debian 12, made at the first call and kept in the user's cache.
#
# Stands for the image debian:bookworm-slim where no image can be pulled, and for a freshly installed machine.
# Needs root and debootstrap; SPEEDY_DEBIAN_MIRROR names another mirror.
set -eu

mirror=${SPEEDY_DEBIAN_MIRROR:-http://deb.debian.org/debian}
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/speedy-tests
base=$cache/debian-bookworm-minbase.tar
mkdir -p "$cache"

# Two test runs may ask at the same time; the second waits for what the first makes.
exec 9>"$cache/lock"
flock -w 600 9
if [ ! -s "$base" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work" "$base.part"' EXIT
    tries_left=3
    until debootstrap --variant=minbase bookworm "$work/root" "$mirror" >"$work/log" 2>&1; do
        tries_left=$((tries_left - 1))
        if [ "$tries_left" = 0 ]; then
            tail -n 20 "$work/log" >&2
            exit 1
        fi
        rm -rf "$work/root"
    done
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    tar --numeric-owner --one-file-system -C "$work/root" -cf "$base.part" .
    mv "$base.part" "$base"
fi
echo "$base"
