#!/usr/bin/env python3
"""Finds or fetches libtorch and prints, as make variables, how to compile against it.

    scripts/libtorch.py [--torch 2.4.1|system|VERSION] [--libtorch DIR] [--cuda] [--out FILE]

Where libtorch comes from, first match wins:

  --libtorch DIR   a libtorch or site-packages/torch folder (include/ and lib/)
  --torch system   the torch package of the Python that runs this script
  --torch VERSION  the wheel of that version from the Python package index

A fetched libtorch is reduced to its headers and the libraries that are needed,
in the layout of the wheels (torch/lib beside nvidia/*/lib: the libraries find
each other by it), and kept in ${XDG_CACHE_HOME:-~/.cache}/lntorch. It appears there complete or not
at all; concurrent runs fetch it once. Needs Python 3.8, and pip for fetching; nothing is installed
into that Python.

Standard output (or --out, rewritten only when it changes) holds
LIBTORCH_ID, _VERSION, _DIR, _LIB, _INCLUDE, _ABI, _STD, _CUDA and _NCCL (folders with NCCL's and CUDA's headers,
none where some are missing).
"""

import argparse
import contextlib
import fcntl
import glob
import hashlib
import importlib.util
import json
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

# The wheels of the versions that lntorch is tested with: everything that libtorch_cpu.so loads. One
# wheel tag for every Python version, so that everyone has the same bits.
PINS = {
    "2.4.1": [
        ("torch", "2.4.1", "0b5f88afdfa05a335d80351e3cea57d38e578c8689f751d35e0ff36bce872113"),
        (
            "nvidia-cuda-cupti-cu12",
            "12.1.105",
            "e54fde3983165c624cb79254ae9818a456eb6e87a7fd4d56a2352c24ee542d7e",
        ),
        (
            "nvidia-cuda-runtime-cu12",
            "12.1.105",
            "6e258468ddf5796e25f1dc591a31029fa317d97a0a94ed93468fc86301d61e40",
        ),
    ],
    "2.15.0": [
        ("torch", "2.15.0", "48c2d861134c0b5697c7602cb5ffa68f62a2989fdcd1717e593356f67996ca1e"),
        (
            "nvidia-cuda-cupti",
            "13.2.86",
            "8fa29f15dd8336181f961764d9d95236fc6b931dd0c8fcf8cd70aab0c310b586",
        ),
        (
            "nvidia-cuda-runtime",
            "13.2.86",
            "3498247680dfddce31bad102af7e3e26fc795342a3cac64722bb0fa95e7f60f0",
        ),
    ],
}
# The wheel with CUDA's crt/ headers, which no wheel of torch depends on, by CUDA's version: with them the NCCL backend
# compiles without a CUDA toolkit.
CRT_PINS = {
    "12.1.105": (
        "nvidia-cuda-nvcc-cu12",
        "12.1.105",
        "a0712a05ffd57d9f017580ffcc808b207f7f4ef7a5ca8ac1312318b153739a18",
    ),
}
# What c10d's ProcessGroupNCCL.hpp includes, and the wheels' folders that hold it.
NCCL_HEADERS = [
    "nccl.h",
    "cuda_runtime_api.h",
    "cublas_v2.h",
    "cusparse.h",
    "cusolverDn.h",
    "crt/host_defines.h",
]
HEADER_FOLDERS = re.compile(
    r"nvidia/(nccl|cuda_runtime|cublas|cusparse|cusolver|cuda_nvcc|cu\d+)/include/"
)
DEFAULT = "2.4.1"
OLDEST = (2, 4)

# Packages with libraries that libtorch_cpu.so needs, and those libraries.
CPU_PACKAGES = re.compile(r"torch$|nvidia-cuda-(cupti|runtime)(-cu\d+)?$")
CPU_LIBRARIES = re.compile(r"(libtorch_cpu|libc10|libgomp[^/]*|libcupti|libcudart)\.so(\.\d+)*$")
# Libraries of the wheel that only Python uses.
PYTHON_LIBRARIES = re.compile(r"(libtorch_python|libshm)\.so")

WHEEL_TAGS = [
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--abi",
    "abi3",
    "--abi",
    "none",
]
for tag in ["1", "2010", "2014"] + ["_2_%d" % minor for minor in range(5, 29)]:
    WHEEL_TAGS += ["--platform", "manylinux%s_x86_64" % tag]


def say(text):
    print("libtorch: " + text, file=sys.stderr, flush=True)


def die(text):
    say(text)
    sys.exit(1)


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "lntorch")


# ---- what a libtorch folder holds -------------------------------------------


