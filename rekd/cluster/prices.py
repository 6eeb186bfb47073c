"""What rented machines cost: a table of prices with its date, and what the machines of a cluster file come to by it."""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("prices.toml")

VARIABLE = "REKD_PRICES"
"""How a sweep that was handed over to a cluster knows what its machines cost: JSON, an hour, by kind of machine."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The table: US dollars an hour by the cloud's name of a machine."""

    date: str
    """The month in which they were looked up."""
    source: str
    region: str
    on_demand: Mapping[str, float]
    spot: Mapping[str, float]


@cache
def read_prices() -> Prices:
    """The table that comes with the program."""
    return Prices(**tomllib.loads(TABLE.read_text()))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of machine in a cluster file."""

    name: str
    """The name in the file, such as `one_gpu`."""
    machine: str
    """The cloud's name, such as `g6e.xlarge`; empty where the file's machines are not rented."""
    gpus: float
    most: int
    """How many of them there may be."""
    is_head: bool
    is_spot: bool
    """Whether they are asked for on the spot market first."""

    @property
    def on_demand(self) -> float | None:
        """Price an hour; None where the table does not have the machine."""
        return read_prices().on_demand.get(self.machine)

    @property
    def spot(self) -> float | None:
        """Price an hour on the spot market; None where it is not asked for, or not known."""
        return read_prices().spot.get(self.machine) if self.is_spot else None


def kinds_of(config: Mapping[str, Any]) -> list[Kind]:
    """The kinds of machines of a cluster file."""
    num_machines = config.get("max_workers", 0)
    return [
        Kind(
            name=name,
            machine=(kind.get("node_config") or {}).get("InstanceType", ""),
            gpus=(kind.get("resources") or {}).get("GPU", 0),
            most=min(kind.get("max_workers", num_machines), num_machines),
            is_head=name == config.get("head_node_type"),
            is_spot="InstanceMarketOptions" in (kind.get("node_config") or {}),
        )
        for name, kind in (config.get("available_node_types") or {}).items()
    ]


def kind_for(kinds: Iterable[Kind], gpus: float) -> Kind | None:
    """The smallest machine that has so many GPUs: what Ray asks for, where trials need that."""
    fitting = [kind for kind in kinds if not kind.is_head and kind.gpus >= max(gpus, 1)]
    return min(fitting, key=lambda kind: kind.gpus, default=None)


def unpriced(kinds: Iterable[Kind]) -> list[str]:
    """Rented machines that the table does not have."""
    return sorted({kind.machine for kind in kinds if kind.machine and kind.on_demand is None})


def an_hour(counts: Mapping[str, int], kinds: Iterable[Kind]) -> tuple[float, float, list[str]]:
    """What so many machines of each kind cost an hour: at least (on spot), at most, and those without a price."""
    by_name = {kind.name: kind for kind in kinds}
    here = [(by_name[name], count) for name, count in counts.items() if name in by_name]
    high = sum((kind.on_demand or 0.0) * count for kind, count in here)
    low = sum((kind.spot or kind.on_demand or 0.0) * count for kind, count in here)
    return low, high, unpriced(kind for kind, _ in here)


def dollars(low: float, high: float) -> str:
    """`$12.40`, or `$6 to $12.40` as a range."""
    words = [f"${value:,.0f}" if value >= 100 else f"${value:,.2f}" for value in (low, high)]
    return words[1] if words[0] == words[1] else " to ".join(words)


def handed_over(config: Mapping[str, Any]) -> str:
    """Prices on demand by kind, for `VARIABLE`; nothing where a machine has none, since a sum would then be wrong."""
    kinds = kinds_of(config)
    if unpriced(kinds) or not any(kind.on_demand for kind in kinds):
        return ""
    return json.dumps({kind.name: kind.on_demand for kind in kinds})


def handed_prices() -> dict[str, float]:
    """What `handed_over` has put into the environment."""
    return json.loads(os.environ.get(VARIABLE) or "{}")
