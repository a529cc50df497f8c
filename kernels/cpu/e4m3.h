// FP8 E4M3FN as the kernels read it: 256 values, decoded by table.
//
// OCP 8-bit floating point, "E4M3": bias 7, 3 mantissa bits, no infinity, 0x7f and 0xff are NaN,
// largest 448, smallest subnormal 2^-9. The conversions themselves are declared in
// kernels/api/omp_encode.h, because the stored coefficient is part of that op's contract.
#pragma once

#include <array>
#include <cstdint>

namespace lexico::kernels::cpu {

// The largest magnitude of the format; larger ones saturate.
inline constexpr float kE4m3Max = 448.0f;

// Value of every code, indexed by its bits. 1 KiB: it stays in L1 beside the tables it is used
// with. Built by arithmetic from the format's definition; constant after start.
const std::array<float, 256>& E4m3Values();

}  // namespace lexico::kernels::cpu
