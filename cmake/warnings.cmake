# What our own targets are compiled with; never part of what a user's targets get.
add_library(cofferdam_warnings INTERFACE)
target_compile_options(
  cofferdam_warnings
  INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow
            $<$<BOOL:${COFFERDAM_WARNINGS_AS_ERRORS}>:-Werror>
            # GCC 12 sees uninitialised coroutine frames at -O2 that are not.
            $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
            # A unity build makes every source an included one, in which GCC minds the linkage of lambdas.
            $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
