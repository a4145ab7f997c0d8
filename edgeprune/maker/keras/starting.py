"""The start of Keras and TensorFlow: quiet, and with what is to happen before they compute anything."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

from edgeprune.errors import MissingExtra

__all__ = [
    "at_start",
    "begun_nothing",
    "quiet_tensorflow",
    "start_keras",
    "take_threads",
    "threads_are_free",
    "too_late",
]


def quiet_tensorflow() -> None:
    """Ask TensorFlow, absl and oneDNN for errors only. Must run before their first import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")  # TensorFlow reads them at its first computation


def take_threads(count: int | None) -> None:
    """Have TensorFlow take so many threads, if a number is asked for; nothing happens where it is too late."""
    if count is not None and threads_are_free():
        os.environ.update(dict.fromkeys(_THREADS, str(count)))


def threads_are_free() -> bool:
    """Whether TensorFlow has not computed anything yet, so that its number of threads can be set."""
    return "tensorflow" not in sys.modules or begun_nothing()


def too_late(count: int | None) -> str | None:
    """What to tell where so many threads are asked for and TensorFlow has begun with another number; else None."""
    if count is None or threads_are_free() or all(os.environ.get(name) == str(count) for name in _THREADS):
        return None
    return f"threads = {count} comes too late: TensorFlow has computed before in this process; results differ in bits"


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Hide what native code writes to file descriptor 2 while TensorFlow starts; nothing of Python's is lost."""
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  (a device, not a file)
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def start_keras(*, with_tensorflow: bool = True) -> ModuleType:
    """Import them. Raises MissingExtra."""
    try:
        with muted_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import keras

            if with_tensorflow:
                import tensorflow as tf

                tf.get_logger().setLevel("ERROR")
    except ImportError as cause:
        raise MissingExtra("tensorflow and keras", "convert", "working on a Keras model") from cause
    for act in _at_start if with_tensorflow else ():
        act()
    return keras


_at_start: list[Callable[[], object]] = []


@contextlib.contextmanager
def at_start(act: Callable[[], object]) -> Iterator[None]:
    """Inside the context, `act` is called as soon as TensorFlow has been imported, if it is imported there: the one
    moment when it is there and has begun nothing."""
    _at_start.append(act)
    try:
        yield
    finally:
        _at_start.remove(act)


def begun_nothing() -> bool:
    """Whether TensorFlow is imported and has not computed yet, so that none of its threads runs."""
    if "tensorflow" not in sys.modules:
        return False
    from tensorflow.python.eager import context

    known = vars(context).get("_context", False)  # its own; another TensorFlow may keep it elsewhere
    return known is None or (known is not False and not getattr(known, "_initialized", True))
