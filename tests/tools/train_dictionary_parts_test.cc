// The pieces of a training: text, sets of vectors, updates of atoms, what is shown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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

const kernels::Stream& Cpu() {
  static const kernels::Stream stream = kernels::Stream::Cpu(1);
  return stream;
}

VectorSet NewSet(int head_dim, int64_t n_vectors, float norm, int64_t window_rows_max = 4096,
                 int n_dictionaries = 2) {
  auto set = VectorSet::Create({.n_dictionaries = n_dictionaries,
                                .n_kv_heads = 2,
                                .head_dim = head_dim,
                                .n_vectors = n_vectors,
                                .window_rows_max = window_rows_max,
                                .norm = norm},
                               Cpu());
  EXPECT_THAT(set, IsOk());
  return *std::move(set);
}

// One window of `rows`, the same of K and V.
absl::Status Keep(std::vector<float> rows, int64_t first_position, int64_t n_runs, VectorSet* set) {
  const auto n_rows = std::ssize(rows) / set->head_dim();
  set->BeginWindow(n_rows, n_runs, first_position);
  for (int i = 0; i < set->n_dictionaries(); ++i) {
    std::vector<float> copy = rows;
    set->Keep(i, kernels::MutableTensorView(copy.data(), {n_rows, set->head_dim()}));
  }
  return set->EndWindow();
}

TEST(VectorSet, KeepsADifferentRunInEveryPlace) {
  VectorSet set = NewSet(2, 10 * kRunRows, 0);
  std::vector<float> rows(2 * 7 * kRunRows + 2 * 3);  // and three rows that are no run
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i / 2);
  ASSERT_THAT(Keep(rows, 100, 4, &set), IsOk());
  EXPECT_FALSE(set.full());
  EXPECT_EQ(set.n_filled(), 4 * kRunRows);
  ASSERT_THAT(Keep(rows, 1000, 100, &set), IsOk());  // as many as there is room for
  EXPECT_TRUE(set.full());
  std::vector<float> copy(2 * set.n_vectors());
  set.Copy(1, 0, set.n_vectors(), copy.data());
  EXPECT_EQ(copy, set.Download(1));
  std::set<std::pair<bool, float>> seen;
  bool in_order = true;
  for (int64_t i = 0; i < set.n_vectors(); ++i) {
    const bool second = set.position(i) >= 1000;
    EXPECT_EQ(set.position(i), (second ? 1000 : 100) + static_cast<int>(copy[2 * i]) / 2);
    EXPECT_EQ(static_cast<int>(copy[2 * i]) % kRunRows, i % kRunRows);
    seen.insert({second, copy[2 * i]});
    in_order = in_order && (i == 0 || copy[2 * i] >= copy[2 * i - 2]);
  }
  EXPECT_EQ(std::ssize(seen), set.n_vectors());
  EXPECT_FALSE(in_order);
}

TEST(VectorSet, SeedsDecideTheOrderAndClearBeginsAnew) {
  VectorSet set = NewSet(1, 8 * kRunRows, 0);
  std::vector<float> rows(8 * kRunRows);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  const auto filled = [&](uint64_t seed) {
    set.Clear(seed);
    EXPECT_EQ(set.n_filled(), 0);
    EXPECT_THAT(Keep(rows, 0, 8, &set), IsOk());
    return set.Download(0);
  };
  const std::vector<float> once = filled(5);
  EXPECT_NE(once, filled(6));
  EXPECT_EQ(once, filled(5));
}

TEST(VectorSet, ScalesAllButZeroVectorsToOneNorm) {
  VectorSet set = NewSet(2, kRunRows, 16);
  std::vector<float> rows(2 * kRunRows);
  rows[2] = 3e-6F;
  rows[3] = -4e-6F;
  rows[4] = 3e6F;
  rows[5] = 4e6F;
  ASSERT_THAT(Keep(rows, 0, 1, &set), IsOk());
  const std::vector<float> kept = set.Download(0);
  EXPECT_EQ(kept[0], 0);
  EXPECT_NEAR(kept[2], 9.6, 0.04);
  EXPECT_NEAR(kept[3], -12.8, 0.04);
  EXPECT_NEAR(kept[4], 9.6, 0.04);
}

TEST(VectorSet, AVectorThatIsNoNumberIsRefusedByLayerAndPosition) {
  for (const float norm : {0.0F, 16.0F}) {
    VectorSet set = NewSet(2, 2 * kRunRows, norm, 4096, 6);
    const std::vector<float> good(2 * kRunRows, 1);
    std::vector<float> bad = good;
    bad[7] = std::numeric_limits<float>::infinity();
    set.BeginWindow(kRunRows, 1, 30);
    for (int i = 0; i < 6; ++i) {
      std::vector<float> rows = i == 5 ? bad : good;
      set.Keep(i, kernels::MutableTensorView(rows.data(), {kRunRows, 2}));
    }
    EXPECT_THAT(set.EndWindow(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         "layers.2.v: a number of a vector at positions 30 .. 37 is not finite"));
  }
}

