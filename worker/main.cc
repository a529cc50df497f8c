// lexico-worker: loads one model, serves its sessions until SIGTERM, and stores them then.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "cache_store/client/client.h"
#include "kernels/cpu/openmp.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"
#include "proto/base/options.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/server.h"
#include "worker/engine/engine.h"
#include "worker/model/model_rank.h"
#include "worker/options.h"
#include "worker/service/page_writer.h"
#include "worker/service/registrar.h"
#include "worker/service/session_service.h"
#include "worker/service/session_store.h"
#include "worker/service/text_model.h"

namespace lexico::worker {
namespace {

// Of the memory for keys and values, what pages on their way to the store may hold back.
constexpr size_t kWriterShare = 8;
// A start is not held up longer than this by a coordinator that does not answer.
constexpr absl::Duration kRegisterWait = absl::Seconds(3);

// Everything in the order in which it is made; destroyed in reverse.
struct Worker {
  WorkerOptions options;
  std::unique_ptr<base::Metrics> metrics;
  TextModel text;
  std::vector<ModelRank> ranks;
  std::unique_ptr<store::Client> store_client;  // null: no store
  std::unique_ptr<PageWriter> writer;
  std::unique_ptr<Engine> engine;
  SessionTable table;
  std::unique_ptr<SessionStore> store;
  ServiceContext context;
  std::unique_ptr<SessionService> service;
  std::unique_ptr<rpc::Server> server;
  std::unique_ptr<Registrar> registrar;

