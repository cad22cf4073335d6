#!/bin/sh
# Rules of the house that no compiler checks. Prints each offence, exits with 1 if there is one.
set -eu
cd "$(dirname "$0")/.."
found=0
# offences RULE: fails when standard input is not empty, and shows it.
offences() {
  lines=$(cat)
  [ -n "$lines" ] || return 0
  printf '%s:\n%s\n' "$1" "$lines"
  found=1
}
sources() { find "$@" \( -name '*.hpp' -o -name '*.cpp' \) | sort; }

# Both flavours of Asio are reached through core/net.hpp alone.
offences 'name cofferdam::net, not asio:: or boost::' <<END
$(sources include src examples tests | grep -vxE 'include/cofferdam/core/net\.hpp|src/core/asio\.cpp' |
  xargs grep -HnE '^[^/]*(^|[^[:alnum:]_:])(::)?(asio|boost)::|#include <(asio|boost)[/.]' || true)
END

# Time is what the timer service says; see virtual_time.
offences 'only the timer service reads a clock' <<END
$(sources include src examples | grep -vx -e 'src/core/timer_service.cpp' -e 'src/messaging/nats_process.cpp' |
  xargs grep -HnE '(steady|system|high_resolution)_clock::now|this_thread::sleep' || true)
END

# GCC 12 destroys a closure with copies twice when it is written inside a co_await expression.
co_await_closures() {
  awk -v file="$1" -v markdown="$(case $1 in *.md) echo 1 ;; esac)" '
    markdown && /^```/ { code = !code }
    markdown && !code { print ""; next }
    { sub(/\/\/.*/, ""); print }' "$1" |
    awk -v file="$1" '
      BEGIN { RS = ";"; line = 1 }
      {
        text = $0; lines = gsub(/\n/, " ", text)
        if (text ~ /co_await [^{}]*[(, ]\[([^][]*, *)?([*=]|[a-z_][a-z0-9_]*)[^][]*\] *[({]/ && text !~ /\[this\]/)
          print file ":" line + lines ": name this closure first, or capture by reference"
        line += lines
      }'
}
offences 'a closure that copies, inside co_await' <<END
$({ sources examples tests; find . -maxdepth 1 -name 'README.md'; find docs -name '*.md' 2>/dev/null; } |
  grep -v '^tests/compile_fail/' | while read -r file; do co_await_closures "$file"; done)
END

# A page that says which test shows a row must name one that there is.
offences 'no such test' <<END
$(sed -n 's/^|.*| "\(.*\)" |$/\1/p' docs/*.md | sort -u | while read -r name; do
  grep -rqF "(\"$name\"" tests || printf '%s\n' "$name"
done)
END

# A planted bug that does not fit the sources any more tests nothing; see tests/planted/.
offences 'does not apply any more' <<END
$(for patch in tests/planted/*.patch; do git apply --check "$patch" 2>/dev/null || printf '%s\n' "$patch"; done)
END
exit $found
