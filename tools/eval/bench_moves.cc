#include "tools/eval/bench_moves.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/host_buffer.h"
#include "proto/base/status.h"
#include "worker/kv/payload_reader.h"

namespace lexico::eval {
namespace {

using worker::Engine;

constexpr const char* kSession = "moves";
// Pages of one put, as the worker sends them.
constexpr size_t kBatchPages = 256;
constexpr int kSteps = 48;

class Stopwatch {
 public:
  // Seconds since the last call, or the beginning.
  double Lap() {
    const absl::Time now = absl::Now();
    return absl::ToDoubleSeconds(now - std::exchange(begin_, now));
  }

 private:
  absl::Time begin_ = absl::Now();
};

double GbPerS(size_t bytes, double seconds) { return 1e-9 * static_cast<double>(bytes) / seconds; }

std::vector<int32_t> RandomIds(const Engine& engine, int n) {
  std::mt19937_64 random(static_cast<uint64_t>(n));
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random() % engine.transformer().config().vocab_size);
  }
  return ids;
}

absl::Status Append(Engine& engine, int n_tokens) {
  absl::Status status;
  absl::Notification finished;
  worker::CallCallbacks callbacks;
  callbacks.on_finished = [&](const absl::StatusOr<worker::CallResult>& ended) {
    status = ended.status();
    finished.Notify();
  };
  LEXICO_RETURN_IF_ERROR(engine
                             .Append({.session_id = kSession, .ids = RandomIds(engine, n_tokens)},
                                     std::move(callbacks))
                             .status());
  finished.WaitForNotification();
  return status;
}

// A question of one token. Seconds to the first token of the answer, and of a step between the
// others.
struct Answered {
  double first_token_seconds = 0;
  double step_seconds = 0;
};
absl::StatusOr<Answered> Ask(Engine& engine, int n_new) {
  const absl::Time begin = absl::Now();
  std::vector<absl::Time> tokens;
  absl::Status status;
  absl::Notification finished;
  worker::CallCallbacks callbacks;
  callbacks.on_token = [&](const worker::GeneratedToken&) {
    tokens.push_back(absl::Now());
    return worker::TokenVerdict::kContinue;
  };
  callbacks.on_finished = [&](const absl::StatusOr<worker::CallResult>& ended) {
    status = ended.status();
    finished.Notify();
  };
  worker::GenerateRequest request{.session_id = kSession, .prompt_ids = {1}};
  request.max_new_tokens = n_new;
  request.ignore_end_tokens = true;
  LEXICO_RETURN_IF_ERROR(engine.Generate(std::move(request), std::move(callbacks)).status());
  finished.WaitForNotification();
  LEXICO_RETURN_IF_ERROR(status);
  return Answered{.first_token_seconds = absl::ToDoubleSeconds(tokens.front() - begin),
                  .step_seconds = absl::ToDoubleSeconds(tokens.back() - tokens.front()) /
                                  std::max<double>(1, n_new - 1)};
}

// What the store would hold of a session.
struct Stored {
  store::Manifest manifest;
  std::vector<store::EncodedHeader> headers;  // [n_pages]
  std::vector<uint8_t> payloads;              // [n_pages, page bytes]
  std::vector<worker::WindowExport> windows;

  size_t page_bytes() const { return payloads.size() / headers.size(); }
  std::span<const uint8_t> payload(int64_t i) const {
    return std::span(payloads).subspan(i * page_bytes(), page_bytes());
  }
};

// Reads all pages once and calls `use(page, payload)` for each. How many bytes.
template <typename Use>
size_t ReadAll(const std::vector<worker::PageExport>& pages, Use use) {
  std::vector<const worker::PageExport*> all;
  for (const worker::PageExport& page : pages) all.push_back(&page);
  size_t bytes = 0;
  for (worker::PayloadReader reader(all, kBatchPages); reader.Next();) {
    for (size_t i = 0; i < reader.pages().size(); ++i) {
      use(*reader.pages()[i], reader.payload(i));
      bytes += reader.payload(i).size();
    }
  }
  return bytes;
}

