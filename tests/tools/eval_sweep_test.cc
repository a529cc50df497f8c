// The experiments of lexico-eval sweep and atoms: known answers on dictionaries made for them, and
// what is refused.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_safetensors_writer.h"
#include "tests/worker/tiny_model.h"
#include "tools/eval/files/text_file.h"
#include "tools/eval/sweep/atoms.h"
#include "tools/eval/sweep/coding_cost.h"
#include "tools/eval/sweep/coherence.h"
#include "tools/eval/sweep/recovery.h"
#include "tools/eval/sweep/universality.h"

namespace lexico::eval {
namespace {

using testing::Each;
using testing::SizeIs;

double Number(const ResultTable& table, size_t row, size_t column) {
  return std::get<double>(table.rows().at(row).at(column));
}

// ---- tables

TEST(ResultTableTest, SaysTheSameAsTextJsonAndCsv) {
  ResultTable table("sizes", {{"name"}, {"n"}, {"share", 2}});
  table.SetFact("model", std::string("tiny"));
  table.Add({std::string("a, \"b\""), int64_t{7}, 0.125});
  table.Add({std::string("plain"), int64_t{-1}, std::numeric_limits<double>::infinity()});
  EXPECT_EQ(table.Text(),
            "sizes\nmodel: tiny\n  name   n  share\na, \"b\"   7   0.12\n plain  -1    inf\n");
  EXPECT_EQ(table.Csv(), "name,n,share\n\"a, \"\"b\"\"\",7,0.125\nplain,-1,inf\n");
  const nlohmann::json json = nlohmann::json::parse(table.Json());
  EXPECT_EQ(json["experiment"], "sizes");
  EXPECT_EQ(json["facts"]["model"], "tiny");
  EXPECT_EQ(json["rows"][0]["share"], 0.125);
  EXPECT_TRUE(json["rows"][1]["share"].is_null());
}

TEST(ResultTableTest, AFileThatCannotBeWrittenIsNamed) {
  const tests::TempDir dir;
  ResultTable table("sizes", {{"n"}});
  const std::string path = dir.File("absent/table.csv");
  EXPECT_THAT(PrintTable(table, false, path),
              tests::StatusIs(absl::StatusCode::kUnavailable, path));
}

// ---- coherence

TEST(CoherenceTest, OfOrthogonalEqualAndSlantedAtoms) {
  const float slanted = std::sqrt(0.5f);
  const std::vector<float> atoms = {1, 0, 0, 0, 0, 1, 0, 0, slanted, -slanted,
                                    0, 0, 0, 0, 1, 0, 0, 0, -1,      0};
  const auto coherence = AtomCoherence(atoms, 4, kernels::Stream::Cpu(1));
  ASSERT_THAT(coherence, SizeIs(5));
  EXPECT_NEAR(coherence[0], slanted, 1e-6);
  EXPECT_NEAR(coherence[2], slanted, 1e-6);
  EXPECT_NEAR(coherence[3], 1, 1e-6);  // the opposite of another
  EXPECT_NEAR(coherence[4], 1, 1e-6);
}

TEST(CoherenceTest, OfMoreAtomsThanAreMultipliedAtATime) {
  std::vector<float> atoms = RandomAtoms(600, 8, 5);
  std::copy_n(atoms.begin() + 3 * 8, 8, atoms.begin() + 599 * 8);
  const auto coherence = AtomCoherence(atoms, 8, kernels::Stream::Cpu(1));
  EXPECT_NEAR(coherence[3], 1, 1e-5);
  EXPECT_NEAR(coherence[599], 1, 1e-5);
  // Not with themselves.
  for (const int i : {4, 255, 256, 300, 598}) EXPECT_LT(coherence[i], 0.9999) << i;
}

TEST(CoherenceTest, WhatFollowsFromIt) {
  EXPECT_DOUBLE_EQ(GuaranteedSparsity(0.2), 3);
  EXPECT_TRUE(std::isinf(GuaranteedSparsity(0)));
  const std::vector<float> even = {1, 0, 0, 1, -1, 0, 0, -1};
  EXPECT_NEAR(EffectiveDim(even, 2), 2, 1e-9);
  const std::vector<float> line = {1, 0, -1, 0, 1, 0};
  EXPECT_NEAR(EffectiveDim(line, 2), 1, 1e-9);
}

// ---- recovery

absl::StatusOr<ResultTable> Recover(const std::vector<float>& atoms, int64_t head_dim,
                                    const RecoveryOptions& options) {
  const auto n = static_cast<int64_t>(atoms.size()) / head_dim;
  return SweepRecovery(options, {atoms.data(), {n, head_dim}}, kernels::Stream::Cpu(1));
}

TEST(RecoveryTest, FewAtomsAreFoundAndManyAreNot) {
  const auto table = Recover(RandomAtoms(256, 64, 1), 64,
                             {.sparsities = {1, 2, 32}, .noises = {0}, .n_vectors = 200});
  ASSERT_THAT(table, tests::IsOk());
  ASSERT_THAT(table->rows(), SizeIs(3));
  EXPECT_EQ(Number(*table, 0, 2), 1);  // exact_support
  EXPECT_EQ(Number(*table, 0, 3), 1);  // atoms_found
  EXPECT_GT(Number(*table, 1, 2), 0.98);
  EXPECT_LT(Number(*table, 2, 2), 0.1);
  EXPECT_GT(Number(*table, 2, 3), 32.0 / 256);  // more than by chance
  EXPECT_LT(Number(*table, 0, 4), 0.04);        // FP8 coefficients
}

TEST(RecoveryTest, OfOrthogonalAtomsEverythingIsFoundUntilNoiseHidesIt) {
  std::vector<float> atoms(32 * 32, 0);
  for (int i = 0; i < 32; ++i) atoms[i * 33] = 1;
  const auto table =
      Recover(atoms, 32, {.sparsities = {16}, .noises = {0, 0.1, 5}, .n_vectors = 100});
  ASSERT_THAT(table, tests::IsOk());
  EXPECT_EQ(Number(*table, 0, 2), 1);
  EXPECT_GT(Number(*table, 1, 2), 0.95);
  EXPECT_LT(Number(*table, 2, 2), 0.05);
  // Sixteen at random of 32 would be half.
  EXPECT_GT(Number(*table, 2, 3), 0.4);
  EXPECT_LT(Number(*table, 2, 3), 0.8);
}

TEST(RecoveryTest, RefusesASparsityThatTheDictionaryDoesNotAllow) {
  for (const int64_t sparsity : {0, 17}) {
    EXPECT_THAT(
        Recover(RandomAtoms(64, 16, 1), 16, {.sparsities = {sparsity}}),
        tests::StatusIs(
            absl::StatusCode::kInvalidArgument,
            fmt::format("a sparsity of {}; 64 atoms of 16 numbers allow 1 to 16", sparsity)));
  }
}

// ---- coding cost

TEST(CodingCostTest, HasARowForEverySetting) {
  const auto table = SweepCodingCost({.n_atoms = {64, 128},
                                      .sparsities = {2, 4},
                                      .head_dim = 16,
                                      .n_tokens = 64,
                                      .n_vectors = 32,
                                      .seconds = 0.01},
                                     kernels::Stream::Cpu(1));
  ASSERT_THAT(table, tests::IsOk());
  ASSERT_THAT(table->rows(), SizeIs(4));
  EXPECT_THAT(table->rows()[1], SizeIs(6));
  EXPECT_EQ(std::get<int64_t>(table->rows()[1][1]), 4);
  EXPECT_EQ(std::get<int64_t>(table->rows()[1][4]), 12);  // bytes
  EXPECT_EQ(std::get<int64_t>(table->rows()[2][5]), 8);   // KiB: 2 * 128 * 16 * 2 bytes
  for (size_t row = 0; row < 4; ++row) {
    EXPECT_GT(Number(*table, row, 2), 0);
    EXPECT_GT(Number(*table, row, 3), 0);
  }
}

TEST(CodingCostTest, RefusesShapesThatProfilesDoNotAllow) {
  const kernels::Stream stream = kernels::Stream::Cpu(1);
  EXPECT_THAT(SweepCodingCost({.n_atoms = {8}}, stream),
              tests::StatusIs(absl::StatusCode::kInvalidArgument, "n_atoms 8; 16 to"));
  EXPECT_THAT(SweepCodingCost({.sparsities = {9}, .head_dim = 8}, stream),
              tests::StatusIs(absl::StatusCode::kInvalidArgument, "1 to 8"));
  EXPECT_THAT(SweepCodingCost({.n_heads = 8, .n_kv_heads = 3}, stream),
              tests::StatusIs(absl::StatusCode::kInvalidArgument, "multiple of 3"));
  EXPECT_THAT(SweepCodingCost({.n_tokens = 33}, stream),
              tests::StatusIs(absl::StatusCode::kInvalidArgument, "whole pages"));
}

// ---- what needs a model

class TinySweepTest : public testing::Test {
 protected:
  TinySweepTest() : model_(tests::MakeTinyModel({}, stream_).at(0)) {
    ids_.resize(400);
    std::iota(ids_.begin(), ids_.end(), 0);
    for (int32_t& id : ids_) id = id * 7 % 61;
  }