  const Transformer& transformer() const { return *ranks[0].transformer; }
  const ModelDictionary* dictionary() const { return ranks[0].dictionary.get(); }
};

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

// Empty where only profiles without atoms are served.
absl::StatusOr<std::string> DictionaryPath(const WorkerOptions& options) {
  if (options.dictionary == "none") return "";
  if (!options.dictionary.empty()) return options.dictionary;
  absl::StatusOr<std::string> found = FindDefaultDictionary(options.model);
  if (!absl::IsNotFound(found.status())) return found;
  spdlog::warn("{}; only profile dense is served", std::string(found.status().message()));
  return "";
}

absl::Status LoadModel(Worker& worker) {
  const WorkerOptions& options = worker.options;
  LEXICO_ASSIGN_OR_RETURN(
      const std::vector<kernels::Stream> streams,
      kernels::Stream::OpenRanks(options.device, options.threads, options.tensor_parallel));
  LEXICO_ASSIGN_OR_RETURN(const std::string dictionary, DictionaryPath(options));
  LEXICO_ASSIGN_OR_RETURN(worker.ranks, LoadModelRanks(options.model, dictionary, streams));
  LEXICO_ASSIGN_OR_RETURN(worker.text, LoadTextModel(options.model, worker.transformer().config()));
  return absl::OkStatus();
}

absl::Status MakeEngine(Worker& worker) {
  const WorkerOptions& options = worker.options;
  EngineOptions engine;
  engine.kv_memory_bytes = options.kv_memory_bytes;
  engine.prefill_memory_bytes = options.prefill_memory_bytes;
  engine.waiting_max = options.queue_max;
  engine.decode_graphs = options.decode_graphs;
  engine.tokenizer = worker.text.tokenizer->fingerprint();
  if (!options.store.empty()) {
    LEXICO_ASSIGN_OR_RETURN(
        worker.store_client,
        store::Client::Create(
            store::ClientOptions{.address = options.store,
                                 .tls = options.tls,
                                 .stall_timeout = absl::Seconds(options.store_stall_timeout_s)},
            worker.metrics.get()));
    // 0: what is left on the device, of which the engine takes nearly all.
    size_t kv_bytes = options.kv_memory_bytes;
    for (const ModelRank& rank : worker.ranks) {
      if (options.kv_memory_bytes == 0) kv_bytes += rank.stream.device()->FreeBytes();
    }
    worker.writer = std::make_unique<PageWriter>(worker.store_client.get(), worker.metrics.get(),
                                                 kv_bytes / kWriterShare);
    engine.page_sink = [writer = worker.writer.get()](const std::string& session_id,
                                                      std::vector<PageExport> pages) {
      writer->Push(session_id, std::move(pages));
    };
  }
  engine.on_demoted = [writer = worker.writer.get()](const DemotionReport& report) {
    spdlog::info("session {} demoted from {} to {} ({}): {} pages, {} freed, {} ms",
                 report.session_id, report.from, report.to,
                 report.by_call ? "asked for" : "memory is short", report.n_pages,
                 base::HumanBytes(static_cast<double>(report.freed_bytes)),
                 absl::ToInt64Milliseconds(report.took));
    // Its pages have other names now.
    if (writer != nullptr) writer->SyncLater(report.session_id, absl::Now());
  };
  LEXICO_ASSIGN_OR_RETURN(worker.engine, Engine::Create(engine, worker.ranks, base::Clock::Real(),
                                                        worker.metrics.get()));
  if (worker.writer != nullptr) {
    worker.store = std::make_unique<SessionStore>(worker.store_client.get(), worker.writer.get(),
                                                  worker.engine.get(), &worker.table,
                                                  options.model_name, worker.metrics.get());
  }
  return absl::OkStatus();
}

v1::ModelInfo DescribeModel(const Worker& worker) {
  const ModelConfig& config = worker.transformer().config();
  v1::ModelInfo info;
  info.set_name(worker.options.model_name);
  info.set_fingerprint(worker.transformer().fingerprint().ToHex());
  info.set_tokenizer_fingerprint(worker.text.tokenizer->fingerprint().ToHex());
  info.set_n_layers(config.n_layers);
  info.set_n_heads(config.n_heads);
  info.set_n_kv_heads(config.n_kv_heads);
  info.set_head_dim(config.head_dim);
  info.set_hidden_dim(config.hidden_dim);
  info.set_vocab_size(config.vocab_size);
  info.set_max_positions(config.max_positions);
  info.set_has_chat_template(worker.text.turns.has_value());
  if (worker.dictionary() != nullptr) {
    info.set_dictionary_fingerprint(worker.dictionary()->fingerprint().ToHex());
    info.set_n_atoms(worker.dictionary()->n_atoms());
  }
  for (const std::string& name : base::ListedProfiles(worker.engine->coding())) {
    info.add_profiles(name);
  }
  return info;
}

// A line for every device.
void PrintBudget(const Worker& worker) {
  const EngineLoad load = worker.engine->load();
  const auto n_ranks = worker.ranks.size();
  const int64_t n_layers = worker.transformer().config().n_layers;
  const int64_t n_tokens = load.n_pages / n_layers * base::kPageTokens;
  for (const ModelRank& rank : worker.ranks) {
    const kernels::Stream& stream = rank.stream;
    spdlog::info("memory: weights {}, dictionaries {}, keys and values {} = {} tokens of {}{} ({})",
                 base::HumanBytes(static_cast<double>(rank.transformer->weight_bytes())),
                 base::HumanBytes(rank.dictionary == nullptr
                                      ? 0.0
                                      : static_cast<double>(rank.dictionary->bytes())),
                 base::HumanBytes(static_cast<double>(load.pool.total_bytes / n_ranks)), n_tokens,
                 worker.context.model.profiles(0), n_ranks > 1 ? " with the others" : "",
                 stream.device() == nullptr ? fmt::format("{} threads", stream.threads())
                                            : stream.device()->name());
  }
}

absl::Status StartRegistrar(Worker& worker) {
  const WorkerOptions& options = worker.options;
  if (options.coordinator.empty()) return absl::OkStatus();
  LEXICO_ASSIGN_OR_RETURN(const auto channel, rpc::MakeChannel(options.coordinator, options.tls));
  SessionService* service = worker.service.get();
  worker.registrar = std::make_unique<Registrar>(
      RegistrarOptions{.worker_id = options.worker_id,
                       .address = options.advertise_address,
                       .coordinator = options.coordinator,
                       .model = worker.context.model},
      v1::WorkerRegistry::NewStub(channel), [service] { return service->Load(); },
      [service] { return service->Held(); },
      [service](const v1::SessionAtEpoch& session) { service->Revoke(session); });
  if (!worker.registrar->WaitUntilRegistered(kRegisterWait)) {
    spdlog::warn("not registered at {} yet; trying again", options.coordinator);
  }
  return absl::OkStatus();
}

absl::Status Start(Worker& worker) {
  WorkerOptions& options = worker.options;
  worker.metrics = std::make_unique<base::Metrics>("worker");
  LEXICO_RETURN_IF_ERROR(LoadModel(worker));
  LEXICO_RETURN_IF_ERROR(MakeEngine(worker));
  ServiceContext& context = worker.context;
  context.model = DescribeModel(worker);
  context.max_positions = worker.transformer().config().max_positions;
  context.text = &worker.text;
  context.engine = worker.engine.get();
  context.table = &worker.table;
  context.store = worker.store.get();
  context.metrics = worker.metrics.get();
  worker.service = std::make_unique<SessionService>(context);
  LEXICO_ASSIGN_OR_RETURN(worker.server,
                          rpc::Server::Start(options.address, {worker.service.get()}, options.tls));
  const std::string grpc_address =
      fmt::format("{}:{}", HostOf(options.address), worker.server->port());
  if (options.advertise_address.empty()) options.advertise_address = grpc_address;
  if (options.worker_id.empty()) {
    char host[256] = "worker";
    gethostname(host, sizeof(host) - 1);
    options.worker_id = fmt::format("{}-{}", host, worker.server->port());
  }
  context.worker_id = options.worker_id;
  LEXICO_ASSIGN_OR_RETURN(const int metrics_port, worker.metrics->Serve(options.metrics_address));
  PrintBudget(worker);
  worker.server->SetServing(true);
  LEXICO_RETURN_IF_ERROR(StartRegistrar(worker));
  fmt::print("ready grpc={} metrics={}:{}\n", grpc_address, HostOf(options.metrics_address),
             metrics_port);
  std::fflush(stdout);
  return absl::OkStatus();
}

void Stop(Worker& worker) {
  spdlog::info("stopping: {} sessions go to the store", worker.table.List().size());
  worker.server->SetServing(false);
  const absl::Duration timeout = absl::Seconds(worker.options.drain_timeout_s);
  const int n_left = worker.service->Drain(timeout);
  if (n_left > 0) spdlog::warn("{} sessions could not be stored", n_left);
  if (worker.registrar != nullptr) worker.registrar->Stop(/*deregister=*/true);
  worker.server->Shutdown(absl::Seconds(1));
}

int Main(int argc, char** argv) {
  auto worker = std::make_unique<Worker>();
  const absl::Status parsed = ParseWorkerOptions(argc, argv, &worker->options);
  if (absl::IsCancelled(parsed)) {
    fmt::print("{}", std::string(parsed.message()));
    return 0;
  }
  if (!parsed.ok()) {
    fmt::print(stderr, "lexico-worker: {}\n", std::string(parsed.message()));
    return 2;
  }
  base::InitLogging("worker", worker->options.log_level);
  rpc::BlockShutdownSignals();
  if (const absl::Status status = Start(*worker); !status.ok()) {
    fmt::print(stderr, "lexico-worker: {}: {}\n", absl::StatusCodeToString(status.code()),
               std::string(status.message()));
    return 1;
  }
  rpc::WaitForShutdownSignal();
  Stop(*worker);
  return 0;
}

}  // namespace
}  // namespace lexico::worker

int main(int argc, char** argv) {
  lexico::kernels::cpu::EnsureShortSpin(argv);
  return lexico::worker::Main(argc, argv);
}
