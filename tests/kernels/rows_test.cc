// Rounding and packing of keys and values, on every device, against the scalar conversions.
#include "kernels/api/rows.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cuda/code_order.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels {
namespace {

using tests::DeviceArray;
using tests::RandomNormal;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr DType kCacheTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

std::vector<uint8_t> Bytes(const void* data, size_t n) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  return {bytes, bytes + n};
}

// The bytes of x in `type`.
std::vector<uint8_t> Narrow(const std::vector<float>& x, DType type) {
  std::vector<uint8_t> out;
  for (const float value : x) {
    const uint16_t bits = type == DType::kF16 ? cpu::FloatToF16(value) : cpu::FloatToBf16(value);
    const auto bytes = type == DType::kF32 ? Bytes(&value, 4) : Bytes(&bits, 2);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  return out;
}

class RowsTest : public tests::DeviceTest {
 protected:
  // Blocks of a pool, full of 0xee, `stride` bytes apart; their addresses on the device.
  struct Blocks {
    Blocks(int64_t n_blocks, size_t block_stride, const Stream& stream)
        : stride(block_stride),
          memory(std::vector<uint8_t>(n_blocks * block_stride, 0xee), stream),
          table(Addresses(n_blocks), stream) {}
    std::vector<uint8_t*> Addresses(int64_t n) const {
      std::vector<uint8_t*> addresses(n);
      // Not in the order of memory.
      for (int64_t i = 0; i < n; ++i) addresses[i] = memory.data() + (n - 1 - i) * stride;
      return addresses;
    }
    void** rows() const { return reinterpret_cast<void**>(table.data()); }
    // Block i as it is now.
    std::vector<uint8_t> Block(int64_t i, int64_t n) const {
      const std::vector<uint8_t> all = memory.Values();
      const auto begin = all.begin() + (n - 1 - i) * static_cast<int64_t>(stride);
      return {begin, begin + static_cast<int64_t>(stride)};
    }
    size_t stride;
    DeviceArray<uint8_t> memory;
    DeviceArray<uint8_t*> table;
  };

  std::vector<float> Round(const std::vector<float>& x, DType type, int32_t* non_finite) const {
    const DeviceArray<float> there(x, stream());
    const DeviceArray<int32_t> flag({*non_finite}, stream());
    RoundToType(there.View({static_cast<int64_t>(x.size())}), type, flag.data(), stream());
    *non_finite = flag.Values()[0];
    return there.Values();
  }
};
LEXICO_TEST_ON_ALL_DEVICES(RowsTest);

TEST_P(RowsTest, RoundingIsThatOfTheScalarConversion) {
  std::mt19937 random(1);
  for (const DType type : kCacheTypes) {
    for (const size_t n : {1, 3, 4, 130, 70'000}) {
      const std::vector<float> x = RandomNormal(n, random, 100.0f);
      int32_t non_finite = 0;
      const std::vector<float> actual = Round(x, type, &non_finite);
      EXPECT_EQ(non_finite, 0);
      const std::vector<uint8_t> narrow = Narrow(x, type);
      for (size_t i = 0; i < n; ++i) {
        ASSERT_EQ(actual[i], cpu::LoadFloat(narrow.data(), type, static_cast<int64_t>(i))) << i;
      }
    }
  }
}

TEST_P(RowsTest, RoundingTellsOfNumbersThatAreThenNotFinite) {
  for (const DType type : kCacheTypes) {
    SCOPED_TRACE(DTypeName(type));
    for (const float bad : {kNan, kInfinity, -kInfinity, 3.4e38f}) {
      for (const size_t at : {0, 5, 4999}) {
        std::vector<float> x(5000, 1.5f);
        x[at] = bad;
        int32_t non_finite = 0;
        Round(x, type, &non_finite);
        EXPECT_EQ(non_finite, bad == 3.4e38f && type == DType::kF32 ? 0 : 1) << bad << " " << at;
      }
    }
    int32_t non_finite = 1;
    Round({1.0f}, type, &non_finite);
    EXPECT_EQ(non_finite, 1);  // left alone
  }
}

TEST_P(RowsTest, RowsGoToTheirPlacesRounded) {
  std::mt19937 random(2);
  for (const DType type : kCacheTypes) {
    for (const int64_t n : {1, 16, 200}) {
      SCOPED_TRACE(fmt::format("{} {}", DTypeName(type), n));
      constexpr int64_t kSeqs = 5;
      std::vector<float> k = RandomNormal(kSeqs * n, random);
      std::vector<float> v = RandomNormal(kSeqs * n, random);
      k[1 * n] = kNan;
      v[2 * n + n - 1] = kInfinity;
      k[3 * n + n / 2] = -kInfinity;
      v[3 * n] = kNan;
      const DeviceArray<float> k_there(k, stream());
      const DeviceArray<float> v_there(v, stream());
      const size_t row_bytes = n * DTypeBytes(type);
      const Blocks k_rows(kSeqs, row_bytes, stream());
      const Blocks v_rows(kSeqs, row_bytes, stream());
      const DeviceArray<int32_t> non_finite(std::vector<int32_t>(kSeqs, 77), stream());
      StoreRows({.k = k_there.View({kSeqs, n}),
                 .v = v_there.View({kSeqs, n}),
                 .k_rows = k_rows.rows(),
                 .v_rows = v_rows.rows(),
                 .type = type,
                 .non_finite = non_finite.data()},
                stream());
      EXPECT_EQ(non_finite.Values(), (std::vector<int32_t>{0, 1, 2, 3, 0}));
      for (const int64_t i : {0, 4}) {
        EXPECT_EQ(k_rows.Block(i, kSeqs), Narrow({k.begin() + i * n, k.begin() + i * n + n}, type));
        EXPECT_EQ(v_rows.Block(i, kSeqs), Narrow({v.begin() + i * n, v.begin() + i * n + n}, type));
      }
    }
  }
}

PageLayout Layout(int n_kv_heads, int head_dim, int page_tokens, int sparsity_k, int sparsity_v) {
  return {.n_kv_heads = n_kv_heads,
          .head_dim = head_dim,
          .page_tokens = page_tokens,
          .sparsity_k = sparsity_k,
          .sparsity_v = sparsity_v};
}

// place[i] of code i of each vector [n_vectors, sparsity], where vectors come as [token, head]: as
// they are on a CPU, by cuda/code_order.h on a GPU.
std::vector<int> PlacesOfCodes(const std::vector<uint16_t>& atoms, const PageLayout& layout,
                               int sparsity, bool ordered) {
  std::vector<int> places(atoms.size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int>(i) % sparsity;
  const auto n_tokens = static_cast<int>(atoms.size()) / sparsity / layout.n_kv_heads;
  for (int first = 0; ordered && first < n_tokens;) {
    const int n = std::min(cuda::kOrderTokens,
                           layout.page_tokens - first % layout.page_tokens);  // of one page
    for (int head = 0; head < layout.n_kv_heads; ++head) {
      const auto vector = [&](int token) {
        return static_cast<size_t>((first + token) * layout.n_kv_heads + head) * sparsity;
      };
      cuda::BankCounts counts[cuda::kOrderTokens] = {};
      for (int token = 0; token < n; ++token) {
        for (int i = 0; i < sparsity; ++i) {
          counts[token] += cuda::CountOf(atoms[vector(token) + i]);
        }
      }
      cuda::BankSchedule schedule(counts);
      std::vector<cuda::TokenBanks> banks(sparsity);
      for (cuda::TokenBanks& place : banks) place = schedule.Next(n);
      for (int token = 0; token < n; ++token) {
        for (int i = 0; i < sparsity; ++i) {
          places[vector(token) + i] =
              cuda::PlaceOfCode(banks.data(), token, &atoms[vector(token)], sparsity, i);
        }
      }
    }
    first += n;
  }
  return places;
}

TEST_P(RowsTest, CodesAndTheirErrorsReachTheirPages) {
  std::mt19937 random(3);
  for (const PageLayout& layout :
       {Layout(1, 8, 2, 1, 3), Layout(3, 16, 32, 7, 16), Layout(2, 16, 140, 24, 64)}) {
    for (const bool value : {false, true}) {
      constexpr int64_t kPages = 3;
      constexpr size_t kOffset = 64;
      const int64_t sparsity = value ? layout.sparsity_v : layout.sparsity_k;
      const int64_t page_vectors = layout.page_tokens * layout.n_kv_heads;
      const int64_t n_vectors = kPages * page_vectors;
      std::vector<uint16_t> atoms(n_vectors * sparsity);
      std::vector<uint8_t> coefs(atoms.size());
      for (uint16_t& atom : atoms) atom = static_cast<uint16_t>(random());
      for (uint8_t& coef : coefs) coef = static_cast<uint8_t>(random());
      const std::vector<int> places =
          PlacesOfCodes(atoms, layout, static_cast<int>(sparsity), stream().device() != nullptr);
      std::vector<float> errors(n_vectors);
      for (float& error : errors) error = static_cast<float>(random() % 1000) / 999.0f;
      const Blocks pages(kPages, kOffset + layout.payload_bytes(), stream());
      const DeviceArray<uint16_t> atoms_there(atoms, stream());
      const DeviceArray<uint8_t> coefs_there(coefs, stream());
      const DeviceArray<float> errors_there(errors, stream());
      const DeviceArray<float> page_error(std::vector<float>(kPages, kNan), stream());
      PackCodes({.layout = layout,
                 .value = value,
                 .atoms = atoms_there.View({n_vectors, sparsity}),
                 .coefs = coefs_there.View({n_vectors, sparsity}),
                 .rel_error = errors_there.View({n_vectors}),
                 .pages = pages.table.data(),
                 .page_offset = kOffset,
                 .page_error = page_error.data()},
                stream());
      for (int64_t page = 0; page < kPages; ++page) {
        std::vector<uint8_t> expected(kOffset + layout.payload_bytes(), 0xee);
        double sum = 0;
        for (int64_t i = 0; i < page_vectors; ++i) {
          const int64_t vector = page * page_vectors + i;
          const int64_t token = i / layout.n_kv_heads;
          uint8_t* block = expected.data() + kOffset +
                           layout.head_offset(value, static_cast<int>(i % layout.n_kv_heads));
          for (int64_t c = vector * sparsity; c < (vector + 1) * sparsity; ++c) {
            const int64_t place = token * sparsity + places[c];
            std::memcpy(block + place * 2, &atoms[c], 2);
            block[layout.page_tokens * sparsity * 2 + place] = coefs[c];
          }
          sum += errors[vector];
        }
        EXPECT_EQ(pages.Block(page, kPages), expected) << page;
        EXPECT_EQ(page_error.Values()[page],
                  static_cast<float>(sum / static_cast<double>(page_vectors)));
      }
    }
  }
}

TEST_P(RowsTest, DensePagesAreHeadMajorAndGiveTheRowsBack) {
  std::mt19937 random(4);
  for (const DType type : kCacheTypes) {
    for (const int head_dim : {1, 6, 64}) {
      for (const bool value : {false, true}) {
        PageLayout layout = Layout(3, head_dim, 4, 0, 0);
        layout.dense_type = type;
        constexpr int64_t kPages = 2;
        constexpr size_t kOffset = 64;
        const int64_t n_tokens = kPages * 4;
        const std::vector<float> rows = RandomNormal(n_tokens * 3 * head_dim, random);
        const DeviceArray<float> there(rows, stream());
        const Blocks pages(kPages, kOffset + layout.payload_bytes(), stream());
        PackDense({.layout = layout,
                   .value = value,
                   .rows = there.View({n_tokens, 3, head_dim}),
                   .pages = pages.table.data(),
                   .page_offset = kOffset},
                  stream());
        std::vector<float> rounded(rows.size());
        for (int64_t page = 0; page < kPages; ++page) {
          std::vector<uint8_t> expected(kOffset + layout.payload_bytes(), 0xee);
          for (int head = 0; head < 3; ++head) {
            for (int token = 0; token < 4; ++token) {
              const int64_t at = ((page * 4 + token) * 3 + head) * head_dim;
              const auto vector = Narrow({rows.begin() + at, rows.begin() + at + head_dim}, type);
              std::copy(vector.begin(), vector.end(),
                        expected.begin() + kOffset + layout.head_offset(value, head) +
                            token * vector.size());
              for (int i = 0; i < head_dim; ++i) {
                rounded[at + i] = cpu::LoadFloat(vector.data(), type, i);
              }
            }
          }
          EXPECT_EQ(pages.Block(page, kPages), expected) << page;
        }
        const DeviceArray<float> back(std::vector<float>(rows.size(), kNan), stream());
        UnpackDense({.layout = layout,
                     .value = value,
                     .pages = pages.table.data(),
                     .page_offset = kOffset,
                     .rows = back.View({n_tokens, 3, head_dim})},
                    stream());
        EXPECT_EQ(back.Values(), rounded);
      }
    }
  }
}

TEST_P(RowsTest, BlocksAreCopiedWhole) {
  std::mt19937 random(5);
  for (const size_t bytes : {1, 16, 1000, 6144, 163'840}) {
    constexpr int64_t kBlocks = 3;
    const size_t stride = (bytes + 15) / 16 * 16;
    std::vector<uint8_t> source(kBlocks * stride);
    for (uint8_t& byte : source) byte = static_cast<uint8_t>(random());
    const DeviceArray<uint8_t> from(source, stream());
    std::vector<const void*> addresses;
    for (int64_t i = 0; i < kBlocks; ++i) addresses.push_back(from.data() + i * stride);
    const DeviceArray<const void*> from_table(addresses, stream());
    const Blocks to(kBlocks, stride, stream());
    CopyBlocks(from_table.data(), to.rows(), kBlocks, bytes, stream());
    for (int64_t i = 0; i < kBlocks; ++i) {
      std::vector<uint8_t> expected(stride, 0xee);
      std::copy_n(source.begin() + i * static_cast<int64_t>(stride), bytes, expected.begin());
      EXPECT_EQ(to.Block(i, kBlocks), expected) << bytes << " " << i;
    }
  }
}

TEST(RowsDeathTest, RejectsMalformedArguments) {
  std::vector<float> x(64);
  int32_t flag = 0;
  const Stream stream = Stream::Cpu(1);
  EXPECT_DEATH(RoundToType(MutableTensorView(x.data(), {64}), DType::kU8, &flag, stream), "kBF16");
  StoreRowsArgs rows;
  rows.k = TensorView(x.data(), {2, 8});
  rows.v = TensorView(x.data(), {2, 9});
  EXPECT_DEATH(StoreRows(rows, stream), "args.v.dim\\(1\\) \\(9\\)");
  PackDenseArgs pack;
  pack.layout = Layout(2, 8, 2, 1, 1);
  pack.rows = TensorView(x.data(), {2, 2, 8});
  EXPECT_DEATH(PackDense(pack, stream), "is_dense");
  PackCodesArgs codes;
  codes.layout = Layout(2, 8, 2, 0, 0);
  EXPECT_DEATH(PackCodes(codes, stream), "is_dense");
}

}  // namespace
}  // namespace lexico::kernels
