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
inline constexpr int kVocabMax = 1 << 20;      // largest public vocabulary today is 262,144
inline constexpr int kHeadsMax = 1024;         // 128 in today's largest dense models
inline constexpr int kHiddenDimMax = 1 << 16;  // 16,384 in Llama 405B
inline constexpr int kFfnDimMax = 1 << 18;     // 53,248 in Llama 405B
inline constexpr int kRanksMax = 8;            // devices of one host that share a model
inline constexpr int kPositionsMax = 1 << 24;  // F32 holds every integer up to here exactly

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

// -- Pages, manifests and the store
// ------------------------------------------------------------------------------------------
inline constexpr int kKvHeadsMax = 256;
inline constexpr int kPageTokensMax = 1024;
inline constexpr int kWindowPageTokensMax = 4096;  // a dense window stored whole
// 32 tokens x 2 x 128 KV heads x 256 in F32: the largest dense page of any shape above.
inline constexpr size_t kPagePayloadBytesMax = 16u << 20;
inline constexpr size_t kSessionTokensMax = 1u << 24;       // tokens in one manifest
inline constexpr size_t kSegmentsMax = 1u << 20;            // appends and answers in one manifest
inline constexpr size_t kConversationBytesMax = 1u << 20;   // turn state in one manifest
inline constexpr size_t kManifestBytesMax = 256u << 20;     // 1 M tokens of 256 layers: 137 MB
inline constexpr size_t kManifestChunkBytesMax = 1u << 20;  // one message of a manifest's stream
inline constexpr size_t kPageKeysPerCallMax = 65536;        // HasPages: 1 MiB of keys
inline constexpr size_t kBulkBatchPagesMax = 1024;          // pages in one bulk frame
// Largest data part of one bulk frame: several frames fit the 64 MiB that a connection may have in
// flight, and one page always fits a frame.
inline constexpr size_t kBulkFrameBytesMax = 20u << 20;
inline constexpr size_t kBulkInFlightBytesMax = 64u << 20;
inline constexpr int kBulkConnectionsMax = 256;  // of one store: bounds its buffers to 16 GiB

// -- Files
// ------------------------------------------------------------------------------------------
inline constexpr size_t kSafetensorsHeaderBytesMax = 100u << 20;  // the format's own limit
inline constexpr size_t kJsonFileBytesMax = 256u << 20;  // the largest tokenizer.json seen is 34 MB
inline constexpr size_t kConfigBytesMax = 1u << 20;      // config.json; a few kB in practice
inline constexpr int kJsonDepthMax = 32;     // nesting of a configuration; 4 in practice
inline constexpr size_t kTensorRankMax = 8;  // dimensions of a stored tensor; weights have 1 or 2
inline constexpr size_t kShardsMax = 4096;   // files of one model, all mapped at once

// -- Tokenizers and chat templates
// -----------------------------------------------------------------------------------
inline constexpr size_t kTokenBytesMax = 4096;      // longest token seen: 512 spaces
inline constexpr int kComponentDepthMax = 8;        // Sequence in Sequence; real files use 1
inline constexpr size_t kNormalizedGrowthMax = 64;  // times the text; NFKD needs 18, real Replace 3
inline constexpr size_t kRegexBytesMax = 8192;      // longest split pattern seen: 400 bytes
inline constexpr unsigned kRegexDepthMax = 128;  // groups in groups; bounds the parser's recursion
inline constexpr unsigned long kRegexRetriesMax = 10'000'000;  // Oniguruma's own default
inline constexpr unsigned kRegexStackMax = 16u << 20;  // backtrack entries: a run of 16 M letters
inline constexpr double kRegexSecondsPerMiB = 2;       // real patterns take 0.1 s
inline constexpr size_t kTemplateBytesMax = 1u << 20;  // longest chat template seen: 20 KB
inline constexpr int kTemplateDepthMax = 200;  // nesting of blocks, expressions, calls and values
inline constexpr int kTemplateStepsMax = 1'000'000;  // expressions evaluated in one rendering
inline constexpr size_t kTemplateTextBytesMax = 128u << 20;  // all strings made by one rendering

}  // namespace lexico::base
