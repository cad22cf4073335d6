#!/bin/sh
# Times the Node libraries this project grew out of (opossum, p-limit, async-retry), cockatiel and emmett, in FOLDER.
# usage: run.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cp "$here"/*.mjs "$here/package.json" "$1"
cd "$1"
[ ! -d /usr/include/node ] || export npm_config_nodedir=/usr # for what must be compiled
npm install --no-save --legacy-peer-deps --no-audit --no-fund --silent
node run-all.mjs
