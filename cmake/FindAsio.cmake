# Finds standalone Asio: Asio::asio, Asio_VERSION. Debian's libasio-dev ships neither a CMake package nor a .pc file.
find_path(Asio_INCLUDE_DIR asio.hpp)
if(Asio_INCLUDE_DIR AND EXISTS "${Asio_INCLUDE_DIR}/asio/version.hpp")
  file(STRINGS "${Asio_INCLUDE_DIR}/asio/version.hpp" asio_version_line REGEX "define ASIO_VERSION [0-9]+ // [0-9.]+")
  string(REGEX REPLACE ".*// ([0-9.]+).*" "\\1" Asio_VERSION "${asio_version_line}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Asio REQUIRED_VARS Asio_INCLUDE_DIR VERSION_VAR Asio_VERSION)
mark_as_advanced(Asio_INCLUDE_DIR)

if(Asio_FOUND AND NOT TARGET Asio::asio)
  # An imported target: its headers are system headers to those who link it.
  add_library(Asio::asio INTERFACE IMPORTED)
  target_include_directories(Asio::asio INTERFACE "${Asio_INCLUDE_DIR}")
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND Asio_VERSION VERSION_LESS 1.24)
    # Before 1.24 Asio does not see clang's C++20 coroutines with libstdc++.
    target_compile_definitions(Asio::asio INTERFACE ASIO_HAS_CO_AWAIT=1 ASIO_HAS_STD_COROUTINE=1)
  endif()
endif()
