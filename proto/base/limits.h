// Every limit of the system, in one place, with its reason. A value outside is refused at the edge
// with both numbers in the message; nothing inside needs to check again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lexico::base {

// -- Model shapes: what the kernels are built and tested for
// ---------------------------------------
inline constexpr int kHeadDimMax = 256;  // largest head of today's Llama-class models
inline constexpr int kAtomsMax = 8192;   // an atom index fits 13 bits; the paper uses 1024 and 4096
inline constexpr int kAtomsMin = 16;     // below, a dictionary cannot span any head_dim in use
inline constexpr int kSparsityMax = 64;  // beyond 3 * 64 + 2 bytes a code is no smaller than FP16
inline constexpr int kLayersMax = 256;
inline constexpr int kVocabMax = 1 << 20;  // largest public vocabulary today is 262,144

// -- Cluster constants: all workers and stores must agree; part of a page's header
// ------------------
inline constexpr int kPageTokens =
    32;  // = seal_tokens (n_a of the paper): one sealing, one page a layer
inline constexpr int kWindowTokens = 128;  // n_b of the paper: the newest tokens that stay exact

// -- Requests
// ---------------------------------------------------------------------------------------
inline constexpr size_t kMessageBytesMax = 4u
                                           << 20;  // one gRPC message; documents arrive in chunks
inline constexpr size_t kTextChunkBytesMax = 1u << 20;  // one AppendText message
inline constexpr size_t kAppendBytesMax =
    64u << 20;  // one AppendText call: 16 M tokens at 4 bytes each
inline constexpr size_t kPromptBytesMax = 1u << 20;  // the prompt of one Generate call
inline constexpr int kNewTokensMax = 32768;          // tokens of one Generate call
inline constexpr int kStopStringsMax = 16;
inline constexpr size_t kStopStringBytesMax = 256;
inline constexpr int kLogprobsMax = 20;       // as the OpenAI API
inline constexpr int kListPageMax = 1000;     // sessions in one ListSessions reply
inline constexpr size_t kNameBytesMax = 256;  // session ids, model names, tenants

// -- Files
// ------------------------------------------------------------------------------------------
inline constexpr size_t kSafetensorsHeaderBytesMax = 100u << 20;  // the format's own limit
inline constexpr size_t kJsonFileBytesMax = 256u << 20;  // the largest tokenizer.json seen is 34 MB

}  // namespace lexico::base
