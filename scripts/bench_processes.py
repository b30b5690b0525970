"""Processes that scripts/bench.py times: workers that repeat their work, and whole commands."""

import contextlib
import ctypes
import json
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path


class Worker:
    """A process that repeats its work: one answer for each line of input."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"bench: exit code {self.process.wait()}: {shlex.join(map(str, self.process.args))}"
            )
        return json.loads(line)

    def repeat(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Start:
    """A command that is started for each repeat, timed until it prints a line of JSON or, without
    line, until it ends."""

    def __init__(self, command, line=True, **env):
        self.command, self.line, self.env = command, line, env

    def repeat(self):
        with tempfile.TemporaryFile("w+") as errors:
            start = time.perf_counter()
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(**self.env),
                start_new_session=True,
            )
            try:
                answer = self.answer(process, start)
                ended(process)
            finally:
                os.killpg(
                    process.pid, signal.SIGKILL
                )  # what it has started, as nnU-Net's own workers; itself only if interrupted
                process.stdout.close()
                process.wait()
            if process.returncode or answer is None:
                errors.seek(0)
                raise SystemExit(
                    f"bench: exit code {process.returncode}: {shlex.join(map(str, self.command))}\n{errors.read()}"
                )
            return answer

    def answer(self, process, start):
        for line in process.stdout:
            if self.line and line.startswith("{"):
                return {**json.loads(line), "seconds": time.perf_counter() - start}
        ended(process)
        return None if self.line else {"seconds": time.perf_counter() - start}

    def close(self):
        pass


class Once:
    """A command that is started for each repeat and prints its answer as JSON. Time and memory are
    those of the process unless the answer holds them."""

    def __init__(self, command, more=lambda answer: {}, **env):
        self.command, self.more, self.env = command, more, env

    def repeat(self):
        start = time.perf_counter()
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**self.env),
        )
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(
                f"bench: exit code {process.returncode}: {shlex.join(map(str, self.command))}"
            )
        answer = json.loads(out)
        answer = answer[0] if isinstance(answer, list) else answer
        answer = {
            "seconds": seconds,
            "peak_rss_bytes": used.ru_maxrss << 10,
            **{
                ("steps" if k == "seconds" and isinstance(v, dict) else k): v
                for k, v in answer.items()
            },
        }
        return {**answer, **self.more(answer)}

    def close(self):
        pass


def ended(process):
    """Waits for the end without reaping the process, so that its process ID is not reused."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def environment(**more):
    """The processes' environment: without lntorch settings, and with nnU-Net's folders, as it
    prints advice without them."""
    keep = {
        k: v for k, v in os.environ.items() if not k.startswith("LNTORCH_") or k == "LNTORCH_LIB"
    }
    nowhere = {f"nnUNet_{n}": "/nonexistent" for n in ("raw", "preprocessed", "results")}
    return {**keep, **nowhere, "PYTHONWARNINGS": "ignore", **{k: str(v) for k, v in more.items()}}


class Command:
    """A command that is timed from its start to its end. The peak is that of its whole process
    tree: the largest sum of the processes' proportional set sizes (PSS), sampled ten times a second
    at most. The peak that the kernel kept for the process itself counts if it is larger. more(log)
    gives further values for the answer; log is the command's output."""

    def __init__(self, command, more=lambda log: {}, **env):
        self.command, self.more, self.env = command, more, env

    def repeat(self):
        with tempfile.TemporaryFile("w+") as log:
            start = time.perf_counter()
            process = subprocess.Popen(
                [str(word) for word in self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**self.env),
                start_new_session=True,
            )
            peak = Peak(process.pid)
            try:
                _, status, used = os.wait4(process.pid, 0)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # its workers, too
                raise
            finally:
                most = peak.end()
            seconds = time.perf_counter() - start
            left = orphans(process.pid)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            text = log.read()
            if process.returncode:
                raise SystemExit(
                    f"bench: exit code {process.returncode}: "
                    f"{shlex.join(map(str, self.command))}\n{text}"
                )
            return {
                "seconds": seconds,
                "peak_rss_bytes": max(most, used.ru_maxrss << 10),
                "cpu_seconds": used.ru_utime + used.ru_stime + left,
                **self.more(text),
            }

    def close(self):
        pass


def adopt_orphans():
    """Makes processes whose parent has ended children of this one."""
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def orphans(session):
    """The processor time of what a command left running, which ends with it. That of children for
    which it waited is its own."""
    total = 0.0
    for pid in processes(session):
        with contextlib.suppress(ChildProcessError):  # without adopt_orphans
            used = os.wait4(int(pid), 0)[2]
            total += used.ru_utime + used.ru_stime
    return total


class Peak:
    """The peak memory of a session's processes, sampled on a thread."""

    def __init__(self, session):
        self.session, self.most, self.over = session, 0, threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()

    def sample(self):
        took = 0
        while not self.over.wait(max(0.1, 20 * took)):  # sampling costs 5 % at most
            start = time.perf_counter()
            self.most = max(self.most, sum(map(pss, processes(self.session))))
            took = time.perf_counter() - start

    def end(self):
        self.over.set()
        self.thread.join()
        return self.most


def processes(session):
    """The process IDs of a session."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:  # it has ended
                continue
            if int(stat.rsplit(")", 1)[1].split()[3]) == session:
                yield folder.name


def pss(process):
    """The proportional set size of a process in bytes: a page that n processes share counts 1/n."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:  # it has ended
        pass
    return 0


def peak_rss():
    """The peak memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
