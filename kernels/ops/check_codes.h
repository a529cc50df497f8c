// What every op over coded pages requires of its layout and dictionary.
#pragma once

#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"

namespace lexico::kernels {

// CHECK-fails where one half of such pages cannot be made or read on the stream's device: profiles
// were checked for it (proto/base/profile.h). `dictionary` may be null without atoms.
void CheckCodes(const PageLayout& layout, bool value, const PreparedDictionary* dictionary,
                const Stream& stream);

}  // namespace lexico::kernels
