"""Ctrl-C and SIGTERM: one line, the right exit code, everything half done undone, whatever the code is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeprune.host.children import child_process, kill
from edgeprune.host.interrupts import handlers, held_back
from edgeprune.host.scratch import scratch_folder

LINE = "edgeprune: interrupted; nothing was written\n"
pytestmark = pytest.mark.alone


def outcome(body: str, folder: Path, number: int = signal.SIGINT) -> tuple[int, str]:
    """Exit code and stderr of a script that prints "ready" in its body, and gets the signal then."""
    script = "import os, signal, subprocess, sys, time\nfrom pathlib import Path\n"
    for module in ("children", "interrupts", "scratch"):
        script += f"from edgeprune.host.{module} import *\n"
    # A shell starts background jobs with SIGINT ignored, and so would this test's child be.
    script += "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + body
    with subprocess.Popen(
        [sys.executable, "-P", "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    return process.returncode, err


WAIT = "print('ready', flush=True); time.sleep(20)"


def test_ctrl_c_is_one_line_and_130(tmp_path: Path) -> None:
    """SIGINT ends the process with 130 and says that nothing was written."""
    assert outcome(f"with handlers():\n    {WAIT}", tmp_path) == (130, LINE)


def test_the_first_ctrl_c_may_only_ask(tmp_path: Path) -> None:
    """A job that can end early is asked to by the first SIGINT, and says so; the second ends it."""
    body = """
with handlers():
    with asking("ending soon") as asked:
        print("ready", flush=True)
        while not asked():
            time.sleep(0.01)
        AGAIN
    print("ended", file=sys.stderr, flush=True)
"""
    assert outcome(body.replace("AGAIN", "pass"), tmp_path) == (0, "edgeprune: ending soon\nended\n")
    again = body.replace("AGAIN", "os.kill(os.getpid(), signal.SIGINT)")
    assert outcome(again, tmp_path) == (130, "edgeprune: ending soon\n" + LINE)


def test_sigterm_is_one_line_and_143(tmp_path: Path) -> None:
    """SIGTERM, which a CI system sends, ends it in the same way."""
    found = outcome(f"with handlers():\n    {WAIT}", tmp_path, signal.SIGTERM)
    assert found == (143, "edgeprune: terminated; nothing was written\n")


def test_code_that_swallows_every_exception_cannot_stop_it(tmp_path: Path) -> None:
    """TensorFlow drops or converts a KeyboardInterrupt in some callbacks; a signal ends the process all the same."""
    body = """
with handlers():
    print("ready", flush=True)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
"""
    assert outcome(body, tmp_path) == (130, LINE)


def test_the_line_is_seen_while_stderr_is_hidden(tmp_path: Path) -> None:
    """The start of TensorFlow hides file descriptor 2; the line goes to the real one."""
    body = f"with handlers():\n    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\n    {WAIT}"
    assert outcome(body, tmp_path) == (130, LINE)


def test_what_is_half_done_is_undone_newest_first(tmp_path: Path) -> None:
    """Folders are removed, children of children killed, and registered actions called in reverse order."""
    body = f"""
line = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
command = [sys.executable, "-c", line]
def note(word):
    with Path("order").open("a") as file:
        file.write(word)
with handlers(), undoing(lambda: note("first ")), scratch_folder(beside=Path("scratch")) as folder:
    (folder / "file").touch()
    with undoing(lambda: note("second ")), child_process(command, writable=None, stderr=None) as child:
        Path("grandchild").write_bytes(child.stdout.readline())
        Path("child").write_text(str(child.pid))
        {WAIT}
"""
    assert outcome(body, tmp_path) == (130, LINE)
    assert (tmp_path / "order").read_text() == "second first "
    assert sorted(p.name for p in tmp_path.iterdir()) == ["child", "grandchild", "order"]
    for name in ("child", "grandchild"):
        assert not alive(int((tmp_path / name).read_text()))


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that its new parent has not reaped yet does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(") ", 1)[1].startswith("Z"))


def test_a_failing_action_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    """An error while undoing is passed over."""
    body = f"with handlers(), scratch_folder(beside=Path('s')), undoing(lambda: 1 / 0):\n    {WAIT}"
    assert outcome(body, tmp_path) == (130, LINE)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_waits_while_it_is_held_back(tmp_path: Path) -> None:
    """Lines that belong together are finished first, and the line says what is complete then."""
    body = """
with handlers():
    with held_back():
        print("ready", flush=True)
        time.sleep(0.5)
        Path("out").touch()
        note_output(Path("out"))
    Path("more").touch()
"""
    assert outcome(body, tmp_path) == (130, "edgeprune: interrupted; out: complete\n")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """Under nohup, or as a shell's background job, Ctrl-C means nothing."""
    body = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
with handlers():
    print("ready", flush=True)
    time.sleep(0.5)
sys.exit(5)
"""
    assert outcome(body, tmp_path) == (5, "")


def test_handlers_are_given_back() -> None:
    """A program that calls the command line as a function has its own handlers afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with handlers():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_changes_no_handlers() -> None:
    """Only the main thread may set handlers; in another one the context does nothing."""
    seen: list[bool] = []

    def work() -> None:
        with handlers():
            seen.append(signal.getsignal(signal.SIGTERM) == before)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_contexts_clean_up_after_an_exception() -> None:
    """Without any signal a scratch folder and a child are gone when their contexts end, well or not."""
    stack = contextlib.ExitStack()
    folder = stack.enter_context(scratch_folder())
    child = stack.enter_context(child_process(["sleep", "60"], writable=None, stderr=None))
    assert folder.is_dir()
    with contextlib.suppress(ValueError), stack:
        raise ValueError("stop")
    assert not folder.exists()
    assert child.returncode == -signal.SIGKILL
    kill(child)  # twice is harmless
    with held_back():
        pass
