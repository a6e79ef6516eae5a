"""The candidate of every period, trained once, and what each is worth on every later period: all that replays need.

Whatever a policy would have done, the candidate that it would have trained at a period is the same one, and so is its score of
a later row. So each is trained and scored once, and any number of schedules is then replayed by looking numbers up.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlops_provider.backtest import timeline as timelines
from mlops_provider.backtest.timeline import Cut, Timeline, identity
from mlops_provider.exceptions import RequestError
from mlops_provider.partitions import parse_duration
from mlops_provider.steps.data.rows import LABEL
from mlops_provider.steps.data.statistics import applied, fit
from mlops_provider.steps.step import Job, libraries, source_version
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training import rows as known
from mlops_provider.steps.training.boosting import Rows, boosted, own
from mlops_provider.steps.training.objectives import plain, targets
from mlops_provider.storage import digest, join

log = logging.getLogger("mlops_provider")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Matrix:
    """Quality of every candidate on every later period, and what the gate compares.

    :param names: of the periods, in order of time.
    :param values: every metric by name, float [periods, periods]: row k is the candidate fitted on periods up to k, column s the
        period it is measured on; NaN where it is not later. In the metric's own direction.
    :param judged: likewise over the whole holdout that ends with period s.
    :param resampled: the primary metric of that under resampled time blocks, float [periods, periods, resamples]; all
        candidates get the same draws of a holdout, so that differences are paired.
    :param blocks: time blocks of the holdout that ends with each period.
    :param rows: labelled rows of each period.
    """

    names: tuple[str, ...]
    values: dict[str, Array]
    judged: dict[str, Array]
    resampled: Array
    blocks: tuple[int, ...]
    rows: tuple[int, ...]


def folder(job: Job, line: Timeline, cut: Cut | None) -> str:
    """Where a matrix is kept: under the hash of all that it follows from."""
    key = digest([
        source_version("data", "training"),
        [hashlib.sha256(file.read_bytes()).hexdigest() for file in (Path(__file__), Path(timelines.__file__))],
        libraries(),
        job.model.code_hash,
        job.config.sections("data", "features", "training", "evaluation"),
        identity(job, cut),
        [line.minimum, line.size, line.holdout],
    ])
    return job.under("backtests", key[:32])


def matrix(line: Timeline, cut: Cut | None = None, *, first: int = 0) -> Matrix:
    """Trains and scores what was not trained and scored before; tells how far it is. May be killed and started again.

    :param first: the first candidate that is asked for, by the last period that it is fitted on.
    :raises RequestError: if a candidate would depend on which champion there was.
    """
    job = line.job
    if job.config.training.start == "champion":
        raise RequestError(
            f"{job.config.name}: training.start champion: a candidate depends on the champion of its time, so that none can be "
            "trained ahead of the decisions; set it to fresh to backtest"
        )
    place, began, made = folder(job, line, cut), time.monotonic(), 0
    fitted = range(max(first, line.minimum - 1), len(line) - line.holdout)
    found = {}
    for number, last in enumerate(fitted, start=1):
        uri = join(place, f"{line.names[last]}.npz")
        if not job.force and job.storage.exists(uri):
            found[last] = dict(np.load(io.BytesIO(job.storage.read(uri)), allow_pickle=False))
            continue
        found[last] = measured(line, last)
        _keep(job, uri, found[last])
        made += 1
        left = (time.monotonic() - began) / made * (len(fitted) - number)
        log.info("candidate %d of %d (until %s), about %.0f s left", number, len(fitted), line.names[last], left)
    log.info("%d candidates, %d of them from %s", len(fitted), len(fitted) - made, place)
    return _assembled(line, found)


def _keep(job: Job, uri: str, arrays: dict[str, Array]) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    job.storage.write(uri, file.getvalue())


def _assembled(line: Timeline, found: dict[int, dict[str, Array]]) -> Matrix:
    count, settings = len(line), line.job.config.evaluation
    resampled = np.full((count, count, settings.resamples), np.nan, np.float32)
    for last, arrays in found.items():
        resampled[last] = arrays["resampled"]

    def stacked(kind: str, name: str) -> Array:
        table = np.full((count, count), np.nan)
        for last, arrays in found.items():
            table[last] = arrays[f"{kind}_{name}"]
        return table

    return Matrix(
        names=line.names,
        values={name: stacked("values", name) for name in settings.metrics},
        judged={name: stacked("judged", name) for name in settings.metrics},
        resampled=resampled,
        blocks=tuple(int(_blocks(line, at).max()) + 1 for at in range(count)),
        rows=tuple(int(period.rows[LABEL].notna().sum()) for period in line.periods),
    )


def measured(line: Timeline, last: int) -> dict[str, Array]:
    """A candidate's row of the matrix."""
    scores, settings, count = _scores(line, last), line.job.config.evaluation, len(line)
    found = {f"{kind}_{name}": np.full(count, np.nan) for kind in ("values", "judged") for name in settings.metrics}
    found["resampled"] = np.full((count, settings.resamples), np.nan, np.float32)
    for at in range(last + 1, count):
        _measure("values", _labels(line, at, 1), at, scores[at], found)
        if at >= last + line.holdout:
            span = range(at - line.holdout + 1, at + 1)
            judged = np.concatenate([scores[place] for place in span])
            labels = _labels(line, at, line.holdout)
            _measure("judged", labels, at, judged, found)
            function = metrics.metric(settings.metric, labels, judged)
            seed = line.job.config.training.seed
            drawn = metrics.resampled([function], _blocks(line, at), resamples=settings.resamples, seed=seed)
            found["resampled"][at] = drawn[:, 0]
    return found


