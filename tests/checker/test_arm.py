"""Executed Arm64 instructions: what is parsed, decided and said; real emulation only where the system is prepared."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

from edgeprune.checker.arm import cpus, emulation, prepare
from edgeprune.checker.arm.cpus import CPUS, ArmRoot, find_cpu, load_root, root_path
from edgeprune.checker.arm.emulation import (
    CLASSES,
    InstructionCounts,
    compare_counts,
    count_instructions,
    emulator_command,
    emulator_environment,
    parse_counts,
)
from edgeprune.errors import EdgepruneError, InputError, RuntimeFailure, Unsupported, UsageError
from edgeprune.ledger import Outcome

FILES = TESTS / "files"
SOURCE = Path(emulation.__file__).with_name("instructions.c")
PREPARED = load_root(root_path())
emulated = pytest.mark.skipif(PREPARED is None, reason="python -m edgeprune.checker.arm.prepare has not been run")

# Encodings and mnemonics as the Capstone disassembler prints them.
WORDS = {
    0x4E22CC20: "float multiply-add",  # fmla v0.4s, v1.4s, v2.4s
    0x4F821020: "float multiply-add",  # fmla v0.4s, v1.4s, v2.s[0]
    0x1F020820: "float multiply-add",  # fmadd s0, s1, s2, s2
    0x0E628020: "integer multiply-add",  # smlal v0.4s, v1.4h, v2.4h
    0x2F820020: "integer multiply-add",  # mla v0.2s, v1.2s, v2.s[0]
    0x4E829420: "dot product",  # sdot v0.4s, v1.16b, v2.16b
    0x4F82E020: "dot product",  # sdot v0.4s, v1.16b, v2.4b[0]
    0x4E82A420: "matrix multiply",  # smmla v0.4s, v1.16b, v2.16b
    0x4EA28420: "other vector",  # add v0.4s, v1.4s, v2.4s
    0x1E222820: "other vector",  # fadd s0, s1, s2
    0x4E209C20: "other vector",  # mul v0.16b, v1.16b, v0.16b
    0x3DC00020: "load",  # ldr q0, [x1]
    0x4C407020: "load",  # ld1 {v0.16b}, [x1]
    0xA8C17BFD: "load",  # ldp x29, x30, [sp], #16
    0x58000040: "load",  # ldr x0, #8
    0x3D800020: "store",  # str q0, [x1]
    0x4C007020: "store",  # st1 {v0.16b}, [x1]
    0xA9BF7BFD: "store",  # stp x29, x30, [sp, #-16]!
    0xC8007C41: "store",  # stxr w0, x1, [x2]
    0x94000001: "branch",  # bl #4
    0xD65F03C0: "branch",  # ret
    0x36000040: "branch",  # tbz w0, #0, #8
    0xD503201F: "other",  # nop
    0xD4000001: "other",  # svc #0
    0x8B020020: "other",  # add x0, x1, x2
}


def marks(*totals: int) -> str:
    """Marks 0, 1, 2, ... whose only counts are those of the class "other"."""
    return "".join(f"{k} 0 0 0 0 0 0 0 0 {total}\n" for k, total in enumerate(totals))


def counts(instructions: int, spread: float = 0.0) -> InstructionCounts:
    """Counts of one class."""
    return InstructionCounts(instructions=instructions, by_class={"other": instructions}, spread=spread)


def fake_root(folder: Path) -> ArmRoot:
    """A root whose emulator is a shell script of the test."""
    return ArmRoot(
        path=folder,
        qemu=folder / "qemu",
        qemu_version="7.2.0",
        litert_version="2.3.0",
        python="python3.11",
    )


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_decoder(tmp_path: Path) -> None:
    """The C source compiles without a warning, and classifies instruction words as their mnemonics say."""
    library = tmp_path / "instructions.so"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    options = ["-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-z,lazy"]
    subprocess.run(["cc", "-O1", *warnings, *options, "-o", str(library), str(SOURCE)], check=True)
    decode = ctypes.CDLL(str(library), mode=1).instruction_class  # RTLD_LAZY: QEMU's functions are not there
    decode.argtypes = [ctypes.c_uint32]
    assert {word: CLASSES[decode(word)] for word in WORDS} == WORDS


def test_parse_counts() -> None:
    """The cost of a mark (10 here) is taken off, the median is kept, and the spread is that of the totals."""
    text = "0 0 0 0 0 0 0 0 0 1\n" * 3 + marks(5, 100, 110, 1120, 2131, 3140)
    found = parse_counts(text, inferences=3, subject="m")
    assert found.instructions == 1000
    assert found.by_class["other"] == 1000
    assert found.by_class["load"] == 0
    assert found.spread == pytest.approx(2 / 1000)  # 1000, 1001, 999


@pytest.mark.parametrize(
    "text", ["", marks(5, 100, 110, 1120, 2131), "1 2\n", "words\n", marks(1, 1, 1, 1, 1, 1), "\n"]
)
def test_broken_counts(text: str) -> None:
    """Missing marks, words and no instruction at all are an error, not a number."""
    with pytest.raises(RuntimeFailure, match="m: the emulator"):
        parse_counts(text, inferences=3, subject="m")


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        (counts(1_000_000), Outcome.UNCHANGED),
        (counts(1_000_099), Outcome.UNCHANGED),
        (counts(999_901), Outcome.UNCHANGED),
        (counts(1_000_102), Outcome.MORE),
        (counts(999_898), Outcome.FEWER),
        (counts(999_898, spread=1e-5), Outcome.UNCHANGED),
    ],
)
def test_verdict(candidate: InstructionCounts, verdict: Outcome) -> None:
    """Unchanged means within 1e-4 and what the counts of one file differ by."""
    found = compare_counts(counts(1_000_000), candidate)
    assert found.verdict is verdict
    assert found.ratio == candidate.instructions / 1_000_000
    assert found.low <= found.ratio <= found.high


def test_unknown_cpu() -> None:
    """The nearest names are told."""
    with pytest.raises(UsageError, match=r"no emulated cpu 'cortex-a75'; did you mean cortex-a7"):
        find_cpu("cortex-a75")
    with pytest.raises(UsageError, match="did you mean cortex-a53"):
        find_cpu("A53")


def test_cpuinfo() -> None:
    """One core of Arm's, with the part number of the cpu and the dot product where it has one."""
    text = find_cpu("cortex-a76").cpuinfo
    assert text.count("processor") == 1
    assert "CPU implementer\t: 0x41\n" in text
    assert "CPU part\t: 0xd0b\n" in text
    assert [name for name, cpu in CPUS.items() if "asimddp" in cpu.features] == ["cortex-a76", "neoverse-n1", "max"]


