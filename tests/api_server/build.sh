#!/bin/sh
# Builds the API server of Kubernetes' CustomResourceDefinitions from Debian's packages: `build.sh FOLDER` leaves FOLDER/apiext.
# As root; takes about five minutes and 5 GB below FOLDER, once. The program is Kubernetes' own code and is never committed.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
[ -x "$folder/apiext" ] && command -v etcd >/dev/null && exit 0
[ "$(id -u)" = 0 ] || { echo "tests/api_server/build.sh: needs root, for etcd-server and debootstrap of Debian and for a chroot" >&2; exit 1; }
for tool in debootstrap etcd; do
    command -v "$tool" >/dev/null || { apt-get update -q && apt-get install -qy debootstrap etcd-server; break; }
done
[ -x "$folder/apiext" ] && exit 0
root="$folder/sid"
# Without a mirror of one's own debootstrap takes its default.
mirror=${DEBIAN_MIRROR:-}
[ -x "$root/usr/bin/apt-get" ] || debootstrap --variant=minbase --include=ca-certificates sid "$root" ${mirror:+"$mirror"}
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
in_root() { chroot "$root" env DEBIAN_FRONTEND=noninteractive HOME=/root "$@"; }
# Sid's index may be older than its own date of expiry on a mirror that lags.
in_root apt-get -q -o Acquire::Check-Valid-Until=false update
in_root apt-get -q -o Acquire::Check-Valid-Until=false install -y --no-install-recommends golang-go golang-k8s-apiextensions-apiserver-dev
mkdir -p "$root/out" "$root/gocache"
# Without /proc in the chroot go does not find its own root.
in_root env GOROOT=/usr/lib/go GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=/gocache CGO_ENABLED=0 go build -trimpath -o /out/apiext k8s.io/apiextensions-apiserver
cp "$root/out/apiext" "$folder/apiext.new"
mv "$folder/apiext.new" "$folder/apiext"
rm -rf "$root"
