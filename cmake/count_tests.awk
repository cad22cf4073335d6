# Reads ctest's LastTest.log, prints "<passed> <failed>": every case of a Catch2 program counts, any other test is one.
# A program that dies without a summary, or fails after a clean one, is one more failure.
function count_before(words) { return match($0, "[0-9]+ " words) ? substr($0, RSTART) + 0 : 0 }

/^Output:$/ { summary = 0; bad = 0 }
/^All tests passed \(/ { summary = 1; passed += count_before("test case") }
/^test cases:/ { summary = 1; bad = count_before("failed *($|[|])"); failed += bad; passed += count_before("passed") }
/^(No tests ran|No test cases matched)/ { summary = 1 }

/^Command: ""$/ { never_started = 1 }
/^Test (Passed\.|Failed\.|Fail Reason:)$/ {
  if ($2 == "Passed." && !never_started) passed += !summary
  else failed += !bad
  never_started = 0
}
END { print passed + 0, failed + 0 }
