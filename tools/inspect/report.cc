#include "tools/inspect/report.h"

#include <fmt/format.h>

#include "proto/base/options.h"

namespace lexico::inspect {
namespace {

std::string FactText(const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const auto& item : value) text += (text.empty() ? "" : ", ") + FactText(item);
  return text;
}

}  // namespace

std::string ReportText(const Report& report) {
  std::string text = fmt::format(
      "{}: {}, {}, {}\n", report.path, report.kind,
      base::HumanBytes(static_cast<double>(report.bytes)),
      report.is_sound() ? "sound" : fmt::format("DAMAGED in {} places", report.damage.size()));
  for (const auto& [name, value] : report.facts.items()) {
    text += fmt::format("  {}: {}\n", name, FactText(value));
  }
  for (const std::string& line : report.details) text += "  " + line + "\n";
  for (const Damage& damage : report.damage) {
    text += fmt::format("  damaged: bytes {} to {}: {}\n", damage.offset,
                        damage.offset + damage.bytes, damage.what);
  }
  return text;
}

nlohmann::ordered_json ReportJson(const Report& report) {
  nlohmann::ordered_json damage = nlohmann::ordered_json::array();
  for (const Damage& place : report.damage) {
    damage.push_back({{"offset", place.offset}, {"bytes", place.bytes}, {"what", place.what}});
  }
  nlohmann::ordered_json out = {{"path", report.path},   {"kind", report.kind},
                                {"bytes", report.bytes}, {"sound", report.is_sound()},
                                {"facts", report.facts}, {"damage", damage}};
  if (!report.details.empty()) out["details"] = report.details;
  return out;
}

}  // namespace lexico::inspect
