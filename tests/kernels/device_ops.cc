#include "tests/kernels/device_ops.h"

#include <list>
#include <utility>
#include <vector>

#include "kernels/api/device_buffer.h"
#include "kernels/cpu/dictionary.h"
#include "proto/base/check.h"

namespace lexico::tests {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceKind;
using kernels::MutableTensorView;
using kernels::PreparedDictionary;
using kernels::Stream;
using kernels::TensorView;

// What a test's arguments become on the device of a stream, for one op.
class OnDevice {
 public:
  explicit OnDevice(const Stream& stream) : stream_(stream) {}

  TensorView Input(const TensorView& host) {
    TensorView view = host;
    view.data = Copy(host.data, host.size_bytes());
    return view;
  }
  MutableTensorView Output(const MutableTensorView& host) {
    MutableTensorView view = host;
    view.data = Copy(host.data, host.size_bytes());
    outputs_.push_back({&buffers_.back(), host});
    return view;
  }
  const kernels::DenseRows* Rows(const kernels::DenseRows* rows, int64_t n, size_t row_bytes) {
    if (rows == nullptr) return nullptr;
    std::vector<kernels::DenseRows> there(rows, rows + n);
    for (kernels::DenseRows& run : there) {
      run.k = Copy(run.k, run.n_tokens * row_bytes);
      run.v = Copy(run.v, run.n_tokens * row_bytes);
    }
    return static_cast<const kernels::DenseRows*>(
        Copy(there.data(), there.size() * sizeof(there[0])));
  }
  const int32_t* Counts(const int32_t* counts, int64_t n) {
    if (counts == nullptr) return nullptr;
    return static_cast<const int32_t*>(Copy(counts, n * sizeof(*counts)));
  }
  int64_t* Counter(int64_t* host) {
    if (host == nullptr) return nullptr;
    auto* there = static_cast<int64_t*>(Copy(host, sizeof(*host)));
    counters_.push_back({&buffers_.back(), host});
    return there;
  }
  // An array of pages, each aligned as a pool aligns them.
  const uint8_t* const* Pages(const uint8_t* const* pages, int64_t n, size_t page_bytes) {
    std::vector<const void*> addresses;
    for (int64_t i = 0; i < n; ++i) addresses.push_back(Copy(pages[i], page_bytes));
    return static_cast<const uint8_t* const*>(
        Copy(addresses.data(), addresses.size() * sizeof(void*)));
  }
  uint8_t* const* Table(const std::vector<uint8_t*>& pages) {
    return static_cast<uint8_t* const*>(Copy(pages.data(), pages.size() * sizeof(pages[0])));
  }
  const PreparedDictionary* Dictionary(const PreparedDictionary* dictionary) {
    if (dictionary == nullptr) return nullptr;
    const kernels::cpu::Dictionary& host = kernels::cpu::AsCpu(*dictionary);
    std::vector<float> rows;
    for (int a = 0; a < host.n_atoms(); ++a) {
      rows.insert(rows.end(), host.row(a), host.row(a) + host.head_dim());
    }
    return Dictionary(TensorView(rows.data(), {host.n_atoms(), host.head_dim()}));
  }
  const PreparedDictionary* Dictionary(const TensorView& rows) {
    const auto prepared = kernels::PrepareDictionary(rows, stream_);
    LEXICO_CHECK(prepared.ok());
    return dictionaries_.emplace_back(*prepared).get();
  }

  void CopyOutputsBack() {
    for (const auto& [buffer, host] : counters_) buffer->CopyTo(host, sizeof(*host));
    for (const auto& [buffer, host] : outputs_) {
      buffer->CopyTo(const_cast<void*>(host.data), host.size_bytes());
    }
  }

 private:
  void* Copy(const void* host, size_t bytes) {
    auto buffer = DeviceBuffer::Allocate(bytes, stream_);
    LEXICO_CHECK(buffer.ok());
    buffer->CopyFrom(host, bytes);
    return buffers_.emplace_back(*std::move(buffer)).as<void>();
  }

