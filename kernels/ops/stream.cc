#include "kernels/api/stream.h"

#include <omp.h>

namespace lexico::kernels {

void Stream::ReleaseThreads() const {
  omp_pause_resource(omp_pause_soft, omp_get_initial_device());
}

}  // namespace lexico::kernels
