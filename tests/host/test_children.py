"""Child processes: what they may not do, and that they end with their parent."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeprune.host.children import child_process, confinement_here, how_it_ended
from edgeprune.host.confinement import Confinement

HERE = confinement_here()
needs_landlock = pytest.mark.skipif("Landlock ABI" not in HERE, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif("and seccomp" not in HERE, reason="this system filters no sockets")


def said(script: str, writable: list[Path] | None, *arguments: object) -> str:
    """What a script prints as a child that may write beneath `writable`."""
    command = [sys.executable, "-I", "-c", "import os, socket, sys, tempfile\n" + script, *map(str, arguments)]
    with child_process(command, writable=writable, stderr=subprocess.STDOUT) as child:
        return child.communicate(timeout=30)[0].decode()


def attempt(action: str) -> str:
    """A script that does something and prints "done", or the error that it gets."""
    return f"try:\n    {action}\n    print('done')\nexcept OSError as error:\n    print(type(error).__name__)"


OUTSIDE = {
    "write": "open(sys.argv[1] + '/new', 'w')",
    "append": "open(sys.argv[1] + '/file', 'a')",
    "truncate": "os.truncate(sys.argv[1] + '/file', 0)",
    "unlink": "os.unlink(sys.argv[1] + '/file')",
    "mkdir": "os.mkdir(sys.argv[1] + '/new')",
    "rmdir": "os.rmdir(sys.argv[1] + '/empty')",
    "rename away": "os.rename(sys.argv[1] + '/file', sys.argv[2] + '/file')",
    "rename out": "os.rename(sys.argv[2] + '/own', sys.argv[1] + '/new')",
    "hard link": "os.link(sys.argv[1] + '/file', sys.argv[2] + '/linked')",
    "symbolic link": "os.symlink(sys.argv[1], sys.argv[2] + '/way')",
    "by a link": "open(sys.argv[2] + '/link/new', 'w')",
}


@pytest.mark.parametrize("action", OUTSIDE.values(), ids=OUTSIDE)
@needs_landlock
def test_nothing_outside_changes(tmp_path: Path, action: str) -> None:
    """A child changes no file or folder but those beneath its own; the same child, not confined, does."""
    for confined in (True, False):
        outside, own = tmp_path / f"outside{confined}", tmp_path / f"own{confined}"
        (outside / "empty").mkdir(parents=True)
        (outside / "file").write_text("kept")
        own.mkdir()
        (own / "own").touch()
        (own / "link").symlink_to(outside)
        answer = said(attempt(action), [own] if confined else None, outside, own)
        names = {path.name for path in outside.iterdir()}
        if confined:
            assert answer in ("PermissionError\n", "OSError\n")  # EXDEV for a move between folders
            assert (names, (outside / "file").read_text()) == ({"empty", "file"}, "kept")
        else:
            assert answer == "done\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, 0])
@pytest.mark.skipif("ABI 6" not in HERE and "ABI 7" not in HERE, reason="this kernel's Landlock has no scopes")
def test_no_signal_reaches_others(number: int) -> None:
    """A child cannot signal its parent, nor any other process that is not its own."""
    with subprocess.Popen(["sleep", "30"]) as other:
        assert said(attempt(f"os.kill(int(sys.argv[1]), {number})"), [], other.pid) == "PermissionError\n"
        assert other.poll() is None
        other.kill()


def test_a_child_works_in_its_own_folder(tmp_path: Path) -> None:
    """It reads everywhere, and makes, moves and removes files in its folder, which is its place for temporary ones."""
    (tmp_path / "given").write_text("read")
    own = tmp_path / "own"
    own.mkdir()
    script = """
text = open(sys.argv[1] + "/given").read()
os.makedirs(sys.argv[2] + "/a/b")
with open(sys.argv[2] + "/a/b/file", "w") as file:
    file.write(text)
os.rename(sys.argv[2] + "/a/b/file", sys.argv[2] + "/file")
os.rmdir(sys.argv[2] + "/a/b")
open(os.devnull, "w").write("x")
with tempfile.NamedTemporaryFile() as file:
    print(os.path.dirname(file.name) == sys.argv[2])
"""
    assert said(script, [own], tmp_path, own) == "True\n"
    assert (own / "file").read_text() == "read"


@needs_seccomp
def test_no_socket(tmp_path: Path) -> None:
    """A child connects to no server, over TCP or a Unix socket, sends no datagram, and makes no pair of sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        local.listen()
        actions = [
            f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)",
            f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})",
            "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
            "socket.socketpair()",
        ]
        script = "\n".join(attempt(action) for action in actions)
        assert said(script, []) == "PermissionError\n" * 4
        assert select.select([server, local], [], [], 0)[0] == []
        assert said(script, None) == "done\n" * 4


def test_confinement_in_words() -> None:
    """What is on, and what is not, is told in words."""
    if sys.platform == "linux":
        assert str(Confinement(landlock_abi=7, seccomp=True)) == "Landlock ABI 7 and seccomp"
        assert str(Confinement(seccomp=True)) == "no Landlock (may write anywhere) and seccomp"
        assert str(Confinement(landlock_abi=1)) == "Landlock ABI 1 and no seccomp (may open sockets)"
    assert str(Confinement()).startswith("none (")


