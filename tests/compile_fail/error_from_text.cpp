// An error is made from a code: a bare text says nothing a program could act on.
// EXPECT: no matching (function|constructor)
#include <cofferdam/core/error.hpp>

#ifdef COFFERDAM_EXPECT_OK
const cofferdam::error failure(cofferdam::errc::timed_out, nullptr);
#else
const cofferdam::error failure("something went wrong");
#endif
