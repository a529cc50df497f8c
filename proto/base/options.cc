#include "proto/base/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace lexico::base {
namespace {

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above + 1, row[j - 1] + 1, substituted});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// Flags and subcommands that could have been meant at this level and below the chosen subcommands.
void CollectNames(const CLI::App& app, std::vector<std::string>* names) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names->push_back("--" + name);
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    names->push_back(sub->get_name());
    if (sub->parsed()) CollectNames(*sub, names);
  }
}

}  // namespace

std::string NearestName(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 2) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

absl::Status ParseCommandLine(CLI::App& app, int argc, const char* const* argv) {
  const std::string program = std::filesystem::path(argc > 0 ? argv[0] : "lexico").filename();
  app.set_version_flag("--version", fmt::format("{} {}", program, LEXICO_VERSION));
  try {
    app.parse(argc, const_cast<char**>(argv));
  } catch (const CLI::CallForHelp&) {
    return absl::CancelledError(app.help());
  } catch (const CLI::CallForAllHelp&) {
    return absl::CancelledError(app.help("", CLI::AppFormatMode::All));
  } catch (const CLI::CallForVersion& version) {
    return absl::CancelledError(std::string(version.what()) + "\n");
  } catch (const CLI::ParseError& error) {
    // A misspelt subcommand is also a missing one, and the misspelling is what the user must see.
    const std::vector<std::string> extras = app.remaining(/*recurse=*/true);
    if (extras.empty()) {
      return absl::InvalidArgumentError(fmt::format("{} (see --help)", error.what()));
    }
    std::vector<std::string> names;
    CollectNames(app, &names);
    const std::string word = extras.front().substr(0, extras.front().find('='));
    const std::string nearest = NearestName(word, names);
    return absl::InvalidArgumentError(
        fmt::format("unknown argument {}{} (see --help)", word,
                    nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest)));
  }
  return absl::OkStatus();
}

absl::Status CheckAddress(std::string_view flag, std::string_view address, AddressUse use) {
  constexpr int kPortMax = 65535;
  const int port_min = use == AddressUse::kListen ? 0 : 1;
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(fmt::format(
        "{} \"{}\": {}; write host:port with a port from {} to {}, as in 127.0.0.1:50051", flag,
        address, why, port_min, kPortMax));
  };
  if (address.empty()) return refuse("it is empty");
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return refuse("it has no port");
  const std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  if (host.empty()) return refuse("it has no host");
  if (host.find(':') != std::string_view::npos && host.find('/') == std::string_view::npos &&
      !(host.front() == '[' && host.back() == ']')) {
    return refuse("an IPv6 host is written in brackets, as in [::1]:50051");
  }
  if (port.empty()) return refuse("its port is empty");
  if (port.find_first_not_of("0123456789") != std::string_view::npos) {
    return refuse(fmt::format("port {} is not a number", port));
  }
  int number = 0;
  const bool fits = absl::SimpleAtoi(absl::string_view(port.data(), port.size()), &number);
  if (!fits || number > kPortMax) return refuse(fmt::format("port {} is too large", port));
  if (number < port_min) return refuse("port 0 cannot be connected to");
  return absl::OkStatus();
}

absl::Status ParseByteSize(std::string_view text, size_t* bytes) {
  static constexpr struct {
    const char* suffix;
    double factor;
  } kUnits[] = {
      {"kib", 1024.0}, {"mib", 1048576.0}, {"gib", 1073741824.0}, {"tib", 1099511627776.0},
      {"kb", 1e3},     {"mb", 1e6},        {"gb", 1e9},           {"tb", 1e12},
      {"b", 1.0},      {"", 1.0}};
  const std::string lower = absl::AsciiStrToLower(
      absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size())));
  for (const auto& unit : kUnits) {
    absl::string_view number = lower;
    if (!absl::ConsumeSuffix(&number, unit.suffix)) continue;
    double value = 0;
    if (!absl::SimpleAtod(absl::StripAsciiWhitespace(number), &value)) continue;
    if (!(value >= 0) || value * unit.factor > 9e18) break;
    *bytes = static_cast<size_t>(value * unit.factor);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      fmt::format("'{}' is not a size; write bytes or a unit, as in 512MiB or 4GiB", lower));
}

std::string HumanBytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (std::abs(bytes) >= 1024 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", static_cast<int64_t>(bytes));
  return fmt::format("{:.{}f} {}", bytes, bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2, kUnits[unit]);
}

}  // namespace lexico::base
