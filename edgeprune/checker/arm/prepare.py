"""Prepare the emulated Arm system that `edgeprune bench --arm` needs, once; nothing on this machine is changed.

    python -m edgeprune.checker.arm.prepare [FOLDER]

Debian packages come from this machine's apt sources through a private apt state (no foreign architecture is added),
Python wheels from its pip index, and the plugin from this machine's C compiler. Downloads stay in FOLDER.partial until
FOLDER is complete, so that a run that was cut off goes on; FOLDER itself appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import click

from edgeprune.checker.arm.cpus import CPUS, FORMAT, PREPARE, ROOT_FILE, ROOT_VARIABLE, ArmCpu, load_root, root_path
from edgeprune.errors import InputError, Unsupported, UsageError
from edgeprune.host.prepared import check_place, fill_folder, prepare_main, run_tool
from edgeprune.units import format_bytes

__all__ = ["main", "prepare"]

PYTHON = "3.11"
ARM_PACKAGES = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6", "zlib1g")
WHEELS = {"numpy": "1.26.4", "ai_edge_litert": "2.3.0"}  # NumPy of that LiteRT, which has wheels for glibc 2.27
PLATFORMS = ("manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
QEMU = "qemu-aarch64"
QEMU_MAJORS = range(7, 9)  # later ones have another plugin interface; earlier ones lack cpus
TOOLS = {"apt-get": "apt", "dpkg": "dpkg", "cc": "gcc"}


def prepare(folder: Path) -> None:
    """Make the folder; does nothing where it is complete. Prints what it does and the sizes.

    Raises UsageError (the folder holds something else), Unsupported (a tool is absent, or this system's packages do
    not fit), and OutputError.
    """
    if load_root(folder) is not None:
        click.echo(f"{folder}: prepared already; remove it to prepare it again")
        return
    check_place(folder, ROOT_FILE)
    if "," in str(folder):  # QEMU splits the plugin's argument there
        raise UsageError(f"{folder}: give a folder without a comma in its path")
    _check_tools()
    fill_folder(folder, _fill)


def _fill(build: Path, partial: Path) -> None:
    """All files of a prepared folder, root.json last."""
    _say("Debian packages of arm64, with Python")
    packages = _download_arm(partial / "arm64")
    _unpack(packages, build / "system")
    _say("Python wheels of aarch64: " + ", ".join(f"{name} {version}" for name, version in WHEELS.items()))
    _unzip(_download_wheels(partial / "wheels"), build / "packages")
    installed = shutil.which(QEMU)
    if installed is None:
        _say("the emulator, qemu-user")
        _unpack(_download_host(partial / "host"), build / "host")
        for other in (build / "host" / "usr" / "bin").glob("qemu-*"):
            if other.name != QEMU:
                other.unlink()
    qemu = Path(installed or build / "host" / "usr" / "bin" / QEMU)
    version = _qemu_version(qemu, build)
    _say("the counting plugin")
    _compile(Path(__file__).with_name("instructions.c"), build / "instructions.so")
    for cpu in CPUS.values():
        _cpu_files(build, cpu)
    told = {
        "format": FORMAT,
        "qemu": installed or f"host/usr/bin/{QEMU}",
        "qemu_version": version,
        "litert_version": WHEELS["ai_edge_litert"],
        "python": f"python{PYTHON}",
        "packages": sorted(path.name for path in packages),
    }
    (build / ROOT_FILE).write_text(json.dumps(told, indent=2) + "\n")


def _say(what: str) -> None:
    click.echo(f"{what} ...")


def _check_tools() -> None:
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        packages = " ".join(TOOLS[tool] for tool in absent)
        raise Unsupported(
            f"preparing the Arm system needs {', '.join(absent)}, not found here; on Debian: apt-get install {packages}"
        )


def _apt(state: Path, *arguments: str, arm: bool) -> list[str]:
    """apt-get with the machine's sources but a state of its own, in which nothing is installed (arm) or with the
    machine's own list of packages."""
    options = [
        f"Dir::Cache={state}/cache",
        "Debug::NoLocking=1",
        "APT::Install-Recommends=0",
        f"APT::Sandbox::User={os.environ.get('USER', 'root')}",
        "Dir::Cache::pkgcache=",
        "Dir::Cache::srcpkgcache=",
        f"Dir::State={state}/state",
    ]
    if arm:
        options += ["APT::Architecture=arm64", "APT::Architectures=arm64", f"Dir::State::status={state}/status"]
    else:
        options += ["Dir::State::status=/var/lib/dpkg/status"]
    return ["apt-get", "-q", *(word for option in options for word in ("-o", option)), *arguments]


