# What our own targets are compiled with; never part of what a user's targets get.
add_library(cofferdam_warnings INTERFACE)
target_compile_options(
  cofferdam_warnings
  INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow
            $<$<BOOL:${COFFERDAM_WARNINGS_AS_ERRORS}>:-Werror>
            # At -O1 and above GCC 12 takes Asio's operator delete of a coroutine frame for a stranger.
            $<$<CXX_COMPILER_ID:GNU>:-Wno-mismatched-new-delete>
            # A unity build makes every source an included one, in which GCC minds the linkage of lambdas.
            $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