def torch_folder(path):
    """The folder with include/ and lib/ that path names, or None."""
    for folder in (path, os.path.join(path, "torch")):
        if os.path.isfile(os.path.join(folder, "lib", "libtorch_cpu.so")) and os.path.isdir(
            os.path.join(folder, "include", "ATen")
        ):
            return os.path.realpath(folder)
    return None


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def version_of(folder):
    include = os.path.join(folder, "include")
    for header in ("torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"):
        text = read(os.path.join(include, header))
        numbers = [
            re.search(r"define TORCH_VERSION_%s (\d+)" % part, text)
            for part in ("MAJOR", "MINOR", "PATCH")
        ]
        if all(numbers):
            return ".".join(n.group(1) for n in numbers)
    die("%s: no version found in include/torch/…/version.h; is this a complete libtorch?" % folder)


def cxx_standard_of(folder):
    """The C++ standard that ATen.h requires."""
    text = read(os.path.join(folder, "include", "ATen", "ATen.h"))
    found = re.search(r"__cplusplus < (\d{4})\d\dL", text)
    return {"2020": "20", "2023": "23"}.get(found.group(1), "17") if found else "17"


def cxx_abi_of(folder):
    """1 if libc10's own symbols use the C++11 ABI's std::string, else 0."""
    path = os.path.join(folder, "lib", "libc10.so")
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_string") >= 0:
            return "1"
        if data.find(b"torchCheckFailEPKcS2_jRKSs") >= 0:
            return "0"
    die("%s: c10::detail::torchCheckFail not found, so its C++ ABI is unknown" % path)


def describe(folder, name=None):
    """The make variables of a libtorch folder; name identifies the cache entry."""
    version = version_of(folder)
    if tuple(int(n) for n in version.split(".")[:2]) < OLDEST:
        die(
            "%s is version %s; lntorch needs %d.%d or newer (make libtorch fetches one)"
            % ((folder, version) + OLDEST)
        )
    if re.search(r"\s", folder):
        die("make cannot handle the space in %s; move it, or set XDG_CACHE_HOME" % folder)
    include = os.path.join(folder, "include")
    return {
        "ID": name or version + "-" + hashlib.sha256(folder.encode()).hexdigest()[:8],
        "VERSION": version,
        "DIR": folder,
        "LIB": os.path.join(folder, "lib"),
        "INCLUDE": include + " " + os.path.join(include, "torch", "csrc", "api", "include"),
        "ABI": cxx_abi_of(folder),
        "STD": cxx_standard_of(folder),
        "CUDA": "1" if os.path.exists(os.path.join(folder, "lib", "libtorch_cuda.so")) else "0",
        "NCCL": "",
    }


def nccl_headers(folder):
    """The folders with the headers of NCCL and CUDA for a libtorch with CUDA; a string."""
    site = os.path.dirname(folder)
    folders = sorted(glob.glob(os.path.join(site, "nvidia", "*", "include")))
    for toolkit in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if toolkit:
            folders.append(os.path.join(toolkit, "include"))

    def missing():
        return [
            h for h in NCCL_HEADERS if not any(os.path.exists(os.path.join(f, h)) for f in folders)
        ]

    if missing() == ["crt/host_defines.h"]:
        for info in glob.glob(os.path.join(site, "nvidia_cuda_runtime*.dist-info")):
            version = re.sub(r".*-(.*)\.dist-info", r"\1", info)
            if version in CRT_PINS:
                folders.append(crt_headers(CRT_PINS[version]))
    if missing():
        say(
            "no NCCL: %s was not found beside %s or in CUDA_HOME/include"
            % (", ".join(missing()), folder)
        )
        return ""
    used = [f for f in folders if any(os.path.exists(os.path.join(f, h)) for h in NCCL_HEADERS)]
    return " ".join(used)


# ---- finding ----------------------------------------------------------------


def given(path):
    folder = torch_folder(path)
    if not folder:
        die("LIBTORCH=%s: expected a folder with include/ATen and lib/libtorch_cpu.so" % path)
    return describe(folder)


def of_this_python():
    spec = importlib.util.find_spec("torch")  # finds it without importing it
    where = spec and spec.submodule_search_locations
    folder = torch_folder(next(iter(where))) if where else None
    if not folder:
        die(
            "TORCH=system: %s has no torch package with headers and libraries;\n"
            "  pip install 'torch>=2.4' for it, name another Python (make PYTHON=…),\n"
            "  or leave TORCH=system out and libtorch %s is fetched" % (sys.executable, DEFAULT)
        )
    return describe(folder)


# ---- fetching ---------------------------------------------------------------


