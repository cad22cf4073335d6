# Finds libnats: Cnats::nats, Cnats_VERSION. Debian's own CMake package names a static library that is not there.
find_path(Cnats_INCLUDE_DIR nats/nats.h)
find_library(Cnats_LIBRARY nats)
if(Cnats_INCLUDE_DIR AND EXISTS "${Cnats_INCLUDE_DIR}/nats/version.h")
  file(STRINGS "${Cnats_INCLUDE_DIR}/nats/version.h" cnats_version_line REGEX "define NATS_VERSION_STRING ")
  string(REGEX REPLACE ".*\"([0-9.]+).*" "\\1" Cnats_VERSION "${cnats_version_line}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Cnats REQUIRED_VARS Cnats_LIBRARY Cnats_INCLUDE_DIR VERSION_VAR Cnats_VERSION)
mark_as_advanced(Cnats_INCLUDE_DIR Cnats_LIBRARY)

if(Cnats_FOUND AND NOT TARGET Cnats::nats)
  add_library(Cnats::nats UNKNOWN IMPORTED)
  set_target_properties(Cnats::nats PROPERTIES IMPORTED_LOCATION "${Cnats_LIBRARY}"
                                               INTERFACE_INCLUDE_DIRECTORIES "${Cnats_INCLUDE_DIR}")
endif()