TEST(VectorSet, ASetThatDoesNotFitTheDeviceIsRefusedWithItsSize) {
  const auto set = VectorSet::Create({.n_dictionaries = 4,
                                      .n_kv_heads = 1,
                                      .head_dim = 1 << 21,
                                      .n_vectors = 1 << 24,
                                      .window_rows_max = kRunRows},
                                     Cpu());
  EXPECT_THAT(set,
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "16777216 vectors of 4 dictionaries take 262144.0 GiB; lower --samples"));
}

// Combinations of two of n_true unit vectors of 8 components.
VectorSet Synthetic(int n_true, int64_t n) {
  constexpr int kDim = 8;
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
  VectorSet set = NewSet(kDim, n, kTrainNorm);
  EXPECT_THAT(Keep(rows, 0, n, &set), IsOk());
  return set;
}

std::unique_ptr<Trainer> NewTrainer(const TrainerOptions& options, const VectorSet& set) {
  auto trainer =
      Trainer::Create(options, set.n_dictionaries(), set.head_dim(), set.n_vectors(), Cpu());
  EXPECT_THAT(trainer, IsOk());
  return *std::move(trainer);
}

TEST(Trainer, LearnsSparseData) {
  const VectorSet set = Synthetic(16, 2048);
  const auto trainer = NewTrainer({.n_atoms = 24, .sparsity = 2, .n_rounds = 30}, set);
  ASSERT_THAT(trainer->BeginFromData(set), IsOk());
  ASSERT_THAT(trainer->RunRound(set, [](double) {}), IsOk());
  const double first = trainer->train_errors()[0];
  for (int i = 1; i < 30; ++i) ASSERT_THAT(trainer->RunRound(set, [](double) {}), IsOk());
  EXPECT_EQ(trainer->n_rounds_done(), 30);
  EXPECT_LT(trainer->train_errors()[0], 0.5 * first);
  for (Atoms atoms : trainer->atoms()) {
    for (int a = 0; a < atoms.n_atoms; ++a) {
      double squares = 0;
      for (const float each : atoms.row(a)) squares += double{each} * each;
      EXPECT_NEAR(squares, 1, 1e-5);
    }
  }
}

TEST(Trainer, AnAtomThatNoCodeHoldsBeginsAnewFromABadlyCodedVector) {
  const VectorSet set = Synthetic(16, 48);  // one batch
  const auto trainer = NewTrainer({.n_atoms = 24, .sparsity = 2, .n_rounds = 4}, set);
  ASSERT_THAT(trainer->BeginFromData(set), IsOk());
  std::vector<Atoms> atoms = trainer->atoms();
  // The second of two equal atoms is never taken.
  for (Atoms& each : atoms) {
    std::copy_n(each.row(0).begin(), 8, each.row(1).begin());
    each.weights.assign(24, 1e6F);
  }
  trainer->Begin(atoms, 0);
  ASSERT_THAT(trainer->RunRound(set, [](double) {}), IsOk());
  Atoms after = trainer->atoms()[0];
  EXPECT_EQ(after.weights[1], 0);
  double cosine = 0;
  for (int j = 0; j < 8; ++j) cosine += double{after.row(0)[j]} * after.row(1)[j];
  EXPECT_LT(std::abs(cosine), 0.99);
}

TEST(Trainer, PassesAreHeardAsOneRound) {
  const VectorSet set = Synthetic(16, 160);
  const auto trainer = NewTrainer({.n_atoms = 24, .sparsity = 2, .n_passes = 2}, set);
  ASSERT_THAT(trainer->BeginFromData(set), IsOk());
  std::vector<double> heard;
  ASSERT_THAT(trainer->RunRound(set, [&](double part) { heard.push_back(part); }), IsOk());
  EXPECT_EQ(heard.size(), 8U);  // batches of 48 of 160, twice
  EXPECT_TRUE(std::is_sorted(heard.begin(), heard.end()));
  EXPECT_EQ(heard.back(), 1);
}

TEST(Trainer, FewerNonZeroVectorsThanAtomsAreRefused) {
  VectorSet set = NewSet(4, 32, kTrainNorm);
  std::vector<float> rows(32 * 4);
  for (int i = 0; i < 10; ++i) rows[4 * i] = 1;
  ASSERT_THAT(Keep(rows, 0, 2, &set), IsOk());
  EXPECT_THAT(NewTrainer({.n_atoms = 16, .sparsity = 1}, set)->BeginFromData(set),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "layers.0.k: 10 of 32 vectors are not zero, fewer than the 16"));
}

TEST(Trainer, ZeroVectorsAmongOthersChangeNothing) {
  VectorSet set = NewSet(4, 64, kTrainNorm);
  std::vector<float> rows(64 * 4);
  for (int i = 0; i < 40 * 4; ++i) rows[i] = RandomFloat(5, i);
  ASSERT_THAT(Keep(rows, 0, 4, &set), IsOk());
  const auto trainer = NewTrainer({.n_atoms = 16, .sparsity = 2, .n_rounds = 3}, set);
  ASSERT_THAT(trainer->BeginFromData(set), IsOk());
  for (int i = 0; i < 3; ++i) ASSERT_THAT(trainer->RunRound(set, [](double) {}), IsOk());
  const std::vector<Atoms> atoms = trainer->atoms();
  for (const float each : atoms[0].rows) EXPECT_TRUE(std::isfinite(each));
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
