#!/bin/sh
# Do the tests run every line of the pure cores, and every branch both ways? Builds the tests of core and resilience with
# clang's source-based coverage, runs them, and names what is left. exclusions.md lists what nothing can run.
# usage: check.sh   writes only below build/coverage
set -eu
cd "$(dirname "$0")/../.."
mkdir -p build
build=$PWD/build/coverage
core=$build/tests/cofferdam_core_tests
resilience=$build/tests/cofferdam_resilience_tests
profiles=$build/profiles

if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
cmake --preset coverage -DCMAKE_UNITY_BUILD=ON -DCOFFERDAM_BUILD_EXAMPLES=OFF >"$build.log"
cmake --build "$build" -j "$(nproc 2>/dev/null || echo 2)" --target "${core##*/}" "${resilience##*/}" >"$build.log" 2>&1 ||
  { tail -n 30 "$build.log"; exit 1; }
rm -rf "$profiles"
for program in "$core" "$resilience"; do LLVM_PROFILE_FILE=$profiles/%p.profraw "$program"; done
llvm-profdata-19 merge -o "$profiles/tests.profdata" "$profiles"/*.profraw
# shellcheck disable=SC2046
llvm-cov-19 export "$core" -object "$resilience" -instr-profile "$profiles/tests.profdata" \
  $(grep -v '^#' tests/coverage/cores.txt) >"$profiles/coverage.json"
tests/coverage/judge.py "$profiles/coverage.json"
