#include "kernels/cpu/openmp.h"

#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>

namespace lexico::kernels::cpu {

void EnsureShortSpin(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  if (std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  // The path, not /proc/self/exe itself: it becomes the name that ps shows.
  std::array<char, PATH_MAX> path{};
  const ssize_t n = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (n <= 0) return;
  if (::setenv("GOMP_SPINCOUNT", kSpinCount, /*overwrite=*/0) != 0) return;
  ::execv(path.data(), argv);
}

}  // namespace lexico::kernels::cpu
