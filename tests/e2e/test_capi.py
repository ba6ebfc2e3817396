"""The installed C library as its users meet it: a prefix, find_package, a C compiler, a program."""

import re
import subprocess

import pytest

from kvplane_process import SOURCE, binary

BUILD = binary().parents[2]  # <build>/apps/cli/kvplane
HEADER = SOURCE / "kvplane" / "capi" / "kvplane.h"
EXAMPLE = SOURCE / "examples" / "capi"
PROFILE = SOURCE / "fuzz" / "corpus" / "profile" / "full"


def done(*arguments, timeout=120, **options):
    finished = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert finished.returncode == 0, f"{arguments}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    where = tmp_path_factory.mktemp("prefix")
    done("cmake", "--install", BUILD, "--prefix", where)
    return where


@pytest.fixture(scope="module")
def roundtrip(prefix, tmp_path_factory):
    """The example, configured and built outside the source tree against the installed package only."""
    build = tmp_path_factory.mktemp("example")
    done("cmake", "-S", EXAMPLE, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release")
    cache = (build / "CMakeCache.txt").read_text()
    found = re.search(r"^kvplane_DIR:PATH=(.*)$", cache, re.MULTILINE).group(1)
    assert found.startswith(str(prefix)), found
    done("cmake", "--build", build)
    return build / "roundtrip"


@pytest.mark.parametrize(
    "strategy,least,most", [("off", 0.98, 1.0), ("int4", 3.0, 4.0), ("lossless", 1.2, 2.0)]
)
def test_the_example_runs(roundtrip, strategy, least, most):
    said = done(roundtrip, strategy)
    raw, coded = map(int, re.search(r"(\d+) -> (\d+) bytes", said).groups())
    assert raw == 4 * 2 * 200 * 2 * 64 * 2
    assert least < raw / coded < most


def test_the_example_says_what_is_wrong(roundtrip):
    for arguments, words in (
        (["int5"], "did you mean"),
        (["heads(ratio=50) | levels(m=16,low=2) | pack"], "L4"),
        (["heads(ratio=50) | levels(m=16,low=2) | pack", PROFILE], "another model"),
        (["int4", EXAMPLE / "roundtrip.c"], "profile"),
    ):
        finished = subprocess.run(
            [str(roundtrip), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )
        assert finished.returncode == 1 and words in finished.stderr, finished.stderr


def test_the_interface_is_installed_and_nothing_else_visible(prefix):
    files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}
    assert "include/kvplane.h" in files
    library = next(prefix.rglob("libkvplane_c.so"))
    ours = r"bin/kvplane|include/kvplane\.h|.*/libkvplane_c\.so[.\d]*|.*/cmake/kvplane/kvplane-[-\w]+\.cmake"
    assert all(re.fullmatch(ours, name) for name in files), files
    symbols = done("nm", "--dynamic", "--defined-only", "--extern-only", library).splitlines()
    names = {line.split()[-1].split("@")[0] for line in symbols}
    declared = set(re.findall(r"\b(kvp_\w+)\(", HEADER.read_text())) - {"kvp_"}
    assert {name for name in names if name.startswith("kvp_")} == {
        name for name in declared if not name.endswith("_")
    }
    assert all(name.startswith("kvp_") or name.startswith("KVPLANE_") for name in names), names


@pytest.mark.parametrize(
    "compiler,language,standard",
    [("cc", "c", "c11"), ("cc", "c", "c17"), ("c++", "c++", "c++17"), ("c++", "c++", "c++20")],
)
def test_the_header_compiles_without_warnings(prefix, tmp_path, compiler, language, standard):
    source = tmp_path / "includes.txt"
    twice = "#include <kvplane.h>\n" * 2
    source.write_text(twice + "int main(void) { return kvp_abi_version() == 0; }\n")
    done(
        compiler,
        *("-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror"),
        *("-I", prefix / "include", "-fsyntax-only", source),
    )
