// The pieces of a training: text, sets of vectors, updates of atoms, what is shown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tools/train_dictionary/report.h"
#include "tools/train_dictionary/text.h"
#include "tools/train_dictionary/trainer.h"

namespace lexico::train_dictionary {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using tests::IsOk;
using tests::StatusIs;

float RandomFloat(uint64_t seed, uint64_t index) {
  return static_cast<float>(static_cast<double>(RandomAt(seed, 9, index) >> 11) * 0x1p-52 - 1);
}

TEST(Text, WindowsAreWholeLinesWithoutSeparatorsOverAllFiles) {
  const tests::TempDir dir;
  const auto text = Text::Open({dir.Write("a", "one two\n<|endoftext|>\nthree\n"),
                                dir.Write("b", "h\xc3\xa9 four\n<|endoftext|> five")});
  ASSERT_THAT(text, IsOk());
  const auto tokenizer = worker::Tokenizer::Load("tests/golden/tokenizer/base_bytes.json");
  ASSERT_THAT(tokenizer, IsOk());
  const auto read = [&](int64_t begin, int64_t end, int64_t n) {
    const auto ids = text->ReadWindow(begin, end, n, **tokenizer);
    EXPECT_THAT(ids, IsOk());
    return (*tokenizer)->Decode(*ids, false);
  };
  EXPECT_EQ(read(0, 1000, 1000), "one two\nthree\nh\xc3\xa9 four\n<|endoftext|> five");
  EXPECT_EQ(read(3, 1000, 1000), "three\nh\xc3\xa9 four\n<|endoftext|> five");
  EXPECT_EQ(read(8, 28, 1000), "three\n");
  EXPECT_EQ(text->ReadWindow(0, 1000, 3, **tokenizer)->size(), 3U);
  EXPECT_EQ(read(45, 1000, 1000), "ext|> five");
}

TEST(Text, ContentDecidesTheFingerprint) {
  const tests::TempDir dir;
  const auto of = [&](std::string_view bytes) {
    return Text::Open({dir.Write("a", bytes)})->fingerprint();
  };
  EXPECT_EQ(of("one"), of("one"));
  EXPECT_NE(of("one"), of("two"));
}

TEST(VectorSet, KeepsADifferentRowInEverySlot) {
  VectorSet set(1, 2, 40, 7);
  std::vector<float> rows(2 * 60);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i / 2);
  ASSERT_THAT(set.Keep(1, rows.data(), set.Choose(15, 60, 2, 100)), IsOk());
  ASSERT_THAT(set.Keep(1, rows.data(), set.Choose(25, 60, 2, 1000)), IsOk());
  EXPECT_EQ(set.n_filled(), 40);
  std::vector<float> copy(80);
  set.Copy(1, 0, 40, copy.data());
  std::set<std::pair<bool, float>> seen;
  for (int64_t i = 0; i < 40; ++i) {
    const bool second = set.position(i) >= 1000;
    EXPECT_EQ(set.position(i), (second ? 1000 : 100) + static_cast<int>(copy[2 * i]) / 2);
    seen.insert({second, copy[2 * i]});
  }
  EXPECT_EQ(seen.size(), 40U);
}

TEST(VectorSet, AVectorThatIsNoNumberIsRefusedByLayerAndPosition) {
  VectorSet set(3, 2, 4, 7);
  const auto picks = set.Choose(4, 4, 1, 30);
  const std::vector<float> rows = {1, 1, 1, std::numeric_limits<float>::quiet_NaN(), 1, 1, 1, 1};
  EXPECT_THAT(set.Keep(5, rows.data(), picks), StatusIs(absl::StatusCode::kInvalidArgument,
                                                        "layers.2.v: component 1 of a vector at "
                                                        "position 31 is nan"));
}

// Combinations of two of n_true unit vectors of 8 components.
VectorSet Synthetic(int n_true, int64_t n) {
  constexpr int kDim = 8;
  VectorSet set(1, kDim, n, 3);
  std::vector<float> truth(n_true * kDim);
  for (size_t i = 0; i < truth.size(); ++i) truth[i] = RandomFloat(11, i);
  std::vector<float> rows(n * kDim);
  for (int64_t i = 0; i < n; ++i) {
    for (int k = 0; k < 2; ++k) {
      const auto atom = RandomAt(12, k, i) % n_true;
      for (int j = 0; j < kDim; ++j) {
        rows[i * kDim + j] += RandomFloat(13 + k, i) * truth[atom * kDim + j];
      }
    }
  }
  const auto picks = set.Choose(n, n, 1, 0);
  EXPECT_THAT(set.Keep(0, rows.data(), picks), IsOk());
  EXPECT_THAT(set.Keep(1, rows.data(), picks), IsOk());
  return set;
}

