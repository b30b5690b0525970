#!/usr/bin/env python3
"""Creates the Python environment with nnU-Net 2.5.1, MONAI 1.3.0 and PEFT 0.14.0 that tests compare
with, and prints its interpreter.

Contents: scripts/requirements-nnunet.txt. Location:
${XDG_CACHE_HOME:-~/.cache}/lntorch/venv-nnunet-KEY, where KEY is a digest of that file and of the
Python version, so an unchanged file reuses its environment. The environment is valid once its last
file, "complete", is written; concurrent runs create it once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "requirements-nnunet.txt")
VERSIONS = ["3.11", "3.12"]  # for which every pinned package has a release
NEEDS_GB = 10  # 6 in the end
CHECK = "import torch, nnunetv2, SimpleITK, skimage, dynamic_network_architectures, monai, peft, safetensors; print('torch', torch.__version__)"


def say(text):
    print("nnunet-venv: " + text, file=sys.stderr, flush=True)


def die(text):
    say(text)
    sys.exit(1)


def find_python():
    """A Python for which the pinned versions can be installed: the one that runs this script, else
    one from PATH."""
    tried = []
    for candidate in [sys.executable] + ["python" + v for v in VERSIONS]:
        path = shutil.which(candidate)
        if not path:
            continue
        ask = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.run(
            [path, "-c", ask], stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        if version in VERSIONS:
            return path, version
        tried.append("%s is %s" % (path, version or "broken"))
    die(
        "the pinned nnU-Net stack installs on Python %s only; %s.\n"
        "  Install one of them (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name it: make PYTHON=…"
        % (" or ".join(VERSIONS), "; ".join(tried))
    )


def run(command, failure):
    if subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL).returncode:
        die(failure)


def make(python, venv):
    free = shutil.disk_usage(os.path.dirname(venv)).free / 2**30
    if free < NEEDS_GB:
        die("needs %d GB of disk in %s, %.1f GB are free" % (NEEDS_GB, os.path.dirname(venv), free))
    say("making %s: about 3 GB are fetched, 6 GB on disk, some minutes; once" % venv)
    start = time.time()
    shutil.rmtree(venv, ignore_errors=True)  # left by a run that was stopped
    run(
        [python, "-m", "venv", venv],
        "%s -m venv failed (Debian, Ubuntu: apt-get install python3-venv)" % python,
    )
    inside = os.path.join(venv, "bin", "python")
    run(
        [
            inside,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-input",
            "--no-cache-dir",
            "-r",
            REQUIREMENTS,
        ],
        "pip could not install %s (its message is above); the package index is needed once"
        % REQUIREMENTS,
    )
    environment = dict(os.environ, nnUNet_raw=venv, nnUNet_preprocessed=venv, nnUNet_results=venv)
    check = subprocess.run([inside, "-c", CHECK], stdout=sys.stderr, env=environment)
    if check.returncode:
        die(
            "the environment was installed but does not import (message above); %s is kept for inspection"
            % venv
        )
    with open(os.path.join(venv, "complete"), "w") as f:
        f.write("%.0f s\n" % (time.time() - start))
    say("ready after %.0f s" % (time.time() - start))


def main():
    python, version = find_python()
    cache = os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lntorch"
    )
    with open(REQUIREMENTS, "rb") as f:
        key = hashlib.sha256(f.read() + version.encode()).hexdigest()[:10]
    venv = os.path.join(cache, "venv-nnunet-" + key)
    inside = os.path.join(venv, "bin", "python")

    def complete():  # false for a link to an interpreter that has been removed
        return os.path.exists(os.path.join(venv, "complete")) and os.path.exists(inside)

    if not complete():
        os.makedirs(cache, exist_ok=True)
        with open(venv + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete():
                make(python, venv)
    print(inside)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
