"""The one place that decides to retrain."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.checks import Check, Verdict, could_not_run
from mlops_provider.ledger import Record
from mlops_provider.steps.monitoring.decide import DecideArguments, accepted, history
from mlops_provider.steps.monitoring.policies import decide
from mlops_provider.steps.monitoring.records import Estimate, Estimated
from mlops_provider.steps.records import Drifted, Judged, Measured
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact
from tests.support.tiny import DAYS, World, call, train, write_model

GOOD = Check(name="auc", passed=True)
BAD = Check(name="auc", passed=False)
ERROR = could_not_run("auc", "no labels")


class History:
    """Records as they might stand in a ledger."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, kind: str, partition: str, outcome: str, **facts: Any) -> History:
        self.records.append(
            Record(
                number=len(self.records) + 1,
                previous="",
                kind=kind,  # type: ignore[arg-type]
                partition=partition,
                outcome=outcome,
                reason="",
                facts=facts,
                actor="test",
                at=dt.datetime.now(dt.UTC),
            )
        )
        return self

    def data(self, *days: str) -> History:
        for day in days:
            version = {"partition": day, "rev": "r", "tag": "t", "path": "p", "md5": day, "size": 1, "rows": 1}
            moments = {"labelled": 1, "first": f"{day}T00:00:00Z", "last": f"{day}T23:00:00Z"}
            self.add("data", day, "accepted", identity=day, data=version | moments)
        return self

    def decided(self, day: str, outcome: str = "wait", check: Check | None = None) -> History:
        found = measured(check).model_dump(mode="json") if check else None
        return self.add("retrain", day, outcome, quality=found)

    def champion(self) -> History:
        return self.add("promotion", DAYS[2], "promoted")


def measured(check: Check) -> Measured:
    return Measured(
        partition=DAYS[4],
        version=1,
        metrics={},
        low=None,
        high=None,
        coverage=1,
        verdict=Verdict(subject="quality", checks=(check,)),
    )


def drifted() -> Drifted:
    checks = (could_not_run("drift", "test"),)
    report = Artifact(uri="r", hash="h", size=1)
    return Drifted(
        partition=DAYS[4], version=1, columns=("a",), of=1, verdict=Verdict(subject="d", checks=checks), report=report
    )


def decided(
    tmp_path: Path, past: History, check: Check | None = None, *, drift: Drifted | None = None, **retrain: Any
) -> tuple[bool, str]:
    write_model(tmp_path, retrain=retrain)
    job = _job(tmp_path)
    arguments = DecideArguments(partition=DAYS[4], drift=drift, quality=measured(check) if check else None)
    choice = decide(job.config.retrain, history(job, arguments, tuple(past.records)))
    return choice.retrain, choice.reason


def _job(tmp_path: Path) -> Job:
    from mlops_provider.deployment import Deployment
    from mlops_provider.modelcode import pack

    place = Deployment(artifact_root=str(tmp_path / "artifacts"), data_root=str(tmp_path / "data"))
    return Job(pack(tmp_path / "models" / "tiny", "", place.storage, place.artifact_root), place)


POLICIES = ("never", "periodic", "threshold")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("days", [0, 1, 2])
def test_too_little_data_waits(tmp_path: Path, policy: str, days: int) -> None:
    found = decided(tmp_path, History().data(*DAYS[:days]), BAD, policy=policy)
    assert found == (False, f"not enough data: {days} of 3 labelled partitions")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_first_model_is_trained_as_soon_as_there_is_enough(tmp_path: Path, policy: str) -> None:
    train, why = decided(tmp_path, History().data(*DAYS[:3]), policy=policy)
    assert train
    assert "no champion yet" in why


def test_later_partitions_do_not_count(tmp_path: Path) -> None:
    history = History().data(*DAYS[:2], "2024-02-01", "2024-02-02")
    assert decided(tmp_path, history, policy="periodic")[0] is False


def test_never_waits_for_a_person(tmp_path: Path) -> None:
    train, why = decided(tmp_path, History().data(*DAYS).champion(), BAD, policy="never")
    assert not train
    assert "person" in why


