// Which worker a session goes to, and why.
//
// A function of the request and the workers as last reported; the same input gives the same answer.
//
//   1. The holder, while it is live (affinity). It serves what it has even when it is draining.
//   2. Else, of the workers that are ready, reachable, serve the model, have a free page and room
//   in
//      their queue and are not excluded, the best by, in this order:
//        a. free pages, in eighths of the pool: memory is what a long session needs most, and
//           eighths keep two nearly equal pools equal, so that (b) decides between them
//        b. the fewest sequences running and waiting
//        c. the fewest sessions, which is up to date between heartbeats
//        d. the smallest worker id
//   3. Else none, with the reason a caller can act on.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <variant>

#include "coordinator/registry/types.h"

namespace lexico::coord {

// Values of the label `reason` of lexico_route_decisions_total.
enum class RouteReason {
  kAffinity,  // it holds the session
  kLoad,      // chosen by load for a session that another worker held and gives up
  kRestore,   // chosen by load for an offloaded session
  kRecover,   // chosen for a session whose worker was lost: its keeper, or by load
  kCold,      // chosen by load for a new session
};
std::string_view RouteReasonName(RouteReason reason);

struct RouteRequest {
  const Session* session = nullptr;  // nullptr: a new session
  bool leave_holder = false;         // the session must go elsewhere (migration, drain)
  std::string keeper;                // has a copy of a session that nobody holds; first choice
  std::string model;                 // exact name
  std::string model_identity;        // empty: any, for a new session
  std::set<std::string> excluded;    // tried in vain, or full by admission's count
};

struct Route {
  std::string worker_id;
  RouteReason reason;
};

enum class NoRouteCause {
  kNoWorker,  // nobody serves: try later
  kNoModel,   // workers are there, none with this model (or this identity of it)
  kFull,      // the model is served, every worker of it is full
  kNotReady,  // the model is served, but only by workers that drain, are unreachable or excluded
};

struct NoRoute {
  NoRouteCause cause;
  std::string text;  // names the model and what each worker lacks
};

using RouteResult = std::variant<Route, NoRoute>;

RouteResult ChooseWorker(const RouteRequest& request, const std::map<std::string, Worker>& workers);

// What keeps `worker` from taking another session of this model: "" for nothing, else words such as
// "draining" or "no free page (0 of 512)". The judgement of step 2, for a target named by hand.
std::string Obstacle(const Worker& worker, const std::string& model,
                     const std::string& model_identity);
// Whether the obstacle is fullness: RESOURCE_EXHAUSTED rather than a wrong choice.
bool IsFull(const Worker& worker);

}  // namespace lexico::coord
