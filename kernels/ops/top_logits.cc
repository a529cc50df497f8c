#include "kernels/api/top_logits.h"

#include "kernels/cpu/top_logits.h"
#include "kernels/cuda/top_logits.h"
#include "proto/base/check.h"

namespace lexico::kernels {

void TopLogits(const TopLogitsArgs& args, const Stream& stream) {
  LEXICO_CHECK_GE(args.n_rows, int64_t{0});
  LEXICO_CHECK_GT(args.n_vocab, int64_t{0});
  LEXICO_CHECK_GT(args.n_top, 0);
  LEXICO_CHECK_LE(args.n_top, kTopLogitsMax);
  if (args.n_rows == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::TopLogits(args);
    case DeviceKind::kCuda:
      return cuda::TopLogits(args, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels
