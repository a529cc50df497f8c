#include "coordinator/service/store_link.h"

#include <fmt/format.h>

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/timestamp.h"

namespace lexico::coord {
namespace {

// A client waits for its deletion, and so does whoever wants the id again.
constexpr absl::Duration kTimeout = absl::Seconds(5);

}  // namespace

absl::StatusOr<std::unique_ptr<StoreLink>> StoreLink::Create(const std::string& address,
                                                             const rpc::TlsOptions& tls) {
  LEXICO_ASSIGN_OR_RETURN(const auto channel, rpc::MakeChannel(address, tls));
  return std::unique_ptr<StoreLink>(new StoreLink(address, v1::CacheStore::NewStub(channel)));
}

absl::Status StoreLink::Delete(const std::string& session_id, uint64_t epoch,
                               absl::Time create_time) const {
  v1::DeleteManifestRequest request;
  request.set_session_id(session_id);
  request.set_epoch(epoch);
  if (create_time != absl::InfinitePast()) {
    *request.mutable_create_time() = rpc::TimeToProto(create_time);
  }
  v1::DeleteManifestResponse response;
  grpc::ClientContext context;
  rpc::SetTimeout(context, kTimeout);
  return Answer(stub_->DeleteManifest(&context, request, &response));
}

absl::StatusOr<v1::ListManifestsResponse> StoreLink::List(const std::string& start_after) const {
  v1::ListManifestsRequest request;
  request.set_start_after(start_after);
  request.set_page_size(base::kListPageMax);
  v1::ListManifestsResponse response;
  grpc::ClientContext context;
  rpc::SetTimeout(context, kTimeout);
  LEXICO_RETURN_IF_ERROR(Answer(stub_->ListManifests(&context, request, &response)));
  return response;
}

absl::StatusOr<v1::StoreStatus> StoreLink::Status() const {
  v1::StoreStatus response;
  grpc::ClientContext context;
  rpc::SetTimeout(context, kTimeout);
  LEXICO_RETURN_IF_ERROR(Answer(stub_->GetStatus(&context, {}, &response)));
  return response;
}

absl::Status StoreLink::Verify(const grpc::ServerContext& context, const v1::VerifyRequest& request,
                               const std::function<bool(const v1::VerifyProgress&)>& visit) const {
  const auto call = grpc::ClientContext::FromServerContext(context);
  const auto reader = stub_->Verify(call.get(), request);
  v1::VerifyProgress progress;
  while (reader->Read(&progress)) {
    if (!visit(progress)) call->TryCancel();
  }
  return Answer(reader->Finish());
}

absl::Status StoreLink::Answer(const grpc::Status& status) const {
  const absl::Status answer =
      base::Annotate(rpc::FromGrpc(status), fmt::format("store {}", address_));
  const bool is_silent = absl::IsUnavailable(answer) || absl::IsDeadlineExceeded(answer);
  if (!is_silent || !rpc::ReasonOf(answer).empty()) return answer;
  return rpc::WithDetail(absl::UnavailableError(std::string(answer.message())), "store_unavailable",
                         absl::Seconds(1));
}

}  // namespace lexico::coord
