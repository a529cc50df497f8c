#include "tools/eval/bench_measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/kv/payload_reader.h"

namespace lexico::eval {
namespace {

using worker::CallResult;
using worker::Engine;

// Of one batch of a reader.
constexpr size_t kPagesMax = 1024;

std::string SessionName(int i) { return fmt::format("bench-{}", i); }

absl::StatusOr<CallResult> AppendRandom(Engine& engine, int n_tokens) {
  std::mt19937_64 random(static_cast<uint64_t>(n_tokens));
  std::vector<int32_t> ids(n_tokens);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random() % engine.transformer().config().vocab_size);
  }
  absl::StatusOr<CallResult> result = absl::UnknownError("not finished");
  absl::Notification finished;
  worker::CallCallbacks callbacks;
  callbacks.on_finished = [&](absl::StatusOr<CallResult> ended) {
    result = std::move(ended);
    finished.Notify();
  };
  LEXICO_RETURN_IF_ERROR(
      engine.Append({.session_id = SessionName(0), .ids = std::move(ids)}, std::move(callbacks))
          .status());
  finished.WaitForNotification();
  return result;
}

absl::Status CopySession(Engine& engine, const worker::SessionSnapshot& snapshot,
                         const std::string& name) {
  LEXICO_ASSIGN_OR_RETURN(auto import, engine.BeginImport(snapshot.manifest));
  std::vector<const worker::PageExport*> pages;
  for (const worker::PageExport& page : snapshot.pages) pages.push_back(&page);
  worker::PayloadReader reader(pages, kPagesMax);
  size_t i_read = 0;  // of the reader's batch
  for (auto range = import->NextPages(); !range.empty(); range = import->NextPages()) {
    for (int64_t i = range.begin; i < range.end; ++i, ++i_read) {
      if (i_read == reader.pages().size()) {
        reader.Next();
        i_read = 0;
      }
      const std::span<const uint8_t> payload = reader.payload(i_read);
      std::ranges::copy(payload, import->page_buffer(i).begin());
      LEXICO_ASSIGN_OR_RETURN(
          const store::PageHeader header,
          store::DecodeHeader(store::EncodeHeader(snapshot.pages[i].header, payload)));
      LEXICO_RETURN_IF_ERROR(import->AcceptPage(i, header));
    }
  }
  for (int layer = 0; layer < import->n_windows(); ++layer) {
    const worker::WindowExport& window = snapshot.windows[layer];
    std::ranges::copy(window.payload, import->window_buffer(layer).begin());
    LEXICO_ASSIGN_OR_RETURN(const store::PageHeader header, store::DecodeHeader(store::EncodeHeader(
                                                                window.header, window.payload)));
    LEXICO_RETURN_IF_ERROR(import->AcceptWindow(layer, header));
  }
  return engine.FinishImport(name, std::move(import)).status();
}

// Of the pool, what is left free: slabs that are not full, and windows of sessions that begin.
constexpr int64_t kPoolShareLeft = 32;

// Whether another session of the size of the first fits, with the pages that all of them seal
// while they decode.
bool HasRoom(const Engine& engine, int n_sessions, int64_t bytes_of_growth) {
  const worker::KvMemory memory = engine.Describe(SessionName(0))->memory;
  const worker::EngineLoad load = engine.load();
  const auto free = static_cast<int64_t>(load.pool.total_bytes - load.pool.used_bytes);
  const auto left = static_cast<int64_t>(load.pool.total_bytes) / kPoolShareLeft;
  return free - left >=
         static_cast<int64_t>(memory.held_bytes()) + (n_sessions + 1) * bytes_of_growth;
}

// One Generate that all others of its batch run beside.
struct Decoder {
  std::vector<absl::Time> tokens;
  absl::StatusOr<CallResult> result = absl::UnknownError("not finished");
};