def _apt_download(state: Path, packages: Sequence[str], *, arm: bool) -> list[Path]:
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    run_tool(_apt(state, "update", arm=arm), "apt-get update")
    run_tool(_apt(state, "install", "-y", "--download-only", *packages, arm=arm), f"downloading {' '.join(packages)}")
    found = sorted((state / "cache" / "archives").glob("*.deb"))
    click.echo(f"  {len(found)} packages, {format_bytes(sum(path.stat().st_size for path in found))}")
    return found


def _download_arm(state: Path) -> list[Path]:
    try:
        return _apt_download(state, ARM_PACKAGES, arm=True)
    except Unsupported as error:
        raise Unsupported(f"{error}; apt sources of Debian 12 (Python {PYTHON}, arm64) are needed") from error


def _download_host(state: Path) -> list[Path]:
    return _apt_download(state, ("qemu-user",), arm=False)


def _download_wheels(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    if (
        run_tool([sys.executable, "-c", "import importlib.util as u; print(u.find_spec('pip'))"], "python").strip()
        == "None"
    ):
        raise Unsupported(f"{sys.executable} has no pip: {sys.executable} -m ensurepip")
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(folder), *platforms]
    command += ["--only-binary=:all:", "--python-version", PYTHON, "--no-deps"]
    run_tool([*command, *(f"{name}=={version}" for name, version in WHEELS.items())], "pip download")
    found = sorted(folder.glob("*.whl"))
    click.echo(f"  {len(found)} wheels, {format_bytes(sum(path.stat().st_size for path in found))}")
    return found


def _unpack(packages: Sequence[Path], target: Path) -> None:
    for package in packages:
        run_tool(["dpkg", "-x", str(package), str(target)], f"unpacking {package.name}")
    for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(target / unused, ignore_errors=True)


def _unzip(wheels: Sequence[Path], target: Path) -> None:
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as file:
                file.extractall(target)
        except zipfile.BadZipFile as error:
            raise InputError(f"{wheel}: not a wheel ({error}); remove it and type '{PREPARE}' again") from error


def _qemu_version(qemu: Path, build: Path) -> str:
    libraries = next((build / "host" / "usr" / "lib").glob("*-linux-gnu"), build)
    text = run_tool([str(qemu), "--version"], f"{QEMU} --version", {"LD_LIBRARY_PATH": str(libraries)})
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    if found is None or int(found[1]) not in QEMU_MAJORS:
        raise Unsupported(
            f"{qemu} is {found[0] if found else 'of an unknown version'}; the plugin is for QEMU "
            f"{QEMU_MAJORS[0]} and {QEMU_MAJORS[-1]}"
        )
    return ".".join(found.groups())


def _compile(source: Path, target: Path) -> None:
    run_tool(
        ["cc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(target), str(source)], "compiling the plugin"
    )


def _cpu_files(build: Path, cpu: ArmCpu) -> None:
    """The system as this cpu sees it: links to the common files, one core, and its own cpuinfo."""
    folder = build / "cpus" / cpu.name
    cores = folder / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True)
    (folder / "proc").mkdir()
    for name in ("lib", "usr", "etc"):
        (folder / name).symlink_to(Path("..") / ".." / "system" / name)
    (folder / "proc" / "cpuinfo").write_text(cpu.cpuinfo)
    for name in ("present", "possible", "online", "kernel_max"):
        (cores / name).write_text("0\n")


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    return prepare_main(
        arguments, prepare, command=PREPARE, usual=root_path(), variable=ROOT_VARIABLE, text=__doc__ or ""
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
