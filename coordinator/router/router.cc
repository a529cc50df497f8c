#include "coordinator/router/router.h"

#include <fmt/format.h>

#include <cstdint>
#include <tuple>

#include "proto/base/check.h"

namespace lexico::coord {
namespace {

bool ServesModel(const Worker& worker, const std::string& model, const std::string& identity) {
  return worker.model.name == model && (identity.empty() || worker.model.identity == identity);
}

// Smaller is better.
auto Rank(const Worker& worker) {
  const WorkerLoad& load = worker.load;
  const int64_t eighths = load.n_pages > 0 ? 8 * load.n_pages_free / load.n_pages : 8;
  return std::make_tuple(-eighths, int64_t{load.n_running} + load.n_waiting, worker.n_sessions,
                         std::string_view(worker.worker_id));
}

RouteReason ReasonFor(const RouteRequest& request) {
  if (request.session == nullptr) return RouteReason::kCold;
  if (request.leave_holder) return RouteReason::kLoad;
  return request.session->placement == Placement::kOffloaded ? RouteReason::kRestore
                                                             : RouteReason::kRecover;
}

}  // namespace

std::string_view RouteReasonName(RouteReason reason) {
  switch (reason) {
    case RouteReason::kAffinity:
      return "affinity";
    case RouteReason::kLoad:
      return "load";
    case RouteReason::kRestore:
      return "restore";
    case RouteReason::kRecover:
      return "recover";
    case RouteReason::kCold:
      return "cold";
  }
  LEXICO_UNREACHABLE();
}

bool IsFull(const Worker& worker) {
  const WorkerLoad& load = worker.load;
  if (load.n_pages > 0 && load.n_pages_free <= 0) return true;
  return load.n_waiting_max > 0 && load.n_waiting >= load.n_waiting_max;
}

std::string Obstacle(const Worker& worker, const std::string& model,
                     const std::string& model_identity) {
  if (worker.state != WorkerState::kReady) return std::string(WorkerStateName(worker.state));
  if (worker.unreachable) return "unreachable since its last heartbeat";
  if (worker.model.name != model) return fmt::format("serves model {}", worker.model.name);
  if (!ServesModel(worker, model, model_identity)) {
    return fmt::format("other weights, dictionary or tokenizer of {}", model);
  }
  const WorkerLoad& load = worker.load;
  if (load.n_pages > 0 && load.n_pages_free <= 0) {
    return fmt::format("no free page ({} of {})", load.n_pages_free, load.n_pages);
  }
  if (IsFull(worker)) {
    return fmt::format("queue full ({} of {})", load.n_waiting, load.n_waiting_max);
  }
  return "";
}

RouteResult ChooseWorker(const RouteRequest& request,
                         const std::map<std::string, Worker>& workers) {
  const Session* session = request.session;
  if (session != nullptr && !request.leave_holder && session->placement == Placement::kResident) {
    const auto holder = workers.find(session->worker);
    if (holder != workers.end() && holder->second.state != WorkerState::kLost &&
        !request.excluded.contains(session->worker)) {
      return Route{session->worker, RouteReason::kAffinity};
    }
  }
  if (const auto keeper = workers.find(request.keeper);
      keeper != workers.end() && !request.leave_holder &&
      !request.excluded.contains(request.keeper) &&
      Obstacle(keeper->second, request.model, request.model_identity).empty()) {
    return Route{request.keeper, ReasonFor(request)};
  }
  const Worker* best = nullptr;
  bool any_live = false, any_model = false, any_full = false;
  std::string obstacles;
  for (const auto& [id, worker] : workers) {
    if (worker.state == WorkerState::kLost) continue;
    any_live = true;
    const bool serves = ServesModel(worker, request.model, request.model_identity);
    any_model |= serves;
    std::string obstacle = Obstacle(worker, request.model, request.model_identity);
    if (obstacle.empty() && session != nullptr && request.leave_holder && session->worker == id) {
      obstacle = "holds it already";
    } else if (serves && IsFull(worker) && worker.state == WorkerState::kReady) {
      any_full = true;
    } else if (obstacle.empty() && request.excluded.contains(id)) {
      obstacle = "tried already, or busy";
    }
    if (!obstacle.empty()) {
      obstacles += fmt::format("{}{}: {}", obstacles.empty() ? "" : "; ", id, obstacle);
    } else if (best == nullptr || Rank(worker) < Rank(*best)) {
      best = &worker;
    }
  }
  if (best != nullptr) return Route{best->worker_id, ReasonFor(request)};
  if (!any_live) return NoRoute{NoRouteCause::kNoWorker, "no worker is registered"};
  const NoRouteCause cause = !any_model ? NoRouteCause::kNoModel
                             : any_full ? NoRouteCause::kFull
                                        : NoRouteCause::kNotReady;
  return NoRoute{cause, fmt::format("no worker can take a session of model {} ({})", request.model,
                                    obstacles)};
}

}  // namespace lexico::coord
