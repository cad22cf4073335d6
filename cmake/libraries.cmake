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
  # A cache of four coroutine frames per thread instead of two: a time limit nests five.
  target_compile_definitions(${target} PUBLIC ${prefix}_SEPARATE_COMPILATION ${prefix}_NO_DEPRECATED
                                              ${prefix}_RECYCLING_ALLOCATOR_CACHE_SIZE=4)
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
                "${PROJECT_SOURCE_DIR}/cmake/FindSodium.cmake" DESTINATION ${package_dir})
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
  set(pc_requires "")
  if("storage" IN_LIST libraries)
    set(pc_requires sqlite3)
  endif()
  list(TRANSFORM libraries PREPEND "-lcofferdam_")
  list(JOIN libraries " " pc_libs)

  configure_file("${PROJECT_SOURCE_DIR}/cmake/cofferdam.pc.in" cofferdam.pc @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/cofferdam.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endfunction()
