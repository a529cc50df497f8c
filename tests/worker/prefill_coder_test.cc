// PrefillCoder on every device: pages are those of EncodePages, whatever is written over their rows
// after HoldBack.
#include "worker/engine/prefill_coder.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/convert.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/status_matchers.h"

namespace lexico::worker {
namespace {

using tests::DeviceArray;
using tests::IsOk;

constexpr int kLayers = 2;
constexpr int kKvHeads = 1;
constexpr int kHeadDim = 16;
constexpr int kAtoms = 64;
constexpr int64_t kPages = 300;  // three batches of a device
constexpr int64_t kRows = kPages * base::kPageTokens + base::kWindowTokens;

class PrefillCoderTest : public tests::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    context_.reset(new ForwardContext{.shape = {.n_layers = kLayers,
                                                .n_kv_heads = kKvHeads,
                                                .head_dim = kHeadDim,
                                                .cache_type = kernels::DType::kBF16},
                                      .stream = stream()});
    for (int layer = 0; layer < kLayers; ++layer) {
      context_->dictionaries.push_back({Dictionary(), Dictionary()});
    }
    layout_ = MakeKvLayout(context_->shape, *base::ParseProfile("paper-s8"), kAtoms);
    ASSERT_THAT(context_->coding_scratch.Reserve(layout_, kPages, stream()), IsOk());
    if (on_gpu()) context_->coding = *stream().Beside(size_t{32} << 20);
    pool_ = *PagePool::Create(64 << 20, 1 << 20, stream());
    session_ = *SessionKv::Create(pool_.get(), layout_, store::ChainScope{});
    session_->AddPending(std::vector<int32_t>(kRows, 1));
    ASSERT_THAT(session_->ReservePages(kRows), IsOk());
    ASSERT_EQ(session_->n_reserved_pages(), kPages);
  }

  std::shared_ptr<const kernels::PreparedDictionary> Dictionary() {
    const std::vector<float> atoms = tests::RandomAtoms(kAtoms, kHeadDim, random_);
    return *kernels::PrepareDictionary({atoms.data(), {kAtoms, kHeadDim}}, stream());
  }
  std::vector<float> Rows() {
    std::vector<float> rows = tests::RandomNormal(kPages * base::kPageTokens * kHeadDim, random_);
    for (float& x : rows) x = kernels::cpu::Bf16ToFloat(kernels::cpu::FloatToBf16(x));
    return rows;
  }
  std::vector<uint8_t> Payloads(int layer) const {
    std::vector<uint8_t> payloads(kPages * layout_.page_bytes());
    for (int64_t page = 0; page < kPages; ++page) {
      stream().Download(payloads.data() + page * layout_.page_bytes(),
                        session_->reserved_blocks()[page] + layout_.page_offset(layer),
                        layout_.page_bytes());
    }
    return payloads;
  }

  // Codes all layers from rows that lie in the same place, as a prefill does.
  absl::Status CodeAll(const std::vector<std::vector<float>>& k,
                       const std::vector<std::vector<float>>& v, std::span<PageError> errors) {
    const DeviceArray<uint8_t*> pages(std::vector<uint8_t*>(kPages), stream());
    const DeviceArray<int64_t> non_finite(std::vector<int64_t>(2 * kLayers, 77), stream());
    const DeviceArray<float> page_errors(std::vector<float>(2 * kLayers * kPages), stream());
    const DeviceArray<float> k_there(k[0], stream());
    const DeviceArray<float> v_there(v[0], stream());
    PrefillCoder coder(context_.get(), *session_,
                       {pages.data(), non_finite.data(), page_errors.data()});
    const int64_t batch = context_->batch_pages_max();
    const int64_t page_values = base::kPageTokens * kHeadDim;
    for (int layer = 0; layer < kLayers; ++layer) {
      coder.BeginLayer(*session_, layer);
      for (int64_t page = 0; page < kPages; page += batch) {
        const int64_t n = std::min(batch, kPages - page);
        coder.HoldBack(page, page + n);
        const auto write = [&](const DeviceArray<float>& to, const std::vector<float>& from) {
          stream().Upload(to.data() + page * page_values, from.data() + page * page_values,
                          n * page_values * sizeof(float));
          return kernels::TensorView(to.data() + page * page_values,
                                     {n * base::kPageTokens, kKvHeads, kHeadDim});
        };
        coder.Code(*session_, layer, page, n, write(k_there, k[layer]), write(v_there, v[layer]));
      }
      coder.EndLayer();
    }
    return coder.Finish(*session_, errors);
  }

  std::mt19937 random_{5};
  KvLayout layout_;
  std::unique_ptr<ForwardContext> context_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<SessionKv> session_;
};
LEXICO_TEST_ON_ALL_DEVICES(PrefillCoderTest);

TEST_P(PrefillCoderTest, PagesAreThoseOfTheirRows) {
  const std::vector<std::vector<float>> k = {Rows(), Rows()};
  const std::vector<std::vector<float>> v = {Rows(), Rows()};
  std::vector<PageError> errors(kLayers * kPages);
  ASSERT_THAT(CodeAll(k, v, errors), IsOk());
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::vector<uint8_t> beside = Payloads(layer);
    const DeviceArray<float> k_there(k[layer], stream());
    const DeviceArray<float> v_there(v[layer], stream());
    std::vector<PageError> expected(kPages);
    ASSERT_THAT(EncodePages(layout_, context_->dictionaries[layer], k_there.data(), v_there.data(),
                            layer, session_->reserved_blocks(), expected, context_->coding,
                            context_->coding_scratch),
                IsOk());
    EXPECT_TRUE(beside == Payloads(layer)) << layer;
    for (int64_t page = 0; page < kPages; ++page) {
      EXPECT_EQ(errors[layer * kPages + page].k, expected[page].k);
      EXPECT_EQ(errors[layer * kPages + page].v, expected[page].v);
    }
  }
}

TEST_P(PrefillCoderTest, VectorsThatAreNotFiniteAreSaidAtTheEndWithTheirLayer) {
  std::vector<std::vector<float>> k = {Rows(), Rows()};
  const std::vector<std::vector<float>> v = {Rows(), Rows()};
  k[1][7] = std::numeric_limits<float>::quiet_NaN();
  std::vector<PageError> errors(kLayers * kPages);
  const absl::Status status = CodeAll(k, v, errors);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("layer 1: 1 of 9600 key vectors are not finite"));
}

}  // namespace
}  // namespace lexico::worker
