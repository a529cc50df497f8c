#include "kernels/cuda/shared_library.h"

#include <fmt/format.h>

namespace lexico::kernels::cuda {

absl::Status LoadLibrary(std::span<const std::string> files, const std::string& name,
                         const std::string& missing, const std::function<bool(void*)>& find_all) {
  std::string words;
  for (const std::string& file : files) {
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* error = dlerror();
      words += fmt::format("; {}", error != nullptr ? error : file);
      continue;
    }
    if (find_all(library)) return absl::OkStatus();
    words += fmt::format("; {} lacks functions of {}", file, name);
    dlclose(library);
  }
  return absl::UnavailableError(missing + words);
}

}  // namespace lexico::kernels::cuda
