#!/bin/sh
# Installs the Debian or Ubuntu packages that are missing, after saying which.
#
#   scripts/system-packages.sh PYTHON serve|test|clients
#
# serve: what building and running needs; test: PostgreSQL and curl for the tests too; clients: also docker (with
# containerd), podman, buildah, skopeo, umoci, docker-registry, zstd, nginx, nbdkit, valgrind and clang with libFuzzer, which
# the tests use where they are installed. As root, or with sudo; without either the exact line to run is printed and the script ends
# with 1. Where nothing is missing it touches neither the network nor root's rights.
set -eu

python=$1
purpose=$2

missing=""

need_package() {
    status=$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $1"
}

# Asks the interpreter instead of the package list: one that is not the system's brings its own headers.
need_python_part() {
    if ! "$python" -c "$2" 2>/dev/null; then
        case $("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
            /usr/bin/*) missing="$missing python3-$1" ;;
            *)
                echo "$python has no $1 part (headers, or ensurepip): install it, or choose another by PYTHON=..." >&2
                exit 1
                ;;
        esac
    fi
}

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "Not a Debian or Ubuntu: going on without looking for system packages." >&2
    echo "Needed: a C compiler, Python's headers, libcrypto (OpenSSL) and libpq with headers; ISA-L makes it faster." >&2
    exit 0
fi

need_python_part venv 'import ensurepip, venv'
need_python_part dev 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_paths()["include"], "Python.h"))'
for package in gcc libc6-dev libisal-dev libssl-dev libpq-dev; do
    need_package "$package"
done
if [ "$purpose" != serve ]; then
    need_package curl
    need_package postgresql
fi
if [ "$purpose" = clients ]; then
    fuzzer=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9][0-9]*\)$/libclang-rt-\1-dev/p' | head -n 1)
    for package in buildah clang ${fuzzer:-libclang-rt-14-dev} containerd debootstrap docker-compose docker-registry \
        docker.io e2fsprogs fuse3 iptables libnbd-bin nbdkit nginx podman skopeo umoci valgrind zstd; do
        need_package "$package"
    done
fi
[ -n "$missing" ] || exit 0

command_line="apt-get install -y --no-install-recommends$missing"
echo "These system packages are missing:$missing"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root="sudo"
    command_line="sudo $command_line"
else
    echo "Root is needed to install them. Run this line as root, then start again:" >&2
    echo "    apt-get update && $command_line" >&2
    exit 1
fi
echo "Installing them: $command_line"

apt_get() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 "$@" \
        </dev/null
}

# A third party's broken source is no reason to stop: what is needed comes from the distribution.
apt_get update || echo "apt-get update failed in part; going on with the lists that are there" >&2
tries_left=3
# shellcheck disable=SC2086 # a list of package names
until apt_get install -y --no-install-recommends $missing; do
    tries_left=$((tries_left - 1))
    if [ "$tries_left" = 0 ]; then
        echo "Installing failed. The line was: $command_line" >&2
        exit 1
    fi
    sleep 5
    apt_get update || true
done
