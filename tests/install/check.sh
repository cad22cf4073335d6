#!/bin/sh
# Installs the library under build/ and builds a consumer in three ways; then moves the installation and does it again.
set -eux
cd "$(dirname "$0")/../.."
root=$PWD/build/install-check
rm -rf "$root" && mkdir -p "$root"
cmake -S . -B "$root/library" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCOFFERDAM_BUILD_TESTS=OFF -DCOFFERDAM_BUILD_EXAMPLES=OFF \
  -DCMAKE_UNITY_BUILD=ON -DCMAKE_INSTALL_PREFIX="$root/first"
cmake --build "$root/library"
cmake --install "$root/library"
mv "$root/first" "$root/moved"

cmake -S tests/install -B "$root/by-package" -G Ninja -DCMAKE_PREFIX_PATH="$root/moved"
cmake --build "$root/by-package"
"$root/by-package/consumer"

if cmake -S tests/install -B "$root/no-such" -G Ninja -DCMAKE_PREFIX_PATH="$root/nowhere" -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF; then
  echo "found a package where none is"; exit 1
fi

pc=$(dirname "$(find "$root/moved" -name cofferdam.pc)")
# shellcheck disable=SC2046
g++ tests/install/main.cpp -o "$root/by-pkg-config" $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs cofferdam)
"$root/by-pkg-config"

cmake -S tests/install -B "$root/by-source" -G Ninja -DCOFFERDAM_SOURCE="$PWD" -DCMAKE_UNITY_BUILD=ON
cmake --build "$root/by-source"
"$root/by-source/consumer"
