// Protocol messages as JSON for scripts.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>

namespace lexico::cli {

// Field names as in the .proto files, in their order, every field present; 64-bit integers as
// numbers; enums as lower-case words without their prefix ("ready"); timestamps as RFC 3339 in UTC,
// null when unset; bytes as hexadecimal. Text that is not UTF-8 gets replacement characters.
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

// The word of an enum value: FINISH_REASON_STOP -> "stop".
std::string EnumWord(const google::protobuf::EnumValueDescriptor& value);

// One line without its newline.
std::string JsonLine(const nlohmann::ordered_json& value);

// JsonLine on stdout.
void PrintJson(const nlohmann::ordered_json& value);

}  // namespace lexico::cli
