"""Python environments that tests compare with, made once and kept in the user's cache.

Environment.interpreter() creates ${XDG_CACHE_HOME:-~/.cache}/lntorch/venv-NAME-KEY, where KEY is a digest of the
requirements and of the Python version, so an unchanged file reuses its environment. The environment
is valid once its last file, "complete", is written; concurrent runs create it once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time

VERSIONS = ["3.11", "3.12"]  # for which every pinned package has a release


class Environment:
    """What an environment holds.

    name: of its folder, and what messages begin with.
    requirements: a file beside this one.
    options: further ones for pip.
    size: what making it takes, for messages; gb: the disk that it needs meanwhile.
    check: a Python program that must succeed in it.
    """

    def __init__(self, name, requirements, size, gb, check, options=()):
        self.name, self.size, self.gb, self.check, self.options = name, size, gb, check, options
        here = os.path.dirname(os.path.abspath(__file__))
        self.requirements = os.path.join(here, requirements)

    def say(self, text):
        print(self.name + "-venv: " + text, file=sys.stderr, flush=True)

    def die(self, text):
        self.say(text)
        sys.exit(1)

    def find_python(self):
        """A Python for which the pinned versions can be installed: the one that runs this program,
        else one from PATH."""
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
        self.die(
            "the pinned packages install on Python %s only; %s.\n"
            "  Install one of them (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name it: make PYTHON=…"
            % (" or ".join(VERSIONS), "; ".join(tried))
        )

    def run(self, command, failure):
        if subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL).returncode:
            self.die(failure)

    def make(self, python, venv):
        free = shutil.disk_usage(os.path.dirname(venv)).free / 2**30
        if free < self.gb:
            self.die(
                "needs %d GB of disk in %s, %.1f GB are free"
                % (self.gb, os.path.dirname(venv), free)
            )
        self.say("making %s: %s; once" % (venv, self.size))
        start = time.time()
        shutil.rmtree(venv, ignore_errors=True)  # left by a run that was stopped
        self.run(
            [python, "-m", "venv", venv],
            "%s -m venv failed (Debian, Ubuntu: apt-get install python3-venv)" % python,
        )
        inside = os.path.join(venv, "bin", "python")
        pip = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
        self.run(
            [*pip, "--no-cache-dir", *self.options, "-r", self.requirements],
            "pip could not install %s (its message is above); the package index is needed once"
            % self.requirements,
        )
        environment = dict(
            os.environ, nnUNet_raw=venv, nnUNet_preprocessed=venv, nnUNet_results=venv
        )
        check = subprocess.run([inside, "-c", self.check], stdout=sys.stderr, env=environment)
        if check.returncode:
            self.die(
                "the environment was installed but does not import (message above); %s is kept for inspection"
                % venv
            )
        with open(os.path.join(venv, "complete"), "w") as f:
            f.write("%.0f s\n" % (time.time() - start))
        self.say("ready after %.0f s" % (time.time() - start))

    def interpreter(self):
        """The interpreter of the environment, which is made if it is not there."""
        python, version = self.find_python()
        cache = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lntorch"
        )
        with open(self.requirements, "rb") as f:
            key = hashlib.sha256(f.read() + version.encode()).hexdigest()[:10]
        venv = os.path.join(cache, "venv-%s-%s" % (self.name, key))
        inside = os.path.join(venv, "bin", "python")

        def complete():  # false for a link to an interpreter that has been removed
            return os.path.exists(os.path.join(venv, "complete")) and os.path.exists(inside)

        if not complete():
            os.makedirs(cache, exist_ok=True)
            with open(venv + ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not complete():
                    self.make(python, venv)
        return inside

    def main(self):
        try:
            print(self.interpreter())
        except KeyboardInterrupt:
            sys.exit(130)
