# Finds librdkafka: RdKafka::rdkafka, RdKafka_VERSION. Debian's package has no CMake package.
find_path(RdKafka_INCLUDE_DIR librdkafka/rdkafka.h)
find_library(RdKafka_LIBRARY rdkafka)
if(RdKafka_INCLUDE_DIR)
  file(STRINGS "${RdKafka_INCLUDE_DIR}/librdkafka/rdkafka.h" rdkafka_version_line REGEX "define RD_KAFKA_VERSION ")
  string(REGEX REPLACE ".*0x([0-9a-f][0-9a-f])([0-9a-f][0-9a-f])([0-9a-f][0-9a-f]).*" "0x\\1;0x\\2;0x\\3" parts
                       "${rdkafka_version_line}")
  foreach(part IN LISTS parts)
    math(EXPR part "${part}")
    list(APPEND RdKafka_VERSION ${part})
  endforeach()
  list(JOIN RdKafka_VERSION "." RdKafka_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(RdKafka REQUIRED_VARS RdKafka_LIBRARY RdKafka_INCLUDE_DIR VERSION_VAR RdKafka_VERSION)
mark_as_advanced(RdKafka_INCLUDE_DIR RdKafka_LIBRARY)

if(RdKafka_FOUND AND NOT TARGET RdKafka::rdkafka)
  add_library(RdKafka::rdkafka UNKNOWN IMPORTED)
  set_target_properties(RdKafka::rdkafka PROPERTIES IMPORTED_LOCATION "${RdKafka_LIBRARY}"
                                                    INTERFACE_INCLUDE_DIRECTORIES "${RdKafka_INCLUDE_DIR}")
endif()