absl::StatusOr<RestoreTimes> Restore(Engine& engine, const Stored& stored, int threads) {
  RestoreTimes times;
  Stopwatch watch;
  LEXICO_ASSIGN_OR_RETURN(auto import, engine.BeginImport(stored.manifest));
  times.begin_seconds = watch.Lap();
  std::atomic<int64_t> n_refused = 0;
  for (auto range = import->NextPages(); !range.empty(); range = import->NextPages()) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = range.begin; i < range.end; ++i) {
      const std::span<const uint8_t> payload = stored.payload(i);
      std::memcpy(import->page_buffer(i).data(), payload.data(), payload.size());
      const auto header = store::DecodeHeader(stored.headers[i]);
      if (!header.ok() || !store::VerifyPayload(*header, import->page_buffer(i)).ok() ||
          !import->AcceptPage(i, *header).ok()) {
        ++n_refused;
      }
    }
  }
  times.pages_seconds = watch.Lap();
  for (int layer = 0; layer < import->n_windows(); ++layer) {
    const worker::WindowExport& window = stored.windows[layer];
    std::ranges::copy(window.payload, import->window_buffer(layer).begin());
    LEXICO_ASSIGN_OR_RETURN(const store::PageHeader header, store::DecodeHeader(store::EncodeHeader(
                                                                window.header, window.payload)));
    LEXICO_RETURN_IF_ERROR(import->AcceptWindow(layer, header));
  }
  LEXICO_RETURN_IF_ERROR(engine.FinishImport(kSession, std::move(import)).status());
  times.windows_seconds = watch.Lap();
  LEXICO_ASSIGN_OR_RETURN(const Answered answered, Ask(engine, 1));
  times.first_token_seconds = answered.first_token_seconds;
  if (n_refused == 0) return times;
  return absl::InternalError("a page that was exported is refused");
}

// An import, given up at its end, of pages that need not be received.
absl::StatusOr<double> ImportInPlace(Engine& engine, const Stored& stored) {
  std::vector<store::PageHeader> headers;
  for (const store::EncodedHeader& encoded : stored.headers) {
    LEXICO_ASSIGN_OR_RETURN(headers.emplace_back(), store::DecodeHeader(encoded));
  }
  LEXICO_ASSIGN_OR_RETURN(const auto import, engine.BeginImport(stored.manifest));
  Stopwatch watch;
  for (auto range = import->NextPages(); !range.empty(); range = import->NextPages()) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      LEXICO_RETURN_IF_ERROR(import->AcceptPage(i, headers[i]));
    }
  }
  return GbPerS(stored.payloads.size(), watch.Lap());
}

// Decoding alone, then while another thread reads pages.
absl::Status MeasureBeside(Engine& engine, const std::vector<worker::PageExport>& pages,
                           MovesRow* row) {
  LEXICO_ASSIGN_OR_RETURN(const Answered alone, Ask(engine, kSteps));
  row->step_seconds = alone.step_seconds;
  std::atomic<bool> is_over = false;
  size_t bytes = 0;
  double seconds = 0;
  std::thread reader([&] {
    Stopwatch watch;
    while (!is_over) bytes += ReadAll(pages, [](const auto&, const auto&) {});
    seconds = watch.Lap();
  });
  const absl::StatusOr<Answered> beside = Ask(engine, kSteps);
  is_over = true;
  reader.join();
  if (!beside.ok()) return beside.status();
  row->step_beside_seconds = beside->step_seconds;
  row->beside_gb_per_s = GbPerS(bytes, seconds);
  return absl::OkStatus();
}