def test_a_system_without_them_goes_on(tmp_path: Path) -> None:
    """Where the system calls are refused, as in some containers, the child works all the same."""
    script = """
import ctypes, sys
from pathlib import Path
import edgeprune.host.confinement as confinement
class Refusing:
    def prctl(self, *arguments):
        return 0 if arguments[0] == 38 else -1
    def syscall(self, *arguments):
        return -1
ctypes.CDLL = lambda *_, **__: Refusing()
print(confinement.confine([Path(sys.argv[1])]) == confinement.Confinement())
(Path(sys.argv[1]) / "file").touch()
"""
    done = subprocess.run([sys.executable, "-P", "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_no_such_program() -> None:
    """A program that is not there is an error here, not a status of the child."""
    with (
        pytest.raises(FileNotFoundError, match="no-such-program"),
        child_process(["no-such-program"], writable=[], stderr=None),
    ):
        pass


@pytest.mark.alone
@pytest.mark.parametrize("body", ["time.sleep(60)", "sum(range(10**12))"], ids=["asleep", "busy in C"])
def test_a_killed_parent_takes_its_children_along(tmp_path: Path, body: str) -> None:
    """After SIGKILL of the parent its child and the child of that one are gone within two seconds, even where the
    child's interpreter is stuck in a call into C."""
    child = f"import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); {body}"
    parent = f"""
import sys, time
from edgeprune.host.children import child_process
with child_process([sys.executable, "-c", {child!r}], writable=[], stderr=None) as child:
    print(child.pid, int(child.stdout.readline()), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-P", "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert [alive(pid) for pid in pids] == [True, True]
        process.kill()
        until = time.monotonic() + 2
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    assert [alive(pid) for pid in pids] == [False, False]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that its new parent has not reaped yet does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(") ", 1)[1].startswith("Z"))


@pytest.mark.alone
def test_a_parent_that_ended_before_is_noticed() -> None:
    """A child whose parent is gone before it looks ends too."""
    lifeline, kept = os.pipe()
    os.close(kept)
    settings = f'{{"lifeline": {lifeline}, "writable": null, "environment": null}}'
    command = [sys.executable, "-P", "-m", "edgeprune.host.launch", settings, "sleep", "60"]
    done = subprocess.run(command, pass_fds=[lifeline], start_new_session=True, timeout=30, check=False)
    os.close(lifeline)
    assert done.returncode == -signal.SIGKILL


def test_how_a_child_ended() -> None:
    """By its code, by the signal's name; one that the system killed says what that means."""
    assert how_it_ended(3) == "ended with exit code 3"
    assert how_it_ended(-signal.SIGSEGV) == "died of SIGSEGV"
    assert how_it_ended(-signal.SIGKILL) == "died of SIGKILL, for want of memory most likely"


# --- copies of this process ---------------------------------------------------------------------------------------

copies = pytest.mark.skipif(sys.platform != "linux", reason="no process is copied there")

# A program that imports `work`, and then starts a copy of itself that calls work.main.
PARENT = """
import atexit, sys
sys.path.insert(0, sys.argv[1])
import work
from pathlib import Path
from edgeprune.host.copies import copied_process
atexit.register(print, "the end of the parent")
work.value = "of the parent"
own = Path(sys.argv[2])
with open(sys.argv[1] + "/log", "w+b") as log:
    with copied_process("work", writable=[own], stderr=log, settings={"SET": "1"}) as child:
        print(child.pid, flush=True)
        child.stdin.write(sys.argv[3].encode() + b"\\n")
        child.stdin.close()
        print(child.stdout.read().decode(), child.wait(), child.poll(), flush=True)
"""
WORK = """
import os, signal, sys, tempfile, time
value = ""
def main():
    task = sys.stdin.readline().strip()
    if task == "tell":
        print(value, os.environ["SET"], sys.argv, tempfile.gettempdir(), sorted(os.listdir("/proc/self/fd")).index("2"))
    elif task == "write":
        open(tempfile.gettempdir() + "/mine", "w").close()
        try:
            open(os.path.dirname(__file__) + "/other", "w")
        except PermissionError as error:
            print("refused")
    elif task == "fail":
        raise ValueError("the reason")
    elif task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif task == "sleep":
        print("begun", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def parent(tmp_path: Path) -> list[str]:
    """The program, before the task."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "own").mkdir()
    return [sys.executable, "-c", PARENT, str(tmp_path), str(tmp_path / "own")]


def told_by(parent: list[str], task: str) -> list[str]:
    """What the parent prints, after the copy's number."""
    done = subprocess.run([*parent, task], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()[1:]


@copies
def test_what_a_copy_has(parent: list[str], tmp_path: Path) -> None:
    """It has what its parent imported and set, its own settings and place for temporary files, and runs none of its
    parent's exit handlers."""
    told, status, end = told_by(parent, "tell")
    assert told == f"of the parent 1 ['work'] {tmp_path / 'own'} 2"
    assert (status, end) == (" 0 0", "the end of the parent")


@needs_landlock
@copies
def test_what_a_copy_may_not(parent: list[str], tmp_path: Path) -> None:
    """It is confined as any child is."""
    assert told_by(parent, "write")[0] == "refused"
    assert (tmp_path / "own" / "mine").exists()
    assert not (tmp_path / "other").exists()


@copies
def test_how_a_copy_fails(parent: list[str], tmp_path: Path) -> None:
    """An error is in the log and in the exit code, a crash is the signal's."""
    assert told_by(parent, "fail") == [" 1 1", "the end of the parent"]
    assert "ValueError: the reason" in (tmp_path / "log").read_text()
    assert told_by(parent, "crash") == [" -11 -11", "the end of the parent"]


@pytest.mark.alone
@copies
def test_a_killed_parent_takes_its_copy_along(parent: list[str]) -> None:
    """After SIGKILL of the parent the copy is gone within two seconds."""
    with subprocess.Popen([*parent, "sleep"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.kill()
        until = time.monotonic() + 2
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(pid)
