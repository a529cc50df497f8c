#include "kernels/cpu/bf16_tile.h"

#include "proto/base/check.h"

namespace lexico::kernels::cpu {

const Bf16Tile* FindBf16Tile(Bf16UnitKind kind) {
  const Bf16UnitKind best = Bf16Unit();
  switch (kind) {
    case Bf16UnitKind::kNone:
      return nullptr;
    case Bf16UnitKind::kAvx512Bf16:  // every CPU with AMX has it
      return best == Bf16UnitKind::kNone ? nullptr : Bf16TileAvx512();
    case Bf16UnitKind::kAmx:
      return best == Bf16UnitKind::kAmx ? Bf16TileAmx() : nullptr;
  }
  LEXICO_UNREACHABLE();
}

const Bf16Tile* BestBf16Tile() {
  const Bf16Tile* amx = FindBf16Tile(Bf16UnitKind::kAmx);
  return amx != nullptr ? amx : FindBf16Tile(Bf16UnitKind::kAvx512Bf16);
}

}  // namespace lexico::kernels::cpu
