#include "worker/engine/prefill_coder.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "kernels/api/dictionary.h"
#include "kernels/api/elementwise.h"
#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::worker {

PrefillCoder::PrefillCoder(ForwardContext* context, const SessionKv& kv, const Arrays& arrays)
    : context_(context),
      arrays_(arrays),
      n_pages_(kv.n_reserved_pages()),
      rows_written_(context->stream) {
  if (n_pages_ == 0) return;
  std::vector<uint8_t*> pages;
  for (uint8_t* block : kv.reserved_blocks()) pages.push_back(kv.pool().At(block, context->rank));
  context->stream.Upload(arrays.pages, pages.data(), pages.size() * sizeof(uint8_t*));
  const int n_layers = context->shape.n_layers;
  context->stream.Zero(arrays.n_non_finite, 2 * n_layers * sizeof(int64_t));
  if (!context->on_device()) return;
  for (int64_t page = 0; page < n_pages_; page += context->batch_pages_max()) {
    coded_.emplace_back(context->stream);
  }
}

PrefillCoder::~PrefillCoder() { context_->coding.Synchronize(); }

void PrefillCoder::BeginLayer(const SessionKv& kv, int layer) {
  const KvLayout& layout = kv.layout();
  if (layout.profile.is_dense()) return;
  const LayerDictionaries& own = context_->dictionaries_of(layer);
  const int64_t n_vectors = n_pages_ * layout.page.page_tokens * layout.shape.n_kv_heads;
  dictionaries_ = DictionariesForCoding(layout, own, n_vectors, context_->coding);
}

void PrefillCoder::Code(const SessionKv& kv, int layer, int64_t first_page, int64_t n_pages,
                        kernels::TensorView k, kernels::TensorView v) {
  const kernels::Stream& stream = context_->coding;
  rows_written_.Record(context_->stream);
  rows_written_.HoldBack(stream);
  const float* rows[] = {static_cast<const float*>(k.data), static_cast<const float*>(v.data)};
  if (k.dtype != kernels::DType::kF32) {
    float* const converted = context_->coding_scratch.Rows(2 * k.size(), stream);
    for (const bool value : {false, true}) {
      float* const to = converted + (value ? k.size() : 0);
      kernels::Convert(value ? v : k, {to, {k.dim(0), k.dim(1), k.dim(2)}}, stream);
      rows[value ? 1 : 0] = to;
    }
  }
  float* const errors = arrays_.page_errors + 2 * layer * n_pages_ + first_page;
  EnqueuePages(
      kv.layout(), dictionaries_, rows[0], rows[1], layer, arrays_.pages + first_page, n_pages,
      {.errors = {errors, errors + n_pages_}, .n_non_finite = arrays_.n_non_finite + 2 * layer},
      stream, context_->coding_scratch);
  if (coded_.empty()) return;
  LEXICO_CHECK_EQ(first_page % context_->batch_pages_max(), int64_t{0});
  coded_[first_page / context_->batch_pages_max()].Record(stream);
}

void PrefillCoder::HoldBack(int64_t first_page, int64_t end_page) const {
  // Batches are coded in order. Rows behind the last page are not coded.
  if (coded_.empty() || end_page <= 0 || first_page >= n_pages_) return;
  const int64_t last = (std::min(end_page, n_pages_) - 1) / context_->batch_pages_max();
  coded_[last].HoldBack(context_->stream);
}

absl::Status PrefillCoder::Finish(const SessionKv& kv, std::span<PageError> errors) {
  const KvLayout& layout = kv.layout();
  LEXICO_CHECK_EQ(std::ssize(errors), layout.shape.n_layers * n_pages_);
  context_->coding.Synchronize();
  if (n_pages_ == 0 || layout.profile.is_dense()) return absl::OkStatus();
  std::vector<int64_t> n_non_finite(2 * layout.shape.n_layers);
  context_->coding.Download(n_non_finite.data(), arrays_.n_non_finite,
                            n_non_finite.size() * sizeof(int64_t));
  const int64_t n_vectors = n_pages_ * layout.page.page_tokens * layout.shape.n_kv_heads;
  std::vector<float> means(2 * errors.size());
  context_->coding.Download(means.data(), arrays_.page_errors, means.size() * sizeof(float));
  for (int layer = 0; layer < layout.shape.n_layers; ++layer) {
    const absl::Status finite =
        CheckFinite(std::span(n_non_finite).subspan(2 * layer).first<2>(), n_vectors);
    if (!finite.ok()) return base::Annotate(finite, "layer " + std::to_string(layer));
    const float* const layer_means = means.data() + 2 * layer * n_pages_;
    for (int64_t page = 0; page < n_pages_; ++page) {
      errors[layer * n_pages_ + page] = {layer_means[page], layer_means[n_pages_ + page]};
    }
  }
  return absl::OkStatus();
}

}  // namespace lexico::worker
