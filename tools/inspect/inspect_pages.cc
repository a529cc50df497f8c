#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "cache_store/format/page.h"
#include "cache_store/tiers/segment_file.h"
#include "tools/inspect/inspect.h"

namespace lexico::inspect {
namespace {

using store::PageHeader;

std::string KindName(const store::PageShape& shape) {
  switch (shape.kind) {
    case store::PageKind::kCodes:
      return "codes";
    case store::PageKind::kDense:
      return "dense";
    case store::PageKind::kWindow:
      return "window";
  }
  return "?";
}

// "16 atoms, 8 bits" or "2 atoms, 4 bits, residual of 2 bits, unbiased".
std::string CodeName(const base::VectorCode& code) {
  std::string text = fmt::format("{} atoms", code.sparsity);
  if (code.sparsity > 0) text += fmt::format(", {} bits", code.form.coefficient_bits);
  if (code.has_residual()) text += fmt::format(", residual of {} bits", code.form.residual_bits);
  if (code.form.unbiased) text += ", unbiased";
  return text;
}

std::string ShapeName(const store::PageShape& shape) {
  std::string text = fmt::format("{} of {} tokens, {} KV heads of {}", KindName(shape),
                                 shape.n_tokens, shape.n_kv_heads, shape.head_dim);
  if (shape.kind != store::PageKind::kCodes) return text;
  return text + fmt::format("; K {}; V {}; {} atoms in all", CodeName(shape.code(false)),
                            CodeName(shape.code(true)), shape.n_atoms);
}

// What the pages of a file have in common, and how many there are of each.
class PageCounts {
 public:
  void Add(const PageHeader& header) {
    ++n_pages_;
    ++shapes_[ShapeName(header.shape)];
    models_.insert(header.model.ToHex());
    if (header.dictionary != base::Fingerprint{}) dictionaries_.insert(header.dictionary.ToHex());
    layers_ = std::max(layers_, header.layer + 1);
    if (header.shape.kind != store::PageKind::kCodes) return;
    ++n_codes_;
    error_k_ += header.relative_error_k;
    error_v_ += header.relative_error_v;
  }

  void Tell(nlohmann::ordered_json* facts) const {
    (*facts)["pages"] = n_pages_;
    if (n_pages_ == 0) return;
    (*facts)["layers"] = layers_;
    (*facts)["shapes"] = nlohmann::ordered_json::array();
    for (const auto& [name, n] : shapes_) {
      (*facts)["shapes"].push_back(fmt::format("{} x {}", n, name));
    }
    (*facts)["models"] = models_;
    (*facts)["dictionaries"] = dictionaries_;
    if (n_codes_ == 0) return;
    (*facts)["relative_error_k"] = error_k_ / static_cast<double>(n_codes_);
    (*facts)["relative_error_v"] = error_v_ / static_cast<double>(n_codes_);
  }

 private:
  uint64_t n_pages_ = 0;
  uint64_t n_codes_ = 0;
  uint32_t layers_ = 0;
  double error_k_ = 0;
  double error_v_ = 0;
  std::map<std::string, uint64_t> shapes_;
  std::set<std::string> models_;
  std::set<std::string> dictionaries_;
};

// The page at the beginning of `bytes`, which may be longer.
absl::StatusOr<store::PageView> PageAt(std::span<const uint8_t> bytes) {
  const auto header = store::DecodeHeader(bytes);
  if (!header.ok()) return header.status();
  const uint64_t n = store::kPageHeaderBytes + uint64_t{header->payload_bytes};
  if (n > bytes.size()) {
    return absl::DataLossError(fmt::format("the page has {} bytes, {} are left", n, bytes.size()));
  }
  return store::DecodePage(bytes.first(n));
}

bool AllZero(std::span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
}

}  // namespace

Report InspectPage(const std::string& path, std::span<const uint8_t> bytes) {
  Report report{.path = path, .kind = "page", .bytes = bytes.size()};
  const auto page = store::DecodePage(bytes);
  if (!page.ok()) {
    report.damage.push_back({0, bytes.size(), std::string(page.status().message())});
    return report;
  }
  const PageHeader& header = page->header;
  report.facts["key"] = header.key.ToHex();
  report.facts["shape"] = ShapeName(header.shape);
  report.facts["layer"] = header.layer;
  report.facts["first_token"] = header.first_token;
  report.facts["model"] = header.model.ToHex();
  report.facts["dictionary"] = header.dictionary.ToHex();
  report.facts["relative_error_k"] = header.relative_error_k;
  report.facts["relative_error_v"] = header.relative_error_v;
  return report;
}

Report InspectSegment(const std::string& path, std::span<const uint8_t> bytes,
                      const Options& options) {
  Report report{.path = path, .kind = "segment", .bytes = bytes.size()};
  const auto id = store::DecodeSegmentHeader(bytes);
  if (id.ok()) {
    report.facts["segment"] = *id;
  } else {
    report.damage.push_back({0, std::min(bytes.size(), store::kSegmentHeaderBytes),
                             std::string(id.status().message())});
  }
  PageCounts counts;
  // As a store reads it at start: where there is no page, the next multiple of 64 is tried.
  uint64_t offset = store::kSegmentHeaderBytes;
  uint64_t bad_from = 0;  // 0: the last bytes were a page
  std::string why;
  const auto end_damage = [&] {
    if (bad_from != 0) report.damage.push_back({bad_from, offset - bad_from, why});
    bad_from = 0;
  };
  while (offset < bytes.size()) {
    const auto page = PageAt(bytes.subspan(offset));
    if (!page.ok()) {
      if (bad_from == 0) {
        bad_from = offset;
        why = std::string(page.status().message());
      }
      offset = std::min<uint64_t>(offset + 64, bytes.size());
      continue;
    }
    end_damage();
    counts.Add(page->header);
    const uint64_t n = store::kPageHeaderBytes + page->payload.size();
    if (options.list_pages) {
      report.details.push_back(fmt::format(
          "{} at {}: {} bytes, layer {}, from token {}, {}", page->header.key.ToHex(), offset, n,
          page->header.layer, page->header.first_token, ShapeName(page->header.shape)));
    }
    offset += store::RecordBytes(n);
  }
  offset = bytes.size();
  // What a store would cut off at its next start: a write that was interrupted, never acknowledged.
  if (bad_from != 0 && AllZero(bytes.subspan(bad_from))) bad_from = 0;
  end_damage();
  counts.Tell(&report.facts);
  return report;
}

}  // namespace lexico::inspect
