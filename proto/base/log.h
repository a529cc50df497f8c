// Logging to standard error through spdlog, one line per event: "time level process] message".
// Never user text, prompts or credentials.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace lexico::base {

// Call once, first thing in main. `level` is trace, debug, info, warning, error or off; an unknown
// word is taken as info and said so.
void InitLogging(const std::string& process, const std::string& level);

}  // namespace lexico::base
