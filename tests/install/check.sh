#!/bin/sh
# Installs what BUILD_DIRECTORY holds (default: build/dev), moves it, and lets a program of somebody else find it: by
# CMake package, by pkg-config, and by taking in the source tree. Writes only under build/install-check.
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build/dev}
root=$PWD/build/install-check
rm -rf "$root"
mkdir -p "$root"
say() { printf '== %s\n' "$*"; }

say "install $build, then move it"
cmake --install "$build" --prefix "$root/first" >/dev/null
mv "$root/first" "$root/moved"
if grep -rlF -e "$root/first" -e "$PWD/include" "$root/moved" --include='*.cmake' --include='*.pc'; then
  say "an installed file knows where it was made"
  exit 1
fi

say "find_package"
cmake -S tests/install -B "$root/package" -G Ninja -DCMAKE_PREFIX_PATH="$root/moved" >/dev/null
cmake --build "$root/package"
"$root/package/consumer"

say "find_package of a part that is not there"
if cmake -S tests/install -B "$root/missing" -G Ninja -DCMAKE_PREFIX_PATH="$root/moved" -DCOMPONENTS=teleportation \
  >"$root/missing.log" 2>&1; then
  say "found a part that does not exist"
  exit 1
fi
# CMake wraps its messages.
tr -s ' \n' ' ' <"$root/missing.log" | grep -o "this cofferdam was built without 'teleportation'; it has: core"

say "pkg-config"
PKG_CONFIG_PATH=$(dirname "$(find "$root/moved" -name cofferdam.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
g++ -std=c++20 tests/install/main.cpp -o "$root/by-pkg-config" $(pkg-config --cflags --libs cofferdam)
"$root/by-pkg-config"

say "add_subdirectory"
cmake -S tests/install -B "$root/source" -G Ninja -DCOFFERDAM_SOURCE="$PWD" -DCMAKE_UNITY_BUILD=ON >/dev/null
cmake --build "$root/source" --target consumer
"$root/source/consumer"