def test_command() -> None:
    """The emulator gets cpu, system and plugin; the program gets the file, the seed, the inferences and an alarm."""
    root = fake_root(Path("/r"))
    cpu = find_cpu("max")
    words = emulator_command(root, cpu, Path("/m.tflite"), Path("/c"), seed=7, inferences=3, timeout_s=9.5)
    assert words[:5] == ["/r/qemu", "-U", "LD_LIBRARY_PATH", "-cpu", "max,sve=off,sme=off"]
    assert words[5:9] == ["-L", "/r/cpus/max", "-plugin", "/r/instructions.so,out=/c"]
    assert words[9] == "/r/cpus/max/usr/bin/python3.11"
    assert words[11:] == ["/m.tflite", "7", "3", "15"]
    environment = emulator_environment(root, cpu)
    assert environment["PYTHONHOME"] == "/r/cpus/max/usr"
    assert environment["PYTHONPATH"].startswith("/r/packages:")
    assert (Path(environment["PYTHONPATH"].split(":")[1]) / "worker.py").is_file()


def run_fake(folder: Path, script: str, *, timeout_s: float = 30) -> InstructionCounts:
    """Count with a shell script in the emulator's place; $9 is its -plugin argument."""
    (folder / "qemu").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "qemu").chmod(0o755)
    model = FILES / "float32.tflite"
    return count_instructions(model, cpu=find_cpu("cortex-a76"), root=fake_root(folder), timeout_s=timeout_s)


