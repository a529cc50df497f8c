// OmpEncode on the CPU; arguments were checked by kernels/ops/omp_encode.cc.
#pragma once

#include "kernels/api/omp_encode.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::cpu {

void OmpEncode(const OmpEncodeArgs& args, const Stream& stream);
std::shared_ptr<const PreparedDictionary> DictionaryForCoding(
    std::shared_ptr<const PreparedDictionary> dictionary, int64_t n_vectors, int sparsity,
    const Stream& stream);

}  // namespace lexico::kernels::cpu
