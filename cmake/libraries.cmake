# cofferdam_add_library(<folder> [DEPENDS <folder>...] [LINK <target>...] [PACKAGES "<package> <version>"...])
#
# The library of src/<folder>/*.cpp, called cofferdam::<folder> in the build tree and in the installed package alike.
# LINK are targets of others, PACKAGES is where an installed cofferdam finds them again. A folder without sources, or
# one that depends on such a folder, is skipped.

function(cofferdam_add_library folder)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "DEPENDS;LINK;PACKAGES")
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${folder}/*.cpp")
  set(missing "")
  foreach(dependency IN LISTS arg_DEPENDS)
    if(NOT TARGET cofferdam_${dependency})
      list(APPEND missing ${dependency})
    endif()
  endforeach()
  if(NOT sources OR missing)
    return()
  endif()

  set(target cofferdam_${folder})
  add_library(${target} ${sources})
  add_library(cofferdam::${folder} ALIAS ${target})
  set_target_properties(
    ${target} PROPERTIES EXPORT_NAME ${folder} POSITION_INDEPENDENT_CODE ON VERSION ${PROJECT_VERSION}
                         SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  list(TRANSFORM arg_DEPENDS PREPEND cofferdam_)
  target_link_libraries(${target} PUBLIC ${arg_DEPENDS} ${arg_LINK} PRIVATE $<BUILD_INTERFACE:cofferdam_warnings>)
  if(folder STREQUAL "core")
    cofferdam_compile_asio_into(${target})
  endif()
  set_property(GLOBAL APPEND PROPERTY cofferdam_components ${folder})
  set_property(GLOBAL APPEND PROPERTY cofferdam_packages ${arg_PACKAGES})
endfunction()

# cofferdam_use_client(<folder> <target> <definition> <package>)
#
# An optional part of a folder's library: where the target of somebody's client library was found, the sources see the
# definition.
function(cofferdam_use_client folder target definition package)
  if(TARGET ${target} AND TARGET cofferdam_${folder})
    target_link_libraries(cofferdam_${folder} PUBLIC ${target})
    target_compile_definitions(cofferdam_${folder} PRIVATE ${definition})
    set_property(GLOBAL APPEND PROPERTY cofferdam_packages ${package})
  endif()
endfunction()

# Asio is compiled once, in src/core/asio.cpp. Everything a user's code must agree on travels with the target.
function(cofferdam_compile_asio_into target)
  set_source_files_properties("${PROJECT_SOURCE_DIR}/src/core/asio.cpp" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON
                                                                                   SKIP_PRECOMPILE_HEADERS ON)
  if(COFFERDAM_USE_BOOST_ASIO)
    set(prefix BOOST_ASIO)
    target_link_libraries(${target} PUBLIC Boost::headers Threads::Threads)
    target_compile_definitions(${target} PUBLIC COFFERDAM_USE_BOOST_ASIO)
    set_property(GLOBAL APPEND PROPERTY cofferdam_packages Threads "Boost 1.81")
  else()
    set(prefix ASIO)
    target_link_libraries(${target} PUBLIC Asio::asio Threads::Threads)
    set_property(GLOBAL APPEND PROPERTY cofferdam_packages Threads "Asio 1.22")
  endif()
  # A cache of twelve coroutine frames per thread instead of two: a hedged call nests nine.
  target_compile_definitions(${target} PUBLIC ${prefix}_SEPARATE_COMPILATION ${prefix}_NO_DEPRECATED
                                              ${prefix}_RECYCLING_ALLOCATOR_CACHE_SIZE=12)
endfunction()

# cofferdam_add_tool(<folder> [LINK <target>...])
#
# The command-line tool cofferdam-<folder>, of src/<folder>/tool/*.cpp.
function(cofferdam_add_tool folder)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LINK")
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${folder}/tool/*.cpp")
  if(NOT COFFERDAM_BUILD_TOOLS OR NOT TARGET cofferdam_${folder} OR NOT sources)
    return()
  endif()
  set(target cofferdam-${folder})
  add_executable(${target} ${sources})
  target_link_libraries(${target} PRIVATE cofferdam::${folder} ${arg_LINK} CLI11::CLI11 cofferdam_warnings)
  if(COFFERDAM_INSTALL)
    install(TARGETS ${target})
  endif()
endfunction()

# cofferdam::cofferdam, which is all of them; then what `cmake --install` and pkg-config need.
function(cofferdam_finish_libraries)
  get_property(components GLOBAL PROPERTY cofferdam_components)
  list(TRANSFORM components PREPEND cofferdam_ OUTPUT_VARIABLE targets)
  add_library(cofferdam INTERFACE)
  add_library(cofferdam::cofferdam ALIAS cofferdam)
  target_link_libraries(cofferdam INTERFACE ${targets})
  if(NOT COFFERDAM_INSTALL)
    return()
  endif()

  set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/cofferdam")
  install(TARGETS cofferdam ${targets} EXPORT cofferdam-targets)
  list(TRANSFORM components PREPEND "${PROJECT_SOURCE_DIR}/include/cofferdam/" OUTPUT_VARIABLE header_directories)
  install(DIRECTORY ${header_directories} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/cofferdam")
  install(EXPORT cofferdam-targets NAMESPACE cofferdam:: DESTINATION ${package_dir})

  get_property(packages GLOBAL PROPERTY cofferdam_packages)
  list(REMOVE_DUPLICATES packages)
  list(TRANSFORM packages REPLACE "(.+)" "find_dependency(\\1)")
  list(JOIN packages "\n" COFFERDAM_FIND_DEPENDENCIES)
  list(JOIN components " " COFFERDAM_COMPONENTS)
  include(CMakePackageConfigHelpers)
  configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/cofferdam-config.cmake.in" cofferdam-config.cmake
                                INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(cofferdam-config-version.cmake COMPATIBILITY SameMinorVersion)
  install(FILES "${PROJECT_BINARY_DIR}/cofferdam-config.cmake" "${PROJECT_BINARY_DIR}/cofferdam-config-version.cmake"
                "${PROJECT_SOURCE_DIR}/cmake/FindAsio.cmake" "${PROJECT_SOURCE_DIR}/cmake/FindCnats.cmake"
                "${PROJECT_SOURCE_DIR}/cmake/FindRdKafka.cmake" "${PROJECT_SOURCE_DIR}/cmake/FindSodium.cmake"
          DESTINATION ${package_dir})
  cofferdam_install_pkg_config(${components})
endfunction()

# The .pc file finds everything from where it lies, so that an installed tree can be moved.
function(cofferdam_install_pkg_config)
  file(RELATIVE_PATH pc_to_prefix "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
  file(RELATIVE_PATH prefix_to_include "${CMAKE_INSTALL_PREFIX}" "${CMAKE_INSTALL_FULL_INCLUDEDIR}")

  get_target_property(definitions cofferdam_core INTERFACE_COMPILE_DEFINITIONS)
  if(NOT COFFERDAM_USE_BOOST_ASIO AND Asio_VERSION VERSION_LESS 1.24)
    list(APPEND definitions ASIO_HAS_CO_AWAIT=1 ASIO_HAS_STD_COROUTINE=1) # for clang, see FindAsio.cmake
  endif()
  list(TRANSFORM definitions PREPEND "-D")
  list(JOIN definitions " " pc_flags)

  set(libraries ${ARGV})
  list(REVERSE libraries) # static libraries: users before what they use
  # What the libraries link, as pkg-config knows it.
  set(pc_requires "")
  foreach(pair IN ITEMS storage:SQLite::SQLite3=sqlite3 storage:PostgreSQL::PostgreSQL=libpq
                        messaging:Cnats::nats=libnats messaging:RdKafka::rdkafka=rdkafka)
    string(REGEX MATCH "^([a-z]+):([^=]+)=(.+)$" matched "${pair}")
    if(CMAKE_MATCH_1 IN_LIST libraries AND TARGET ${CMAKE_MATCH_2})
      list(APPEND pc_requires ${CMAKE_MATCH_3})
    endif()
  endforeach()
  list(JOIN pc_requires " " pc_requires)
  list(TRANSFORM libraries PREPEND "-lcofferdam_")
  list(JOIN libraries " " pc_libs)

  configure_file("${PROJECT_SOURCE_DIR}/cmake/cofferdam.pc.in" cofferdam.pc @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/cofferdam.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endfunction()
