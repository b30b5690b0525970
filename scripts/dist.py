#!/usr/bin/env python3
"""Assembles what lntorch needs to run on a machine without compiler, Python and Go.

    scripts/dist.py --binary FILE --shim FILE --loaded FILE --libtorch DIR [--openjpeg FILE]
        [--niivue] --version TEXT --out FOLDER

The folder can be moved; its libraries find each other by $ORIGIN:

    bin/lntorch
    lib/liblntorch.so            linked with the RPATH $ORIGIN/torch/lib
    lib/torch/lib/…              libtorch's CPU libraries and what they load, in the wheels' layout
    lib/nvidia/…/lib/…           (libtorch_cpu.so of a CUDA wheel loads CUPTI and the CUDA runtime)
    lib/liblntorch_openjpeg.so   where it was built
    LICENSE, licenses/           of everything in it

The libraries are copied as published (Intel's and NVIDIA's licences require that), so they are not
stripped. Needs ldd and objdump, which come with a C compiler, and Go for the licences of its
modules.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GO = os.environ.get("GO", "go")

# The libraries of a minimal Debian: glibc, libstdc++, libgcc.
SYSTEM = re.compile(
    r"(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libutil|libstdc\+\+|libgcc_s|linux-vdso)\.so(\.\d+)*$"
)
TORCH_PACKAGES = re.compile(r"(torch|nvidia_cuda_(cupti|runtime)(_cu\d+)?)-[^/]*\.dist-info$")
LICENCE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|PATENTS|AUTHORS)", re.I)

README = """lntorch {version} for x86-64 Linux

    bin/lntorch doctor
    bin/lntorch --help

Nothing needs to be installed or set: bin/lntorch finds lib/ beside its folder. The folder may lie
anywhere, and links to bin/lntorch work. It needs the C and C++ libraries of the system:
{needs}. It computes on the CPU; for NVIDIA GPUs build it from source.

Licences: LICENSE for lntorch, licenses/ for what comes with it.
"""


def die(text):
    print("dist: " + text, file=sys.stderr)
    sys.exit(1)


def output(*command, cwd=None):
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=cwd)
    if run.returncode:
        die("%s failed" % " ".join(map(str, command)))
    return run.stdout


def libraries(shim):
    """Name and path of every library that the loader finds for the shim, except the system's."""
    found = {}
    for line in output("ldd", str(shim)).splitlines():
        name, arrow, path = line.strip().partition(" => ")
        name = os.path.basename(name.split(" (")[0])
        if SYSTEM.match(name):
            continue
        path = path.rsplit(" (", 1)[0]
        if not arrow or path == "not found":
            die("%s: the library %s was not found" % (shim, name))
        found[name] = path
    return found


def copy_libraries(shim, libtorch, lib):
    """Copies libtorch's libraries to lib, in their layout. libtorch is the folder with include and
    lib."""
    above = os.path.realpath(os.path.dirname(libtorch))
    for name, path in sorted(libraries(shim).items()):
        path = os.path.normpath(path)
        relative = os.path.relpath(path, above)
        top = relative.split(os.sep)[0]
        if top == os.path.basename(libtorch):
            relative = os.path.join("torch", *relative.split(os.sep)[1:])
        elif top != "nvidia":  # from elsewhere: where libtorch's own $ORIGIN leads
            relative = os.path.join("torch", "lib", name)
        target = lib / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)  # follows links: one file under the requested name
        target.chmod(0o755)