def _measure(kind: str, labels: Array, at: int, scores: Array, found: dict[str, Array]) -> None:
    names = [key.removeprefix(f"{kind}_") for key in found if key.startswith(f"{kind}_")]
    for name, value in metrics.measure(names, labels, scores).items():
        found[f"{kind}_{name}"][at] = value


def _together(line: Timeline, at: int, periods: int) -> Any:
    """The labelled rows of some periods, the last of them with this number."""
    import pandas as pd

    frames = [period.rows for period in line.periods[max(0, at - periods + 1) : at + 1]]
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame[LABEL].notna()]


def _labels(line: Timeline, at: int, periods: int) -> Array:
    return targets(line.job.config, _together(line, at, periods))


def _blocks(line: Timeline, at: int) -> Array:
    """Time blocks of the holdout that ends with a period."""
    config = line.job.config
    times = _together(line, at, line.holdout)[config.data.event_time]
    return metrics.time_blocks(times, parse_duration(config.evaluation.block))


def _scores(line: Timeline, last: int) -> dict[int, Array]:
    """Scores of the labelled rows of every later period, by its number, of the candidate fitted on periods up to `last`."""
    import lightgbm

    job, split = line.job, line.split(last)
    text, statistics = _fitted(line, last, split)
    booster = lightgbm.Booster(model_str=text)
    columns, threads = list(job.config.features.columns), job.config.training.resources.cpu
    found = {}
    for at in range(last + 1, len(line)):
        rows = line.periods[at].rows
        given = applied(job, statistics, rows.loc[rows[LABEL].notna(), columns]).to_numpy()
        found[at] = np.asarray(booster.predict(given, num_threads=threads))
    return found


def _fitted(line: Timeline, last: int, split: Any) -> tuple[str, Any]:
    """A candidate as the step `train` would fit it, in memory: its text, and the statistics of its own."""
    import pandas as pd

    job, columns = line.job, list(line.job.config.features.columns)
    frame = pd.concat([period.rows for period in line.fit(last)], ignore_index=True)
    frame = frame[known.known(job, split, frame)].sort_values(known.order(job), ignore_index=True)
    times, labels = frame[job.config.data.event_time], targets(job.config, frame)
    chosen, later = np.ones(len(frame), bool), np.zeros(len(frame), bool)
    if job.config.training.early_stopping:
        chosen, later = known.divided(job, times)
    known.check_labels(job, labels[chosen], known.where(job, split))
    features = frame.loc[chosen, columns].reset_index(drop=True)
    statistics = fit(job, features, plain(labels[chosen]), digest(["backtest", split.model_dump(mode="json")]))
    given = applied(job, statistics, features)
    known.check_features(job, split, given.to_numpy())
    rows = Rows(given.to_numpy(), labels[chosen], known.weights(job, split, given, times[chosen]))
    unseen = (applied(job, statistics, frame.loc[later, columns]), labels[later]) if later.any() else None
    if job.config.training.fit:
        return own(job, given, rows, unseen).text, statistics
    return boosted(job, rows, Rows(unseen[0].to_numpy(), unseen[1]) if unseen else None).text, statistics