  const Stream& stream_;
  std::list<DeviceBuffer> buffers_;
  std::vector<std::pair<const DeviceBuffer*, MutableTensorView>> outputs_;
  std::vector<std::pair<const DeviceBuffer*, int64_t*>> counters_;
  std::vector<std::shared_ptr<const PreparedDictionary>> dictionaries_;
};

}  // namespace

const absl::StatusOr<Stream>& GpuStream() {
  static const absl::StatusOr<Stream> stream = Stream::Cuda({});
  return stream;
}

void DeviceOps::SparseAttention(const kernels::SparseAttentionArgs& args) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::SparseAttention(args, stream_);
  OnDevice device(stream_);
  kernels::SparseAttentionArgs there = args;
  there.q = device.Input(args.q);
  there.pages = device.Pages(args.pages, args.page_begin[args.q.dim(0)],
                             args.page_offset + args.layout.payload_bytes());
  there.n_pages = device.Counts(args.n_pages, args.q.dim(0));
  there.dictionary_k = device.Dictionary(args.dictionary_k);
  there.dictionary_v = device.Dictionary(args.dictionary_v);
  there.out = device.Output(args.out);
  there.max_score = device.Output(args.max_score);
  there.sum_exp = device.Output(args.sum_exp);
  kernels::SparseAttention(there, stream_);
  device.CopyOutputsBack();
}

void DeviceOps::Reconstruct(const kernels::ReconstructArgs& args) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::Reconstruct(args, stream_);
  OnDevice device(stream_);
  kernels::ReconstructArgs there = args;
  there.pages =
      device.Pages(args.pages, args.n_pages, args.page_offset + args.layout.payload_bytes());
  there.dictionary = device.Dictionary(args.dictionary);
  there.out = device.Output(args.out);
  kernels::Reconstruct(there, stream_);
  device.CopyOutputsBack();
}

void DeviceOps::DemoteCodes(const kernels::DemoteCodesArgs& args) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::DemoteCodes(args, stream_);
  OnDevice device(stream_);
  kernels::DemoteCodesArgs there = args;
  there.pages =
      device.Pages(args.pages, args.n_pages, args.page_offset + args.layout.payload_bytes());
  there.dictionary = device.Dictionary(args.dictionary);
  there.atoms = device.Output(args.atoms);
  there.coefs = device.Output(args.coefs);
  there.rel_error = device.Output(args.rel_error);
  kernels::DemoteCodes(there, stream_);
  device.CopyOutputsBack();
}

namespace {

void OmpEncodeThere(const kernels::OmpEncodeArgs& args, const PreparedDictionary* dictionary,
                    OnDevice& device, const Stream& stream) {
  kernels::OmpEncodeArgs there = args;
  there.x = device.Input(args.x);
  there.dictionary = dictionary;
  there.atoms = device.Output(args.atoms);
  there.coefs = device.Output(args.coefs);
  there.rel_error = device.Output(args.rel_error);
  if (args.coefficients.data != nullptr) there.coefficients = device.Output(args.coefficients);
  there.n_non_finite = device.Counter(args.n_non_finite);
  kernels::OmpEncode(there, stream);
  device.CopyOutputsBack();
}

}  // namespace

void DeviceOps::OmpEncode(const kernels::OmpEncodeArgs& args) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::OmpEncode(args, stream_);
  OnDevice device(stream_);
  OmpEncodeThere(args, device.Dictionary(args.dictionary), device, stream_);
}

void DeviceOps::OmpEncode(const kernels::OmpEncodeArgs& args, const TensorView& rows) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::OmpEncode(args, stream_);
  OnDevice device(stream_);
  OmpEncodeThere(args, device.Dictionary(rows), device, stream_);
}

