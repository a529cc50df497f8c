// Rows under named columns: what sweeps print, and write for programs and plots.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"

namespace lexico::eval {

class ResultTable {
 public:
  using Value = std::variant<std::string, int64_t, double>;
  struct Column {
    std::string name;
    int decimals = 0;  // of a double in Text
  };

  ResultTable(std::string experiment, std::vector<Column> columns);

  // What holds for all rows, such as the model: above the table and in the JSON.
  void SetFact(std::string name, Value value);
  // REQUIRES: a value for every column
  void Add(std::vector<Value> row);

  const std::vector<std::vector<Value>>& rows() const { return rows_; }

  std::string Text() const;
  // One object: experiment, facts, columns, and rows as objects; tools/eval/plot_sweep.py reads it.
  // A double that is not finite is null.
  std::string Json() const;
  // A head and a line a row, facts left out; texts are quoted where they have to be (RFC 4180).
  std::string Csv() const;

 private:
  std::string experiment_;
  std::vector<Column> columns_;
  std::vector<std::pair<std::string, Value>> facts_;
  std::vector<std::vector<Value>> rows_;
};

// Prints the table, or its JSON, and writes its CSV where `csv_file` is not empty. Unavailable,
// with the path, where it cannot be written.
absl::Status PrintTable(const ResultTable& table, bool json, const std::string& csv_file);

}  // namespace lexico::eval
