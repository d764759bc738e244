#!/bin/sh
# Makes the secrets of a cluster where they do not exist yet: run once, before everything else, with the volumes mounted.
#
#   CLUSTER_DIR/cluster.key      what the rooms prove to each other that they belong together with
#   DATABASE_DIR/password        the database's password, on a volume that only the database server sees
#   CLIENT_DIR/pgpass            the same in libpq's form, on a volume for the rooms that use the database
#
# What is there stays: a new key would part the rooms, a new password would lock them out of the old database.
set -eu

cluster_dir=$1
database_dir=$2
client_dir=$3
user=$4

umask 077
if [ ! -s "$cluster_dir/cluster.key" ]; then
    speedy key generate "$cluster_dir/cluster.key"
fi
if [ ! -s "$database_dir/password" ]; then
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$database_dir/password.part"
    # The database server runs under a user id that this image does not know; nobody else has this volume.
    chmod 0444 "$database_dir/password.part"
    mv "$database_dir/password.part" "$database_dir/password"
fi
# Written every time: cheap, and right also when only one of the two volumes was lost.
printf '*:*:*:%s:%s\n' "$user" "$(cat "$database_dir/password")" >"$client_dir/pgpass.part"
mv "$client_dir/pgpass.part" "$client_dir/pgpass"