void DeviceOps::QuantizeCodes(const kernels::QuantizeCodesArgs& args) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::QuantizeCodes(args, stream_);
  OnDevice device(stream_);
  const kernels::PageLayout& layout = args.layout;
  const int64_t n_pages = args.x.dim(0) / (layout.page_tokens * layout.n_kv_heads);
  const auto page_bytes = static_cast<int64_t>(args.page_offset + layout.payload_bytes());
  kernels::QuantizeCodesArgs there = args;
  there.dictionary = device.Dictionary(args.dictionary);
  there.x = device.Input(args.x);
  if (layout.code(args.value).sparsity > 0) {
    there.atoms = device.Input(args.atoms);
    there.coefficients = device.Input(args.coefficients);
  }
  std::vector<uint8_t*> pages;
  for (int64_t i = 0; i < n_pages; ++i) {
    pages.push_back(
        device.Output(MutableTensorView(args.pages[i], {page_bytes})).as_mutable<uint8_t>());
  }
  there.pages = device.Table(pages);
  there.page_error = device.Output({args.page_error, {n_pages}}).as_mutable<float>();
  there.n_non_finite = device.Counter(args.n_non_finite);
  kernels::QuantizeCodes(there, stream_);
  device.CopyOutputsBack();
}

void DeviceOps::DenseAttention(const kernels::DenseAttentionArgs& args) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::DenseAttention(args, stream_);
  OnDevice device(stream_);
  kernels::DenseAttentionArgs there = args;
  there.q = device.Input(args.q);
  there.rows = device.Rows(args.rows, args.q.dim(0),
                           args.n_kv_heads * args.q.dim(2) * kernels::DTypeBytes(args.kv_type));
  if (args.page_begin != nullptr) {
    there.pages = device.Pages(args.pages, args.page_begin[args.q.dim(0)],
                               args.page_offset + args.layout.payload_bytes());
    there.n_pages = device.Counts(args.n_pages, args.q.dim(0));
  }
  there.out = device.Output(args.out);
  there.max_score = device.Output(args.max_score);
  there.sum_exp = device.Output(args.sum_exp);
  kernels::DenseAttention(there, stream_);
  device.CopyOutputsBack();
}

void DeviceOps::PrefillAttention(const kernels::PrefillAttentionArgs& args) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::PrefillAttention(args, stream_);
  OnDevice device(stream_);
  kernels::PrefillAttentionArgs there = args;
  there.q = device.Input(args.q);
  there.k = device.Input(args.k);
  there.v = device.Input(args.v);
  there.out = device.Output(args.out);
  kernels::PrefillAttention(there, stream_);
  device.CopyOutputsBack();
}

void DeviceOps::MergePartials(std::span<const kernels::AttentionPart> parts,
                              const MutableTensorView& out) const {
  if (stream_.kind() == DeviceKind::kCpu) return kernels::MergePartials(parts, out, stream_);
  OnDevice device(stream_);
  const MutableTensorView out_there = device.Output(out);
  std::vector<kernels::AttentionPart> there;
  for (const kernels::AttentionPart& part : parts) {
    // A part that is the output stays so.
    there.push_back({part.out.data == out.data ? TensorView(out_there) : device.Input(part.out),
                     device.Input(part.max_score), device.Input(part.sum_exp)});
  }
  kernels::MergePartials(there, out_there, stream_);
  device.CopyOutputsBack();
}

void DeviceTest::SetUp() {
  if (on_gpu() && !GpuStream().ok()) GTEST_SKIP() << GpuStream().status().message();
}

DeviceOps DeviceTest::OpsWithWorkspace(size_t bytes) {
  auto stream = Stream::Cuda({.workspace_bytes = bytes});
  LEXICO_CHECK(stream.ok());
  return DeviceOps(*stream);
}

Stream DeviceTest::StreamOf(int threads) const {
  return on_gpu() ? *GpuStream() : Stream::Cpu(threads);
}

}  // namespace lexico::tests