  const kernels::Stream stream_ = kernels::Stream::Cpu(1);
  const worker::ModelRank model_;
  std::vector<int32_t> ids_;
};

TEST_F(TinySweepTest, VectorsOfATextAreThoseOfItsRuns) {
  const auto all = TextVectors({.n_tokens = 100, .n_documents = 1, .n_vectors = 100000},
                               *model_.transformer, ids_, stream_);
  ASSERT_THAT(all, tests::IsOk());
  const worker::ModelConfig& config = model_.transformer->config();
  ASSERT_THAT(*all, SizeIs(2 * config.n_layers));
  EXPECT_THAT(*all, Each(SizeIs(100 * config.n_kv_heads * config.head_dim)));
  const auto some = TextVectors({.n_tokens = 100, .n_documents = 2, .n_vectors = 20},
                                *model_.transformer, ids_, stream_);
  ASSERT_THAT(some, tests::IsOk());
  EXPECT_THAT(*some, Each(SizeIs(20 * config.head_dim)));
  // The first run is the same; of it every 10th or 20th row is kept.
  const size_t stride = 100 * config.n_kv_heads / 10;
  for (int i = 0; i < 10 * config.head_dim; ++i) {
    const size_t row = i / config.head_dim * stride;
    EXPECT_EQ((*some)[1][i], (*all)[1][row * config.head_dim + i % config.head_dim]) << i;
  }
}

TEST_F(TinySweepTest, EveryDictionaryOnEveryText) {
  std::vector<int32_t> other = ids_;
  for (int32_t& id : other) id = 60 - id;
  UniversalityOptions options{.sparsities = {1, 4}};
  options.vectors = {.n_tokens = 64, .n_documents = 1, .n_vectors = 50};
  const auto table = SweepUniversality(options, *model_.transformer,
                                       {{"own", model_.dictionary}, {"twin", model_.dictionary}},
                                       {{"first", ids_}, {"second", other}}, stream_);
  ASSERT_THAT(table, tests::IsOk());
  ASSERT_THAT(table->rows(), SizeIs(8));
  EXPECT_EQ(std::get<std::string>(table->rows()[7][0]), "second");
  EXPECT_EQ(std::get<std::string>(table->rows()[7][1]), "twin");
  EXPECT_LT(Number(*table, 1, 4), Number(*table, 0, 4));  // 4 atoms are nearer than 1
  EXPECT_EQ(Number(*table, 1, 4), Number(*table, 3, 4));  // the same dictionary, the same error
  EXPECT_NE(Number(*table, 1, 4), Number(*table, 5, 4));  // another text
  EXPECT_GE(Number(*table, 0, 6), Number(*table, 0, 4));  // the worst layer
}

TEST_F(TinySweepTest, RefusesTextsAndSparsitiesThatDoNotFit) {
  UniversalityOptions options{.sparsities = {1}};
  options.vectors = {.n_tokens = 300, .n_documents = 2};
  const auto sweep = [&] {
    return SweepUniversality(options, *model_.transformer, {{"own", model_.dictionary}},
                             {{"short", ids_}}, stream_);
  };
  EXPECT_THAT(sweep(),
              tests::StatusIs(absl::StatusCode::kInvalidArgument,
                              "short: the text has 400 tokens, 2 documents of 300 need 600"));
  options.vectors.n_tokens = 1 << 20;
  EXPECT_THAT(sweep(), tests::StatusIs(absl::StatusCode::kInvalidArgument, "positions"));
  options.vectors.n_tokens = 64;
  options.sparsities = {65};
  EXPECT_THAT(sweep(), tests::StatusIs(absl::StatusCode::kInvalidArgument, "sparsity of 65"));
}

// ---- atoms

TEST(AtomsTest, CountsWhichAtomsCodesTake) {
  AtomsOfOne one{.name = "layers.0.k", .head_dim = 16, .rows = RandomAtoms(32, 16, 3)};
  const kernels::Stream stream = kernels::Stream::Cpu(1);
  one.coherence = AtomCoherence(one.rows, 16, stream);
  // Three times atom 5, once its opposite, and a zero vector, which has no code.
  std::vector<float> vectors(5 * 16, 0);
  for (int i = 0; i < 4; ++i) {
    for (int d = 0; d < 16; ++d)
      vectors[i * 16 + d] = one.rows[5 * 16 + d] * (i == 3 ? -2.0f : 1.0f);
  }
  ASSERT_THAT(CountUses(vectors, 1, stream, &one), tests::IsOk());
  EXPECT_EQ(one.uses[5], 4);
  EXPECT_EQ(std::accumulate(one.uses.begin(), one.uses.end(), int64_t{0}), 4);
  const ResultTable table = AtomsTable({one});
  EXPECT_NEAR(Number(table, 0, 6), 31.0 / 32, 1e-9);  // unused
  EXPECT_NEAR(Number(table, 0, 7), 1, 1e-9);          // effective_atoms
  EXPECT_NEAR(Number(table, 0, 8), 1, 1e-9);          // top_1_percent
  const nlohmann::json json = nlohmann::json::parse(AtomsJson("file", {one}));
  EXPECT_EQ(json["dictionaries"][0]["uses"][5], 4);
  EXPECT_THAT(CountUses(vectors, 17, stream, &one),
              tests::StatusIs(absl::StatusCode::kInvalidArgument, "1 to 16"));
}

TEST(AtomsTest, ReadsWhatAFileHas) {
  const tests::TempDir dir;
  const std::string path = dir.File("d");
  const std::vector<float> rows = RandomAtoms(20, 16, 3);
  dir.Write("d", tests::SafetensorsWriter().AddF32("layers.0.v", {20, 16}, rows).Bytes());
  const auto atoms = ReadAtoms(path, kernels::Stream::Cpu(1));
  ASSERT_THAT(atoms, tests::IsOk());
  ASSERT_THAT(*atoms, SizeIs(1));
  EXPECT_EQ((*atoms)[0].name, "layers.0.v");
  EXPECT_EQ((*atoms)[0].n_atoms(), 20);
  dir.Write("d", tests::SafetensorsWriter().AddF32("weights", {20, 16}, rows).Bytes());
  EXPECT_THAT(ReadAtoms(path, kernels::Stream::Cpu(1)),
              tests::StatusIs(absl::StatusCode::kNotFound, "is it a dictionary"));
  dir.Write("d", tests::SafetensorsWriter().AddF32("layers.0.k", {320}, rows).Bytes());
  EXPECT_THAT(ReadAtoms(path, kernels::Stream::Cpu(1)),
              tests::StatusIs(absl::StatusCode::kInvalidArgument, "1 dimensions"));
}

}  // namespace
}  // namespace lexico::eval
