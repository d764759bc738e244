#!/bin/bash
# `make serve` or `make test` in a system that holds nothing but git, make and python3.
#
#   minimal_system.sh [serve|test] [bookworm|noble]      Debian 12 or Ubuntu 24.04
#
# Build machines have packages that a fresh one lacks; this finds out. As root; needs debootstrap and the network.
# Shown, in this order: without root the line to run is printed and nothing is done; the first start; a push and a pull where
# skopeo is installed; a second start without network, ready in under 3 seconds.
set -euo pipefail

purpose=${1:-serve}
release=${2:-bookworm}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/var/tmp}/speedy-minimal-XXXXXX")
root=$work/root
server=""
clean_up() {
    [ -z "$server" ] || kill -TERM -- "-$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    for mounted in dev/shm dev/pts dev sys proc; do
        ! mountpoint -q "$root/$mounted" || umount -l "$root/$mounted"
    done
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

step() { printf '\n=== %s\n' "$*"; }
now_ms() { date +%s%3N; }
wait_ready() { # PREFIX...: a command in front of python3, which says where to look from
    for _ in $(seq 1 600); do
        if "$@" python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/readyz', timeout=2)" 2>/dev/null
        then
            return 0
        fi
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

step "a minimal system: $release"
mkdir "$root"
tar -C "$root" -xf "$("$checkout/tests/packaging/base_system.sh" "$release")"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount --bind /dev "$root/dev"
mount -t devpts devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
# A chroot has no init: packages must not start services in it.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
# A fresh machine's environment: nothing of ours goes in but what pip needs to know about the network.
inside=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb)
certificates=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [ -n "$certificates" ]; then
    cp "$certificates" "$root/etc/extra-ca.pem"
    inside+=("PIP_CERT=/etc/extra-ca.pem")
fi
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL http_proxy https_proxy no_proxy; do
    [ -z "${!name:-}" ] || inside+=("$name=${!name}")
done
"${inside[@]}" chroot "$root" apt-get -q update
"${inside[@]}" DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q install -y --no-install-recommends git make python3 \
    >"$work/apt.log" 2>&1 || { cat "$work/apt.log"; exit 1; }
git -C "$checkout" bundle create -q "$root/root/checkout.bundle" HEAD
"${inside[@]}" chroot "$root" git clone -q /root/checkout.bundle /srv/checkout
"${inside[@]}" chroot "$root" git config --system --add safe.directory /srv/checkout

step "without root: the line to run, and nothing done"
if "${inside[@]}" chroot --userspec=65534:65534 "$root" make -C /srv/checkout serve >"$work/refused" 2>&1; then
    cat "$work/refused"
    echo "make serve went on without root" >&2
    exit 1
fi
cat "$work/refused"
grep -q 'apt-get install .*python3-venv' "$work/refused"
[ ! -e "$root/srv/checkout/.venv" ]

if [ "$purpose" = test ]; then
    step "make test"
    "${inside[@]}" chroot "$root" make -C /srv/checkout test
    exit 0
fi

step "make serve, the first time"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
started=$(now_ms)
# All of the setting up first: waiting for readiness below is short.
"${inside[@]}" chroot "$root" make -C /srv/checkout .venv/.serve
echo "set up in $((($(now_ms) - started) / 1000)) s"
"${inside[@]}" setsid chroot "$root" make -C /srv/checkout serve LISTEN="127.0.0.1:$port" >"$work/first.log" 2>&1 &
server=$!
wait_ready || { cat "$work/first.log"; exit 1; }
cat "$work/first.log"
grep -q "docker push" "$work/first.log"
if command -v skopeo >/dev/null; then
    step "a push and a pull"
    mkdir "$work/image"
    PYTHONPATH=$checkout python3 -c "
from pathlib import Path
from tests.clients.images import build_image
build_image(Path('$work/image'), 'fresh', layer_sizes=[10_000, 9_000_000], seed=5)"
    skopeo --insecure-policy copy -q --dest-tls-verify=false \
        "docker-archive:$work/image/fresh.docker.tar" "docker://127.0.0.1:$port/first/image:v1"
    skopeo --insecure-policy copy -q --src-tls-verify=false \
        "docker://127.0.0.1:$port/first/image:v1" "dir:$work/image/back"
    echo "came back: $(du -sh "$work/image/back" | cut -f1)"
fi
kill -TERM -- "-$server"
wait "$server" || true
server=""

step "make serve again, without network"
started=$(now_ms)
"${inside[@]}" setsid unshare --net sh -c "ip link set lo up 2>/dev/null || /usr/sbin/ip link set lo up
    exec chroot '$root' make -C /srv/checkout serve LISTEN=127.0.0.1:$port" >"$work/second.log" 2>&1 &
server=$!
wait_ready nsenter --net="/proc/$server/ns/net" || { cat "$work/second.log"; exit 1; }
took=$(($(now_ms) - started))
echo "ready after $took ms"
cat "$work/second.log"
[ "$took" -lt 3000 ]
step "passed"
