#!/bin/sh
# Times the Node libraries this project grew out of (opossum, p-limit, async-retry) and cockatiel, in FOLDER.
# usage: run.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cp "$here"/*.mjs "$here/package.json" "$1"
cd "$1"
npm install --no-save --no-audit --no-fund --silent
node run-all.mjs
