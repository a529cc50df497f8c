// What every op over coded pages requires of its layout and dictionary.
#pragma once

#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"

namespace lexico::kernels {

// CHECK-fails where one half of such pages cannot be made or read. `dictionary` may be null without
// atoms.
void CheckCodes(const PageLayout& layout, bool value, const PreparedDictionary* dictionary);

}  // namespace lexico::kernels