// The session in kSession to the host, in all ways.
absl::StatusOr<Stored> Export(Engine& engine, MovesRow* row) {
  Stopwatch watch;
  LEXICO_ASSIGN_OR_RETURN(worker::SessionSnapshot snapshot, engine.Export(kSession, true));
  row->export_seconds = watch.Lap();
  double best = 1e30;
  for (int i = 0; i < 3; ++i) {
    watch.Lap();
    row->page_bytes = ReadAll(snapshot.pages, [](const auto&, const auto&) {});
    best = std::min(best, watch.Lap());
  }
  row->to_host_gb_per_s = GbPerS(row->page_bytes, best);
  Stored stored;
  watch.Lap();
  ReadAll(snapshot.pages, [&](const worker::PageExport& page, std::span<const uint8_t> payload) {
    stored.headers.push_back(store::EncodeHeader(page.header, payload));
  });
  row->to_wire_gb_per_s = GbPerS(row->page_bytes, watch.Lap());
  stored.payloads.reserve(row->page_bytes);
  ReadAll(snapshot.pages, [&](const worker::PageExport&, std::span<const uint8_t> payload) {
    stored.payloads.insert(stored.payloads.end(), payload.begin(), payload.end());
  });
  for (const auto& window : snapshot.windows) row->window_bytes += window.payload.size();
  stored.windows = std::move(snapshot.windows);
  stored.manifest = std::move(snapshot.manifest);
  stored.manifest.session_id = kSession;
  stored.manifest.model_name = "bench";
  LEXICO_ASSIGN_OR_RETURN(const Answered answered, Ask(engine, 1));
  row->read_again_seconds += answered.first_token_seconds;
  LEXICO_RETURN_IF_ERROR(MeasureBeside(engine, snapshot.pages, row));
  return stored;
}

absl::StatusOr<MovesRow> Measure(Engine& engine, MovesRow row, int threads) {
  LEXICO_RETURN_IF_ERROR(engine.OpenSession({.session_id = kSession, .profile = row.profile}));
  Stopwatch watch;
  LEXICO_RETURN_IF_ERROR(Append(engine, row.n_tokens));
  row.read_again_seconds = watch.Lap();
  LEXICO_ASSIGN_OR_RETURN(const Stored stored, Export(engine, &row));
  LEXICO_RETURN_IF_ERROR(engine.Drop(kSession));
  LEXICO_ASSIGN_OR_RETURN(row.to_device_gb_per_s, ImportInPlace(engine, stored));
  LEXICO_ASSIGN_OR_RETURN(row.all_threads, Restore(engine, stored, threads));
  LEXICO_RETURN_IF_ERROR(engine.Drop(kSession));
  LEXICO_ASSIGN_OR_RETURN(row.one_thread, Restore(engine, stored, 1));
  return row;
}

// The best of ten rounds of 16 copies.
template <typename Copy>
double BestOfCopies(const kernels::Stream& stream, size_t bytes, Copy copy) {
  double best = 0;
  for (int round = 0; round < 10; ++round) {
    Stopwatch watch;
    for (int i = 0; i < 16; ++i) copy();
    stream.Synchronize();
    best = std::max(best, GbPerS(16 * bytes, watch.Lap()));
  }
  return best;
}

}  // namespace

absl::StatusOr<BusCeilings> MeasureBus(const kernels::Stream& stream) {
  constexpr size_t kBytes = size_t{64} << 20;
  const kernels::Stream own = stream.Sibling();
  LEXICO_ASSIGN_OR_RETURN(const auto host, kernels::HostBuffer::Allocate(kBytes, own));
  LEXICO_ASSIGN_OR_RETURN(const auto device, kernels::DeviceBuffer::Allocate(kBytes, own));
  std::memset(host.as<void>(), 1, kBytes);
  BusCeilings ceilings;
  ceilings.to_device = BestOfCopies(
      own, kBytes, [&] { own.UploadAsync(device.as<void>(), host.as<void>(), kBytes); });
  ceilings.to_host = BestOfCopies(
      own, kBytes, [&] { own.DownloadAsync(host.as<void>(), device.as<void>(), kBytes); });
  return ceilings;
}

absl::StatusOr<MovesRow> MeasureMoves(Engine& engine, const std::string& profile, int n_tokens,
                                      int threads) {
  auto row = Measure(engine, {.profile = profile, .n_tokens = n_tokens}, threads);
  (void)engine.Drop(kSession);
  return row;
}

}  // namespace lexico::eval
