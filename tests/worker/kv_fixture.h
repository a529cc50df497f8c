// A pool, a small layout and random rows: what tests of worker/kv build sessions from.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/api/dictionary.h"
#include "kernels/api/rows.h"
#include "worker/kv/ahead_coder.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

class KvTest : public testing::Test {
 protected:
  static constexpr int kLayers = 3;
  static constexpr int kHeads = 2;
  static constexpr int kHeadDim = 16;
  static constexpr int kAtoms = 48;
  static constexpr int kRowDim = kHeads * kHeadDim;

  explicit KvTest(const StagingOptions& staging = {})
      : stream_(kernels::Stream::Cpu(1)),
        pool_(*PagePool::Create(64 << 18, 1 << 18, stream_, staging)) {
    for (LayerDictionaries& layer : dictionaries_) layer = {RandomDictionary(), RandomDictionary()};
  }
  ~KvTest() override { EXPECT_EQ(pool_->usage().used_blocks, 0) << "a block leaked"; }

  static KvLayout Layout(const std::string& profile, kernels::DType type = kernels::DType::kBF16) {
    const KvShape shape{
        .n_layers = kLayers, .n_kv_heads = kHeads, .head_dim = kHeadDim, .cache_type = type};
    return MakeKvLayout(shape, *base::ParseProfile(profile), kAtoms);
  }
  KvIdentity Identity() const {
    KvIdentity identity;
    identity.model.bytes[0] = 1;
    identity.dictionary.bytes[0] = 2;
    identity.tokenizer.bytes[0] = 3;
    return identity;
  }
  std::unique_ptr<SessionKv> Open(const KvLayout& layout) {
    return *SessionKv::Create(pool_.get(), layout, MakeChainScope(layout, Identity(), "tenant"));
  }

  std::vector<float> RandomRows(int64_t n_rows) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> rows(n_rows * kRowDim);
    // Exact in BF16, so that rounding changes nothing and rows can be compared.
    for (float& x : rows) x = std::round(normal(random_) * 16) / 16;
    return rows;
  }
  // As a decode step does; what was not finite.
  int32_t WriteRow(const SessionKv& kv, int layer, const std::vector<float>& k,
                   const std::vector<float>& v) {
    void* const k_row = kv.window_row(layer, false, kv.window_rows());
    void* const v_row = kv.window_row(layer, true, kv.window_rows());
    int32_t non_finite = -1;
    kernels::StoreRows({.k = {k.data(), {1, kRowDim}},
                        .v = {v.data(), {1, kRowDim}},
                        .k_rows = &k_row,
                        .v_rows = &v_row,
                        .type = kv.layout().shape.cache_type,
                        .non_finite = &non_finite},
                       stream_);
    return non_finite;
  }
  // Commits a row and codes what is due of one session, at the next step. How many vectors.
  absl::StatusOr<int64_t> CodeOne(SessionKv& kv) {
    SessionKv* const session = &kv;
    coder_.Begin({&session, 1}, step_++, 8);
    kv.CommitRow();
    const CodedAhead coded = coder_.Finish();
    if (!coded.statuses[0].ok()) return coded.statuses[0];
    return coded.n_vectors;
  }
  // One token, whose keys and values are `row` in every layer; not committed.
  void AddRow(SessionKv& kv, const std::vector<float>& row) {
    const int32_t id = 1;
    kv.AddPending({&id, 1});
    ASSERT_TRUE(kv.ReserveRow().ok());
    for (int layer = 0; layer < kLayers; ++layer) WriteRow(kv, layer, row, row);
  }
  void AddRow(SessionKv& kv) { AddRow(kv, RandomRows(1)); }
  // Decodes `n` tokens with random rows.
  void Decode(SessionKv& kv, int n) {
    for (int i = 0; i < n; ++i) {
      const auto id = static_cast<int32_t>(random_() % 50);
      kv.AddPending({&id, 1});
      ASSERT_TRUE(kv.ReserveRow().ok());
      for (int layer = 0; layer < kLayers; ++layer) {
        const std::vector<float> k = RandomRows(1);
        const std::vector<float> v = RandomRows(1);
        ASSERT_EQ(WriteRow(kv, layer, k, v), 0);
      }
      ASSERT_TRUE(CodeOne(kv).ok());
    }
  }

  std::shared_ptr<const kernels::PreparedDictionary> RandomDictionary() {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> rows(kAtoms * kHeadDim);
    for (int i = 0; i < kAtoms; ++i) {
      double sum = 0;
      for (int j = 0; j < kHeadDim; ++j) {
        rows[i * kHeadDim + j] = normal(random_);
        sum += rows[i * kHeadDim + j] * rows[i * kHeadDim + j];
      }
      for (int j = 0; j < kHeadDim; ++j)
        rows[i * kHeadDim + j] /= static_cast<float>(std::sqrt(sum));
    }
    return *kernels::PrepareDictionary({rows.data(), {kAtoms, kHeadDim}}, stream_);
  }

  kernels::Stream stream_;
  std::mt19937_64 random_{7};
  std::unique_ptr<PagePool> pool_;
  std::vector<LayerDictionaries> dictionaries_ = std::vector<LayerDictionaries>(kLayers);
  CoderScratch scratch_;
  kernels::RankTeam team_{1};
  AheadCoder coder_{{{.dictionaries = dictionaries_,
                      .stream = &stream_,
                      .beside = &stream_,
                      .scratch = &scratch_}},
                    &team_};
  int64_t step_ = 0;  // of CodeOne
};

}  // namespace lexico::worker
