// Libraries of NVIDIA that are loaded when they are first needed, so that programs start, and serve
// on a CPU, on machines that do not have them.
#pragma once

#include <dlfcn.h>

#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"

namespace lexico::kernels::cuda {

// Where the CUDA Toolkit has its libraries.
inline constexpr char kToolkitFolder[] = "/usr/local/cuda/lib64/";

template <typename Function>
bool FindFunction(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Loads the first of `files` in which `find_all` finds all functions of `name`, and keeps it.
// Otherwise Unavailable: `missing`, then what the loader said of each file.
absl::Status LoadLibrary(std::span<const std::string> files, const std::string& name,
                         const std::string& missing, const std::function<bool(void*)>& find_all);

}  // namespace lexico::kernels::cuda
