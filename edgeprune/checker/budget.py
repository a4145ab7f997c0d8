"""A budget: what a file may cost, written with the same keys in a recipe, in edgeprune.toml and on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checker.size.codecs import BASE_CODEC, FULL
from edgeprune.errors import RecipeError, UsageError
from edgeprune.host.toml_values import check_choice, known_keys
from edgeprune.units import parse_bytes, parse_growth, parse_share
from edgeprune.verdict import Limit, Unit

__all__ = ["LIMITS", "Budget", "Written", "asked_limits", "given_budget", "read_budget"]

_DEVICE = "pixel3-tflite-4t-float32"  # an example

Scalar = str | int | float
Fields = dict[str, Any]  # of a Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits for the files that match the glob `path`, which counts from the folder of the configuration.

    `growth_bytes` and `growth_share` limit how much the download may grow against the baseline, `max_metric_drop` what
    the main metric (or each of several, by its name) may lose against the dense model in the ledger at `ledger`,
    `max_latency_ms` the latency estimated from the profiles of `devices`, and `max_latency_growth` the fraction by
    which that estimate may be above the one for the baseline. `where` names the table for messages.
    """

    path: str = "*"
    where: str = "budget"
    codec: str = BASE_CODEC
    download_bytes: int | None = None
    install_bytes: int | None = None
    growth_bytes: int | None = None
    growth_share: float | None = None
    parameters: int | None = None
    min_sparsity: float | None = None
    max_metric_drop: float | Mapping[str, float] | None = None
    ledger: Path | None = None
    max_latency_ms: float | None = None
    max_latency_growth: float | None = None
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for what no file can be held against."""
        check_choice("codec", self.codec, FULL)
        devices: object = self.devices
        if isinstance(devices, str):
            raise UsageError(f'devices are a tuple of names: ("{devices}",)')
        for limit, value, unit in self.limits:
            if not _in_bounds(limit, value, unit):
                raise UsageError(f"{limit} is {_bounds(limit, unit)}; got {value!r}")

    @property
    def limits(self) -> tuple[tuple[Limit, float, Unit], ...]:
        """Each limit that is set, and what it counts."""
        every: tuple[tuple[Limit, float | None, Unit], ...] = (
            (Limit.DOWNLOAD, self.download_bytes, Unit.BYTES),
            (Limit.INSTALL, self.install_bytes, Unit.BYTES),
            (Limit.GROWTH, self.growth_bytes, Unit.BYTES),
            (Limit.GROWTH, self.growth_share, Unit.FRACTION),
            (Limit.PARAMETERS, self.parameters, Unit.PARAMETERS),
            (Limit.MIN_SPARSITY, self.min_sparsity, Unit.FRACTION),
            *((Limit.MAX_METRIC_DROP, drop, Unit.METRIC) for drop in self.metric_drops.values()),
            (Limit.MAX_LATENCY_MS, self.max_latency_ms, Unit.MS),
            (Limit.MAX_LATENCY_GROWTH, self.max_latency_growth, Unit.FRACTION),
        )
        return tuple((kind, value, unit) for kind, value, unit in every if value is not None)

    @property
    def metric_drops(self) -> Mapping[str, float]:
        """What each metric may lose, by its name; "" is the main one."""
        found = self.max_metric_drop
        return {} if found is None else found if isinstance(found, Mapping) else {"": found}

    @property
    def limits_growth(self) -> bool:
        """Whether it limits anything against a baseline."""
        return any(kind.of_baseline for kind, _, _ in self.limits)

    @property
    def limits_latency(self) -> bool:
        """Whether it limits an estimate."""
        return any(kind.of_latency for kind, _, _ in self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How people write a limit: `kinds` of TOML value, `read` into fields of a Budget, and its words for the command
    line. `read` raises UsageError."""

    kinds: tuple[type, ...]
    read: Callable[[Any], Fields]
    metavar: str
    help: str


def _size(name: str) -> Callable[[Scalar], Fields]:
    return lambda value: {name: parse_bytes(str(value))}


def _growth(value: Scalar) -> Fields:
    in_bytes, share = parse_growth(str(value))
    return {"growth_bytes": in_bytes} if in_bytes is not None else {"growth_share": share or 0.0}


def _share(name: str) -> Callable[[Scalar], Fields]:
    return lambda value: {name: _fraction(value)}


def _fraction(value: Scalar) -> float:
    return parse_share(value) if isinstance(value, str) else float(value)


