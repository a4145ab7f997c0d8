"""The emulated cpus, and where the prepared Arm system stands."""

from __future__ import annotations

import difflib
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import Unsupported, UsageError
from edgeprune.host.prepared import cache_place

__all__ = ["CPUS", "FORMAT", "ROOT_VARIABLE", "ArmCpu", "ArmRoot", "arm_root", "find_cpu", "load_root", "root_path"]

FORMAT = 1  # of a prepared folder: another number means that it must be prepared again
ROOT_FILE = "root.json"
ROOT_VARIABLE = "EDGEPRUNE_ARM_ROOT"
PREPARE = "python -m edgeprune.checker.arm.prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCpu:
    """A cpu by its name: QEMU's -cpu argument, and what /proc/cpuinfo of such a cpu says (part number, features)."""

    name: str
    qemu: str
    part: int
    features: str

    @property
    def cpuinfo(self) -> str:
        """The text of /proc/cpuinfo with one core. XNNPACK picks its kernels by it, and LiteRT crashes on x86's."""
        return (
            f"processor\t: 0\nBogoMIPS\t: 38.40\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {self.part:#05x}\nCPU revision\t: 0\n\n"
        )


V80 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
V86 = f"{V82} fcma jscvt asimdfhm flagm ssbs sb i8mm bf16"

# Part numbers: the Main ID Register in Arm's technical reference manual of each core.
CPUS: dict[str, ArmCpu] = {
    cpu.name: cpu
    for cpu in (
        ArmCpu(name="cortex-a35", qemu="cortex-a35", part=0xD04, features=V80),
        ArmCpu(name="cortex-a53", qemu="cortex-a53", part=0xD03, features=V80),
        ArmCpu(name="cortex-a57", qemu="cortex-a57", part=0xD07, features=V80),
        ArmCpu(name="cortex-a72", qemu="cortex-a72", part=0xD08, features=V80),
        ArmCpu(name="cortex-a76", qemu="cortex-a76", part=0xD0B, features=V82),
        ArmCpu(name="neoverse-n1", qemu="neoverse-n1", part=0xD0C, features=V82),
        # The instructions of a Cortex-X2, int8 matrix multiplication included; phones have no streaming SVE.
        ArmCpu(name="max", qemu="max,sve=off,sme=off", part=0xD48, features=V86),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRoot:
    """A prepared folder: an Arm system with Python and LiteRT, the emulator, and the counting plugin."""

    path: Path
    qemu: Path
    qemu_version: str
    litert_version: str
    python: str  # the name of the program, for example python3.11

    def of_cpu(self, cpu: ArmCpu) -> Path:
        """The system as a cpu sees it: the common files with its own /proc/cpuinfo."""
        return self.path / "cpus" / cpu.name

    @property
    def packages(self) -> Path:
        """Where NumPy and LiteRT stand."""
        return self.path / "packages"

    @property
    def plugin(self) -> Path:
        """The compiled instructions.c."""
        return self.path / "instructions.so"

    @property
    def libraries(self) -> Path:
        """What the emulator itself loads, where it was not installed on this machine."""
        return self.path / "host" / "usr" / "lib" / f"{platform.machine()}-linux-gnu"


def find_cpu(name: str) -> ArmCpu:
    """The cpu with this name. Raises UsageError for an unknown one, with the nearest names."""
    if name in CPUS:
        return CPUS[name]
    near = difflib.get_close_matches(name.lower(), CPUS, n=3, cutoff=0.4)
    near += [known for known in CPUS if len(name) > 1 and name.lower() in known and known not in near]
    hint = f"did you mean {' or '.join(near[:3])}? " if near else ""
    raise UsageError(f"no emulated cpu {name!r}; {hint}Known: {', '.join(CPUS)}")


def root_path() -> Path:
    """EDGEPRUNE_ARM_ROOT, else edgeprune/arm in the user's cache folder."""
    return cache_place(ROOT_VARIABLE, "arm")


def load_root(path: Path) -> ArmRoot | None:
    """The prepared folder at a path; None where there is none, or one of another version of this tool."""
    try:
        told = json.loads((path / ROOT_FILE).read_text())
        if told["format"] != FORMAT:
            return None
        return ArmRoot(
            path=path,
            qemu=path / str(told["qemu"]),  # absolute where it was installed already
            qemu_version=str(told["qemu_version"]),
            litert_version=str(told["litert_version"]),
            python=str(told["python"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def arm_root() -> ArmRoot:
    """The prepared folder of this machine. Raises Unsupported, with what to type, where something is absent."""
    path = root_path()
    if platform.system() != "Linux":
        raise Unsupported(
            f"--arm runs on Linux only, this is {platform.system()}; leave --arm out to time on this host"
        )
    root = load_root(path)
    if root is None:
        raise Unsupported(
            f"--arm needs an emulated Arm system, not found in {path}: type '{PREPARE}' (once, 60 MB to download; "
            "EDGEPRUNE_ARM_ROOT is another place)"
        )
    for needed in (root.qemu, root.plugin, root.packages):
        if not needed.exists():
            raise Unsupported(f"--arm: {needed} is gone; remove {path} and type '{PREPARE}' again")
    return root