@pytest.mark.parametrize(("every", "expected"), [(1, True), (2, True), (3, False)])
def test_periodic_counts_newly_labelled_partitions(tmp_path: Path, every: int, expected: bool) -> None:
    history = History().data(*DAYS).champion().decided(DAYS[2], "train").decided(DAYS[3])
    train, why = decided(tmp_path, history, policy="periodic", every=every)
    assert train is expected
    assert f"2 of {every}" in why


@pytest.mark.parametrize(
    ("past", "now", "rule", "expected"),
    [
        ([], BAD, {"windows": 1, "violations": 1}, True),
        ([BAD], GOOD, {"windows": 1, "violations": 1}, False),
        ([BAD], BAD, {"windows": 3, "violations": 2}, True),
        ([BAD, GOOD], BAD, {"windows": 3, "violations": 2}, True),
        ([BAD, GOOD, GOOD], BAD, {"windows": 3, "violations": 2}, False),
        ([BAD, BAD], GOOD, {"windows": 3, "violations": 2}, False),
        ([GOOD], BAD, {"windows": 3, "violations": 2}, False),
        ([ERROR], ERROR, {"windows": 3, "violations": 2}, False),
        ([BAD, BAD, BAD], BAD, {"windows": 2, "violations": 2}, True),
        ([], GOOD, {}, False),
    ],
)
def test_threshold_counts_missed_quality(
    tmp_path: Path, past: list[Check], now: Check, rule: dict[str, int], expected: bool
) -> None:
    history = History().data(*DAYS).champion()
    for day, check in zip(DAYS, past, strict=False):
        history.decided(day, "wait", check)
    assert decided(tmp_path, history, now, policy="threshold", **rule)[0] is expected


def test_partitions_without_predictions_do_not_count(tmp_path: Path) -> None:
    history = History().data(*DAYS).champion().decided(DAYS[1], "wait", BAD).decided(DAYS[2]).decided(DAYS[3])
    assert decided(tmp_path, history, BAD, policy="threshold", windows=2, violations=2)[0] is True


@pytest.mark.parametrize("policy", POLICIES)
def test_drift_alone_never_retrains(tmp_path: Path, policy: str) -> None:
    history = History().data(*DAYS).champion().decided(DAYS[4], "train")
    for check in (GOOD, None):
        assert decided(tmp_path, history, check, drift=drifted(), policy=policy)[0] is False


@pytest.mark.parametrize(("past", "expected"), [([], False), ([BAD], True), ([GOOD], False)])
def test_a_partition_that_the_champion_cannot_score_counts_as_missed(
    tmp_path: Path, past: list[Check], expected: bool
) -> None:
    history = History().data(*DAYS).champion()
    for day, check in zip(DAYS, past, strict=False):
        history.decided(day, "wait", check)
    history.add("unscored", DAYS[4], "unscored")
    train, why = decided(tmp_path, history, None, policy="threshold", windows=3, violations=2)
    assert train is expected
    assert "(not scored)" in why


def test_refused_data_does_not_count(tmp_path: Path) -> None:
    write_model(tmp_path)
    history = History().data(*DAYS[:3])
    history.add("data", DAYS[1], "refused", identity="x")
    assert list(accepted(_job(tmp_path), tuple(history.records))) == [DAYS[0], DAYS[2]]


def test_a_decision_is_taken_once_for_a_partition(accepted: World) -> None:
    first = call(accepted.job(), "decide", partition=DAYS[2])
    again = call(accepted.configure(retrain={"policy": "never"}), "decide", partition=DAYS[2])
    assert again == first
    assert first.retrain
    (record,) = accepted.records("retrain")
    assert (record.outcome, record.partition) == ("train", DAYS[2])


def test_a_decision_keeps_what_it_stood_on(accepted: World) -> None:
    call(accepted.job(), "decide", partition=DAYS[2], drift=drifted(), quality=measured(BAD))
    (record,) = accepted.records("retrain")
    assert record.facts["drift"]["columns"] == ["a"]
    assert record.facts["quality"]["verdict"]["checks"][0]["passed"] is False
    assert record.facts["policy"]["policy"] == "periodic"


