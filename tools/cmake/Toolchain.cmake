# Compiler, warnings, sanitizers, ccache and linker for every target.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

# Line tables only: full debug info of gRPC-heavy sources triples the size of the build tree.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")
# Assertions of libraries off; LEXICO_CHECK stays on in every build.
# -O2 as in the dev build: what is shipped is what was tested, and the kernels vectorise by hand.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # Paths under the checkout are hashed and compiled as relative ones, so that clones in other folders share the cache.
  set(LEXICO_CCACHE ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
  set(CMAKE_CXX_COMPILER_LAUNCHER "${LEXICO_CCACHE}")
  set(CMAKE_C_COMPILER_LAUNCHER "${LEXICO_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${LEXICO_CCACHE}")
endif()

find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM AND NOT LEXICO_FUZZ)
  add_link_options(-fuse-ld=mold)
endif()

if(LEXICO_SANITIZE)
  add_compile_options(-fsanitize=${LEXICO_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${LEXICO_SANITIZE})
endif()
if(LEXICO_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

# Applied to our own sources only (lexico_library and friends), never to generated protobuf code.
set(LEXICO_WARNINGS -Wall -Wextra -Wpedantic -Werror -Wshadow -Wnon-virtual-dtor -Wimplicit-fallthrough
    -Wno-missing-field-initializers -Wno-unused-parameter)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # GCC 12 reports moved-from StatusOr<std::string> as uninitialised, wrongly.
  list(APPEND LEXICO_WARNINGS -Wno-maybe-uninitialized)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  list(APPEND LEXICO_WARNINGS -Wthread-safety -Wno-unknown-warning-option)
endif()
# Of nvcc, and what it passes on to the host compiler. Its own code does not pass -Wpedantic.
set(LEXICO_CUDA_WARNINGS -Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter,-Wno-missing-field-initializers)
