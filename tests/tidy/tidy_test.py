#!/usr/bin/env python3
"""Style and architecture as a test: what docs/ARCHITECTURE.md and docs/testing.md promise, checked over the tracked files.

Run by ctest and .ci/run; prints one line per offence and exits with 1 if there is any.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 100
TABLES = {"proto/base/metrics_table.cc"}  # data, however long
COLUMNS_MAX = 100
TOP_LEVEL = {
    "CMakeLists.txt", "CMakePresets.json", "README.md", "CHANGELOG.md", "LICENSE", "proto", "coordinator", "worker", "kernels",
    "cache_store", "deploy", "tests", "tools", "docs", "models",
}
# folder -> folders it may include from, besides itself. The transcription of docs/ARCHITECTURE.md section 4.
BASE = {"proto/base"}
RPC = BASE | {"proto/rpc", "lexico/v1", "grpc/health/v1"}
KERNELS = BASE | {"kernels/api"}
FORMAT = BASE | {"cache_store/format"}
ARROWS = {
    "proto/base": set(),
    "proto/rpc": BASE | {"lexico/v1", "grpc/health/v1"},
    "kernels/api": BASE,
    "kernels/cpu": KERNELS,
    "kernels/cuda": KERNELS,
    "kernels/ops": KERNELS | {"kernels/cpu", "kernels/cuda"},
    "kernels/bench": KERNELS | {"kernels/cpu", "kernels/cuda"},
    "cache_store/format": BASE,
    "cache_store/tiers": FORMAT,
    "cache_store/transfer": FORMAT,
    "cache_store/client": FORMAT | RPC | {"cache_store/transfer"},
    "cache_store/server": FORMAT | RPC | {"cache_store/tiers", "cache_store/transfer"},
    "worker/tokenizer": BASE,
    "worker/model": KERNELS,
    "worker/kv": KERNELS | FORMAT,
    "worker/engine": KERNELS | FORMAT | {"worker/model", "worker/kv"},
    "worker/service": KERNELS | FORMAT | RPC | {"worker/engine", "worker/kv", "worker/model", "worker/tokenizer", "cache_store/client"},
    "coordinator/registry": BASE,
    "coordinator/admission": BASE,
    "coordinator/state": BASE | {"coordinator/registry"},
    "coordinator/router": BASE | {"coordinator/registry"},
    "coordinator/service": RPC | {"coordinator/registry", "coordinator/admission", "coordinator/state", "coordinator/router"},
}
# Pure folders: time comes in as an argument, effects go out as values.
PURE = ("coordinator/registry", "coordinator/router", "coordinator/admission", "cache_store/format")
PURE_FORBIDDEN = re.compile(r"absl::Now\(|Clock::Real|std::thread|<thread>|grpcpp/|<fstream>|std::chrono::(system|steady)_clock::now")


def tracked():
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return [f for f in out.split("\0") if f and os.path.exists(os.path.join(ROOT, f))]


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def check_text(path, lines, say):
    if len(lines) > FILE_LINES_MAX:
        say(path, len(lines), f"has {len(lines)} lines, at most {FILE_LINES_MAX}")
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(FIXME|XXX)\b", line) and not path.startswith("tests/tidy/"):
            say(path, number, "FIXME does not pass")
        if re.search(r"\bTODO\b(?!\(#\d+\))", line) and not path.startswith("tests/tidy/"):
            say(path, number, "a TODO needs an issue number: TODO(#12)")
        if line != line.rstrip():
            say(path, number, "trailing white space")


def check_cpp(path, lines, say):
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX and "http" not in line and '"' not in line:
            say(path, number, f"{len(line)} columns, at most {COLUMNS_MAX}")
        if "<<<" in line and not path.startswith("kernels/cuda/launch"):
            say(path, number, "kernels are launched through Launch() only")
        if "cuda_runtime.h" in line and "#include" in line and not path.startswith(("kernels/cuda/", "worker/parallel/")):
            say(path, number, "cuda_runtime.h belongs to kernels/cuda and worker/parallel")
    if path.endswith(".h") and not path.endswith("-inl.h") and "#pragma once" not in lines:
        say(path, 1, "header without #pragma once")


def check_functions(path, lines, say):
    start = None
    for number, line in enumerate(lines, 1):
        # clang-format leaves a function's opening line at column 0 and its closing brace alone at column 0.
        if re.match(r"[A-Za-z_].*\{$", line) and not re.match(r"(namespace|struct|class|enum|union|extern|HWY_)", line):
            start = number
        elif line == "}" and start is not None:
            if number - start > FUNCTION_LINES_MAX and path not in TABLES:
                say(path, start, f"function of {number - start} lines, at most {FUNCTION_LINES_MAX}")
            start = None


def check_arrows(path, lines, say):
    folder = next((f for f in ARROWS if path.startswith(f + "/")), None)
    if folder is None:
        return
    for number, line in enumerate(lines, 1):
        match = re.match(r'#include "((?:proto|lexico|grpc|kernels|cache_store|worker|coordinator|tools|tests)/[^"]*)/[^/"]+"', line)
        if match and match.group(1) != folder and match.group(1) not in ARROWS[folder]:
            say(path, number, f"{folder} may not depend on {match.group(1)} (docs/ARCHITECTURE.md section 4)")
        if path.startswith(PURE) and PURE_FORBIDDEN.search(line):
            say(path, number, f"{folder} is pure: no clock, threads, files or gRPC")


def check_tests(path, text, say):
    # Bodies of TEST, TEST_F, TEST_P, TYPED_TEST: from the macro to the next closing brace at column 0.
    for match in re.finditer(r"^(TEST|TEST_F|TEST_P|TYPED_TEST)\(([^)]*)\)\s*\{(.*?)^\}", text, re.M | re.S):
        if not re.search(r"EXPECT_|ASSERT_|FAIL\(|SUCCEED\(|Expect[A-Z]|Check[A-Z]|Verify[A-Z]", match.group(3)):
            say(path, text.count("\n", 0, match.start()) + 1, f"test without an assertion: {match.group(2)}")


def check_listed(files, say):
    listings = {os.path.dirname(f): read(f) for f in files if os.path.basename(f) == "CMakeLists.txt"}
    for path in files:
        if not path.endswith((".cc", ".cu")):
            continue
        name, folder = os.path.basename(path), os.path.dirname(path)
        candidates = []
        while True:
            if folder in listings:
                candidates.append((listings[folder], os.path.relpath(path, folder or ".")))
            if not folder:
                break
            folder = os.path.dirname(folder)
        if not any(re.search(rf"(?<![\w/.-]){re.escape(rel)}(?![\w.])", text) for text, rel in candidates):
            say(path, 1, f"in no CMakeLists.txt: a dead file ({name})")


def check_headers_used(files, say):
    included = set()
    for path in files:
        if path.endswith((".h", ".cc", ".cu", ".cuh")):
            included.update(re.findall(r'#include "([^"]+)"', read(path)))
    for path in files:
        if path.endswith((".h", ".cuh")) and path not in included:
            say(path, 1, "included nowhere: a dead header")


def check_places(files, say):
    for path in files:
        top = path.split("/")[0]
        if top not in TOP_LEVEL and not top.startswith("."):
            say(path, 1, f"{top} has no place at the top level")
        if not path.startswith("models/") and os.path.getsize(os.path.join(ROOT, path)) > 1_500_000:
            say(path, 1, "over 1.5 MB outside models/")


def main():
    offences = []
    say = lambda path, line, what: offences.append(f"{path}:{line}: {what}")
    files = tracked()
    check_places(files, say)
    check_listed(files, say)
    check_headers_used(files, say)
    for path in files:
        if path.startswith(("models/", "tests/golden/")) or not path.endswith(
                (".h", ".cc", ".cu", ".cuh", ".py", ".proto", ".md", ".txt", ".cmake", ".sh", ".yaml", ".yml")):
            continue
        text = read(path)
        lines = text.split("\n")
        check_text(path, lines, say)
        if path.endswith((".h", ".cc", ".cu", ".cuh")):
            check_cpp(path, lines, say)
            check_functions(path, lines, say)
            check_arrows(path, lines, say)
        if re.match(r"tests/.*_test\.cc$", path):
            check_tests(path, text, say)
    for offence in offences:
        print(offence)
    print(f"tidy: {len(files)} files, {len(offences)} offences")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
