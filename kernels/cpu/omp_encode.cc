#include "kernels/cpu/omp_encode.h"

#include "kernels/cpu/omp_encode_definition.h"

namespace lexico::kernels::cpu {

void OmpEncode(const OmpEncodeArgs& args, const Stream& stream) { definition::OmpEncode(args); }

}  // namespace lexico::kernels::cpu
