# Compiles FILE twice: as it is it must fail with the output it expects ("// EXPECT: regex"); with
# COFFERDAM_EXPECT_OK it must compile, which proves that it failed for that reason alone.
# "// REQUIRES: gcc12" in the file skips it on other compilers. Without FILE: precompiles HEADERS, which every file begins
# with.
function(refuse reason)
  message(NOTICE "${FILE} ${reason}") # unlike an error's text, a notice is not wrapped
  message(FATAL_ERROR "not what was expected")
endfunction()

list(TRANSFORM INCLUDES PREPEND "-I")
list(TRANSFORM DEFINITIONS PREPEND "-D")
set(command "${COMPILER}" -std=c++20 ${INCLUDES} ${DEFINITIONS})
if(NOT FILE)
  execute_process(COMMAND ${command} -x c++-header "${HEADERS}" -o "${HEADERS}.gch" COMMAND_ERROR_IS_FATAL ANY)
  return()
endif()

file(READ "${FILE}" text)
if(text MATCHES "// REQUIRES: gcc12" AND NOT (COMPILER_ID STREQUAL "GNU" AND COMPILER_VERSION VERSION_LESS 13))
  message(STATUS "skipped: only GCC before 13 refuses this")
  return()
endif()
if(NOT text MATCHES "// EXPECT: ([^\n]+)")
  refuse("has no line '// EXPECT: <regex>'")
endif()
set(expected "${CMAKE_MATCH_1}")

list(APPEND command -fsyntax-only -include "${HEADERS}")
execute_process(COMMAND ${command} "${FILE}" RESULT_VARIABLE failed ERROR_VARIABLE output)
if(NOT failed)
  refuse("compiles, but must not")
endif()
if(NOT output MATCHES "${expected}")
  refuse("fails with another message than '${expected}':\n${output}")
endif()
execute_process(COMMAND ${command} -DCOFFERDAM_EXPECT_OK "${FILE}" RESULT_VARIABLE failed ERROR_VARIABLE output)
if(failed)
  refuse("does not compile without its offence:\n${output}")
endif()
