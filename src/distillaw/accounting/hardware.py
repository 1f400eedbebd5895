"""Time and money: FLOP over the sustained rate of a device, from presets with stated assumptions.

    device_hours = C / (peak * utilisation) / 3600        price = device_hours * price_per_hour

Every preset (data/hardware.toml) states where its peak, its utilisation (MFU, model FLOP over peak) and its
price come from. Utilisation is an assumption and prices move: give your own with `--mfu` and `--price`.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One device: its peak, and what is assumed of it."""

    name: str
    device: str
    """What it is, in words."""
    peak_flop_per_second: float
    """Dense peak of the matrix units at `dtype`, no sparsity."""
    dtype: str
    peak_source: str
    memory_bytes: float
    mfu: float
    """Model FLOP per second over peak while training."""
    mfu_low: float
    mfu_high: float
    mfu_source: str
    link_bytes_per_second: float | None = None
    """Each way between the devices of one machine; None: not known, and then nothing is said to wait for it."""
    network_bytes_per_second: float | None = None
    """Each way per device between machines."""
    network_source: str = ""
    price_per_hour: float | None = None
    """US dollars per device-hour; None where no dated source is at hand."""
    price_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """What a FLOP count takes on a device; `low` and `high` span the preset's range of utilisation."""

    device_hours: float
    device_hours_low: float
    device_hours_high: float
    price: float | None
    """US dollars; None where the device has no price."""
    mfu: float


@cache
def hardware_presets() -> dict[str, Hardware]:
    """The shipped presets by name."""
    text = files("distillaw.accounting").joinpath("data/hardware.toml").read_text(encoding="utf-8")
    presets = {name: Hardware(name=name, **table) for name, table in tomllib.loads(text).items()}
    for one in presets.values():  # a record without a stated source is our own mistake
        assert one.peak_source and one.mfu_source and (one.price_per_hour is None or one.price_source), one.name
    return presets


def hardware(name: str) -> Hardware:
    """The preset with this name; `h100` is the first of the `h100-...`.

    Raises:
        ConfigError: no such preset; the message lists them.
    """
    presets = hardware_presets()
    wanted = name.lower()
    for known in presets:
        if known == wanted or known.startswith(f"{wanted}-"):
            return presets[known]
    raise ConfigError(f"hardware {name!r} is not known{did_you_mean(wanted, presets)}. Known: {', '.join(presets)}")


def estimate_cost(
    flop: float, device: Hardware, *, mfu: float | None = None, price_per_hour: float | None = None
) -> RunCost:
    """Device-hours and price of a model FLOP count.

    Args:
        flop: model FLOP (flops.py, family.py), without recomputation.
        mfu: utilisation to assume; the preset's by default.
        price_per_hour: US dollars per device-hour; the preset's by default.

    Raises:
        ConfigError: a utilisation outside (0, 1], or a price that is negative or infinite.

    Example:
        >>> round(estimate_cost(1e21, hardware("h100-sxm")).device_hours)
        702
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"mfu = {mfu:g}: utilisation is a fraction of peak in (0, 1], e.g. 0.4")
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise ConfigError(f"price = {price_per_hour:g} per hour: it cannot be negative or infinite")
    at_peak = flop / device.peak_flop_per_second / SECONDS_PER_HOUR
    used = device.mfu if mfu is None else mfu
    price = device.price_per_hour if price_per_hour is None else price_per_hour
    return RunCost(
        device_hours=at_peak / used,
        device_hours_low=at_peak / (device.mfu_high if mfu is None else mfu),
        device_hours_high=at_peak / (device.mfu_low if mfu is None else mfu),
        price=None if price is None else at_peak / used * price,
        mfu=used,
    )
