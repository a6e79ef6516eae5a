"""How near the estimated quality of flights comes to the measured one, beside the last measured value as the estimate.

    mlops lap --model flight_delays --root .mlops/lap
    python benchmarks/estimated_quality.py --root .mlops/lap

By month it reads what the lap's own decisions noted. By week it makes the estimate again with the same functions: the week's
predictions are those of the champion of that time, calibrated on labelled rows before the week that it was not trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlops_provider.deployment import Deployment
from mlops_provider.modelcode import pack
from mlops_provider.steps import plan, tables
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.monitoring import estimate as estimates
from mlops_provider.steps.monitoring.estimates import misses
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics

FEW = 4_000  # the weeks at the ends of a champion's time are cut


def job(root: Path, model: Path) -> Job:
    place = Deployment(artifact_root=str(root / "artifacts"), data_root=str(root / "data"))
    return Job(pack(model, "", place.storage, place.artifact_root), place)


def predicted(at_work: Job) -> pd.DataFrame:
    """All predictions with their labels, and the holdout of each version that made some: score, label, day, version."""
    data, state, frames = at_work.config.data, plan.State(at_work), []
    versions = {v.version: v for v in (state.version(r) for r in state.records if r.kind == "candidate")}
    scored = [found for name in state.scored if (found := plan.manifest(at_work, name))]
    for found in scored:
        made = tables.read(at_work.storage, found.table, [data.key, data.event_time, "score"]).to_pandas()
        told = snapshot.read(at_work, state.accepted[found.partition], [data.key, "label"]).to_pandas()
        frames.append(made.merge(told, on=data.key).assign(version=found.version, holdout=False))
    for number in {found.version for found in scored}:
        work = estimates.EstimateWork(
            predictions=scored[0], package=versions[number].package, split=versions[number].split
        )
        labels, scores, _ = estimates.known_rows(at_work, work)
        times = snapshot.read(at_work, state.accepted[versions[number].seen_until]).to_pandas().dropna(subset="label")
        frame = pd.DataFrame({"score": scores, "label": labels, data.event_time: times[data.event_time].to_numpy()})
        frames.append(frame.assign(version=number, holdout=True))
    every = pd.concat(frames)
    every["day"] = (pd.to_datetime(every[data.event_time], utc=True) - pd.Timestamp("2013-01-01", tz="UTC")).dt.days
    return every.assign(week=every["day"] // 7)


def weekly(at_work: Job, every: pd.DataFrame) -> list[dict[str, float]]:
    """Measured, estimated and last measured metric of each week of predictions."""
    name, made, rows, off = at_work.config.evaluation.metric, every[~every["holdout"]], [], []
    last: float | None = None
    for week, these in made.groupby("week"):
        number = these["version"].mode()[0]
        these = these[these["version"] == number]
        due = these.dropna(subset="label")
        before = every[(every["version"] == number) & (every["week"] < week)].dropna(subset="label")
        if len(these) < FEW:
            continue
        scores = these["score"].to_numpy()
        chances = estimates.calibrated(before["label"].to_numpy(), before["score"].to_numpy())
        days = np.unique(before["day"], return_inverse=True)[1]
        errors = estimates.missed(
            name, before["label"].to_numpy(), before["score"].to_numpy(), chances(before["score"].to_numpy()), days,
            count=these["day"].nunique(), seed=0,
        )  # fmt: skip
        told = estimates._bounded(estimates.expected(name, scores, chances(scores)), errors, 0.9, tuple(off))
        real = metrics.measure([name], due["label"].to_numpy(), due["score"].to_numpy())[name]
        if last is not None:
            rows.append({
                "week": int(week),
                "measured": real,
                "estimated": told.value,
                "last": last,
                **_inside(told, real),
            })
        off.append(abs(real - (told.high + told.low) / 2) / ((told.high - told.low) / 2))
        last = real
    return rows


def _inside(told: Any, real: float) -> dict[str, float]:
    return {"low": told.low, "high": told.high, "inside": float(told.low <= real <= told.high)}


def monthly(at_work: Job) -> list[dict[str, float]]:
    """The same of each month, as the decisions noted it."""
    name, rows, last = at_work.config.evaluation.metric, [], None
    for record in at_work.ledger.records():
        told, quality = record.facts.get("estimate"), record.facts.get("quality")
        if record.kind != "retrain" or not told or not quality:
            continue
        real, known = quality["metrics"][name], told["metrics"][name]
        if last is not None:
            inside = float(known["low"] <= real <= known["high"])
            rows.append({"measured": real, "estimated": known["value"], "last": last, "inside": inside})
        last = real
    return rows


def summed(rows: list[dict[str, float]]) -> dict[str, float]:
    frame = pd.DataFrame(rows)
    errors = {name: float((frame[name] - frame["measured"]).abs().mean()) for name in ("estimated", "last")}
    return {
        "partitions": len(frame),
        "error_of_the_estimate": round(errors["estimated"], 4),
        "error_of_the_last_value": round(errors["last"], 4),
        "ratio": round(errors["estimated"] / errors["last"], 2),
        "inside_the_90_percent_interval": round(float(frame["inside"].mean()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(".mlops/lap"))
    parser.add_argument("--model", type=Path, default=Path("include/models/flight_delays"))
    options = parser.parse_args()
    at_work = job(options.root.resolve(), options.model)
    found = {"weeks": summed(weekly(at_work, predicted(at_work))), "months": summed(monthly(at_work))}
    found["months"]["judged"] = len(misses(at_work.ledger.records(), at_work.config.evaluation.metric))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
