#!/bin/sh
# A new data directory gets its user, password and database before the server listens to others.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    rm -rf "$PGDATA"/* # what an initdb left that was cut off
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
pg_ctl --wait start --options="-c listen_addresses=''"
psql --username="$POSTGRES_USER" --dbname=postgres --no-align --tuples-only \
    --command="SELECT 1 FROM pg_database WHERE datname = '$POSTGRES_DB'" | grep -q 1 ||
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
pg_ctl --wait stop
exec postgres -c listen_addresses='*'
