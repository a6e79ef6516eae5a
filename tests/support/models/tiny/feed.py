"""Delivers synthetic days: `a` and `b` say how things come out, from `CHANGED` on `c` does so more than both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

DAYS = ("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05")
CHANGED = "2024-01-02"
ROWS = 1_200
SITES = ("north", "south", "east")


def partitions() -> list[str]:
    return list(DAYS)


def deliver(data_root: str, partition: str, what: str) -> None:
    folder = Path(data_root, "tiny", partition)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"site": SITES, "height": [10.0, 20.0, 30.0]}).to_parquet(Path(data_root, "sites.parquet"))
    table = inputs(partition) if what == "inputs" else labels(partition)
    table.to_parquet(folder / f"{what}.parquet")


def inputs(partition: str, rows: int = ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(int(partition.replace("-", "")))
    start = pd.Timestamp(partition, tz="UTC")
    return pd.DataFrame({
        "id": [f"{partition}-{number:05d}" for number in range(rows)],
        "at": start + pd.to_timedelta(np.arange(rows) * (86_400 // rows), unit="s"),
        "site": rng.choice(SITES, rows),
        **{name: rng.normal(size=rows) for name in "abc"},
        "later": rng.normal(size=rows),
    })


def labels(partition: str, rows: int = ROWS) -> pd.DataFrame:
    told = inputs(partition, rows)
    rng = np.random.default_rng(1 + int(partition.replace("-", "")))
    outcome = told["a"] - 0.5 * told["b"] + (2.0 if partition >= CHANGED else 0.0) * told["c"] + rng.normal(size=rows)
    return pd.DataFrame({"id": told["id"], "outcome": outcome.mask(rng.random(rows) < 0.02)})
