// The whole program but for the process's own things.
#pragma once

#include <atomic>
#include <ostream>

namespace lexico::bench_serving {

// Parses, loads the service, writes the report to `out` and what is wrong to `err`; returns the
// exit code (they are in --help). `stop` ends the load early; the report then covers what
// was done.
int Bench(int argc, const char* const* argv, const std::atomic<bool>& stop, std::ostream& out,
          std::ostream& err);

}  // namespace lexico::bench_serving
