// One more atom for a vector: choice among candidates, least squares, residual. Half a warp a
// vector, so that a warp's chains of loads, sums and barriers serve two; a lane 8 components of
// every 128.
//
// Least squares over the atoms taken, S, by P = (H H^T)^-1 in F32, where H are the rows of S as the
// dictionary's file has them: their norms are 1 within 1 %, and F16 holds them without rounding.
// For the chosen row h, with g = H h and r the residual, which is orthogonal to S:
//   b = P g                      h - sum_j b_j h_j is what h adds to the span of S
//   p = <h, h> - <g, b>          its squared norm
//   u = <h, r> / p               coefficient of h;  c -= u b
//   r -= u (h - sum_j b_j h_j)
//   P += (b, -1) (b, -1)^T / p   with a new row and column, 0 before (inverse by bordering)
// F32 is enough while atoms are far from dependent: P has no diagonal entry over kInverseMax. As
// soon as one would, or the choice is not clear, or there is no lane left for an atom,
// omp_exact.cuh takes over, in double. |<h, r>| <= sqrt(p) ||r||, so a choice with a score over
// ||r|| / 8 is not handed over for its own entry.
//
// The rows of S are asked for at the start and stay in registers, the first kCached of them; each
// is used twice, for g and for r.
#pragma once

#include "kernels/api/omp_encode.h"
#include "kernels/cuda/omp_exact.cuh"
#include "kernels/cuda/omp_half_warp.cuh"
#include "kernels/cuda/omp_lanes.cuh"
#include "kernels/cuda/omp_search.cuh"

namespace lexico::kernels::cuda {

// Largest diagonal entry of P. An error e of the products of atoms, 1e-7 in F32, moves the residual
// by at most e ||c|| sqrt(n kInverseMax): 3e-6 of ||c|| at 16 atoms.
inline constexpr float kInverseMax = 64;

// Numbers that every lane of a half reads. The halves' lie in different banks.
struct HalfWarpBroadcast {
  float4 four[kWarp / 4 + 1];
};
// Shared memory of one warp.
struct PursuitScratch {
  HalfWarpBroadcast broadcast[2];
  ExactScratch exact;
};

// Two vectors' pursuits, one in each half of a warp; all lanes call together. kOwn: rows of P a
// lane has, Lane() and Lane() + 16.
template <int kParts, bool kPacked, int kCached, int kOwn>
class PairPursuit {
 public:
  using Part = HalfWarpPart<kParts>;
  using Row = AtomRow<kParts, kPacked>;

  // All that does not wait for another load is asked for at once. `wants`: whether this half's
  // vector is to take an atom here.
  __device__ PairPursuit(const OmpState& state, const OmpAtoms& atoms, int vector, bool wants,
                         PursuitScratch& scratch)
      : state_(state),
        atoms_(atoms),
        vector_(vector),
        broadcast_(scratch.broadcast[threadIdx.x % kWarp / kHalfWarp].four),
        taken_(state.atoms + vector * state.atom_stride),
        inverse_(reinterpret_cast<float4*>(state.factor +
                                           static_cast<int64_t>(vector) * state.factor_doubles())),
        n_(wants ? state.n_atoms[vector] : 0),
        residual_(Part::Load(state.residual + vector * (128 * kParts))),
        norm_(state.residual_norm[vector]) {
#pragma unroll
    for (int o = 0; o < kOwn; ++o) {
      const int row = Own(o);
      own_taken_[o] = row < state.sparsity ? taken_[row] : 0;
      own_coef_[o] = row < state.sparsity ? state.coefs[vector * state.sparsity + row] : 0.0f;
      diagonal_[o] = 0;
    }
  }

