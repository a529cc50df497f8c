// Looks into files of the project without the process that owns them: what a file is, whether it is
// sound, and if not where. Files are only read; one that is being written is seen as it was at some
// moment, so the end of a segment or journal in use may look cut.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/inspect/report.h"

namespace lexico::inspect {

struct Options {
  bool list_pages = false;  // a line for every page of a segment
};

// By its first bytes: a segment of a store (docs/formats/segment.md), a page (page.md), a
// coordinator's journal (journal.md), a dictionary or another safetensors file. All of it is read
// and verified. A file of none of these kinds is a report of kind "unknown", with damage that says
// what it begins with. Errors: the file cannot be read.
absl::StatusOr<Report> InspectFile(const std::string& path, const Options& options);

// The same of bytes; `path` is their name in the report.
Report InspectSegment(const std::string& path, std::span<const uint8_t> bytes,
                      const Options& options);
Report InspectPage(const std::string& path, std::span<const uint8_t> bytes);
Report InspectJournal(const std::string& path, std::span<const uint8_t> bytes);

// What InspectFile can be given of `path`: itself, or of a folder all files in it and below that
// are named as those of a store, a coordinator or a model are (*.lxsg, journal, *.safetensors),
// sorted. NotFound: no such path, or a folder without such files.
absl::StatusOr<std::vector<std::string>> FilesToInspect(const std::string& path);

}  // namespace lexico::inspect
