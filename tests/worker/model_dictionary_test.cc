// A dictionary belongs to its model, or is refused with both values.
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_safetensors_writer.h"
#include "worker/model/dictionary_file.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::SafetensorsWriter;
using tests::StatusIs;

constexpr int kAtoms = 16;
constexpr int kHeadDim = 8;

// n_atoms unit rows: atom a is the axis a % head_dim, of either sign.
std::vector<float> UnitRows(int n_atoms, int head_dim) {
  std::vector<float> rows(n_atoms * head_dim);
  for (int a = 0; a < n_atoms; ++a) rows[a * head_dim + a % head_dim] = a < head_dim ? 1.0f : -1.0f;
  return rows;
}

class ModelDictionaryTest : public testing::Test {
 protected:
  ModelDictionaryTest() {
    config_.n_layers = 2;
    config_.head_dim = kHeadDim;
    fingerprint_.bytes.fill(0xab);
  }
  SafetensorsWriter& AddLayer(SafetensorsWriter& writer, int layer, int n_atoms = kAtoms,
                              int head_dim = kHeadDim) {
    for (const char* kind : {"k", "v"}) {
      writer.AddF32(fmt::format("layers.{}.{}", layer, kind), {n_atoms, head_dim},
                    UnitRows(n_atoms, head_dim));
    }
    return writer;
  }
  absl::StatusOr<std::shared_ptr<const ModelDictionary>> Load(const SafetensorsWriter& writer) {
    return ModelDictionary::Load(dir_.Write("d.safetensors", writer.Bytes()), config_, fingerprint_,
                                 kernels::Stream::Cpu(1));
  }

  tests::TempDir dir_;
  ModelConfig config_;
  base::Fingerprint fingerprint_;
  SafetensorsWriter writer_;
};

TEST_F(ModelDictionaryTest, LoadsOnePairPerLayer) {
  writer_.Metadata("atoms", "16").Metadata("model_fingerprint", fingerprint_.ToHex());
  AddLayer(AddLayer(writer_, 0), 1);
  const auto dictionary = Load(writer_);
  ASSERT_THAT(dictionary, IsOk());
  EXPECT_EQ((*dictionary)->n_atoms(), kAtoms);
  EXPECT_EQ((*dictionary)->layer(1).v->n_atoms(), kAtoms);
  EXPECT_EQ((*dictionary)->layer(1).k->head_dim(), kHeadDim);
  EXPECT_NE((*dictionary)->layer(0).k, (*dictionary)->layer(0).v);
  EXPECT_GE((*dictionary)->bytes(), 4u * kAtoms * kHeadDim * 2);
  EXPECT_FALSE((*dictionary)->fingerprint().IsZero());
}

TEST_F(ModelDictionaryTest, RefusesADictionaryOfAnotherShape) {
  AddLayer(AddLayer(writer_, 0, kAtoms, 4), 1, kAtoms, 4);
  EXPECT_THAT(Load(writer_), StatusIs(StatusCode::kInvalidArgument,
                                      "layers.0.k has head_dim 4, the model's is 8"));
  writer_ = SafetensorsWriter();
  EXPECT_THAT(
      Load(AddLayer(writer_, 0)),
      StatusIs(StatusCode::kInvalidArgument, "layers.1.k is missing; the model has 2 layers"));
  writer_ = SafetensorsWriter();
  EXPECT_THAT(Load(AddLayer(AddLayer(AddLayer(writer_, 0), 1), 2)),
              StatusIs(StatusCode::kInvalidArgument,
                       "holds tensor layers.2.k, but the model has 2 layers"));
  writer_ = SafetensorsWriter();
  EXPECT_THAT(Load(AddLayer(AddLayer(writer_, 0), 1, 24)),
              StatusIs(StatusCode::kInvalidArgument, "shape is [24, 8], the model needs [16, 8]"));
  writer_ = SafetensorsWriter();
  EXPECT_THAT(Load(AddLayer(AddLayer(writer_, 0, 8), 1, 8)),
              StatusIs(StatusCode::kInvalidArgument, "has 8 atoms, must be in 16 .. 8192"));
}

TEST_F(ModelDictionaryTest, RefusesWhatIsNoDictionary) {
  EXPECT_THAT(Load(writer_.AddF32("weight", {1}, {1})),
              StatusIs(StatusCode::kInvalidArgument, "layers.0.k is missing; this is not a dict"));
  writer_ = SafetensorsWriter();
  EXPECT_THAT(Load(writer_.AddF32("layers.0.k", {8}, UnitRows(1, 8))),
              StatusIs(StatusCode::kInvalidArgument, "has 1 dimensions, must have 2"));
}

TEST_F(ModelDictionaryTest, RefusesMetadataThatContradicts) {
  AddLayer(AddLayer(writer_.Metadata("atoms", "32"), 0), 1);
  EXPECT_THAT(Load(writer_), StatusIs(StatusCode::kInvalidArgument,
                                      "metadata says 32 atoms, the tensors have 16"));
  writer_ = SafetensorsWriter().Metadata("model_fingerprint", "00");
  AddLayer(AddLayer(writer_, 0), 1);
  EXPECT_THAT(Load(writer_), StatusIs(StatusCode::kInvalidArgument, "was trained for model 00"));
}

TEST_F(ModelDictionaryTest, RefusesRowsThatAreNotUnitVectorsAndNamesTheTensor) {
  std::vector<float> rows = UnitRows(kAtoms, kHeadDim);
  rows[5 * kHeadDim + 5] = 2;
  AddLayer(writer_, 0).AddF32("layers.1.k", {kAtoms, kHeadDim}, rows);
  writer_.AddF32("layers.1.v", {kAtoms, kHeadDim}, UnitRows(kAtoms, kHeadDim));
  EXPECT_THAT(Load(writer_),
              StatusIs(StatusCode::kInvalidArgument, "d.safetensors: tensor layers.1.k: "));
}

TEST(FindDefaultDictionaryTest, TakesN4096OfTheModelFolder) {
  const auto found = FindDefaultDictionary("models/lexico-20m");
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(*found, "models/lexico-20m/dictionaries/dictionary-N4096.safetensors");
}

TEST(FindDefaultDictionaryTest, SaysWhatIsThereInstead) {
  const tests::TempDir dir;
  EXPECT_THAT(FindDefaultDictionary(dir.path()), StatusIs(StatusCode::kNotFound, "cannot list"));
  std::filesystem::create_directory(dir.File("dictionaries"));
  EXPECT_THAT(FindDefaultDictionary(dir.path()), StatusIs(StatusCode::kNotFound, "among 0"));
  dir.Write("dictionaries/d-N1024.safetensors", "");
  dir.Write("dictionaries/d-N4096.txt", "");
  EXPECT_THAT(FindDefaultDictionary(dir.path()),
              StatusIs(StatusCode::kNotFound, "among 1 dictionaries, the first is d-N1024"));
}

TEST(EmbeddedDictionaryTest, FitsTheEmbeddedModel) {
  const auto config = ReadModelConfig("models/lexico-20m");
  ASSERT_THAT(config, IsOk());
  const auto dictionary = ModelDictionary::Load(*FindDefaultDictionary("models/lexico-20m"),
                                                *config, {}, kernels::Stream::Cpu());
  ASSERT_THAT(dictionary, IsOk());
  EXPECT_EQ((*dictionary)->n_atoms(), 4096);
}

}  // namespace
}  // namespace lexico::worker
