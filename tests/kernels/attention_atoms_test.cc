// The forms of a dictionary that attention reads hold the file's own numbers.
#include "kernels/cpu/attention_atoms.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/convert.h"

namespace lexico::kernels::cpu {
namespace {

constexpr int kAtoms = 70;
constexpr int kHeadDim = 21;

template <typename Element>
class Fixture {
 public:
  explicit Fixture(DType dtype) : values_(kAtoms * kHeadDim) {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (Element& value : values_) {
      value = static_cast<Element>(dtype == DType::kF16 ? FloatToF16(uniform(random)) : 0);
      if (dtype == DType::kF32) value = static_cast<Element>(uniform(random));
    }
    for (int a = 0; a < kAtoms; ++a) norms_.push_back(1 + 0.0001 * a);
    atoms_ = std::make_unique<AttentionAtoms>(TensorView(values_.data(), dtype, {kAtoms, kHeadDim}),
                                              norms_);
  }

  void ExpectEveryNumberInItsPlace() const {
    const auto* panels = static_cast<const Element*>(atoms_->panels());
    const auto* rows = static_cast<const Element*>(atoms_->rows());
    for (int a = 0; a < atoms_->n_panels() * kPanelAtoms; ++a) {
      const bool exists = a < kAtoms;
      for (int i = 0; i < kHeadDim; ++i) {
        const Element value = exists ? values_[a * kHeadDim + i] : Element{0};
        EXPECT_EQ(panels[(a / kPanelAtoms * kHeadDim + i) * kPanelAtoms + a % kPanelAtoms], value);
        if (exists) {
          EXPECT_EQ(rows[a * atoms_->row_stride() + i], value);
        }
      }
      const float inverse = exists ? static_cast<float>(1 / norms_[a]) : 0.0f;
      EXPECT_EQ(atoms_->inverse_norms()[a], inverse);
      for (int i = kHeadDim; exists && i < atoms_->row_stride(); ++i) {
        EXPECT_EQ(rows[a * atoms_->row_stride() + i], Element{0});
      }
    }
  }

  const AttentionAtoms& atoms() const { return *atoms_; }

 private:
  std::vector<Element> values_;
  std::vector<double> norms_;
  std::unique_ptr<AttentionAtoms> atoms_;
};

TEST(AttentionAtomsTest, F16StaysF16) {
  const Fixture<uint16_t> fixture(DType::kF16);
  fixture.ExpectEveryNumberInItsPlace();
  EXPECT_EQ(fixture.atoms().bytes(), 96u * 21 * 2 + 70u * 32 * 2 + 96u * 4);
}

TEST(AttentionAtomsTest, F32StaysF32) {
  const Fixture<float> fixture(DType::kF32);
  fixture.ExpectEveryNumberInItsPlace();
  EXPECT_EQ(fixture.atoms().bytes(), 96u * 21 * 4 + 70u * 32 * 4 + 96u * 4);
}

}  // namespace
}  // namespace lexico::kernels::cpu
