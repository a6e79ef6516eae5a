"""Batch scoring: a partition of inputs in, scores with the version that made them out."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.ledger import Draft, Record
from mlops_provider.steps import tables
from mlops_provider.steps.data.features import build
from mlops_provider.steps.data.rows import GROUP
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import Package, Predictions, ScoreWork
from mlops_provider.steps.scoring.decisions import Array, decided
from mlops_provider.steps.scoring.prediction_log import batch_table
from mlops_provider.steps.scoring.predictions import committed, folder, unscored
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import join


class ScoreArguments(Frozen):
    """The partition to score, and the version."""

    work: ScoreWork


class Unscored(Frozen):
    """The record in the ledger that says so."""

    partition: str
    record: int


class RefuseScoringArguments(Frozen):
    """:param reason: what stood in the way."""

    work: ScoreWork
    reason: str


@step("refuse_scoring", arguments=RefuseScoringArguments, result=Unscored, cached=False)
def refuse_scoring(job: Job, arguments: RefuseScoringArguments) -> Unscored:
    """Records that a version cannot score a partition as delivered: nothing waits for these predictions any more.

    Another champion, or a new delivery, is tried again; so is whatever a person asks for.
    """
    work, version = arguments.work, arguments.work.version.version
    draft = Draft(
        kind="unscored",
        partition=work.partition,
        version=version,
        outcome="unscored",
        reason=arguments.reason,
        facts={"inputs": work.inputs.hash},
    )

    def guard(records: tuple[Record, ...]) -> Record | None:
        return unscored(records, work.partition, version, work.inputs)

    record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=guard)
    return Unscored(partition=record.partition, record=record.number)


@step("score", arguments=ScoreArguments, result=Predictions, sections=("data", "scoring"), publish=committed)
def score(job: Job, arguments: ScoreArguments) -> Predictions:
    """Scores every row of a partition, with features built by the code that the version was trained with.

    Written is what the prediction log has of each row (prediction_log.py), what is decided by the score as `scored_columns` says.
    The table is named by its content; the manifest that names it is created last and once: a reader never sees half a
    partition, and a rerun finds it done.

    :raises RequestError: if the version has seen the partition.
    """
    work, version = arguments.work, arguments.work.version
    if version.seen_until >= work.partition:
        raise RequestError(
            f"version {version.version} has seen data until {version.seen_until}: it must not score {work.partition}"
        )
    return _scored(job.with_code(version.package.code), work)


def _later_than_seen(first: dt.datetime, work: ScoreWork) -> None:
    if first <= work.version.split.until:
        raise DataError(
            f"{work.inputs.uri} holds rows from {first} on, and version {work.version.version} has seen data until "
            f"{work.version.split.until}: it must not score them"
        )


def scored_columns(package: Package, scores: Array, groups: Any = None) -> dict[str, Any]:
    """What a table of predictions says of the scores.

    Binary: ``score`` and whether it reaches the cut (``label``). Multiclass: the likeliest class (``label``), its ``score`` and
    the ``scores`` of all classes. Regression: ``score``. Ranking: ``score``, ``group`` and the ``rank`` in it, 1 is first.

    :param scores: float [n] or [n, classes].
    :param groups: of a ranking, a Series [n].
    """
    choice = decided(scores, package.cut)
    if package.classes:
        assert choice is not None
        names = pa.DictionaryArray.from_arrays(pa.array(choice, pa.int32()), pa.array(package.classes))
        listed = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), len(package.classes))
        return {"score": scores.max(axis=1), "label": names, "scores": listed}
    if groups is not None:
        import pandas as pd

        ranks = pd.Series(-scores, index=groups.index).groupby(groups).rank(method="first").astype("int32")
        return {"group": groups, "score": scores, "rank": ranks}
    return {"score": scores} if choice is None else {"score": scores, "label": choice}


def _scored(job: Job, work: ScoreWork) -> Predictions:
    version, now = work.version, dt.datetime.now(dt.UTC)
    features = build(job, work.partition, work.inputs, work.history)
    _later_than_seen(features[job.config.data.event_time].min(), work)
    scorer = Scorer.of(version.package, job.storage, threads=job.config.scoring.resources.cpu)
    given = applied(job, version.package.fitted, features[list(version.package.features)])
    scores = scorer.score(given.to_numpy())
    data = job.config.data
    columns = scored_columns(version.package, scores, features[GROUP] if data.group else None)
    scored = {data.key: features[data.key], data.event_time: features[data.event_time], **columns}
    table = batch_table(job.config, scored, version=version, inputs=work.inputs, at=now)
    return Predictions(
        partition=work.partition,
        table=tables.write(job.storage, join(folder(job), work.partition), table),
        version=version.version,
        fingerprint=version.fingerprint,
        rows=table.num_rows,
        positives=int(columns["label"].sum()) if version.package.objective == "binary" else None,
        mean_score=float(columns["score"].mean()),
        inputs=work.inputs,
        history=work.history,
        code=version.package.code,
        reference=version.package.reference,
        scored_at=now,
    )
