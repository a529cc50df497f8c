# Third-party libraries, all from Debian 12 (tools/packages/debian.txt). Why each was chosen: docs/adr/.

find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)  # brings fmt, which formats our messages
find_package(CLI11 REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(GTest REQUIRED)
find_package(benchmark REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(ISAL REQUIRED IMPORTED_TARGET libisal)
pkg_check_modules(ONIG REQUIRED IMPORTED_TARGET oniguruma)
pkg_check_modules(ICU REQUIRED IMPORTED_TARGET icu-uc)
find_package(RocksDB CONFIG REQUIRED)

# oneDNN by hand: Debian's CMake package also demands the OpenCL development files, which we do not use.
find_library(DNNL_LIBRARY dnnl REQUIRED)
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
add_library(dnnl_imported INTERFACE)
target_link_libraries(dnnl_imported INTERFACE "${DNNL_LIBRARY}")
target_include_directories(dnnl_imported SYSTEM INTERFACE "${DNNL_INCLUDE_DIR}")
add_library(lexico::dnnl ALIAS dnnl_imported)

# LEXICO_HAVE_CUDA: what the CUDA setting came to. Machine code for sm_80 (A100 and later of its family) and
# sm_90a (H100, H200, with the instructions that only they have); newer GPUs compile the PTX of compute_80.
set(LEXICO_HAVE_CUDA OFF)
if(NOT LEXICO_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LEXICO_CUDA=${LEXICO_CUDA}; AUTO, ON and OFF are known")
endif()
if(NOT LEXICO_CUDA STREQUAL "OFF")
  # 75 is nvcc's own default, which an older build folder may hold; the kernels need 80.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES OR CMAKE_CUDA_ARCHITECTURES STREQUAL "75")
    set(CMAKE_CUDA_ARCHITECTURES "80;90a")
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(LEXICO_HAVE_CUDA ON)
    # C++20 as for C++ sources, which CMake 3.25 does not know that nvcc has.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
  elseif(LEXICO_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LEXICO_CUDA=ON but no CUDA compiler was found; install the CUDA Toolkit, "
                        "set CUDACXX, or use LEXICO_CUDA=OFF")
  endif()
endif()
message(STATUS "LEXICO_CUDA=${LEXICO_CUDA}: CUDA ${LEXICO_HAVE_CUDA}")
