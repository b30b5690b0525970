#!/usr/bin/env python3
"""Fetches NiiVue, which draws what `lntorch view` shows, for the build to embed.

    scripts/niivue.py --out view/niivue/niivue.umd.js.gz

The npm package comes with `npm pack`, so npm's own settings (registry, proxy, certificates) hold. It is
pinned by its integrity hash. Of it one file is kept, gzipped, with the licence of this repository's
third_party/niivue, in ${XDG_CACHE_HOME:-~/.cache}/lntorch; it appears there complete or not at all,
and is fetched once.

Where npm is missing or the package cannot be fetched, the script says so, leaves nothing under --out,
and ends with 0: lntorch is then built without it. Needs Python 3.8.
"""

import argparse
import base64
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import libtorch

PACKAGE = "@niivue/niivue"
VERSION = "0.69.0"
INTEGRITY = "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
MEMBER = "package/dist/niivue.umd.js"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
NAME = "niivue.umd.js.gz"
SECONDS = 120  # for npm

LICENCE = Path(__file__).resolve().parent.parent / "third_party" / "niivue" / "LICENSE"


def say(text):
    print("niivue: " + text, file=sys.stderr, flush=True)


def packed(npm, folder):
    """The package's archive, checked. Raises OSError or ValueError."""
    try:
        run = subprocess.run(
            [npm, "pack", "--silent", "--pack-destination", folder, "%s@%s" % (PACKAGE, VERSION)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ValueError("npm pack did not end within %d s" % SECONDS) from None
    if run.returncode:
        lines = run.stdout.strip().splitlines()
        raise ValueError("npm pack failed" + (": " + lines[0] if lines else ""))
    found = list(Path(folder).glob("*.tgz"))
    if len(found) != 1:
        raise ValueError("npm pack wrote %d archives, expected one" % len(found))
    data = found[0].read_bytes()
    digest = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != INTEGRITY:
        raise ValueError(
            "%s@%s has the integrity hash %s, expected %s; not using it"
            % (PACKAGE, VERSION, digest, INTEGRITY)
        )
    return data


def script(archive):
    """The one file of the archive."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        data = tar.extractfile(MEMBER).read()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError("%s has another sha256 than %s" % (MEMBER, SHA256))
    return data


def intact(path):
    """Whether path is the file in question, gzipped."""
    try:
        return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() == SHA256
    except (OSError, EOFError):
        return False


def fetch():
    """The gzipped file in the cache, or None."""
    cache = Path(libtorch.cache_folder())
    final = cache / ("niivue-" + VERSION)
    if intact(final / NAME):
        return final / NAME
    npm = shutil.which("npm")
    if not npm:
        say(
            "npm is missing, so lntorch is built without NiiVue, and `lntorch view` shows nothing.\n"
            "  Install it (Debian, Ubuntu: apt-get install npm; others: nodejs.org) and run make again"
        )
        return None
    scratch = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".niivue.", dir=cache))
        say("fetching %s@%s with npm (once; 7 MB)" % (PACKAGE, VERSION))
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            data = script(packed(npm, folder))
        (scratch / NAME).write_bytes(gzip.compress(data, 9, mtime=0))
        shutil.copyfile(LICENCE, scratch / "LICENSE")
        scratch.chmod(0o755)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one
        scratch.rename(final)
    except (OSError, ValueError, KeyError, tarfile.TarError) as err:
        shutil.rmtree(scratch or "", ignore_errors=True)
        if intact(final / NAME):  # another run was faster
            return final / NAME
        say(
            "not fetched: %s\n"
            "  lntorch is built without it, and `lntorch view` shows nothing; the next make tries again"
            % err
        )
        return None
    return final / NAME


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, type=Path, help="where the build embeds it")
    options = parser.parse_args()
    if intact(options.out):
        return
    found = fetch()
    if not found:
        options.out.unlink(missing_ok=True)
        return
    scratch = options.out.with_name("." + options.out.name + ".tmp")
    shutil.copyfile(found, scratch)
    os.replace(scratch, options.out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