def test_counts_of_a_process(tmp_path: Path) -> None:
    """The emulator's file of marks is read."""
    lines = marks(5, 100, 110, 1120, 2130, 3140)
    assert run_fake(tmp_path, f"cat > \"${{8#*,out=}}\" <<'E'\n{lines}E").instructions == 1000


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'INFO: x' >&2; echo 'refused: no such op' >&2; exit 1", "no such op"),
        ("echo words >&2; exit 3", "ended with status 3: words"),
        ("kill -SEGV $$", r"crashed \(SIGSEGV\)"),
        ("exit 0", "not complete"),
        (f"cat > \"${{8#*,out=}}\" <<'E'\n{marks(5, 100, 110, 1120, 2150, 3160)}E", "differ by 2.00%, above 0.1%"),
    ],
)
def test_failures_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str) -> None:
    """A refusal, a crash, no counts and unsteady counts are one line each, and no scratch file stays."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(RuntimeFailure, match=told):
        run_fake(tmp_path, script)
    assert list(scratch.iterdir()) == []


def test_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end is killed, and no scratch file stays."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(RuntimeFailure, match=r"no end within 0\.2 s"):
        run_fake(tmp_path, "exec sleep 60", timeout_s=0.2)
    assert list(scratch.iterdir()) == []


def test_absent_emulator(tmp_path: Path) -> None:
    """An emulator that is gone and a file that is not there are one line each."""
    with pytest.raises(RuntimeFailure, match="cannot be started"):
        count_instructions(FILES / "float32.tflite", cpu=find_cpu("max"), root=fake_root(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        count_instructions(tmp_path / "m.tflite", cpu=find_cpu("max"), root=fake_root(tmp_path))


def test_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the Arm system one line says what to type, exit code 3."""
    monkeypatch.setenv("EDGEPRUNE_ARM_ROOT", str(tmp_path / "arm"))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(Unsupported, match=r"python -m edgeprune\.checker\.arm\.prepare") as told:
        cpus.arm_root()
    assert told.value.exit_code == 3
    assert "\n" not in str(told.value)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(Unsupported, match="on Linux only"):
        cpus.arm_root()


def test_root_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is EDGEPRUNE_ARM_ROOT, else the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.delenv("EDGEPRUNE_ARM_ROOT", raising=False)
    assert root_path() == Path("/c/edgeprune/arm")
    monkeypatch.setenv("EDGEPRUNE_ARM_ROOT", "/own")
    assert root_path() == Path("/own")


def test_load_root(tmp_path: Path) -> None:
    """A complete folder is read; one of another version, or none, is not."""
    told = {"format": 1, "qemu": "/q", "qemu_version": "7.2.22", "litert_version": "2.3.0", "python": "python3.11"}
    (tmp_path / "root.json").write_text(json.dumps(told))
    root = load_root(tmp_path)
    assert root is not None
    assert root.qemu == Path("/q")
    for broken in ("", "[]", "{}", json.dumps({**told, "format": 0})):
        (tmp_path / "root.json").write_text(broken)
        assert load_root(tmp_path) is None
    assert load_root(tmp_path / "none") is None


def test_prepare_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with other files is left alone; absent tools are one line with what to install, exit code 3."""
    (tmp_path / "mine.txt").touch()
    assert prepare.main([str(tmp_path)]) == 2
    assert (tmp_path / "mine.txt").exists()
    monkeypatch.setattr("shutil.which", lambda name: None if name in ("cc", "dpkg") else f"/bin/{name}")
    capsys.readouterr()
    assert prepare.main([str(tmp_path / "arm")]) == 3
    assert (
        capsys.readouterr().err.strip().endswith("needs dpkg, cc, not found here; on Debian: apt-get install dpkg gcc")
    )
    assert not (tmp_path / "arm").exists()


def test_cpu_files(tmp_path: Path) -> None:
    """A cpu sees the common files through links that still hold when the folder is renamed, and its own cpuinfo."""
    (tmp_path / "a" / "system" / "usr").mkdir(parents=True)
    prepare._cpu_files(tmp_path / "a", find_cpu("cortex-a53"))
    moved = (tmp_path / "a").rename(tmp_path / "b") / "cpus" / "cortex-a53"
    assert (moved / "usr").resolve() == tmp_path / "b" / "system" / "usr"
    assert "0xd03" in (moved / "proc" / "cpuinfo").read_text()


def test_options_of_timing(call: Any) -> None:
    """What is about timing on this host contradicts --arm."""
    done = call("bench", FILES / "float32.tflite", "--arm", "max", "--pairs", "3")
    done.error(2, "--pairs is about timing on this host")


@emulated
def test_emulation_is_exact() -> None:
    """Two emulated processes of one file count the same, and pruning the stored weights changes nothing."""
    assert PREPARED is not None
    first, second = (count_instructions(FILES / "int8.tflite", cpu=CPUS["cortex-a76"], root=PREPARED) for _ in range(2))
    assert first.instructions == pytest.approx(second.instructions, rel=3e-4)  # it is tiny: 28,000 instructions
    assert first.by_class["dot product"] > 0
    assert count_instructions(FILES / "int8.tflite", cpu=CPUS["cortex-a53"], root=PREPARED).by_class["dot product"] == 0


@emulated
def test_emulated_refusal(tmp_path: Path) -> None:
    """A file that LiteRT refuses is one line."""
    assert PREPARED is not None
    broken = tmp_path / "m.tflite"
    broken.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    with pytest.raises(EdgepruneError, match=r"m\.tflite on an emulated max: "):
        count_instructions(broken, cpu=CPUS["max"], root=PREPARED)
