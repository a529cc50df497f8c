#include "proto/rpc/tls.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "proto/base/status.h"

namespace lexico::rpc {
namespace {

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::InvalidArgumentError(fmt::format("cannot read the PEM file {}", path));
  }
  return text.str();
}

absl::Status CheckPair(const TlsOptions& tls) {
  if (tls.certificate_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("TLS needs both a certificate (\"{}\") and a key (\"{}\")",
                    tls.certificate_file, tls.key_file));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsOptions& tls) {
  LEXICO_RETURN_IF_ERROR(CheckPair(tls));
  if (tls.certificate_file.empty()) {
    if (!tls.ca_file.empty()) {
      return absl::InvalidArgumentError(fmt::format(
          "a CA ({}) without a certificate and key: a server needs its own pair", tls.ca_file));
    }
    return grpc::InsecureServerCredentials();
  }
  grpc::SslServerCredentialsOptions options(
      tls.ca_file.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  LEXICO_ASSIGN_OR_RETURN(std::string certificate, ReadPem(tls.certificate_file));
  LEXICO_ASSIGN_OR_RETURN(std::string key, ReadPem(tls.key_file));
  if (!tls.ca_file.empty()) {
    LEXICO_ASSIGN_OR_RETURN(options.pem_root_certs, ReadPem(tls.ca_file));
  }
  options.pem_key_cert_pairs.push_back({key, certificate});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(const TlsOptions& tls) {
  LEXICO_RETURN_IF_ERROR(CheckPair(tls));
  if (tls.certificate_file.empty() && tls.ca_file.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions options;
  if (!tls.ca_file.empty()) {
    LEXICO_ASSIGN_OR_RETURN(options.pem_root_certs, ReadPem(tls.ca_file));
  }
  if (!tls.certificate_file.empty()) {
    LEXICO_ASSIGN_OR_RETURN(options.pem_cert_chain, ReadPem(tls.certificate_file));
    LEXICO_ASSIGN_OR_RETURN(options.pem_private_key, ReadPem(tls.key_file));
  }
  return grpc::SslCredentials(options);
}

}  // namespace lexico::rpc
