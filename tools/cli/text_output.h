// Text for people: aligned tables, units, and progress on a terminal.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "lexico/v1/common.pb.h"

namespace lexico::cli {

// Columns as wide as their widest cell; cells that begin with a digit are right-aligned.
std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows);

// 1234567 -> "1,234,567".
std::string HumanCount(int64_t count);
// "840 us", "12.3 ms", "4.56 s", "3 min 20 s".
std::string HumanDuration(absl::Duration duration);
// What `lexico session show` prints: one "label  value" line each.
std::string FormatSession(const v1::Session& session);
// One line about a finished call: tokens, reuse, times, rates.
std::string FormatUsage(const v1::Usage& usage, const v1::Timing& timing);

// One line on stderr that is redrawn; nothing at all when stderr is no terminal.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();  // clears the line

  bool enabled() const { return enabled_; }
  // A bar; `note` stands behind it. Redraws at most every 50 ms, and always at 1.
  void Update(double fraction, std::string_view note);
  // A spinner with the time since this object was made, for work of unknown length.
  void Spin(std::string_view note);

 private:
  void Draw(const std::string& line);

  std::string label_;
  bool enabled_;
  absl::Time start_;
  absl::Time drawn_ = absl::InfinitePast();
};

}  // namespace lexico::cli