def pip(arguments, scratch, failure):
    """Runs pip with its temporary files in scratch and shows its output."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"] + arguments
    if subprocess.run(command, stdout=sys.stderr, env=dict(os.environ, TMPDIR=scratch)).returncode:
        die(failure)


def check_pip():
    if subprocess.run(
        [sys.executable, "-m", "pip", "--version"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ).returncode:
        die(
            "%s has no pip, which fetches libtorch;\n"
            "  install it (Debian, Ubuntu: apt-get install python3-pip),\n"
            "  or use an existing libtorch: make LIBTORCH=/path/to/libtorch" % sys.executable
        )


def resolve(version, cuda, scratch):
    """The wheels (name, version, sha256) of a version that is not in PINS, or of its CUDA set."""
    report = os.path.join(scratch, "report.json")
    say("asking the package index what torch %s consists of" % version)
    pip(
        [
            "install",
            "-q",
            "--dry-run",
            "--ignore-installed",
            "--no-cache-dir",
            "--only-binary=:all:",
        ]
        + ["--report", report, "--target", os.path.join(scratch, "none")]
        + WHEEL_TAGS
        + ["torch==" + version],
        scratch,
        "torch %s was not found on the package index (pip's message is above; needs pip 22.2 or newer and a\n"
        "  version that has wheels for CPython 3.11 on x86-64 Linux); known to work: %s"
        % (version, ", ".join(PINS)),
    )
    with open(report, encoding="utf-8") as f:
        found = [
            (
                w["metadata"]["name"].lower(),
                w["metadata"]["version"],
                w["download_info"]["archive_info"],
            )
            for w in json.load(f)["install"]
        ]
    wanted = [
        (n, v, (info.get("hashes") or {}).get("sha256") or info["hash"].split("=")[1])
        for n, v, info in found
        if CPU_PACKAGES.match(n) or (cuda and n.startswith("nvidia-"))
    ]
    for pin in PINS.get(version, []):
        if pin not in wanted:
            die(
                "the package index offers %s other than %s %s sha256 %s; not using it"
                % ((pin[0],) + pin)
            )
    return wanted


def unpack(wheel, target, cuda):
    """Extracts headers, libraries and licences from a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            base = os.path.basename(member)
            if ".." in member.split("/") or member.startswith("/") or not base:
                continue
            if "/lib/" in member and ".so" in base:
                keep = not PYTHON_LIBRARIES.match(base) if cuda else CPU_LIBRARIES.match(base)
            else:
                keep = (
                    member.startswith("torch/include/")
                    or (cuda and HEADER_FOLDERS.match(member))
                    or (".dist-info/" in member and re.search(r"LICEN[CS]E|NOTICE", member, re.I))
                )
            if keep:
                archive.extract(member, target)


def fetch(version, cuda):
    name = version + ("-cuda" if cuda else "")
    cache = cache_folder()
    final = os.path.join(cache, "libtorch-" + name)
    if torch_folder(final):
        return describe(torch_folder(final), name)

    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        die(
            "libtorch is fetched for x86-64 Linux only, this is %s %s;\n"
            "  use an existing one: make LIBTORCH=/path/to/libtorch, or make TORCH=system"
            % (sys.platform, platform.machine())
        )
    check_pip()
    try:
        os.makedirs(cache, exist_ok=True)
        lock = open(os.path.join(cache, "libtorch-%s.lock" % name), "w")
    except OSError as err:
        die("cannot write the cache: %s; set XDG_CACHE_HOME to a folder that can be written" % err)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is fetching %s, waiting for it" % name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not torch_folder(final):
            download(version, cuda, final)
    return describe(torch_folder(final), name)