def _drops(value: Scalar | Mapping[str, Scalar]) -> Fields:
    """One limit, or one for each metric that is named."""
    if not isinstance(value, Mapping):
        return {"max_metric_drop": _fraction(value)}
    if not value:
        raise UsageError('max_metric_drop names no metric; write { NAME = "1 %" }')
    for name, limit in value.items():
        if not (_is(limit, float) or isinstance(limit, str)):
            raise UsageError(f"max_metric_drop of {name!r} must be a number or a text in quotes, got {limit!r}")
    return {"max_metric_drop": {name: _fraction(limit) for name, limit in value.items()}}


def _number(name: str) -> Callable[[Scalar], Fields]:
    return lambda value: {name: value}


LIMITS: Mapping[Limit, Written] = {
    Limit.DOWNLOAD: Written(
        kinds=(str,),
        read=_size("download_bytes"),
        metavar="SIZE",
        help='Largest download of each file, for example "350 kB" or "350 KiB".',
    ),
    Limit.INSTALL: Written(
        kinds=(str,), read=_size("install_bytes"), metavar="SIZE", help="Largest size of each file on the device."
    ),
    Limit.GROWTH: Written(
        kinds=(str,),
        read=_growth,
        metavar="CHANGE",
        help='Largest growth of each download against --baseline: "2 %" or "50 kB".',
    ),
    Limit.PARAMETERS: Written(
        kinds=(int,), read=_number("parameters"), metavar="COUNT", help="Most parameters of each file."
    ),
    Limit.MIN_SPARSITY: Written(
        kinds=(float, str),
        read=_share("min_sparsity"),
        metavar="SHARE",
        help='Least share of zeros among the weights: "75 %" or 0.75.',
    ),
    Limit.MAX_METRIC_DROP: Written(
        kinds=(float, str, dict),
        read=_drops,
        metavar="SHARE",
        help='Most that the metric may lose against the dense model in --ledger: "1 %" or 0.01; of several '
        '"NAME=1 %,NAME=0.02".',
    ),
    Limit.MAX_LATENCY_MS: Written(
        kinds=(float,),
        read=_number("max_latency_ms"),
        metavar="MS",
        help="Longest latency estimated for --device, milliseconds.",
    ),
    Limit.MAX_LATENCY_GROWTH: Written(
        kinds=(float, str),
        read=_share("max_latency_growth"),
        metavar="SHARE",
        help='Largest growth of that estimate against --baseline: "5 %" or 0.05.',
    ),
}
_NEEDS = {dict: "a table of limits by metric", str: "a text in quotes", int: "a whole number", float: "a number"}


def _in_bounds(limit: Limit, value: float, unit: Unit) -> bool:
    if not _is(value, int if unit in (Unit.BYTES, Unit.PARAMETERS) else float) or not 0 <= value < math.inf:
        return False
    return value > 0 if unit is Unit.MS else value <= 1 or limit is not Limit.MIN_SPARSITY


def _bounds(limit: Limit, unit: Unit) -> str:
    """What a limit may be, in words."""
    if unit is Unit.FRACTION or unit is Unit.METRIC:
        most = "0 to 1" if limit is Limit.MIN_SPARSITY else "at least 0 and finite"
        return f"a fraction, {most}, or a percentage such as '5 %'"
    return "a number of milliseconds above 0" if unit is Unit.MS else f"a whole number of {unit}, at least 0"


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _limit(limit: Limit, value: object) -> Fields:
    """The fields of a Budget in the TOML value of a limit. Raises UsageError."""
    written = LIMITS[limit]
    if not any(_is(value, kind) for kind in written.kinds):
        raise UsageError(f"{limit} must be {' or '.join(_NEEDS[kind] for kind in written.kinds)}, got {value!r}")
    assert isinstance(value, Scalar | Mapping)
    return written.read(value)


def _value(limit: Limit, text: str) -> Scalar | Mapping[str, Scalar]:
    """What the text of an option would be in TOML."""
    if dict in LIMITS[limit].kinds and "=" in text:
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {name.strip(): _number_or_text(word.strip()) for name, _, word in pairs}
    for kind in (int, float):
        if kind in LIMITS[limit].kinds:
            try:
                return kind(text)
            except ValueError:
                pass
    return text