absl::Status Decode(Engine& engine, int n_new, BenchRow* row) {
  std::vector<Decoder> decoders(row->n_sessions);
  absl::BlockingCounter finished(row->n_sessions);
  absl::Status refused;
  for (int i = 0; i < row->n_sessions; ++i) {
    Decoder& decoder = decoders[i];
    worker::GenerateRequest request;
    request.session_id = SessionName(i);
    request.prompt_ids = {i % engine.transformer().config().vocab_size};
    request.max_new_tokens = n_new;
    request.ignore_end_tokens = true;
    worker::CallCallbacks callbacks;
    callbacks.on_token = [&decoder](const worker::GeneratedToken&) {
      decoder.tokens.push_back(absl::Now());
      return worker::TokenVerdict::kContinue;
    };
    callbacks.on_finished = [&](absl::StatusOr<CallResult> ended) {
      decoder.result = std::move(ended);
      finished.DecrementCount();
    };
    const auto started = engine.Generate(std::move(request), std::move(callbacks));
    if (started.ok()) continue;
    refused = started.status();
    finished.DecrementCount();
  }
  finished.Wait();
  LEXICO_RETURN_IF_ERROR(refused);
  absl::Time begin = absl::InfinitePast();
  absl::Time end = absl::InfiniteFuture();
  for (const Decoder& decoder : decoders) {
    LEXICO_RETURN_IF_ERROR(decoder.result.status());
    begin = std::max(begin, decoder.tokens.front());
    end = std::min(end, decoder.tokens.back());
  }
  const std::vector<absl::Time>& steps = decoders[0].tokens;
  const auto first = std::ranges::lower_bound(steps, begin);
  const auto last = std::ranges::upper_bound(steps, end);
  if (last - first < 2) {
    return absl::InvalidArgumentError(
        fmt::format("{} sessions never all decode at once within {} tokens; raise --new",
                    row->n_sessions, n_new));
  }
  row->steps = static_cast<double>(last - first - 1);
  row->seconds = absl::ToDoubleSeconds(*(last - 1) - *first);
  row->decode = decoders[0].result->timing;
  row->session = decoders[0].result->session;
  return absl::OkStatus();
}

// The first session and its copies, dropped at the end.
class Sessions {
 public:
  explicit Sessions(Engine* engine) : engine_(engine) {}
  ~Sessions() {
    for (int i = 0; i < n_; ++i) (void)engine_->Drop(SessionName(i));
  }
  Sessions(const Sessions&) = delete;
  Sessions& operator=(const Sessions&) = delete;

  absl::StatusOr<CallResult> Begin(const BenchOptions& options) {
    LEXICO_RETURN_IF_ERROR(
        engine_->OpenSession({.session_id = SessionName(0), .profile = options.profile}));
    n_ = 1;
    LEXICO_ASSIGN_OR_RETURN(CallResult result, AppendRandom(*engine_, options.n_tokens));
    if (options.n_sessions.size() > 1 || options.n_sessions[0] != 1) {
      LEXICO_ASSIGN_OR_RETURN(snapshot_, engine_->Export(SessionName(0), /*with_window=*/true));
      snapshot_.manifest.session_id = SessionName(0);
      snapshot_.manifest.model_name = "bench";
    }
    // A page of new tokens for each that is decoded, and one that is begun.
    const int64_t n_pages = options.n_new / base::kPageTokens + 2;
    growth_ = n_pages * base::kPageTokens *
              static_cast<int64_t>(result.session.memory.held_bytes() / options.n_tokens);
    return result;
  }

  // Until there are n, or for 0 until no more fit.
  absl::Status Grow(int n) {
    while (n == 0 ? HasRoom(*engine_, n_, growth_) : n_ < n) {
      LEXICO_RETURN_IF_ERROR(CopySession(*engine_, snapshot_, SessionName(n_)));
      ++n_;
    }
    return absl::OkStatus();
  }

  int size() const { return n_; }

 private:
  Engine* const engine_;
  worker::SessionSnapshot snapshot_;
  int64_t growth_ = 0;
  int n_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<BenchRow>> MeasureEngine(Engine& engine, const BenchOptions& options) {
  Sessions sessions(&engine);
  LEXICO_ASSIGN_OR_RETURN(const CallResult append, sessions.Begin(options));
  std::vector<BenchRow> rows;
  for (const int n_sessions : options.n_sessions) {
    LEXICO_RETURN_IF_ERROR(sessions.Grow(n_sessions));
    BenchRow row{.profile = options.profile,
                 .n_tokens = options.n_tokens,
                 .n_sessions = sessions.size(),
                 .n_new = options.n_new,
                 .append = append};
    LEXICO_RETURN_IF_ERROR(Decode(engine, options.n_new, &row));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace lexico::eval
