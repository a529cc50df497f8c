// What a look at one file found, and how it is told.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace lexico::inspect {

// A place that is not as it was written.
struct Damage {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::string what;
};

struct Report {
  std::string path;
  std::string kind;  // "segment", "page", "journal", "dictionary", "safetensors", "unknown"
  uint64_t bytes = 0;
  // What it holds, by name, in the order in which it is told.
  nlohmann::ordered_json facts = nlohmann::ordered_json::object();
  std::vector<std::string> details;  // a line each, where --pages asks for them
  std::vector<Damage> damage;

  bool is_sound() const { return damage.empty(); }
};

// "segments/0000000001.lxsg: segment, 12.1 MiB, sound", then facts, details and damage, indented.
std::string ReportText(const Report& report);
nlohmann::ordered_json ReportJson(const Report& report);

}  // namespace lexico::inspect