def download(version, cuda, final):
    """Moves the folder to its final place; the caller holds its lock."""
    parent, prefix = os.path.dirname(final), ".%s." % os.path.basename(final)
    for left in os.listdir(parent):  # left by a run that was killed
        if left.startswith(prefix):
            shutil.rmtree(os.path.join(parent, left), ignore_errors=True)
    need = 12 if cuda else 2.2
    free = shutil.disk_usage(parent).free / 2**30
    if free < need:
        die(
            "fetching needs %.1f GB of disk in %s, %.1f GB are free; free some or set XDG_CACHE_HOME"
            % (need, parent, free)
        )

    start = time.time()
    scratch = tempfile.mkdtemp(prefix=prefix, dir=parent)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, True)
        wheels, root = os.path.join(scratch, "wheels"), os.path.join(scratch, "root")
        os.makedirs(root)
        pins = PINS.get(version)
        if not pins:
            say(
                "note: torch %s is not one that lntorch is tested with (%s)"
                % (version, ", ".join(PINS))
            )
        if cuda or not pins:
            pins = resolve(version, cuda, scratch)
        requirements = os.path.join(scratch, "requirements.txt")
        with open(requirements, "w") as f:
            f.writelines("%s==%s --hash=sha256:%s\n" % pin for pin in pins)
        say(
            "fetching %s (once; %s)"
            % (", ".join("%s %s" % pin[:2] for pin in pins), "about 3 GB" if cuda else "under 1 GB")
        )
        pip(
            ["download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--require-hashes"]
            + WHEEL_TAGS
            + ["-r", requirements, "-d", wheels],
            scratch,
            "the download failed (pip's message is above). It needs the package index once;\n"
            "  without a network, use an existing libtorch: make LIBTORCH=/path/to/libtorch, or make TORCH=system",
        )
        for wheel in sorted(os.listdir(wheels)):
            unpack(os.path.join(wheels, wheel), root, cuda)
            os.remove(os.path.join(wheels, wheel))
        check_loads(os.path.join(root, "torch", "lib", "libtorch_cpu.so"))
        shutil.rmtree(final, ignore_errors=True)  # incomplete: torch_folder refused it
        os.rename(root, final)
    say("%s is ready after %.0f s" % (final, time.time() - start))


def crt_headers(pin):
    """The include folder of a CRT_PINS wheel, fetched once into the cache."""
    final = os.path.join(cache_folder(), "%s-%s" % pin[:2])
    include = os.path.join(final, "nvidia", "cuda_nvcc", "include")
    if os.path.isdir(include):
        return include
    check_pip()
    os.makedirs(cache_folder(), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        requirements, wheels = os.path.join(scratch, "requirements.txt"), os.path.join(scratch, "w")
        with open(requirements, "w") as f:
            f.write("%s==%s --hash=sha256:%s\n" % pin)
        say("fetching %s %s, for its headers (20 MB)" % pin[:2])
        pip(
            ["download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--require-hashes"]
            + WHEEL_TAGS
            + ["-r", requirements, "-d", wheels],
            scratch,
            "the download failed (pip's message is above); with a CUDA toolkit in CUDA_HOME it is not needed",
        )
        root = os.path.join(scratch, "root")
        for wheel in os.listdir(wheels):
            unpack(os.path.join(wheels, wheel), root, True)
        if not os.path.isdir(include):
            shutil.rmtree(final, ignore_errors=True)
            os.rename(root, final)
    return include


def check_loads(library):
    """Loads the library in a separate process, to check that nothing is missing and the C library
    is new enough."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    run = subprocess.run([sys.executable, "-c", code, library], stderr=subprocess.PIPE, text=True)
    if run.returncode:
        die(
            "the fetched libtorch does not load on this machine:\n  "
            + (run.stderr.strip().splitlines() or ["?"])[-1]
        )


def main():
    if sys.version_info < (3, 8):
        die(
            "needs Python 3.8 or newer, this is %s; make PYTHON=… names another"
            % platform.python_version()
        )
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--torch", default="", metavar="VERSION", help="version, or 'system' (default %s)" % DEFAULT
    )
    parser.add_argument("--libtorch", default="", metavar="DIR", help="use this libtorch")
    parser.add_argument("--cuda", action="store_true", help="fetch the CUDA libraries too")
    parser.add_argument(
        "--out", metavar="FILE", help="write the variables to this file instead of standard output"
    )
    options = parser.parse_args()

    version = options.torch or DEFAULT
    if options.libtorch:
        variables = given(options.libtorch)
    elif version == "system":
        variables = of_this_python()
    elif re.match(r"\d+\.\d+\.\d+$", version):
        variables = fetch(version, options.cuda)
    else:
        die("TORCH=%s: expected a version such as %s, or system" % (version, DEFAULT))
    if options.cuda and variables["CUDA"] != "1":
        die("CUDA=1, but %s holds no libtorch_cuda.so" % variables["LIB"])
    if options.cuda:
        variables["NCCL"] = nccl_headers(variables["DIR"])

    text = "".join("LIBTORCH_%s := %s\n" % item for item in variables.items())
    if not options.out:
        sys.stdout.write(text)
    elif read(options.out) != text:
        os.makedirs(os.path.dirname(options.out) or ".", exist_ok=True)
        with open(options.out + ".tmp", "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(options.out + ".tmp", options.out)
    say("%(VERSION)s, C++%(STD)s, C++11 ABI %(ABI)s, CUDA %(CUDA)s: %(DIR)s" % variables)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
