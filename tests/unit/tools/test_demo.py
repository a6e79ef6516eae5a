"""What the demo promises of its own table, and that a run that failed last of all does not go unnoticed."""

from __future__ import annotations

from typing import Any

import pytest

from mlops_provider.report import Line, Story
from tools.demo.__main__ import _promises
from tools.demo.replay import DemoError, Replay


def story(outcome: str, drills: dict[int, str]) -> Story:
    lines = (Line(partition="2013-04", outcome="promoted"), Line(partition="2013-05", outcome=outcome))
    return Story(model="flight_delays", metric="auc", lines=lines, drills=drills)


@pytest.mark.parametrize(
    ("told", "broken"),
    [
        (story("no_proven_gain", {3: "harmful"}), []),
        (story("promoted", {3: "harmful"}), ["want of a proven gain"]),
        (story("no_proven_gain", {}), ["there was none"]),
        (story("no_proven_gain", {3: "drill_passed"}), ["drill_passed"]),
        (story("no_proven_gain", {3: "not_comparable"}), ["not_comparable"]),
    ],
)
def test_the_demo_needs_a_refusal_and_a_drill_refused_as_harmful(told: Story, broken: list[str]) -> None:
    faults = _promises(told)
    assert len(faults) == len(broken)
    assert all(word in fault for word, fault in zip(broken, faults, strict=True))


class Api:
    """An Airflow in which nothing runs any more, and the last run failed."""

    def runs(self, *, state: list[str], limit: int) -> list[dict[str, Any]]:
        failed = {"dag_id": "m.cd", "dag_run_id": "last"}
        return [failed][:limit] if "failed" in state else []

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return []


class Services:
    def check(self) -> None:
        pass


def test_a_run_that_failed_last_of_all_is_noticed() -> None:
    replay = Replay.__new__(Replay)
    replay.api, replay.services, replay._failed = Api(), Services(), set()  # type: ignore[assignment]
    with pytest.raises(DemoError, match="last of m.cd failed"):
        replay._quiet()
    replay._failed = {"last"}
    replay._quiet()
