#include "kernels/api/stream.h"

#include <algorithm>
#include <thread>

namespace lexico::kernels {

Stream Stream::Cpu(int threads) {
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return Stream(DeviceKind::kCpu, threads, nullptr);
}

}  // namespace lexico::kernels