def test_the_ledger_tells_what_came_of_earlier_decisions(lapped: World) -> None:
    """The loss that was measured when it was decided, and the gain that the gate saw; the first model taught nothing."""
    job = lapped.job()
    known = history(job, DecideArguments(partition=DAYS[4]), job.ledger.records())
    champions = {r.version: Judged.model_validate(r.facts["judged"]).evaluation for r in lapped.records("promotion")}
    looked = {
        r.partition: Measured.model_validate(r.facts["quality"])
        for r in lapped.records("retrain")
        if r.facts["quality"]
    }
    expected = []
    for record in lapped.records("promotion", "refusal")[1:]:
        judged = Judged.model_validate(record.facts["judged"]).evaluation
        assert judged.interval is not None
        rival = champions[judged.champion_version].candidate["auc"]  # type: ignore[index]
        values = [m.metrics["auc"] for m in looked.values() if m.version == judged.champion_version]
        seen = values[: 1 + [m.partition for m in looked.values()].index(record.partition)]
        gain = judged.interval.gain if record.kind == "promotion" else 0.0
        expected.append((record.partition, 1, pytest.approx(rival - sum(seen) / len(seen)), pytest.approx(gain)))
    assert expected
    assert [(o.partition, o.fresh, o.loss, o.gain) for o in known.outcomes] == expected
    assert known.champion is not None
    assert known.champion.version == lapped.records("promotion")[-1].version
    assert known.champion.value == pytest.approx(champions[known.champion.version].candidate["auc"])  # type: ignore[index]


def test_a_drill_teaches_nothing_of_what_training_is_worth(champion: World) -> None:
    job = champion.job()
    champion.deliver(DAYS[3], what=("inputs",))
    champion.loops(job).score()
    champion.deliver(DAYS[3], what=("labels",))
    champion.loops(job).ci()
    champion.loops(job).cm()
    call(job, "gate", version=train(champion, job, DAYS[3], drill="shuffled_labels"))
    assert champion.records("refusal")
    assert history(job, DecideArguments(partition=DAYS[3]), job.ledger.records()).outcomes == ()


def test_a_cost_aware_decision_keeps_what_it_weighed(scored: World) -> None:
    scored.deliver(DAYS[3], what=("labels",))
    scored.loops().ci()
    job = scored.configure(retrain={"policy": "cost_aware", "costs": {"training": 1, "metric_unit": 1000}})
    quality = measured(GOOD).model_copy(update={"partition": DAYS[3], "metrics": {"auc": 0.5}})
    call(job, "decide", partition=DAYS[3], quality=quality)
    record = scored.records("retrain")[-1]
    assert record.outcome == "train"
    assert record.facts["weighed"]["benefit"] > record.facts["weighed"]["cost"] == 1
    assert "the prior, with 0 of 5 outcomes" in record.reason


def test_estimates_that_are_not_trusted_are_not_gone_by(tmp_path: Path) -> None:
    write_model(tmp_path)
    job, past = _job(tmp_path), History().data(*DAYS).champion()
    later = tuple(estimated(day, trusted=day == "2024-02-01") for day in ("2024-02-01", "2024-02-02"))
    arguments = DecideArguments(partition=DAYS[4], later=later)
    known = history(job, arguments, tuple(past.records)).estimated
    assert [(window.partition, window.version, window.value) for window in known] == [("2024-02-01", 1, 0.7)]


def estimated(day: str, *, trusted: bool) -> Estimated:
    return Estimated(
        partition=day,
        version=1,
        metrics={"auc": Estimate(value=0.7)},
        calibrated_on=(DAYS[2],),
        rows=1,
        assumes="",
        trusted=trusted,
        verdict=Verdict(subject="estimate", checks=(GOOD,)),
    )


def test_a_decision_is_told_what_later_partitions_are_estimated_at(champion: World) -> None:
    champion.deliver(*DAYS[3:], what=("inputs",))
    champion.configure(scoring={"order": "immediate"})
    champion.loops().drain()
    champion.deliver(DAYS[3], what=("labels",))
    champion.loops().drain()
    record = next(one for one in champion.records("retrain") if one.partition == DAYS[3])
    assert record.facts["estimate"]["partition"] == DAYS[3]
    assert [one["partition"] for one in record.facts["later"]] == [DAYS[4]]
