#include "tools/eval/sweep/result_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "proto/base/check.h"
#include "tools/eval/files/text_file.h"

namespace lexico::eval {
namespace {

std::string Printed(const ResultTable::Value& value, int decimals) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* number = std::get_if<int64_t>(&value)) return std::to_string(*number);
  return fmt::format("{:.{}f}", std::get<double>(value), decimals);
}

nlohmann::ordered_json AsJson(const ResultTable::Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* number = std::get_if<int64_t>(&value)) return *number;
  const double number = std::get<double>(value);
  return std::isfinite(number) ? nlohmann::ordered_json(number) : nlohmann::ordered_json();
}

std::string Quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    quoted += c;
    if (c == '"') quoted += c;
  }
  return quoted + '"';
}

std::string InCsv(const ResultTable::Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return Quoted(*text);
  if (const auto* number = std::get_if<int64_t>(&value)) return std::to_string(*number);
  return fmt::format("{}", std::get<double>(value));
}

}  // namespace

ResultTable::ResultTable(std::string experiment, std::vector<Column> columns)
    : experiment_(std::move(experiment)), columns_(std::move(columns)) {}

void ResultTable::SetFact(std::string name, Value value) {
  facts_.emplace_back(std::move(name), std::move(value));
}

void ResultTable::Add(std::vector<Value> row) {
  LEXICO_CHECK(row.size() == columns_.size());
  rows_.push_back(std::move(row));
}

std::string ResultTable::Text() const {
  std::string text = experiment_ + "\n";
  for (const auto& [name, value] : facts_) {
    text += fmt::format("{}: {}\n", name, Printed(value, 4));
  }
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    widths.push_back(columns_[c].name.size());
    for (const auto& row : rows_) {
      widths[c] = std::max(widths[c], Printed(row[c], columns_[c].decimals).size());
    }
    text += fmt::format("{}{:>{}}", c == 0 ? "" : "  ", columns_[c].name, widths[c]);
  }
  text += '\n';
  for (const auto& row : rows_) {
    for (size_t c = 0; c < columns_.size(); ++c) {
      text += fmt::format("{}{:>{}}", c == 0 ? "" : "  ", Printed(row[c], columns_[c].decimals),
                          widths[c]);
    }
    text += '\n';
  }
  return text;
}

std::string ResultTable::Json() const {
  nlohmann::ordered_json out = {{"experiment", experiment_}};
  out["facts"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : facts_) out["facts"][name] = AsJson(value);
  out["columns"] = nlohmann::ordered_json::array();
  for (const Column& column : columns_) out["columns"].push_back(column.name);
  out["rows"] = nlohmann::ordered_json::array();
  for (const auto& row : rows_) {
    nlohmann::ordered_json object = nlohmann::ordered_json::object();
    for (size_t c = 0; c < columns_.size(); ++c) object[columns_[c].name] = AsJson(row[c]);
    out["rows"].push_back(std::move(object));
  }
  return out.dump(1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string ResultTable::Csv() const {
  std::string text;
  for (size_t c = 0; c < columns_.size(); ++c) {
    text += (c == 0 ? "" : ",") + Quoted(columns_[c].name);
  }
  text += '\n';
  for (const auto& row : rows_) {
    for (size_t c = 0; c < row.size(); ++c) text += (c == 0 ? "" : ",") + InCsv(row[c]);
    text += '\n';
  }
  return text;
}

absl::Status PrintTable(const ResultTable& table, bool json, const std::string& csv_file) {
  std::cout << (json ? table.Json() : table.Text());
  if (csv_file.empty()) return absl::OkStatus();
  return WriteText(csv_file, table.Csv());
}

}  // namespace lexico::eval