def _number_or_text(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def read_budget(path: Path, where: str, raw: Any, *, of_run: bool = False) -> Budget:
    """The budget in the table `raw` of the file `path`, which messages call `where`; ledgers and profiles of the
    project's own count from that file.

    `of_run`: in a recipe, whose files and ledger are those of the run. Raises RecipeError for what is wrong.
    """
    own = ("codec", "device") if of_run else ("path", "codec", "ledger", "device")
    found = known_keys(path, where, raw, (*own, *map(str, LIMITS)))
    try:
        others = {key: _text(key, found[key]) for key in own if key in found}
        limits = [Limit(key) for key in found if key in LIMITS]
        _check(others, limits, _in_toml, of_run=of_run)
        fields: Fields = {}
        for limit in limits:
            fields |= _limit(limit, found[limit])
        device, ledger = others.get("device"), others.get("ledger")
        return Budget(
            **fields,
            path=others.get("path", "*"),
            where=where,
            codec=others.get("codec", BASE_CODEC),
            devices=() if device is None else (_profile(path, device),),
            ledger=path.parent / ledger if ledger is not None else None,
        )
    except UsageError as cause:
        raise RecipeError(f"{path}: [{where}] {cause}") from cause


def _profile(path: Path, device: str) -> str:
    from edgeprune.checker.latency.profiles import profile_place  # numpy and more, which sizes alone do without

    return profile_place(path, device)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{key} must be a text in quotes, got {value!r}")
    return value


def given_budget(
    texts: Mapping[Limit, str], *, codec: str = BASE_CODEC, devices: Sequence[str] = (), ledger: Path | None = None
) -> Budget | None:
    """The budget of the command line, None without a limit. Raises UsageError for what is wrong."""
    others = {
        "codec": codec,
        **({"ledger": str(ledger)} if ledger else {}),
        **({"device": devices[0]} if devices else {}),
    }
    if not texts and ledger is None:
        return None
    _check(others, list(texts), _as_option, of_run=False, shows=True)
    fields = {
        name: value for limit, text in texts.items() for name, value in _limit(limit, _value(limit, text)).items()
    }
    limited = devices if any(limit.of_latency for limit in texts) else ()
    return Budget(**fields, where="the command line", codec=codec, ledger=ledger, devices=tuple(limited))


def asked_limits(budget: Budget) -> dict[str, object]:
    """The limits by their keys, without paths of this machine: growth in bytes, or as a fraction."""
    asked: dict[str, object] = {str(kind): value for kind, value, _ in budget.limits}
    if isinstance(budget.max_metric_drop, Mapping):
        asked[str(Limit.MAX_METRIC_DROP)] = dict(budget.max_metric_drop)
    devices = [Path(device).name for device in budget.devices]
    return {**asked, "codec": budget.codec, **({"devices": devices} if devices else {})}


def _in_toml(key: str, value: str = "") -> str:
    return f'{key} = "{value}"' if value else key


def _as_option(key: str, value: str = "") -> str:
    option = f"--{key.replace('_', '-')}"
    return f"{option} {value}" if value else option


def _check(
    others: Mapping[str, str],
    limits: Collection[Limit],
    spelled: Callable[..., str],
    *,
    of_run: bool,
    shows: bool = False,
) -> None:
    """What the keys say together; `shows`: a device may be there for a look. Raises UsageError."""
    if not limits:
        raise UsageError(f"sets no limit; give one of {', '.join(spelled(limit) for limit in LIMITS)}")
    check_choice("codec", others.get("codec", BASE_CODEC), FULL)
    if not of_run:
        _check_needs(others, limits, spelled)
    drop = Limit.MAX_METRIC_DROP
    if "ledger" in others and drop not in limits:
        raise UsageError(f"{spelled('ledger')} without a limit read from it; add {spelled(drop)}")
    if "device" in others and not shows and not any(limit.of_latency for limit in limits):
        limits_of_it = ", ".join(spelled(limit) for limit in Limit if limit.of_latency)
        raise UsageError(f"{spelled('device')} without a limit on it; add one of {limits_of_it}")


def _check_needs(others: Mapping[str, str], limits: Collection[Limit], spelled: Callable[..., str]) -> None:
    """What a limit is read from, which a run has of itself."""
    drop = Limit.MAX_METRIC_DROP
    if drop in limits and "ledger" not in others:
        raise UsageError(f"{spelled(drop)} is read from a ledger; add {spelled('ledger', 'out/ledger.json')}")
    of_device = [limit for limit in Limit if limit.of_latency and limit in limits]
    if of_device and "device" not in others:
        raise UsageError(
            f"{spelled(of_device[0])} is of a device; add {spelled('device', _DEVICE)} or another of "
            "'edgeprune devices'"
        )