  // Takes one more atom. False in a half that wants none or must leave it to the exact way; then
  // nothing has changed.
  __device__ bool Step(bool wants, const HalfWarpCandidates& candidates, float stop) {
    n_max_ = max(n_, __shfl_xor_sync(kAllLanes, n_, kHalfWarp));
    wants = wants && n_ < kHalfWarp * kOwn;
    LoadTaken();
    const Choice choice = BestCandidate(candidates);
    const float clear = fmaxf(kExactBelow * norm_, static_cast<float>(kScoreStop));
    Products();
    float b[kOwn];
    Projection(b);
    float explained = 0;
#pragma unroll
    for (int o = 0; o < kOwn; ++o) explained = fmaf(b[o], Broadcast(Own(o)), explained);
    const float p = choice.norm * choice.norm - HalfWarpSum(explained);
    const float factor = __fdividef(1, p);
    bool apart = p > 0 && factor <= kInverseMax;
#pragma unroll
    for (int o = 0; o < kOwn; ++o) apart &= diagonal_[o] + b[o] * b[o] * factor <= kInverseMax;
    const bool all_apart = HalfWarpAll(apart);  // by all lanes, whatever their half wants
    wants = wants && all_apart && choice.score > clear;
    Take(wants, choice, b, factor, stop);
    return wants;
  }

 private:
  static constexpr int kGroups = kCached / 4;
  struct Choice {
    int atom;
    float score;    // |<r, d>|; 0: none
    float product;  // <r, h>
    float norm;     // of h
  };

  __device__ static int Lane() { return threadIdx.x % kHalfWarp; }
  __device__ static int Own(int o) { return Lane() + o * kHalfWarp; }
  __device__ int LaneStride() const { return min(state_.sparsity, kWarp); }
  __device__ float& Broadcast(int i) const { return reinterpret_cast<float*>(broadcast_)[i]; }
  // Entries 4 q .. 4 q + 3 of row Own(o) of P.
  __device__ float4 Inverse(int q, int o) const {
    float4 four = make_float4(0, 0, 0, 0);
    if (Own(o) < n_ && 4 * q < n_) four = inverse_[q * LaneStride() + Own(o)];
    return four;
  }
  // Four rows of S; past its end row 0 of the dictionary, for which all factors are 0.
  __device__ void LoadRows(int q, Row (&rows)[4]) const {
    const uint2 ids = *reinterpret_cast<const uint2*>(taken_ + 4 * q);
    rows[0] = Row::Load(atoms_, ids.x & 0xffff), rows[1] = Row::Load(atoms_, ids.x >> 16);
    rows[2] = Row::Load(atoms_, ids.y & 0xffff), rows[3] = Row::Load(atoms_, ids.y >> 16);
  }

  // Asks for what is kept in registers. The rest is 0: without a value here, the compiler would
  // keep the registers of the vector before through the whole search.
  __device__ void LoadTaken() {
#pragma unroll
    for (int q = 0; q < kGroups; ++q) {
      if (4 * q < n_max_) {
        LoadRows(q, rows_[q]);
#pragma unroll
        for (int o = 0; o < kOwn; ++o) kept_[q][o] = Inverse(q, o);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) rows_[q][j] = {};
#pragma unroll
        for (int o = 0; o < kOwn; ++o) kept_[q][o] = make_float4(0, 0, 0, 0);
      }
    }
  }

  __device__ bool IsTaken(int atom) const {
    bool taken = false;
#pragma unroll
    for (int o = 0; o < kOwn; ++o) taken |= Own(o) < n_ && own_taken_[o] == atom;
    return HalfWarpAny(taken);
  }

