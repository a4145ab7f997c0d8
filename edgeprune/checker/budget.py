"""A budget: what a file may cost, written with the same keys in a recipe, in edgeprune.toml and on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.checker.size.codecs import BASE_CODEC, FULL
from edgeprune.checker.written import LIMITS, is_kind, option_value, read_limit
from edgeprune.errors import RecipeError, UsageError
from edgeprune.host.toml_values import check_choice, known_keys
from edgeprune.verdict import Limit, Unit

if TYPE_CHECKING:
    from edgeprune.checker.history.since import Since
    from edgeprune.formats.pattern import Pattern

__all__ = ["Budget", "asked_limits", "given_budget", "read_budget"]

_DEVICE = "pixel3-tflite-4t-float32"  # an example


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits for the files that match the glob `path`, which counts from the folder of the configuration.

    `growth_bytes` and `growth_share` limit how much the download may grow against the baseline, or with `growth_since`
    against that commit of the history, `max_metric_drop` what
    the main metric (or each of several, by its name) may lose against the dense model in the ledger at `ledger`,
    `max_latency_ms` the latency estimated from the profiles of `devices`, and `max_latency_growth` the fraction by
    which that estimate may be above the one for the baseline. `min_eligible` is the share of the MACs that the
    accelerator `target` must take, `pattern` what every weight must keep that can, `max_float_ops` the most operations
    in floating point, `channel_multiple` what the channels between layers must be a multiple of; `sparse_kernels` asks
    that XNNPACK's run on Arm. `where` names the table for messages.
    """

    path: str = "*"
    where: str = "budget"
    codec: str = BASE_CODEC
    download_bytes: int | None = None
    install_bytes: int | None = None
    growth_bytes: int | None = None
    growth_share: float | None = None
    growth_since: Since | None = None
    parameters: int | None = None
    min_sparsity: float | None = None
    max_metric_drop: float | Mapping[str, float] | None = None
    ledger: Path | None = None
    max_latency_ms: float | None = None
    max_latency_growth: float | None = None
    devices: tuple[str, ...] = ()
    min_eligible: float | None = None
    target: str | None = None
    pattern: Pattern | None = None
    max_float_ops: int | None = None
    channel_multiple: int | None = None
    sparse_kernels: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for what no file can be held against."""
        check_choice("codec", self.codec, FULL)
        devices: object = self.devices
        if isinstance(devices, str):
            raise UsageError(f'devices are a tuple of names: ("{devices}",)')
        for limit, value, unit in self.limits:
            if not _in_bounds(limit, value, unit):
                raise UsageError(f"{limit} is {_bounds(limit, unit)}; got {value!r}")
        multiple = self.channel_multiple
        if multiple is not None and (not is_kind(multiple, int) or multiple < 2):
            raise UsageError(f"{Limit.CHANNEL_MULTIPLE} is a whole number of channels, at least 2; got {multiple!r}")
        if self.growth_since is not None and self.growth_bytes is None and self.growth_share is None:
            raise UsageError(f"growth {self.growth_since} has no limit; give growth_share or growth_bytes")
        if self.target is not None:
            from edgeprune.checker.latency.accelerators.rules import find_accelerator  # only where one is named

            find_accelerator(self.target)

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
            (Limit.MIN_ELIGIBLE, self.min_eligible, Unit.FRACTION),
            (Limit.PATTERN, None if self.pattern is None else 0, Unit.LAYERS),
            (Limit.MAX_FLOAT_OPS, self.max_float_ops, Unit.OPERATIONS),
            (Limit.CHANNEL_MULTIPLE, None if self.channel_multiple is None else 0, Unit.LAYERS),
            (Limit.SPARSE_KERNELS, 0 if self.sparse_kernels else None, Unit.CONDITIONS),
        )
        return tuple((kind, value, unit) for kind, value, unit in every if value is not None)

    @property
    def metric_drops(self) -> Mapping[str, float]:
        """What each metric may lose, by its name; "" is the main one."""
        found = self.max_metric_drop
        return {} if found is None else found if isinstance(found, Mapping) else {"": found}

    @property
    def asked(self) -> Mapping[Limit, str]:
        """What limits ask for that are more than their number."""
        found: dict[Limit, Pattern | int | Since | None] = {
            Limit.GROWTH: self.growth_since,
            Limit.PATTERN: self.pattern,
            Limit.CHANNEL_MULTIPLE: self.channel_multiple,
        }
        return {limit: str(value) for limit, value in found.items() if value is not None}

    @property
    def limits_structure(self) -> bool:
        """Whether it limits what only the file itself tells, and no account of it."""
        return any(kind.of_structure for kind, _, _ in self.limits)

    @property
    def limits_growth(self) -> bool:
        """Whether it limits anything against a baseline, or against the history."""
        return any(kind.of_baseline for kind, _, _ in self.limits)

    @property
    def limits_latency(self) -> bool:
        """Whether it limits an estimate."""
        return any(kind.of_latency for kind, _, _ in self.limits)


def _in_bounds(limit: Limit, value: float, unit: Unit) -> bool:
    whole = unit not in (Unit.FRACTION, Unit.METRIC, Unit.MS)
    if not is_kind(value, int if whole else float) or not 0 <= value < math.inf:
        return False
    return value > 0 if unit is Unit.MS else value <= 1 or not limit.is_least


def _bounds(limit: Limit, unit: Unit) -> str:
    """What a limit may be, in words."""
    if unit is Unit.FRACTION or unit is Unit.METRIC:
        most = "0 to 1" if limit.is_least else "at least 0 and finite"
        return f"a fraction, {most}, or a percentage such as '5 %'"
    return "a number of milliseconds above 0" if unit is Unit.MS else f"a whole number of {unit}, at least 0"


def read_budget(path: Path, where: str, raw: Any, *, of_run: bool = False) -> Budget:
    """The budget in the table `raw` of the file `path`, which messages call `where`; ledgers and profiles of the
    project's own count from that file.

    `of_run`: in a recipe, whose files and ledger are those of the run. Raises RecipeError for what is wrong.
    """
    own = ("codec", "device", "target") if of_run else ("path", "codec", "ledger", "device", "target")
    found = known_keys(path, where, raw, (*own, *map(str, LIMITS)))
    try:
        others = {key: _text(key, found[key]) for key in own if key in found}
        limits = [Limit(key) for key in found if key in LIMITS]
        _check(others, limits, _in_toml, of_run=of_run)
        fields: dict[str, Any] = {}
        for limit in limits:
            fields |= read_limit(limit, found[limit])
        device, ledger = others.get("device"), others.get("ledger")
        return Budget(
            **fields,
            path=others.get("path", "*"),
            where=where,
            codec=others.get("codec", BASE_CODEC),
            devices=() if device is None else (_profile(path, device),),
            target=others.get("target"),
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
    texts: Mapping[Limit, str],
    *,
    codec: str = BASE_CODEC,
    devices: Sequence[str] = (),
    ledger: Path | None = None,
    target: str | None = None,
) -> Budget | None:
    """The budget of the command line, None without a limit. Raises UsageError for what is wrong."""
    others = {
        "codec": codec,
        **({"ledger": str(ledger)} if ledger else {}),
        **({"device": devices[0]} if devices else {}),
        **({"target": target} if target else {}),
    }
    if not texts and ledger is None and target is None:
        return None
    _check(others, list(texts), _as_option, of_run=False, shows=True)
    fields = {
        name: value
        for limit, text in texts.items()
        for name, value in read_limit(limit, option_value(limit, text)).items()
    }
    limited = devices if any(limit.of_latency for limit in texts) else ()
    return Budget(**fields, where="the command line", codec=codec, ledger=ledger, devices=tuple(limited), target=target)


def asked_limits(budget: Budget) -> dict[str, object]:
    """The limits by their keys, without paths of this machine: growth in bytes, or as a fraction."""
    asked: dict[str, object] = {str(kind): value for kind, value, _ in budget.limits}
    if isinstance(budget.max_metric_drop, Mapping):
        asked[str(Limit.MAX_METRIC_DROP)] = dict(budget.max_metric_drop)
    asked |= {str(kind): text for kind, text in budget.asked.items() if kind is not Limit.GROWTH}
    if budget.growth_since is not None:
        asked["growth_since"] = str(budget.growth_since)
    devices = [Path(device).name for device in budget.devices]
    target = {"target": budget.target} if budget.target else {}
    return {**asked, "codec": budget.codec, **({"devices": devices} if devices else {}), **target}


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
    if "target" in others and not any(limit.of_target for limit in limits):
        raise UsageError(f"{spelled('target')} without a limit on it; add {spelled(Limit.MIN_ELIGIBLE)}")
    eligible = Limit.MIN_ELIGIBLE
    if eligible in limits and "target" not in others:
        raise UsageError(f"{spelled(eligible)} is of an accelerator; add {spelled('target', 'edgetpu')}")
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
