#include "proto/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace lexico::base {

void CheckFailed(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "CHECK failed: %s at %s:%d\n", message.c_str(), file, line);
  std::fflush(stderr);
  std::abort();
}

}  // namespace lexico::base
