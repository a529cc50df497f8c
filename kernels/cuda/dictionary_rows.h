// The forms of a dictionary from rows on the GPU: dictionary.cc, without the host.
#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

// Where they go, all on the device and as Dictionary has them.
struct DictionaryForms {
  float* rows;       // [n_atoms, row_stride]
  uint16_t* halves;  // F16 tiles
  uint16_t* packed;  // F16 [n_atoms, packed_stride]
  float* norms;      // [n_atoms]
  int n_atoms;
  int head_dim;
  int row_stride;
  int packed_stride;
  int search_dim;
  int tile_atoms;
  int n_tiles;
};

// `rows` [n_atoms, head_dim] F32, unit rows, rounded to F16 first. Enqueued.
void WriteForms(const Gpu& gpu, const float* rows, const DictionaryForms& forms);

}  // namespace lexico::kernels::cuda