def copy_licences(binary_package, libtorch, out):
    shutil.copyfile(ROOT / "LICENSE", out / "LICENSE")
    licences = out / "licenses"

    def take(source, *where):
        target = licences.joinpath(*where)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)

    for text in sorted((ROOT / "third_party" / "licenses").glob("*.txt")):
        take(text, "libtorch", text.name)
    torch = 0
    for package in sorted(Path(libtorch).parent.iterdir()):
        if TORCH_PACKAGES.match(package.name):
            for text in sorted(
                p for p in package.rglob("*") if p.is_file() and LICENCE.match(p.name)
            ):
                take(text, "libtorch", package.name[: -len(".dist-info")], text.name)
                torch += package.name.startswith("torch-")
    if not torch:
        die(
            "no licence of PyTorch beside %s (expected torch-*.dist-info); it must be distributed with the libraries:\n"
            "  build over a wheel, as with make dist TORCH=2.4.1" % libtorch
        )

    lines = output(
        GO,
        "list",
        "-deps",
        "-f",
        "{{with .Module}}{{.Path}}\t{{.Dir}}{{end}}",
        binary_package,
        cwd=ROOT,
    ).splitlines()
    own = output(GO, "list", "-m", cwd=ROOT).strip()
    for line in sorted(set(lines)):
        module, _, folder = line.partition("\t")
        if not module or module == own:
            continue
        texts = [p for p in Path(folder).iterdir() if p.is_file() and LICENCE.match(p.name)]
        if not any(re.match("LICEN|COPYING", p.name, re.I) for p in texts):
            die("the Go module %s has no licence in %s" % (module, folder))
        for text in texts:
            take(text, "go", *module.split("/"), text.name)
    for text in ("LICENSE", "PATENTS"):
        take(os.path.join(output(GO, "env", "GOROOT").strip(), text), "go", "go", text)


def needs(files):
    """The newest glibc and libstdc++ versions that the files require."""
    newest = {}
    for path in files:
        for kind, number in re.findall(
            r"\b(GLIBC|GLIBCXX)_([0-9.]+)", output("objdump", "-T", str(path))
        ):
            newest[kind] = max(newest.get(kind, (0,)), tuple(map(int, number.split("."))))
    return ", ".join(
        "%s %s or newer" % (name, ".".join(map(str, newest[kind])))
        for kind, name in (("GLIBC", "glibc"), ("GLIBCXX", "libstdc++ with GLIBCXX"))
        if kind in newest
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", required=True, help="the built program")
    parser.add_argument("--shim", required=True, help="the shim, linked relative to itself")
    parser.add_argument(
        "--loaded",
        required=True,
        help="the same shim as linked for this machine, to list its libraries",
    )
    parser.add_argument("--libtorch", required=True, help="libtorch's folder, with include and lib")
    parser.add_argument("--openjpeg", help="the built OpenJPEG; without it JPEG 2000 is not read")
    parser.add_argument("--niivue", action="store_true", help="the program embeds NiiVue")
    parser.add_argument("--version", required=True)
    parser.add_argument("--out", required=True, help="folder to make; an older one is replaced")
    options = parser.parse_args()

    out = Path(options.out)
    shutil.rmtree(out, ignore_errors=True)
    (out / "bin").mkdir(parents=True)
    (out / "lib").mkdir()
    shutil.copy(options.binary, out / "bin" / "lntorch")
    shutil.copy(options.shim, out / "lib" / "liblntorch.so")
    if options.openjpeg:
        shutil.copy(options.openjpeg, out / "lib" / "liblntorch_openjpeg.so")
    copy_libraries(options.loaded, options.libtorch, out / "lib")
    copy_licences("./cmd/lntorch", options.libtorch, out)
    if options.openjpeg:
        (out / "licenses" / "openjpeg").mkdir()
        shutil.copy(ROOT / "third_party" / "openjpeg" / "LICENSE", out / "licenses" / "openjpeg")
    if options.niivue:
        (out / "licenses" / "niivue").mkdir()
        shutil.copy(ROOT / "third_party" / "niivue" / "LICENSE", out / "licenses" / "niivue")
    everything = [out / "bin" / "lntorch", *sorted((out / "lib").rglob("*.so*"))]
    (out / "README").write_text(README.format(version=options.version, needs=needs(everything)))
    for path in everything:
        print("dist: %6.1f MiB  %s" % (path.stat().st_size / 2**20, path.relative_to(out)))
    print("dist: needs " + needs(everything))


if __name__ == "__main__":
    main()
