# One library per leaf folder, its sources listed by name, its dependencies = the arrows.

include(GoogleTest)

# lexico_library(NAME lexico_base SRCS a.cc DEPS absl::status)
# The name is the folder's path with underscores: cache_store/format -> lexico_cache_store_format.
# Sources listed by name; an empty SRCS makes a header-only library.
function(lexico_library)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${ARG_NAME} STATIC ${ARG_SRCS})
    target_include_directories(${ARG_NAME} PUBLIC "${CMAKE_SOURCE_DIR}")
    target_compile_options(${ARG_NAME} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${LEXICO_WARNINGS}>
                                               $<$<COMPILE_LANGUAGE:CUDA>:${LEXICO_CUDA_WARNINGS}>)
    if(LEXICO_INVARIANTS)
      target_compile_definitions(${ARG_NAME} PUBLIC LEXICO_INVARIANTS=1)
    endif()
    target_link_libraries(${ARG_NAME} PUBLIC ${ARG_DEPS})
  else()
    add_library(${ARG_NAME} INTERFACE)
    target_include_directories(${ARG_NAME} INTERFACE "${CMAKE_SOURCE_DIR}")
    target_link_libraries(${ARG_NAME} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# lexico_binary(NAME lexico-worker SRCS main.cc DEPS ...): an executable in ${CMAKE_BINARY_DIR}/bin that
# is installed and packed by tools/bundle.
function(lexico_binary)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_include_directories(${ARG_NAME} PRIVATE "${CMAKE_SOURCE_DIR}")
  target_compile_options(${ARG_NAME} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${LEXICO_WARNINGS}>)
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS})
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
  lexico_install_program(${ARG_NAME})
endfunction()

# lexico_test(NAME base_test SRCS ... DEPS ... [LABELS ...] [TIMEOUT s]): a GoogleTest program and a ctest case.
# Labels choose what sanitizer runs take: asan and tsan name suites that suit them,
# cuda those that also run on a GPU.
function(lexico_test)
  if(LEXICO_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_include_directories(${ARG_NAME} PRIVATE "${CMAKE_SOURCE_DIR}")
  target_compile_options(${ARG_NAME} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${LEXICO_WARNINGS}>)
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  if(LEXICO_SANITIZE MATCHES thread)
    target_sources(${ARG_NAME} PRIVATE $<TARGET_OBJECTS:lexico_tests_tsan_abseil>)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(LEXICO_SANITIZE)
    # What is instrumented is slower, under ThreadSanitizer by ten times.
    math(EXPR ARG_TIMEOUT "5 * ${ARG_TIMEOUT}")
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
  foreach(label ${ARG_LABELS})
    set_property(GLOBAL APPEND PROPERTY LEXICO_TESTS_${label} ${ARG_NAME})
  endforeach()
endfunction()

# lexico_fuzz(NAME safetensors_fuzz SRCS ... DEPS ...): a libFuzzer program, built under the fuzz preset only.
function(lexico_fuzz)
  if(NOT LEXICO_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_include_directories(${ARG_NAME} PRIVATE "${CMAKE_SOURCE_DIR}")
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS})
  target_link_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/fuzz")
  set_property(GLOBAL APPEND PROPERTY LEXICO_FUZZERS ${ARG_NAME})
endfunction()

# What .ci/run builds of a preset that does not need everything: tests_asan, tests_tsan, tests_cuda, fuzz_all.
function(lexico_group_targets)
  foreach(label asan tsan cuda)
    get_property(tests GLOBAL PROPERTY LEXICO_TESTS_${label})
    add_custom_target(tests_${label} DEPENDS ${tests})
  endforeach()
  get_property(fuzzers GLOBAL PROPERTY LEXICO_FUZZERS)
  add_custom_target(fuzz_all DEPENDS ${fuzzers})
endfunction()
