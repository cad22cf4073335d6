#!/bin/sh
# Do the tests notice when something breaks? Plants one bug after the other, each a patch of this folder, in a copy of
# the sources, and runs the unit tests on it. Each patch says what it breaks, then what ought to notice.
# usage: check.sh [NAME...]   those patches, or all; writes only below build/planted
set -eu
cd "$(dirname "$0")/../.."
patches=$PWD/tests/planted
root=$PWD/build/planted
tree=$root/tree
# seconds; the unit tests take ten, those of sagas two minutes: what takes longer hangs
patience=120
saga_patience=900
say() { printf '%s\n' "$*"; }

if [ $# -eq 0 ]; then
  for patch in "$patches"/*.patch; do set -- "$@" "$(basename "$patch" .patch)"; done
fi

# Git must not find the repository around the copy, or it patches that.
patch_copy() { GIT_CEILING_DIRECTORIES=$root git -C "$tree" apply "$@"; }

# tests_of PATCH: the programs that ought to notice. What core breaks shows above it, too.
tests_of() {
  if grep -q '^+++ .*/saga/' "$1"; then
    say saga
  elif grep -q '^+++ .*/core/' "$1"; then
    say core resilience
  else
    say resilience
  fi
}

# build PROGRAM...: these tests.
build() {
  targets=
  for program in "$@"; do targets="$targets cofferdam_${program}_tests"; done
  # shellcheck disable=SC2086
  cmake --build "$root/build" -j "$(nproc 2>/dev/null || echo 2)" --target $targets >"$root/build.log" 2>&1
}

# passes PROGRAM...: runs these tests; false, and who noticed in $noticed, when one fails or hangs.
passes() {
  for program in "$@"; do
    status=0
    limit=$patience
    [ "$program" != saga ] || limit=$saga_patience
    # The subshell waits, so that it is not for the terminal to hear of a test that aborts.
    (cd "$root" && timeout -k 5 $limit "build/tests/cofferdam_${program}_tests" --abort; exit $?) \
      >"$root/test.log" 2>&1 || status=$?
    [ $status -ne 0 ] || continue
    noticed=hangs
    if [ $status -ne 124 ] && [ $status -ne 137 ]; then
      # Catch2 names the test that failed between two lines of hyphens, on one line or several.
      noticed=$(awk '/^-----/ { if (name) exit; named = 1; next }
        named { name = name (name ? " " : "") $0 } END { print name }' "$root/test.log")
    fi
    return 1
  done
}

used="core resilience"
for name in "$@"; do
  if [ "$(tests_of "$patches/$name.patch")" = saga ]; then used="core resilience saga"; fi
done

say "Building the tests as they are."
# The copies are as old as the originals, so what was built of a planted file would seem up to date.
[ ! -e "$root/planting" ] || rm -rf "$root/build"
rm -rf "$tree"
mkdir -p "$tree/docs"
touch "$root/planting"
cp -Rp cmake examples include src tests CMakeLists.txt CMakePresets.json "$tree"
cp docs/configuration.schema.json "$tree/docs"
if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
cmake --preset dev -S "$tree" -B "$root/build" -DCMAKE_UNITY_BUILD=ON -DCOFFERDAM_BUILD_EXAMPLES=OFF >"$root/build.log"
# shellcheck disable=SC2086
if ! build $used; then
  tail -n 30 "$root/build.log"
  exit 1
elif ! passes $used; then
  say "The tests fail without any planted bug: $noticed"
  exit 1
fi

caught=0
missed=0
for name in "$@"; do
  patch=$patches/$name.patch
  programs=$(tests_of "$patch")
  # shellcheck disable=SC2086
  if ! patch_copy "$patch"; then
    verdict="does not apply any more: NOT CAUGHT"
  elif ! build $programs; then
    verdict="does not compile (see build/planted/$name.log): NOT CAUGHT"
    cp "$root/build.log" "$root/$name.log"
    patch_copy -R "$patch"
  else
    if passes $programs; then verdict="NOT CAUGHT"; else verdict="caught: $noticed"; fi
    patch_copy -R "$patch"
  fi
  say "$name: $verdict"
  case $verdict in caught*) caught=$((caught + 1)) ;; *) missed=$((missed + 1)) ;; esac
done
# shellcheck disable=SC2086
if build $used; then rm "$root/planting"; fi # as they are again
say "$caught caught, $missed not caught"
[ $missed -eq 0 ]
