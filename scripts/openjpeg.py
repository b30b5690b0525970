#!/usr/bin/env python3
"""Fetches OpenJPEG's C sources and prints, as make variables, where they are.

    scripts/openjpeg.py [--out FILE]

They come out of the source archive of pylibjpeg-openjpeg on the Python package index, pinned by
sha256, and are kept in ${XDG_CACHE_HOME:-~/.cache}/lntorch with their licence: the files of the
library, and the two headers that OpenJPEG's own build makes with cmake. They appear there complete
or not at all.

Standard output (or --out, rewritten only when it changes) holds OPENJPEG_DIR and OPENJPEG_VERSION.
Both are empty if the archive cannot be fetched: then lntorch is built without it, and the script
says so and ends with 0. Needs Python 3.8, and pip only for its settings (index-url, cert).
"""

import argparse
import base64
import hashlib
import html
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request

import libtorch

ARCHIVE = "pylibjpeg_openjpeg-2.6.0.tar.gz"
SHA256 = "ee6630c860263f34088c60b98bb343b1649b78d1299fe9a5c7ef60b88c6626ff"
VERSION = "2.5.4"  # of the OpenJPEG in it
INDEX = "https://pypi.org/simple"
SECONDS = 30  # without an answer

SOURCES = """bio cio dwt event function_list ht_dec image invert j2k jp2 mct mqc openjpeg opj_clock
    opj_malloc pi sparse_array t1 t2 tcd tgt thread""".split()

# What cmake would find out on Linux.
CONFIG = """#define OPJ_VERSION_MAJOR %s
#define OPJ_VERSION_MINOR %s
#define OPJ_VERSION_BUILD %s
"""
CONFIG_PRIVATE = """#define OPJ_PACKAGE_VERSION "%s"
#define OPJ_HAVE_MALLOC_H
#define OPJ_HAVE_POSIX_MEMALIGN
#define OPJ_HAVE_FSEEKO
#define _POSIX_C_SOURCE 200112L
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define OPJ_BIG_ENDIAN
#endif
"""


def say(text):
    print("openjpeg: " + text, file=sys.stderr, flush=True)


def pip_settings():
    """index-url and cert as pip has them, from its files and its environment."""
    found = {}
    run = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines = re.findall(r"^(:env:|global)\.(index-url|cert)='(.*)'$", run.stdout, re.M)
    for _, name, value in sorted(lines, key=lambda line: line[0] == ":env:"):
        found[name] = value
    return found


def get(url, context):
    """The bytes at url; user and password may be in it, as in pip's index-url."""
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(url)
    if parts.username:
        host = parts.hostname + (":%d" % parts.port if parts.port else "")
        request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
        user = ":".join(urllib.parse.unquote(t or "") for t in (parts.username, parts.password))
        token = base64.b64encode(user.encode()).decode()
        request.add_unredirected_header("Authorization", "Basic " + token)
    with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
        return answer.read()


def download():
    """The archive, checked. Raises OSError or ValueError."""
    settings = pip_settings()
    context = ssl.create_default_context(cafile=settings.get("cert"))
    index = settings.get("index-url", INDEX).rstrip("/") + "/pylibjpeg-openjpeg/"
    page = get(index, context).decode("utf-8", "replace")
    for link in re.findall(r"""href=["']([^"']+)""", page):
        link = html.unescape(link).split("#")[0]
        if os.path.basename(urllib.parse.urlsplit(link).path) == ARCHIVE:
            data = get(urllib.parse.urljoin(index, link), context)
            if hashlib.sha256(data).hexdigest() != SHA256:
                raise ValueError("%s has another sha256 than %s; not using it" % (ARCHIVE, SHA256))
            return data
    raise ValueError("the package index has no " + ARCHIVE)


def unpack(data, folder):
    """Writes the library's files from the archive to folder."""
    root = ARCHIVE[: -len(".tar.gz")] + "/lib/openjpeg/"
    library = root + "src/lib/openjp2/"
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            base = os.path.basename(member.name)
            stem, ending = os.path.splitext(base)
            if member.isfile() and (
                member.name == root + "LICENSE"
                or (
                    member.name == library + base
                    and (ending == ".h" or (ending == ".c" and stem in SOURCES))
                )
            ):
                with open(os.path.join(folder, base), "wb") as f:
                    shutil.copyfileobj(archive.extractfile(member), f)
    with open(os.path.join(folder, "opj_config.h"), "w") as f:
        f.write(CONFIG % tuple(VERSION.split(".")))
    with open(os.path.join(folder, "opj_config_private.h"), "w") as f:
        f.write(CONFIG_PRIVATE % VERSION)


def fetch():
    """The folder of the sources, or None."""
    cache = libtorch.cache_folder()
    final = os.path.join(cache, "openjpeg-" + VERSION)
    if os.path.isfile(os.path.join(final, "openjpeg.h")):
        return final
    scratch = None
    try:
        os.makedirs(cache, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".openjpeg.", dir=cache)
        say("fetching %s (once; 2 MB)" % ARCHIVE)
        unpack(download(), scratch)
        os.chmod(scratch, 0o755)
        os.rename(scratch, final)
    except (OSError, ValueError, tarfile.TarError) as err:
        shutil.rmtree(scratch or "", ignore_errors=True)
        if os.path.isfile(os.path.join(final, "openjpeg.h")):  # another run was faster
            return final
        say(
            "not fetched: %s\n"
            "  lntorch is built without it, and reads DICOM in JPEG 2000 only where libopenjp2 2.5\n"
            "  is installed (Debian, Ubuntu: apt-get install libopenjp2-7); the next make tries again"
            % err
        )
        return None
    return final


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", metavar="FILE", help="write the variables to this file instead of standard output"
    )
    options = parser.parse_args()
    folder = fetch()
    if folder and re.search(r"\s", folder):
        say("make cannot handle the space in %s; set XDG_CACHE_HOME" % folder)
        folder = None
    text = "OPENJPEG_DIR := %s\nOPENJPEG_VERSION := %s\n" % (
        (folder, VERSION) if folder else ("", "")
    )
    if not options.out:
        sys.stdout.write(text)
    elif libtorch.read(options.out) != text:
        os.makedirs(os.path.dirname(options.out) or ".", exist_ok=True)
        with open(options.out + ".tmp", "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(options.out + ".tmp", options.out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
