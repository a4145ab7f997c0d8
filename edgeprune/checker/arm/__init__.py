"""Executed Arm64 instructions of an inference, counted in QEMU user-mode emulation (optional, Linux)."""
