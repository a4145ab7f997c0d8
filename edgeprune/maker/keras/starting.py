"""The start of Keras and TensorFlow: quiet, and with what is to happen before they compute anything."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

from edgeprune.errors import MissingExtra

__all__ = ["at_start", "begun_nothing", "quiet_tensorflow", "start_keras", "take_threads"]


def quiet_tensorflow() -> None:
    """Ask TensorFlow, absl and oneDNN for errors only. Must run before their first import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def take_threads(count: int | None) -> None:
    """Have TensorFlow take so many threads, if a number is asked for. Too late once it has computed anything."""
    if count is not None:
        os.environ.update({"TF_NUM_INTRAOP_THREADS": str(count), "TF_NUM_INTEROP_THREADS": str(count)})


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
