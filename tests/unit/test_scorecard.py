"""The ML Test Score: a row counts only with a check that ran and a fault that turns it red, which is injected here."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mlops_provider import scorecard as cards
from mlops_provider.checks import Check, Verdict, could_not_run
from mlops_provider.exceptions import ConfigError
from mlops_provider.scorecard import INJECTION, MANUAL, ROWS, SECTIONS, Row, Scorecard, render, scorecard
from mlops_provider.steps import plan
from mlops_provider.steps.records import FeatureVersion
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.scoring.scorer import Scorer
from tests.support.code import BAD, pretended, with_tests
from tests.support.tiny import DAYS, World, call, registry_of, train

At = Callable[[str], World]
DAY = DAYS[3]
BY_ID = {row.id: row for row in ROWS}


def lines(world: World) -> dict[str, Any]:
    return {line.id: line for line in scorecard(world.job()).lines}


def automated(card: Scorecard) -> set[str]:
    return {line.id for line in card.lines if line.standing == "automated"}


# --- the table -----------------------------------------------------------------------------------------------------


def test_there_are_seven_rows_in_each_of_the_four_sections() -> None:
    assert [row.id for row in ROWS] == [f"{section}-{number}" for section in SECTIONS for number in range(1, 8)]


def test_a_row_names_a_check_and_an_injection_or_says_what_is_missing() -> None:
    for row in ROWS:
        assert bool(row.room) == bool(row.checks) == bool(row.injected) != bool(row.missing), row.id


def test_the_score_is_the_least_of_the_sections(lapped: World) -> None:
    card = scorecard(lapped.job())
    usual = {"data-1", "data-2", "data-4", "model-5", "infra-4", "monitor-2", "monitor-3", "monitor-5", "monitor-7"}
    assert automated(card) == usual
    assert card.sections == {"data": 3.0, "model": 1.0, "infra": 1.0, "monitor": 4.0}
    assert card.score == 1.0
    assert len(card.lines) == 28
    for line in card.lines:
        assert (line.check and line.evidence and line.injection) if line.standing == "automated" else line.reason


def test_evidence_says_which_record_has_the_check(lapped: World) -> None:
    found = lines(lapped)
    assert found["infra-4"].evidence.startswith("ledger record ")
    assert found["infra-4"].injection == f"{INJECTION}[infra-4]"
    assert found["data-1"].evidence.startswith("ledger record ")


def test_a_model_for_which_nothing_ran_has_no_points(empty: World) -> None:
    card = scorecard(empty.job())
    assert automated(card) == set()
    assert "has not run for this model" in lines(empty)["data-1"].reason


@pytest.mark.parametrize(
    ("check", "standing"),
    [
        (Check(name="auc", passed=False), "automated"),
        (Check(name="own", passed=True, rubric="infra-4"), "automated"),
        (Check(name="own", passed=True, rubric="infra-5"), "not covered"),
        (could_not_run("auc", "was not measured"), "not covered"),
    ],
)
def test_a_check_that_could_not_run_is_no_evidence(
    empty: World, monkeypatch: pytest.MonkeyPatch, check: Check, standing: str
) -> None:
    verdict = Verdict(subject="tiny", checks=(check,)).model_dump(mode="json")
    monkeypatch.setattr(cards, "_recorded", lambda job: [("gate", "somewhere", {"judged": verdict})])
    assert lines(empty)["infra-4"].standing == standing


def test_what_a_person_documented_is_worth_a_half(lapped: World) -> None:
    told = {"by": "ann", "date": "2026-11-01", "result": "passed", "report": "wiki/rollback"}
    (lapped.model / MANUAL).write_text(yaml.safe_dump({"infra-7": told, "data-1": told}))
    card = scorecard(lapped.job())
    found = {line.id: line for line in card.lines}
    assert found["infra-7"].standing == "manual"
    assert "wiki/rollback" in found["infra-7"].evidence
    assert found["data-1"].standing == "automated"
    assert card.sections["infra"] == 1.5
    assert "ann on 2026-11-01" in render(card)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("infra-8: {by: a, date: b, result: c, report: d}", "there is no row infra-8"),
        ("infra-7: {by: a}", "each row holds by, date, result and report"),
        ("- infra-7", "each row holds"),
        ("{", "each row holds"),
    ],
)
def test_a_file_that_documents_nothing_is_refused(empty: World, text: str, told: str) -> None:
    (empty.model / MANUAL).write_text(text)
    with pytest.raises(ConfigError, match=told):
        scorecard(empty.job())


def test_all_rows_are_told_to_a_person(lapped: World) -> None:
    told = render(scorecard(lapped.job()))
    assert all(f"  {row.id} " in told for row in ROWS)
    assert "ML Test Score of tiny: 1 (the least of the four sections)" in told


# --- the injections ------------------------------------------------------------------------------------------------


def _outlier(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    world.rewrite(DAYS[0], "inputs", lambda frame: frame.assign(a=frame["a"].where(frame.index != 7, 99.0)))
    return call(world.job(), "validate", work=world.work(DAYS[0]), suite="raw").verdict.checks  # type: ignore[no-any-return]


def _compared(world: World) -> Iterable[Check]:
    job, work = world.job(), world.work(DAY)
    table = call(job, "build_features", work=work).table
    return call(job, "compare_history", work=work, table=table).verdict.checks  # type: ignore[no-any-return]


def _outcome_as_feature(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    world.deliver(DAY)
    outcome = pd.read_parquet(world.file(DAY, "labels"))["outcome"]
    world.rewrite(DAY, "inputs", lambda frame: frame.assign(a=outcome.fillna(0).clip(-9, 9)))
    return _compared(world)


def _failing_test(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    pretended(patch)
    job = with_tests(world, BAD)
    call(job, "test_code", code=job.model.ref)
    version = world.versions()[-1]
    version = version.model_copy(update={"package": version.package.model_copy(update={"code": job.model.ref})})
    return call(job, "gate", version=version).verdict.checks  # type: ignore[no-any-return]


def _high_demand(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    job = world.configure(gates={"thresholds": {"auc": {"min": 0.999}}})
    return call(job, "gate", version=world.versions()[-1]).verdict.checks  # type: ignore[no-any-return]


def _gated(world: World, **changes: Any) -> Iterable[Check]:
    """What the gate says of a candidate of another model.yaml."""
    job = world.configure(**changes)
    return call(job, "gate", version=train(world, job)).verdict.checks  # type: ignore[no-any-return]


def _noise(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    """A feature of noise."""
    for day in DAYS[:3]:
        noise = np.random.default_rng(5).normal(size=1200)
        world.rewrite(day, "inputs", lambda frame, noise=noise: frame.assign(c=noise))
    world.loops().ci()
    version = train(world, world.job())
    return call(world.job(), "gate", version=version).verdict.checks  # type: ignore[no-any-return]


def _dear_feature(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    return _gated(world, evaluation={"importance": {"costs": {"a": 1000}, "worth": 1}})


def _nothing_learned(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    version = train(world, world.job(), drill="shuffled_labels")
    return call(world.job(), "gate", version=version).verdict.checks  # type: ignore[no-any-return]


def _demanding_slice(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    asked = {"slices": {"site": {"column": "site"}}, "minimum_rows": 100}
    return _gated(world, evaluation=asked, gates={"slices": {"site": {"thresholds": {"auc": {"min": 0.9999}}}}})


def _unequal_groups(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    limit = {"demographic_parity_difference": {"max": 0.0}}
    return _gated(world, evaluation={"fairness": ["site"], "minimum_rows": 100}, gates={"fairness": limit})


def _unstable_scores(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    sound = Scorer.score
    patch.setattr(Scorer, "score", lambda self, rows: np.where(np.isinf(rows).any(axis=1), np.nan, sound(self, rows)))
    return _gated(world)


def _slow_package(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    return _gated(world, gates={"latency": {"rows_1": 1e-6}})


def _lost_column(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    world.deliver(DAY)
    world.rewrite(DAY, "inputs", lambda frame: frame.drop(columns="later"))
    return _compared(world)


def _shifted_column(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    world.deliver(DAY, what=("inputs",))
    world.rewrite(DAY, "inputs", lambda frame: frame.assign(b=frame["b"] + 2))
    job = world.job()
    (work,) = plan.score(job)
    return call(job, "drift", predictions=call(job, "score", work=work)).verdict.checks  # type: ignore[no-any-return]


def _turned_labels(world: World, patch: pytest.MonkeyPatch) -> Iterable[Check]:
    world.rewrite(DAY, "labels", lambda frame: frame.assign(outcome=-frame["outcome"]))
    world.loops().ci()
    job = world.job()
    record = next(r for r in reversed(world.records("data")) if r.partition == DAY)
    data = FeatureVersion.model_validate(record.facts["data"])
    return call(job, "quality", predictions=manifest(job, DAY), data=data).verdict.checks  # type: ignore[no-any-return]


FAULTS: dict[str, tuple[str, Callable[[World, pytest.MonkeyPatch], Iterable[Check]]]] = {
    "data-1": ("delivered", _outlier),
    "data-2": ("accepted", _noise),
    "data-3": ("accepted", _dear_feature),
    "model-5": ("accepted", _nothing_learned),
    "model-6": ("accepted", _demanding_slice),
    "model-7": ("accepted", _unequal_groups),
    "monitor-5": ("accepted", _unstable_scores),
    "monitor-6": ("accepted", _slow_package),
    "data-4": ("accepted", _outcome_as_feature),
    "data-7": ("registered", _failing_test),
    "infra-4": ("registered", _high_demand),
    "monitor-2": ("accepted", _lost_column),
    "monitor-3": ("champion", _shifted_column),
    "monitor-7": ("challenger", _turned_labels),
}


def test_a_fault_is_injected_for_every_row_that_says_so() -> None:
    assert sorted(FAULTS) == sorted(row.id for row in ROWS if row.injected)
    assert Path(__file__).match(INJECTION.split("::")[0])
    assert INJECTION.split("::")[1] in globals()


def answering(row: Row, checks: Iterable[Check]) -> list[Check]:
    names = [name for pattern in row.checks for name in (("auc",) if pattern == "{metrics}" else (pattern,))]
    return [check for check in checks if any(fnmatch.fnmatchcase(check.name, name) for name in names)]


@pytest.mark.parametrize("row", FAULTS)
def test_a_fault_turns_its_check_red(at: At, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    stage, inject = FAULTS[row]
    found = answering(BY_ID[row], inject(at(stage), monkeypatch))
    assert [check for check in found if not check.passed and check.severity != "error"], found


def test_the_run_of_a_version_has_its_scorecard(challenger: World) -> None:
    first, second = challenger.versions()
    mlflow = registry_of(challenger)
    cards_of = [
        json.loads(Path(mlflow.download_artifacts(version.run_id, "scorecard.json")).read_text())
        for version in (first, second)
    ]
    standing = [{line["id"]: line["standing"] for line in card["lines"]} for card in cards_of]
    assert [found["data-1"] for found in standing] == ["automated", "automated"]
    # The gate has judged the first version when the second is registered.
    assert [found["infra-4"] for found in standing] == ["not covered", "automated"]
    assert (
        Path(mlflow.download_artifacts(first.run_id, "scorecard.txt")).read_text().startswith("ML Test Score of tiny")
    )
