"""A small process between us and a server: runs it, restarts it, and takes its whole tree down when we are gone.

What must stay true: once the parent has ended, by whatever means (`kill -9` included), nothing that the server started
outlives it for more than a few seconds. The parent is gone when the pipe on stdin ends or when this process has another
parent (a fork of the parent may hold the pipe open). As a child subreaper (prctl(2)) this process inherits whatever the
server's processes leave behind, so the tree under it is complete; on systems without prctl the process group is used.

Run by path with the standard library alone. Stdin: one JSON line `{"argv", "log", "restarts", "parent"}`, then any
number of `{"argv"}` (the command of a later restart). Stdout: one JSON line per event, `started`, `exited` and
`gave_up`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL: enough for a server to unlink its shared memory."""
ORPHAN_GRACE_S = 1.0
POLL_S = 0.25


def prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Process ids under `root`, nearest first; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything, spaces and parentheses included.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in children.get(pid, [])]
        found += level
    return found


class Supervisor:
    """One supervised command; `run` returns when it is over."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.argv: list[str] = spec["argv"]
        self.log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.restarts_left: int = spec["restarts"]
        self.parent: int = spec["parent"]
        self.child = 0
        """The server's process id, 0 once it has ended: the number may then be another process's."""
        self.group = 0
        self.stopping = False
        self.buffer = b""

    def say(self, event: str, **facts: object) -> None:
        with contextlib.suppress(OSError):
            os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")

    def spawn(self) -> None:
        self.child = os.fork()
        if self.child == 0:
            try:
                os.setpgid(0, 0)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(self.log, 1)
                os.dup2(self.log, 2)
                os.execv(self.argv[0], self.argv)
            except BaseException as error:
                os.write(self.log, f"cannot run {self.argv[0]}: {error}\n".encode())
            finally:
                os._exit(127)
        self.group = self.child
        self.say("started", pid=self.child)

    def reap(self) -> int | None:
        """Collect ended children; the exit code of the server if it was one of them (-N for signal N)."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if pid == 0:
                return code
            if pid == self.child:
                self.child = 0
                code = os.waitstatus_to_exitcode(status)

    def kill_tree(self, sig: int) -> bool:
        """Signal everything under us; False if nothing is left."""
        targets = descendants(os.getpid())
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        if sys.platform != "linux":
            try:
                os.killpg(self.group, sig)
            except ProcessLookupError:
                return False
            return True
        return bool(targets)

    def end_tree(self) -> None:
        """SIGTERM to the server, which ends its own children; SIGKILL for what is left after the grace.

        Where the server has died already, what is left of it gets less of it.
        """
        if self.child:
            os.kill(self.child, signal.SIGTERM)
        else:
            self.kill_tree(signal.SIGTERM)
        deadline = time.monotonic() + (GRACE_S if self.child else ORPHAN_GRACE_S)
        while time.monotonic() < deadline and descendants(os.getpid()):
            self.reap()
            time.sleep(0.05)
        while self.kill_tree(signal.SIGKILL):
            self.reap()
            time.sleep(0.02)

    def listen(self, timeout: float, wakeup: int) -> None:
        """Wait for words from the parent, its end, or a child's."""
        ready, _, _ = select.select([0, wakeup], [], [], timeout)
        if wakeup in ready:
            os.read(wakeup, 4096)
        if 0 in ready:
            chunk = os.read(0, 65536)
            if not chunk:
                self.stopping = True
            *lines, self.buffer = (self.buffer + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                self.argv = message.get("argv", self.argv)
        if os.getppid() != self.parent:
            self.stopping = True

    def stop(self, *_: object) -> None:
        self.stopping = True

    def run(self) -> int:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.set_wakeup_fd(write_end)
        self.spawn()
        while not self.stopping:
            self.listen(POLL_S, read_end)
            code = self.reap()
            if code is None or self.stopping:
                continue
            self.end_tree()
            if self.restarts_left == 0:
                self.say("gave_up", code=code)
                return 1
            self.restarts_left -= 1
            self.say("exited", code=code)
            self.spawn()
        self.end_tree()
        return 0


def read_spec() -> dict[str, Any] | None:
    """The first line of stdin, read byte by byte so that nothing of the next is swallowed; None if there is none."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    spec: dict[str, Any] = json.loads(line)
    return spec


if __name__ == "__main__":
    first = read_spec()
    sys.exit(0 if first is None else Supervisor(first).run())