  // The best of the candidates that are within the search's error of the largest, by F32 products;
  // its row in atom_.
  __device__ Choice BestCandidate(const HalfWarpCandidates& candidates) {
    uint32_t near = candidates.Near(2 * kSearchError);
    Choice choice = {-1, 0, 0, 1};
    Part rest = {};
    atom_ = rest;
    do {
      const int pair = candidates.Pair(near);
      const bool valid = near != 0;
      near &= near - 1;
      const int first = min(pair, atoms_.n_atoms - 1);
      const int second = min(pair + 1, atoms_.n_atoms - 1);
      const Part rows[2] = {Row::Load(atoms_, first).Unpack(), Row::Load(atoms_, second).Unpack()};
      const float norms[2] = {atoms_.norms[first], atoms_.norms[second]};
      const float2 products = HalfWarpSumOfTwo(rows[0].Dot(residual_), rows[1].Dot(residual_));
      const float scores[2] = {__fdividef(fabsf(products.x), norms[0]),
                               __fdividef(fabsf(products.y), norms[1])};
      const bool may_first = !IsTaken(pair) && valid && pair < atoms_.n_atoms;
      const bool may_second = !IsTaken(pair + 1) && valid && pair + 1 < atoms_.n_atoms;
      const bool one = may_second && (!may_first || scores[1] > scores[0]);
      const float score = one ? scores[1] : scores[0];
      const int atom = pair + (one ? 1 : 0);
      const bool wins = (may_first || may_second) &&
                        (score > choice.score || (score == choice.score && atom < choice.atom));
      if (wins) {
        choice = {atom, score, one ? products.y : products.x, one ? norms[1] : norms[0]};
#pragma unroll
        for (int i = 0; i < 8 * kParts; ++i) atom_.v[i] = one ? rows[1].v[i] : rows[0].v[i];
      }
    } while (__any_sync(kAllLanes, near != 0));
    return choice;
  }

  // Broadcast(j) = <h, row j of S>; past them finite.
  __device__ void Products() {
    __syncwarp();
#pragma unroll
    for (int o = 0; o < 2; ++o) Broadcast(Own(o)) = 0;
    __syncwarp();
    const auto multiply = [&](int q, const Row(&rows)[4]) {
      float share[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) share[j] = rows[j].Unpack().Dot(atom_);
      const float sum = HalfWarpSumOfFour(share);
      if (Lane() % 4 == 0) Broadcast(4 * q + Lane() / 4) = sum;
    };
#pragma unroll
    for (int q = 0; q < kGroups; ++q) {
      if (4 * q >= n_max_) break;
      multiply(q, rows_[q]);
    }
#pragma unroll 1
    for (int q = kGroups; 4 * q < n_max_; ++q) {
      Row rows[4];
      LoadRows(q, rows);
      multiply(q, rows);
    }
    __syncwarp();
  }

  // The lane's b, and its entries on the diagonal of P.
  __device__ void Projection(float (&b)[kOwn]) {
#pragma unroll
    for (int o = 0; o < kOwn; ++o) b[o] = 0;
    const auto add = [&](int q, int o, const float4& p) {
      const float4 g = broadcast_[q];
      b[o] = fmaf(p.x, g.x, fmaf(p.y, g.y, fmaf(p.z, g.z, fmaf(p.w, g.w, b[o]))));
      const float even = Lane() % 2 == 0 ? p.x : p.y;
      const float odd = Lane() % 2 == 0 ? p.z : p.w;
      if (Own(o) / 4 == q) diagonal_[o] = Lane() % 4 < 2 ? even : odd;
    };
#pragma unroll
    for (int q = 0; q < kGroups; ++q) {
      if (4 * q >= n_max_) break;
#pragma unroll
      for (int o = 0; o < kOwn; ++o) add(q, o, kept_[q][o]);
    }
#pragma unroll 1
    for (int q = kGroups; 4 * q < n_max_; ++q) {
#pragma unroll
      for (int o = 0; o < kOwn; ++o) add(q, o, Inverse(q, o));
    }
  }

