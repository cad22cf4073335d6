# Every dependency: the installed one if there is one, otherwise downloaded at a pinned version.
include(FetchContent)

# A user's project takes this one in by add_subdirectory: what is found here must be visible there.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)

macro(cofferdam_fetch name repository tag)
  if(NOT COFFERDAM_FETCH_DEPENDENCIES)
    message(FATAL_ERROR "${name} is not installed; install it or set COFFERDAM_FETCH_DEPENDENCIES=ON")
  endif()
  message(STATUS "${name} is not installed: downloading ${tag}")
  FetchContent_Declare(${name} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW ON SYSTEM)
  FetchContent_MakeAvailable(${name})
endmacro()

# Options of downloaded projects are plain variables here, not entries of the user's cache.
set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)

find_package(Threads REQUIRED)

if(COFFERDAM_USE_BOOST_ASIO)
  find_package(Boost 1.81 REQUIRED)
else()
  find_package(Asio 1.22 QUIET)
  if(NOT Asio_FOUND)
    cofferdam_fetch(asio https://github.com/chriskohlhoff/asio.git asio-1-22-1)
    set(Asio_INCLUDE_DIR "${asio_SOURCE_DIR}/asio/include")
    find_package(Asio 1.22 REQUIRED)
  endif()
endif()

find_package(nlohmann_json 3.11 QUIET)
if(NOT nlohmann_json_FOUND)
  set(JSON_Install ${COFFERDAM_INSTALL})
  cofferdam_fetch(nlohmann_json https://github.com/nlohmann/json.git v3.11.2)
endif()

# Optional components: built where their package is installed, and only there.
find_package(SQLite3 3.35 QUIET)
find_package(PostgreSQL 14 QUIET)
find_package(Cnats 3 QUIET)
find_package(RdKafka 1.9 QUIET)

if(COFFERDAM_BUILD_TOOLS)
  find_package(CLI11 2.1 QUIET)
  if(NOT CLI11_FOUND)
    set(CLI11_BUILD_TESTS OFF)
    set(CLI11_BUILD_EXAMPLES OFF)
    set(CLI11_BUILD_DOCS OFF)
    cofferdam_fetch(CLI11 https://github.com/CLIUtils/CLI11.git v2.1.2)
  endif()
endif()

if(COFFERDAM_BUILD_TESTS)
  find_package(Catch2 QUIET) # 2.13 or 3, see tests/support/catch.hpp
  if(NOT Catch2_FOUND)
    cofferdam_fetch(Catch2 https://github.com/catchorg/Catch2.git v2.13.10)
  endif()
endif()

if(COFFERDAM_BUILD_BENCH)
  find_package(benchmark QUIET)
  if(NOT benchmark_FOUND)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    cofferdam_fetch(benchmark https://github.com/google/benchmark.git v1.7.1)
  endif()
endif()
