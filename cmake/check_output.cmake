# Runs PROGRAM and compares what it prints with the file EXPECTED.
execute_process(COMMAND "${PROGRAM}" RESULT_VARIABLE failed OUTPUT_VARIABLE printed ERROR_VARIABLE errors)
if(failed)
  message(FATAL_ERROR "${PROGRAM} failed with ${failed}:\n${printed}${errors}")
endif()
file(READ "${EXPECTED}" expected)
if(NOT printed STREQUAL expected)
  message(FATAL_ERROR "${PROGRAM} printed:\n${printed}\nexpected:\n${expected}")
endif()