  // r and P with the chosen row; what is stored only where `takes`.
  __device__ void Take(bool takes, const Choice& choice, const float (&b)[kOwn], float factor,
                       float stop) {
    const float u = choice.product * factor;
    float scaled[kOwn];
    __syncwarp();
#pragma unroll
    for (int o = 0; o < 2; ++o) Broadcast(Own(o)) = o < kOwn ? b[o % kOwn] : 0.0f;  // 0 past S
#pragma unroll
    for (int o = 0; o < kOwn; ++o) {
      scaled[o] = (Own(o) < n_ ? b[o] : Own(o) == n_ ? -1.0f : 0.0f) * factor;
    }
    __syncwarp();
    residual_.Add(-u, atom_);
    const auto add = [&](int q, const Row(&rows)[4]) {
      const float4 b4 = broadcast_[q];
      residual_.Add(u * b4.x, rows[0].Unpack());
      residual_.Add(u * b4.y, rows[1].Unpack());
      residual_.Add(u * b4.z, rows[2].Unpack());
      residual_.Add(u * b4.w, rows[3].Unpack());
      return b4;
    };
    const auto store = [&](int q, int o, float4 p, const float4& b4) {
      p.x = fmaf(scaled[o], b4.x, p.x), p.y = fmaf(scaled[o], b4.y, p.y);
      p.z = fmaf(scaled[o], b4.z, p.z), p.w = fmaf(scaled[o], b4.w, p.w);
      if (takes && Own(o) <= n_ && 4 * q < n_) inverse_[q * LaneStride() + Own(o)] = p;
    };
#pragma unroll
    for (int q = 0; q < kGroups; ++q) {
      if (4 * q >= n_max_) break;
      const float4 b4 = add(q, rows_[q]);
#pragma unroll
      for (int o = 0; o < kOwn; ++o) store(q, o, kept_[q][o], b4);
    }
#pragma unroll 1
    for (int q = kGroups; 4 * q < n_max_; ++q) {
      Row rows[4];
      LoadRows(q, rows);
      const float4 b4 = add(q, rows);
#pragma unroll
      for (int o = 0; o < kOwn; ++o) store(q, o, Inverse(q, o), b4);
    }
    const float squares = HalfWarpSum(residual_.Dot(residual_));
    if (takes) StoreTaken(choice, u, scaled, factor, squares, stop);
  }

  __device__ void StoreTaken(const Choice& choice, float u, const float (&scaled)[kOwn],
                             float factor, float squares, float stop) {
#pragma unroll
    for (int o = 0; o < kOwn; ++o) {
      if (Own(o) > n_) continue;
      const float before = Own(o) < n_ ? own_coef_[o] : 0.0f;
      state_.coefs[vector_ * state_.sparsity + Own(o)] = before - choice.product * scaled[o];
      // The new column of P, and zeros after it.
      float4& four = inverse_[n_ / 4 * LaneStride() + Own(o)];
      if (n_ % 4 == 0) {
        four = make_float4(-scaled[o], 0, 0, 0);
      } else {
        reinterpret_cast<float*>(&four)[n_ % 4] = -scaled[o];
      }
    }
    const float inverse = squares > 0 ? rsqrtf(squares) : 0.0f;
    const float norm = squares * inverse;
    residual_.Store(state_.residual + vector_ * (128 * kParts));
    residual_.StoreHalves(inverse, state_.halves + vector_ * state_.search_dim, state_.search_dim);
    if (Lane() != 0) return;
    state_.residual_norm[vector_] = norm;
    state_.atoms[vector_ * state_.atom_stride + n_] = static_cast<uint16_t>(choice.atom);
    state_.n_atoms[vector_] = n_ + 1;
    state_.done[vector_] = n_ + 1 == state_.sparsity || norm <= stop ? 1 : 0;
  }

  const OmpState& state_;
  const OmpAtoms& atoms_;
  const int vector_;
  float4* const broadcast_;
  const uint16_t* const taken_;
  float4* const inverse_;  // [ceil(n / 4), LaneStride()]: 4 columns of P after another
  const int n_;
  int n_max_ = 0;  // of the warp's two vectors
  Part residual_;
  const float norm_;
  int own_taken_[kOwn];
  float own_coef_[kOwn];
  float diagonal_[kOwn];
  Part atom_;
  Row rows_[kGroups][4];
  float4 kept_[kGroups][kOwn];
};

}  // namespace lexico::kernels::cuda
