# cofferdam_add_library(<folder> [DEPENDS <folder>...] [PRIVATE <target>...]): the library of one folder, as
# cofferdam::<folder> in the build tree and in the installed package alike. A folder without sources is skipped.

add_library(cofferdam_warnings INTERFACE)
target_compile_options(
  cofferdam_warnings
  INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow
            $<$<BOOL:${COFFERDAM_WARNINGS_AS_ERRORS}>:-Werror>
            # GCC 12 sees uninitialised coroutine frames at -O2 that are not.
            $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
            # A unity build makes every source an included one, in which GCC minds the linkage of lambdas.
            $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)

set_property(GLOBAL PROPERTY cofferdam_components)

function(cofferdam_add_library folder)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "DEPENDS;PRIVATE")
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${folder}/*.cpp")
  if(NOT sources)
    return()
  endif()
  set(target cofferdam_${folder})
  add_library(${target} ${sources})
  add_library(cofferdam::${folder} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${folder} POSITION_INDEPENDENT_CODE ON)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  list(TRANSFORM arg_DEPENDS PREPEND cofferdam_)
  target_link_libraries(${target} PUBLIC ${arg_DEPENDS} PRIVATE $<BUILD_INTERFACE:cofferdam_warnings>)
  foreach(library IN LISTS arg_PRIVATE)
    target_link_libraries(${target} PUBLIC ${library})
  endforeach()
  if(folder STREQUAL "core")
    cofferdam_use_asio(${target})
  endif()
  set_property(GLOBAL APPEND PROPERTY cofferdam_components ${folder})
endfunction()

# Asio is compiled once, in src/core/asio.cpp. Everything a user's code must agree on travels with the target.
function(cofferdam_use_asio target)
  set_source_files_properties("${PROJECT_SOURCE_DIR}/src/core/asio.cpp" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON
                                                                                   SKIP_PRECOMPILE_HEADERS ON)
  target_link_libraries(${target} PUBLIC Threads::Threads)
  if(COFFERDAM_USE_BOOST_ASIO)
    target_link_libraries(${target} PUBLIC Boost::headers)
    set(prefix BOOST_ASIO)
    target_compile_definitions(${target} PUBLIC COFFERDAM_USE_BOOST_ASIO)
  else()
    target_link_libraries(${target} PUBLIC Asio::asio)
    set(prefix ASIO)
  endif()
  # A cache of four coroutine frames per thread instead of two: a time limit nests five.
  target_compile_definitions(${target} PUBLIC ${prefix}_SEPARATE_COMPILATION ${prefix}_NO_DEPRECATED
                                              ${prefix}_RECYCLING_ALLOCATOR_CACHE_SIZE=4)
endfunction()

function(cofferdam_finish_libraries)
  get_property(components GLOBAL PROPERTY cofferdam_components)
  add_library(cofferdam INTERFACE)
  add_library(cofferdam::cofferdam ALIAS cofferdam)
  list(TRANSFORM components PREPEND cofferdam_ OUTPUT_VARIABLE targets)
  target_link_libraries(cofferdam INTERFACE ${targets})
  if(NOT COFFERDAM_INSTALL)
    return()
  endif()

  include(CMakePackageConfigHelpers)
  set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/cofferdam")
  install(TARGETS cofferdam ${targets} EXPORT cofferdam-targets)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT cofferdam-targets NAMESPACE cofferdam:: DESTINATION ${package_dir})
  set(COFFERDAM_COMPONENTS "${components}")
  configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/cofferdam-config.cmake.in" cofferdam-config.cmake
                                INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(cofferdam-config-version.cmake COMPATIBILITY SameMinorVersion)
  install(FILES "${PROJECT_BINARY_DIR}/cofferdam-config.cmake" "${PROJECT_BINARY_DIR}/cofferdam-config-version.cmake"
                "${PROJECT_SOURCE_DIR}/cmake/FindAsio.cmake" DESTINATION ${package_dir})

  # The .pc file finds its prefix from where it lies, so that an installed tree can be moved.
  file(RELATIVE_PATH pc_to_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  list(REVERSE components) # static libraries: users before what they use
  list(TRANSFORM components PREPEND "-lcofferdam_")
  list(JOIN components " " pc_libs)
  set(pc_flags "-std=c++20 -pthread")
  get_target_property(definitions cofferdam_core INTERFACE_COMPILE_DEFINITIONS)
  foreach(definition IN LISTS definitions)
    string(APPEND pc_flags " -D${definition}")
  endforeach()
  configure_file("${PROJECT_SOURCE_DIR}/cmake/cofferdam.pc.in" cofferdam.pc @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/cofferdam.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()