TEST(Trainer, LearnsSparseData) {
  const VectorSet set = Synthetic(16, 2048);
  const auto stream = kernels::Stream::Cpu(1);
  const auto trainer =
      Trainer::Create({.n_atoms = 24, .sparsity = 2, .n_rounds = 30, .seed = 1}, &set, stream);
  ASSERT_THAT(trainer, IsOk());
  ASSERT_THAT((*trainer)->RunRound([](double) {}), IsOk());
  const double first = (*trainer)->train_errors()[0];
  for (int i = 1; i < 30; ++i) ASSERT_THAT((*trainer)->RunRound([](double) {}), IsOk());
  EXPECT_LT((*trainer)->train_errors()[0], 0.5 * first);
  for (Atoms atoms : (*trainer)->atoms()) {
    for (int a = 0; a < atoms.n_atoms; ++a) {
      double squares = 0;
      for (const float each : atoms.row(a)) squares += double{each} * each;
      EXPECT_NEAR(squares, 1, 1e-5);
    }
  }
}

TEST(Trainer, FewerNonZeroVectorsThanAtomsAreRefused) {
  VectorSet set(1, 4, 32, 3);
  std::vector<float> rows(32 * 4);
  const auto picks = set.Choose(32, 32, 1, 0);
  ASSERT_THAT(set.Keep(1, rows.data(), picks), IsOk());
  for (int i = 0; i < 10; ++i) rows[4 * i] = 1;
  ASSERT_THAT(set.Keep(0, rows.data(), picks), IsOk());
  const auto trainer =
      Trainer::Create({.n_atoms = 16, .sparsity = 1}, &set, kernels::Stream::Cpu(1));
  EXPECT_THAT(trainer, StatusIs(absl::StatusCode::kInvalidArgument,
                                "layers.0.k: 10 of 32 vectors are not zero, fewer than the 16"));
}

TEST(Trainer, ZeroVectorsAmongOthersChangeNothing) {
  VectorSet set(1, 4, 64, 3);
  std::vector<float> rows(64 * 4);
  for (int i = 0; i < 40 * 4; ++i) rows[i] = RandomFloat(5, i);
  const auto picks = set.Choose(64, 64, 1, 0);
  ASSERT_THAT(set.Keep(0, rows.data(), picks), IsOk());
  ASSERT_THAT(set.Keep(1, rows.data(), picks), IsOk());
  const auto trainer =
      Trainer::Create({.n_atoms = 16, .sparsity = 2, .n_rounds = 3}, &set, kernels::Stream::Cpu(1));
  ASSERT_THAT(trainer, IsOk());
  for (int i = 0; i < 3; ++i) ASSERT_THAT((*trainer)->RunRound([](double) {}), IsOk());
  for (const float each : (*trainer)->atoms()[0].rows) EXPECT_TRUE(std::isfinite(each));
}

TEST(UpdateAtoms, TurnsAnAtomToTheMeanDirectionOfItsVectors) {
  Atoms atoms{
      .n_atoms = 2, .head_dim = 2, .rows = {1, 0, 0, 1}, .weights = {0, 3}, .n_uses = {0, 0}};
  const Codes codes{.sparsity = 1, .atoms = {0, 0, 1}, .coefs = {2, 2, 0}};
  std::vector<float> x = {2, 1, 2, 0, 7, 7};
  UpdateAtoms(codes, 0.5F, x, atoms);
  // (2 * 2 + 2 * 2, 2 * 1), normalised.
  EXPECT_NEAR(atoms.rows[0], 8 / std::sqrt(68.0), 1e-6);
  EXPECT_NEAR(atoms.rows[1], 2 / std::sqrt(68.0), 1e-6);
  EXPECT_FLOAT_EQ(atoms.weights[0], 4);
  EXPECT_EQ(atoms.n_uses[0], 2);
  // A coefficient of 0 is no use of an atom.
  EXPECT_EQ(atoms.rows[3], 1);
  EXPECT_EQ(atoms.n_uses[1], 0);
  EXPECT_FLOAT_EQ(atoms.weights[1], 1.5);
}

TEST(Report, SaysTheRoundAndTheTimeLeft) {
  const std::string line =
      ProgressLine({.stage = Progress::Stage::kTrain, .fraction = 0.5, .n_rounds_done = 2}, 4, 0.25,
                   absl::Seconds(90));
  EXPECT_THAT(line, AllOf(HasSubstr("round 3 of 4"), HasSubstr("50 %"), HasSubstr("3 min left")));
  EXPECT_EQ(StageLine(Progress::Stage::kRead, absl::Seconds(3)), "reading text: 3 s");
}

TEST(Report, ShowsErrorsByLayerAndPosition) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const std::vector<HeldOutError> errors = {{.all = 0.25, .by_position = {0.2, 0.3, none, none}},
                                            {.all = 0.5, .by_position = {0.4, 0.6, none, none}}};
  const std::string table = ErrorTable(errors);
  EXPECT_THAT(table,
              AllOf(HasSubstr("layer 0   0.2500   0.5000"), HasSubstr("1024 .. 4095   0.3")));
  EXPECT_THAT(table, testing::Not(HasSubstr("nan")));
  const std::string json = OutcomeJson({.out = "x"}, {.errors = errors}, absl::Seconds(2));
  EXPECT_THAT(json, AllOf(HasSubstr("\"relative_error_v\": 0.5"), HasSubstr("\"seconds\": 2")));
  EXPECT_THAT(RoundLine({.n_rounds_done = 1, .errors = &errors}, 3),
              HasSubstr("round 1 of 3: held-out error K 0.2500 V 0.5000 (0.250/0.500)"));
}

}  // namespace
}  // namespace lexico::train_dictionary
