"""Evaluation: candidate and champion on the same rows, which neither has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from mlops_provider.steps.data import snapshot
from mlops_provider.steps.records import Evaluation, ModelVersion
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.evaluate import compare
from mlops_provider.steps.training.split import load_split, save_split
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call, train, with_block


def pair(world: World) -> tuple[ModelVersion, ModelVersion]:
    champion, candidate = world.versions()
    return champion, candidate


def evaluated(job: Job, version: ModelVersion, champion: ModelVersion | None = None) -> Evaluation:
    found: Evaluation = call(job, "evaluate", package=version.package, split=version.split, champion=champion)
    return found


def holdout(world: World, version: ModelVersion) -> pd.DataFrame:
    job = world.job()
    frame: pd.DataFrame = snapshot.read(job, load_split(job, version.split).holdout).to_pandas()
    return frame.dropna(subset="label")


def test_the_metrics_are_those_of_the_package_on_the_labelled_holdout(registered: World) -> None:
    (version,) = registered.versions()
    found, rows = evaluated(registered.job(), version), holdout(registered, version)
    scores = Scorer.of(version.package, Storage()).score(rows[list(version.package.features)].to_numpy())
    labels = rows["label"]
    peers = {"auc": roc_auc_score, "log_loss": log_loss, "brier": brier_score_loss}
    assert found.candidate == {name: pytest.approx(peer(labels, scores)) for name, peer in peers.items()}
    assert (found.rows, found.partition) == (len(rows), DAYS[2])
    assert found.verdict.passed


def test_without_a_champion_nothing_is_compared(registered: World) -> None:
    found = evaluated(registered.job(), registered.versions()[0])
    assert (found.champion, found.champion_version, found.interval) == (None, None, None)


def test_candidate_and_champion_are_compared_on_the_same_rows(challenger: World) -> None:
    champion, candidate = pair(challenger)
    found = evaluated(challenger.job(), candidate, champion)
    assert found.interval is not None
    assert found.champion is not None
    assert found.champion_version == 1
    assert found.interval.gain == pytest.approx(found.candidate["auc"] - found.champion["auc"])
    assert found.interval.low < found.interval.gain < found.interval.high
    assert found.interval.blocks == 24
    assert found.verdict.passed


def test_a_loss_gains_where_it_falls(challenger: World) -> None:
    champion, candidate = pair(challenger)
    found = evaluated(challenger.configure(evaluation={"metric": "brier"}), candidate, champion)
    assert found.interval is not None
    assert found.champion is not None
    assert found.interval.gain == pytest.approx(found.champion["brier"] - found.candidate["brier"])
    assert found.interval.low > 0


def test_a_model_gains_nothing_over_itself(challenger: World) -> None:
    champion, candidate = pair(challenger)
    twin = champion.model_copy(update={"split": candidate.split})
    found = evaluated(challenger.job(), twin, champion)
    assert found.interval is not None
    assert (found.interval.low, found.interval.gain, found.interval.high) == (0, 0, 0)


def test_blocks_are_paired(challenger: World) -> None:
    rng = np.random.default_rng(0)
    blocks = np.arange(30).repeat(40)
    noise = rng.normal(size=30).repeat(40)
    labels = (rng.random(1200) < 0.5).astype(float)
    rival = 1 / (1 + np.exp(-(labels + noise)))
    better = 1 / (1 + np.exp(-(1.3 * labels + noise)))
    interval = compare(challenger.job(), labels, better, rival, blocks)
    assert interval.low > 0
    assert interval.high - interval.low < 0.05


@pytest.mark.parametrize("confidence", [0.6, 0.99])
def test_the_interval_widens_with_confidence(challenger: World, confidence: float) -> None:
    champion, candidate = pair(challenger)
    usual = evaluated(challenger.job(), candidate, champion).interval
    other = evaluated(challenger.configure(evaluation={"confidence": confidence}), candidate, champion).interval
    assert usual is not None
    assert other is not None
    assert (other.high - other.low > usual.high - usual.low) is (confidence > 0.9)


def test_a_holdout_that_the_champion_has_seen_is_an_error(champion: World) -> None:
    (version,) = champion.versions()
    found = evaluated(champion.job(), version, version)
    assert found.verdict.outcome == "error"
    assert "version 1" in [c.subject for c in found.verdict.problems]
    assert found.interval is None


@pytest.mark.parametrize("fit", [slice(0, 3), slice(2, 3)])
def test_a_holdout_that_the_candidate_was_fitted_on_is_an_error(challenger: World, fit: slice) -> None:
    _, candidate = pair(challenger)
    job = challenger.job()
    split = load_split(job, candidate.split)
    leaky = split.model_copy(update={"fit": split.fit[fit], "holdout": split.fit[2]})
    found = evaluated(job, candidate.model_copy(update={"split": save_split(job, leaky)}))
    assert [(c.name, c.subject, c.severity) for c in found.verdict.problems] == [
        ("holdout_unseen", "candidate", "error")
    ]


def test_a_holdout_that_begins_before_the_last_fitted_row_is_an_error(challenger: World) -> None:
    _, candidate = pair(challenger)
    job = challenger.job()
    split = load_split(job, candidate.split)
    late = split.fit[-1].model_copy(update={"last": split.holdout.first})
    crossed = save_split(job, split.model_copy(update={"fit": (*split.fit[:-1], late)}))
    found = evaluated(job, candidate.model_copy(update={"split": crossed}))
    assert found.verdict.outcome == "error"


def test_too_few_blocks_are_an_error(challenger: World) -> None:
    champion, candidate = pair(challenger)
    found = evaluated(with_block(challenger.job(), "2h"), candidate, champion)
    (problem,) = found.verdict.problems
    assert (problem.name, problem.severity) == ("time_blocks", "error")
    assert "12 time blocks, at least 20" in problem.detail
    assert found.interval is None


def test_a_holdout_of_one_class_is_an_error(scored: World) -> None:
    scored.deliver(DAYS[3], what=("labels",))
    scored.rewrite(DAYS[3], "labels", lambda frame: frame.assign(outcome=1.0))
    loops = scored.loops()
    loops.ci()
    loops.cm()
    loops.ct()
    champion, candidate = pair(scored)
    found = evaluated(scored.job(), candidate, champion)
    assert [(c.name, c.severity) for c in found.verdict.problems] == [("holdout_labels", "error")]
    assert found.candidate == {}


def write_features(world: World, factor: int) -> None:
    file = world.model / "features.py"
    text = file.read_text().replace('rows[["a", "b", "c"]]', f'({factor} * rows[["a", "b", "c"]])')
    file.write_text(text)


def test_the_champion_scores_with_features_of_its_own_code(challenger: World) -> None:
    champion, candidate = pair(challenger)
    usual = evaluated(challenger.job(), candidate, champion)
    write_features(challenger, -1)
    job = challenger.job()
    challenger.loops(job).ci()
    other = train(challenger, job, DAYS[3])
    found = evaluated(job, other, champion)
    assert found.champion == usual.champion


def test_the_evaluation_does_not_depend_on_the_delivered_order(challenger: World) -> None:
    champion, candidate = pair(challenger)
    usual = evaluated(challenger.job(), candidate, champion)
    challenger.rewrite(DAYS[3], "inputs", lambda frame: frame.sample(frac=1, random_state=1))
    challenger.loops().ci()
    moved = candidate.model_copy(update={"split": challenger.split(DAYS[3])})
    found = evaluated(challenger.job(), moved, champion)
    assert found.candidate == pytest.approx(usual.candidate)
    assert found.champion == pytest.approx(usual.champion)


def test_a_changed_package_is_not_evaluated(registered: World) -> None:
    (version,) = registered.versions()
    Path(version.package.onnx.uri).write_bytes(b"forged")
    with pytest.raises(Exception, match=r"model\.onnx has changed"):
        call(registered.job(force=True), "evaluate", package=version.package, split=version.split)


def test_gates_do_not_evaluate_again(challenger: World) -> None:
    champion, candidate = pair(challenger)
    from tests.support.tiny import outcome

    given: dict[str, Any] = {"package": candidate.package, "split": candidate.split, "champion": champion}
    assert outcome(challenger.configure(gates={"min_gain": 0.1}), "evaluate", **given).reused
