#include "tools/cli/json.h"

#include <fmt/format.h>
#include <google/protobuf/timestamp.pb.h>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/time/time.h"

namespace lexico::cli {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using nlohmann::ordered_json;

ordered_json TimestampToJson(const Message& message) {
  google::protobuf::Timestamp stamp;
  stamp.CopyFrom(message);
  if (stamp.seconds() == 0 && stamp.nanos() == 0) return nullptr;
  const absl::Time time = absl::FromUnixSeconds(stamp.seconds()) + absl::Nanoseconds(stamp.nanos());
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
}

// `index` < 0: the field itself, otherwise an element of a repeated field.
ordered_json FieldToJson(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection& r = *message.GetReflection();
  const bool repeated = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return repeated ? r.GetRepeatedInt32(message, field, index) : r.GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return repeated ? r.GetRepeatedInt64(message, field, index) : r.GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return repeated ? r.GetRepeatedUInt32(message, field, index) : r.GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return repeated ? r.GetRepeatedUInt64(message, field, index) : r.GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return repeated ? r.GetRepeatedDouble(message, field, index) : r.GetDouble(message, field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return repeated ? r.GetRepeatedFloat(message, field, index) : r.GetFloat(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return repeated ? r.GetRepeatedBool(message, field, index) : r.GetBool(message, field);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* value =
          repeated ? r.GetRepeatedEnum(message, field, index) : r.GetEnum(message, field);
      return EnumWord(*value);
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text =
          repeated ? r.GetRepeatedString(message, field, index) : r.GetString(message, field);
      if (field->type() == FieldDescriptor::TYPE_BYTES) text = absl::BytesToHexString(text);
      return text;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(repeated ? r.GetRepeatedMessage(message, field, index)
                             : r.GetMessage(message, field));
  }
  return nullptr;
}

}  // namespace

std::string EnumWord(const google::protobuf::EnumValueDescriptor& value) {
  // SESSION_STATE_READY of SessionState: the type's name in capitals is the prefix.
  std::string prefix;
  for (const char c : std::string(value.type()->name())) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  prefix += '_';
  std::string name = value.name();
  if (name.starts_with(prefix)) name = name.substr(prefix.size());
  return absl::AsciiStrToLower(name);
}

ordered_json ToJson(const Message& message) {
  const auto* descriptor = message.GetDescriptor();
  if (descriptor->full_name() == "google.protobuf.Timestamp") return TimestampToJson(message);
  ordered_json object = ordered_json::object();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    const Reflection& reflection = *message.GetReflection();
    if (field->is_repeated()) {
      ordered_json array = ordered_json::array();
      for (int k = 0; k < reflection.FieldSize(message, field); ++k) {
        array.push_back(FieldToJson(message, field, k));
      }
      object[field->name()] = std::move(array);
    } else if (field->containing_oneof() == nullptr || reflection.HasField(message, field)) {
      object[field->name()] = FieldToJson(message, field, -1);
    }
  }
  return object;
}

std::string JsonLine(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

void PrintJson(const ordered_json& value) {
  fmt::print("{}\n", JsonLine(value));
  std::fflush(stdout);
}

}  // namespace lexico::cli
