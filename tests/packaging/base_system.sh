#!/bin/sh
# Prints the path of a tar file with a minimal Debian 12 (base_system.sh bookworm) or Ubuntu 24.04 (base_system.sh noble),
# made at the first call and kept in the user's cache.
#
# Stands for the image debian:bookworm-slim where no image can be pulled, and for a freshly installed machine.
# Needs root and debootstrap; SPEEDY_DEBIAN_MIRROR and SPEEDY_UBUNTU_MIRROR name other mirrors than debootstrap's own.
set -eu

release=${1:-bookworm}
scripts=/usr/share/debootstrap/scripts
case $release in
    bookworm)
        mirror=${SPEEDY_DEBIAN_MIRROR:-$(sed -n 's/^DEF_MIRROR="\(.*\)"$/\1/p' "$(command -v debootstrap)")}
        components=main
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        ;;
    noble)
        mirror=${SPEEDY_UBUNTU_MIRROR:-$(sed -n 's,^[[:space:]]*default_mirror \(http://archive[^ ]*\)$,\1,p' "$scripts/gutsy")}
        components=main,universe # as on an installed Ubuntu
        keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg
        ;;
    *)
        echo "unknown release $release: bookworm or noble" >&2
        exit 1
        ;;
esac
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/speedy-tests
base=$cache/$release-minbase.tar
mkdir -p "$cache"

# Two test runs may ask at the same time; the second waits for what the first makes.
exec 9>"$cache/lock"
flock -w 600 9
if [ ! -s "$base" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work" "$base.part"' EXIT
    set -- --variant=minbase --components="$components"
    # Of the other distribution a machine has neither the keys nor, for a newer release, the script (all Ubuntus share one).
    [ -e "$keyring" ] && set -- "$@" --keyring="$keyring" || set -- "$@" --no-check-gpg
    set -- "$@" "$release" "$work/root" "$mirror"
    [ -e "$scripts/$release" ] || set -- "$@" "$scripts/gutsy"
    tries_left=3
    until debootstrap "$@" >"$work/log" 2>&1; do
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
