#!/bin/sh
# on_postgres.sh PROGRAM EXPECTED: starts a PostgreSQL server of its own, runs PROGRAM with its URL, and compares what it
# prints with EXPECTED.
set -eu
programs=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
place=$(mktemp -d)
server=
cleanup() {
  [ -z "$server" ] || { kill -INT "$server" && wait "$server"; } || true
  rm -rf "$place"
}
trap cleanup EXIT
mkdir "$place/data"
as_owner=
if [ "$(id -u)" = 0 ]; then # the server refuses to run as root
  chown -R postgres "$place"
  chmod 755 "$place"
  as_owner="setpriv --reuid=postgres --regid=postgres --clear-groups --pdeathsig=KILL"
fi
$as_owner "$programs/initdb" -D "$place/data" -U tester -A trust -E UTF8 --no-locale -N >/dev/null
$as_owner "$programs/postgres" -D "$place/data" -k "$place" -c listen_addresses= -c fsync=off -c log_min_messages=fatal \
  2>/dev/null &
server=$!
tries=0
until "$programs/pg_isready" -q -h "$place" -U tester -d postgres; do
  tries=$((tries + 1))
  [ $tries -lt 300 ] || { echo "the PostgreSQL server does not answer" >&2; exit 1; }
  sleep 0.1
done
"$1" "postgresql://tester@/postgres?host=$place" >"$place/printed"
diff -u "$2" "$place/printed"
