#include "tools/train_dictionary/report.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace lexico::train_dictionary {
namespace {

constexpr int kBarCells = 24;

const char* StageName(Progress::Stage stage) {
  switch (stage) {
    case Progress::Stage::kRead:
      return "reading text";
    case Progress::Stage::kHeldOut:
      return "gathering held-out keys and values";
    case Progress::Stage::kTrain:
      return "training";
  }
  return "";
}

std::string TimeLeft(double seconds) {
  if (seconds < 60) return fmt::format("{:.0f} s", seconds);
  if (seconds < 3600) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

std::string BandName(size_t band) {
  const std::vector<int64_t> ends = PositionBands();
  const int64_t begin = band == 0 ? 0 : ends[band - 1];
  if (band + 1 == ends.size()) return fmt::format("{} ..", begin);
  return fmt::format("{} .. {}", begin, ends[band] - 1);
}

// Mean over the layers' K or V in one band; NaN where no vector stands there.
double BandError(const std::vector<HeldOutError>& errors, bool value, size_t band) {
  double sum = 0;
  for (size_t i = value ? 1 : 0; i < errors.size(); i += 2) sum += errors[i].by_position[band];
  return sum / (static_cast<double>(errors.size()) / 2);
}

}  // namespace

std::string ProgressLine(const Progress& progress, int n_rounds, double first_fraction,
                         absl::Duration elapsed) {
  std::string line = StageName(progress.stage);
  if (progress.stage == Progress::Stage::kTrain) {
    const int round = std::min(progress.n_rounds_done + 1, n_rounds);
    line += fmt::format(", round {} of {}", round, n_rounds);
  }
  const int cells = static_cast<int>(progress.fraction * kBarCells);
  line += fmt::format(" [{:<{}}] {:.0f} %", std::string(cells, '#'), kBarCells,
                      100 * progress.fraction);
  const double done = progress.fraction - first_fraction;
  if (done <= 0) return line;
  const double left = absl::ToDoubleSeconds(elapsed) * (1 - progress.fraction) / done;
  return line + fmt::format(", {} left", TimeLeft(left));
}

std::string StageLine(Progress::Stage stage, absl::Duration elapsed) {
  return fmt::format("{}: {:.0f} s", StageName(stage), absl::ToDoubleSeconds(elapsed));
}

std::string RoundLine(const Progress& progress, int n_rounds) {
  const std::vector<HeldOutError>& errors = *progress.errors;
  std::string line =
      fmt::format("round {} of {}: held-out error K {:.4f} V {:.4f} (", progress.n_rounds_done,
                  n_rounds, MeanError(errors, false), MeanError(errors, true));
  for (size_t i = 0; i < errors.size(); i += 2) {
    line += fmt::format("{}{:.3f}/{:.3f}", i == 0 ? "" : " ", errors[i].all, errors[i + 1].all);
  }
  return line + ")";
}

std::string ErrorTable(const std::vector<HeldOutError>& errors) {
  std::string table = fmt::format("{:>15} {:>8} {:>8}\n", "held-out error", "K", "V");
  for (size_t i = 0; i < errors.size(); i += 2) {
    table += fmt::format("{:>15} {:>8.4f} {:>8.4f}\n", fmt::format("layer {}", i / 2),
                         errors[i].all, errors[i + 1].all);
  }
  for (size_t band = 0; band < PositionBands().size(); ++band) {
    const double k = BandError(errors, false, band);
    if (std::isnan(k)) continue;
    table +=
        fmt::format("{:>15} {:>8.4f} {:>8.4f}\n", BandName(band), k, BandError(errors, true, band));
  }
  return table + fmt::format("{:>15} {:>8.4f} {:>8.4f}\n", "all", MeanError(errors, false),
                             MeanError(errors, true));
}

std::string OutcomeJson(const Options& options, const Outcome& outcome, absl::Duration elapsed) {
  nlohmann::ordered_json json = {{"out", options.out},
                                 {"n_atoms", options.n_atoms},
                                 {"sparsity", options.sparsity},
                                 {"n_positions", outcome.n_positions},
                                 {"n_tokens", outcome.n_tokens},
                                 {"n_samples", outcome.n_samples},
                                 {"n_rounds", options.n_rounds},
                                 {"n_rounds_resumed", outcome.n_rounds_resumed},
                                 {"seconds", absl::ToDoubleSeconds(elapsed)},
                                 {"relative_error_k", MeanError(outcome.errors, false)},
                                 {"relative_error_v", MeanError(outcome.errors, true)}};
  for (size_t i = 0; i < outcome.errors.size(); i += 2) {
    json["layers"].push_back({{"k", outcome.errors[i].all}, {"v", outcome.errors[i + 1].all}});
  }
  for (size_t band = 0; band < PositionBands().size(); ++band) {
    const double k = BandError(outcome.errors, false, band);
    if (std::isnan(k)) continue;
    json["positions"].push_back(
        {{"band", BandName(band)}, {"k", k}, {"v", BandError(outcome.errors, true, band)}});
  }
  return json.dump(1) + "\n";
}

}  // namespace lexico::train_dictionary
