// When the sessions of an open loop arrive.
#pragma once

#include <cstdint>
#include <vector>

namespace lexico::bench_serving {

// Seconds from the start at which `n` users of a Poisson process with `rate` arrivals per second
// come, rising. The same seed gives the same times on every machine and compiler.
// REQUIRES: rate > 0, n >= 0.
std::vector<double> PoissonArrivals(double rate, int n, uint64_t seed);

}  // namespace lexico::bench_serving
