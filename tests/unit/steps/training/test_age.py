"""The age of past versions, as the ledger tells it."""

from __future__ import annotations

import pytest

from mlops_provider.steps.training.age import aged
from mlops_provider.steps.training.findings import Findings
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call


def test_quality_is_told_beside_that_of_the_holdout(challenger: World) -> None:
    (found,) = aged(challenger.job().ledger.records(), "auc", DAYS[3])
    (measured,) = [r.facts["quality"] for r in challenger.records("retrain") if r.facts["quality"]]
    (first, _) = challenger.records("candidate")
    assert (found.version, found.partition, found.age) == (1, DAYS[3], 1)
    assert found.value == measured["metrics"]["auc"]
    assert found.change == pytest.approx(found.value - first.facts["evaluation"]["candidate"]["auc"])


def test_a_loss_that_grew_is_a_change_for_the_worse(challenger: World) -> None:
    records = challenger.job().ledger.records()
    (better,) = aged(records, "auc", DAYS[3])
    (loss,) = aged(records, "log_loss", DAYS[3])
    assert loss.change * better.change > 0


def test_what_came_later_is_not_told(challenger: World) -> None:
    assert aged(challenger.job().ledger.records(), "auc", DAYS[2]) == ()


def test_every_past_partition_is_in_the_findings_of_the_next_candidate(lapped: World) -> None:
    job, version = lapped.job(), lapped.versions()[-1]
    evaluation = call(job, "evaluate", package=version.package, split=version.split)
    findings = Findings.model_validate_json(Storage().fetch(evaluation.findings))
    assert [one.partition for one in findings.age] == list(DAYS[3:])
