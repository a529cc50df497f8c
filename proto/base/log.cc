#include "proto/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>

namespace lexico::base {

void InitLogging(const std::string& process, const std::string& level) {
  auto logger = std::make_shared<spdlog::logger>(
      process, std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%L%$ %n] %v");
  const auto parsed = spdlog::level::from_str(level);
  logger->set_level(parsed == spdlog::level::off && level != "off" ? spdlog::level::info : parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(logger);
  if (parsed == spdlog::level::off && level != "off") {
    spdlog::warn("unknown log level '{}', using info", level);
  }
}

}  // namespace lexico::base
