#include "tools/cli/text_output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "proto/base/options.h"
#include "tools/cli/json.h"

namespace lexico::cli {
namespace {

constexpr absl::Duration kRedraw = absl::Milliseconds(50);
constexpr int kBarCells = 30;

std::string Word(v1::SessionState state) {
  return EnumWord(*v1::SessionState_descriptor()->FindValueByNumber(state));
}
std::string Word(v1::Tier tier) {
  if (tier == v1::TIER_UNSPECIFIED) return "-";
  return EnumWord(*v1::Tier_descriptor()->FindValueByNumber(tier));
}
std::string Word(v1::TextFormat format) {
  return EnumWord(*v1::TextFormat_descriptor()->FindValueByNumber(format));
}

double PerSecond(int64_t count, int64_t us) { return us > 0 ? count * 1e6 / us : 0; }

}  // namespace

std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::string& cell : header) widths.push_back(cell.size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  const auto add = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t i = 0; i < widths.size(); ++i) {
      const bool right = !row[i].empty() && absl::ascii_isdigit(row[i][0]) != 0;
      if (i > 0) line += "  ";
      line += right ? fmt::format("{:>{}}", row[i], widths[i])
                    : fmt::format("{:<{}}", row[i], widths[i]);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  add(header);
  for (const auto& row : rows) add(row);
  return out;
}

std::string HumanCount(int64_t count) {
  std::string digits = std::to_string(count);
  const int first = count < 0 ? 1 : 0;
  for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3) digits.insert(i, ",");
  return digits;
}

std::string HumanDuration(absl::Duration duration) {
  const double s = absl::ToDoubleSeconds(duration);
  if (s < 1e-3) return fmt::format("{:.0f} us", s * 1e6);
  if (s < 1) return fmt::format("{:.3g} ms", s * 1e3);
  if (s < 60) return fmt::format("{:.3g} s", s);
  const auto whole = static_cast<int64_t>(std::llround(s));
  return fmt::format("{} min {} s", whole / 60, whole % 60);
}

namespace {

// "paper-s8, born paper-s16, at least paper-s4".
std::string ProfileText(const v1::Session& session) {
  std::string text = session.profile();
  if (!session.birth_profile().empty() && session.birth_profile() != session.profile()) {
    text += fmt::format(", born {}", session.birth_profile());
  }
  if (!session.min_profile().empty() && session.min_profile() != session.profile()) {
    text += fmt::format(", at least {}", session.min_profile());
  }
  return text;
}

}  // namespace

std::string FormatSession(const v1::Session& session) {
  const v1::MemoryUse& memory = session.memory();
  const uint64_t held = memory.code_bytes() + memory.window_bytes() + memory.bookkeeping_bytes();
  std::vector<std::pair<std::string, std::string>> lines = {
      {"session", session.session_id()},
      {"model", session.model()},
      {"profile", ProfileText(session)},
      {"format", Word(session.format())},
      {"state", Word(session.state())},
      {"tier", Word(session.tier())},
      {"worker", session.worker().empty() ? "-" : session.worker()},
      {"epoch", HumanCount(session.epoch())},
      {"tokens", HumanCount(session.n_tokens())},
      {"  coded", HumanCount(session.n_sealed_tokens())},
      {"  durable", HumanCount(session.n_durable_tokens())},
      {"codes", base::HumanBytes(memory.code_bytes())},
      {"window", base::HumanBytes(memory.window_bytes())},
      {"bookkeeping", base::HumanBytes(memory.bookkeeping_bytes())},
      {"total", base::HumanBytes(held)},
      {"as FP16", base::HumanBytes(memory.fp16_equivalent_bytes())},
      {"ratio", memory.fp16_equivalent_bytes() == 0
                    ? "-"
                    : fmt::format("{:.1f} % of FP16", 100 * memory.fraction_of_fp16())},
      {"error of K", fmt::format("{:.4f} (mean relative L2)", session.relative_error_k())},
      {"error of V", fmt::format("{:.4f} (mean relative L2)", session.relative_error_v())},
  };
  if (!session.parent_session_id().empty()) {
    lines.emplace_back("forked from", session.parent_session_id());
  }
  if (session.prefill_fraction() > 0) {
    lines.emplace_back("prefilling", fmt::format("{:.0f} %", 100 * session.prefill_fraction()));
  }
  std::string out;
  for (const auto& [label, value] : lines) out += fmt::format("{:<13}{}\n", label, value);
  return out;
}

std::string FormatUsage(const v1::Usage& usage, const v1::Timing& timing) {
  std::string line = fmt::format("{} tokens reused", HumanCount(usage.n_context_tokens()));
  if (usage.n_prompt_tokens() > 0) {
    const int64_t us = timing.prefill_us() + timing.coding_us();
    line += fmt::format(", {} read in {} ({} tokens/s)", HumanCount(usage.n_prompt_tokens()),
                        HumanDuration(absl::Microseconds(us)),
                        HumanCount(std::llround(PerSecond(usage.n_prompt_tokens(), us))));
  }
  if (usage.n_generated_tokens() > 0) {
    line += fmt::format(", {} written", HumanCount(usage.n_generated_tokens()));
    if (usage.n_generated_tokens() > 1) {
      line += fmt::format(" ({:.1f} tokens/s)",
                          PerSecond(usage.n_generated_tokens() - 1, timing.decode_us()));
    }
    line +=
        fmt::format(", first after {}", HumanDuration(absl::Microseconds(timing.first_token_us())));
  }
  if (timing.restore_us() > 0) {
    line += fmt::format(", restored in {}", HumanDuration(absl::Microseconds(timing.restore_us())));
  }
  return line;
}

Progress::Progress(std::string label)
    : label_(std::move(label)), enabled_(isatty(STDERR_FILENO) != 0), start_(absl::Now()) {}

Progress::~Progress() {
  if (enabled_ && drawn_ != absl::InfinitePast()) fmt::print(stderr, "\r\033[K");
}

void Progress::Draw(const std::string& line) {
  fmt::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
  drawn_ = absl::Now();
}

void Progress::Update(double fraction, std::string_view note) {
  if (!enabled_ || (fraction < 1 && absl::Now() - drawn_ < kRedraw)) return;
  fraction = std::clamp(fraction, 0.0, 1.0);
  const int cells = static_cast<int>(fraction * kBarCells);
  Draw(fmt::format("{} [{}{}] {:3.0f} %  {}", label_, std::string(cells, '#'),
                   std::string(kBarCells - cells, '.'), 100 * fraction, note));
}

void Progress::Spin(std::string_view note) {
  if (!enabled_ || absl::Now() - drawn_ < kRedraw) return;
  static constexpr char kFrames[] = {'|', '/', '-', '\\'};
  const absl::Duration elapsed = absl::Now() - start_;
  const auto frame = absl::ToInt64Milliseconds(elapsed) / 100 % 4;
  Draw(fmt::format("{} {} {}  {}", label_, kFrames[frame], HumanDuration(elapsed), note));
}

}  // namespace lexico::cli
