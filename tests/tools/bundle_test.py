#!/usr/bin/env python3
"""tools/bundle packs programs that run from another folder, with all libraries that a bare machine lacks.

  bundle_test.py BUILD_FOLDER     where all programs are built
"""
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = sys.argv.pop() if len(sys.argv) > 1 else "build/dev"
# What the machine has: the list of tools/cmake/Bundle.cmake.
OF_THE_MACHINE = re.compile(
    r"^(linux-vdso|ld-linux|lib(c|m|mvec|dl|rt|pthread|resolv|util|anl)\.so"
    r"|lib(cuda|cudart|cublas|cublasLt|cudnn[a-z_]*|nccl|nvrtc|nvJitLink)\.so)"
)
PROGRAMS = {
    "lexico", "lexico-coordinator", "lexico-worker", "lexico-cache-store", "lexico-eval", "lexico-bench-engine",
    "lexico-bench-kernels", "lexico-bench-serving", "lexico-bench-store", "lexico-inspect", "lexico-random-model", "lexico-train-dictionary",
}


def clean_environment():
    """As on a machine where nothing of ours is installed."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def foreign_libraries(folder, program):
    """Libraries that a program loads which are neither in the bundle nor of the machine, or are missing."""
    text = subprocess.run(["ldd", program], env=clean_environment(), capture_output=True, text=True, check=True).stdout
    foreign = []
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" => ")
        where = rest.split(" (")[0]
        if OF_THE_MACHINE.match(os.path.basename(name.split(" ")[0])):
            continue
        if not os.path.realpath(where).startswith(os.path.realpath(folder) + os.sep):
            foreign.append(line.strip())
    return foreign


class BundleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.TemporaryDirectory()
        archive = os.path.join(cls.work.name, "bundle.tar.xz")
        done = subprocess.run(
            [os.path.join(ROOT, "tools/bundle"), "--build", BUILD, "--out", archive, "--level", "0"],
            capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        cls.said = done.stdout
        with tarfile.open(archive) as tar:
            tar.extractall(os.path.join(cls.work.name, "elsewhere"))
        (name,) = os.listdir(os.path.join(cls.work.name, "elsewhere"))
        cls.folder = os.path.join(cls.work.name, "elsewhere", name)

    @classmethod
    def tearDownClass(cls):
        cls.work.cleanup()

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def test_holds_all_programs_and_says_so(self):
        self.assertLessEqual(PROGRAMS, set(os.listdir(self.path("bin"))))
        with open(self.path("share/lexico/bundle.txt"), encoding="utf-8") as file:
            self.assertIn("bin/lexico-worker", file.read())
        self.assertRegex(self.said, r"needs glibc 2\.\d+")
        self.assertTrue(os.path.exists(self.path("share/lexico/LICENSE")))

    def test_every_program_runs_from_the_other_folder(self):
        for program in sorted(os.listdir(self.path("bin"))):
            for flag in ("--help", "--version"):
                done = subprocess.run([self.path("bin", program), flag], env=clean_environment(), cwd="/",
                                      capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, f"{program} {flag}: {done.stderr}")
                self.assertTrue(done.stdout.strip(), f"{program} {flag} says nothing")

    def test_nothing_comes_from_outside(self):
        # Libraries of libraries too: a program's DT_RPATH holds for all that it loads.
        for name in sorted(os.listdir(self.path("bin"))):
            self.assertEqual(foreign_libraries(self.folder, self.path("bin", name)), [], name)

    def test_a_library_that_is_left_out_is_seen(self):
        # Of this test itself: without one, the programs find it on the machine or not at all.
        name = next(n for n in sorted(os.listdir(self.path("lib"))) if n.startswith("libfmt"))
        os.rename(self.path("lib", name), self.path(name))
        try:
            self.assertNotEqual(foreign_libraries(self.folder, self.path("bin/lexico")), [])
        finally:
            os.rename(self.path(name), self.path("lib", name))

    def test_wrong_arguments_say_what_is_right(self):
        for arguments, part in (
            (["--build", "nowhere"], "no build folder"),
            (["--build", BUILD, "--out", "file.zip"], "tar.xz"),
        ):
            done = subprocess.run([os.path.join(ROOT, "tools/bundle"), *arguments], capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    unittest.main()
