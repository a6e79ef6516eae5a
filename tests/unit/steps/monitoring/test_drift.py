"""Input drift with Evidently; what cannot be compared is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_provider.steps import plan
from mlops_provider.steps.monitoring import drift as drifts
from mlops_provider.steps.records import Drifted
from tests.support.tiny import DAYS, World, call

DAY = DAYS[3]
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(autouse=True)
def _without_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing Evidently's page takes longer than all the rest; one test does."""
    if "page" not in request.node.name:
        write = drifts._written
        monkeypatch.setattr(drifts, "_written", lambda job, found, _: write(job, found, None))


def looked_at(world: World, change: Change = lambda frame: frame, **drift: float) -> Drifted:
    """Scores a changed day and looks at its drift."""
    world.deliver(DAY, what=("inputs",))
    world.rewrite(DAY, "inputs", change)
    job = world.configure(monitoring={"drift": {"threshold": 0.3, **drift}})
    (work,) = plan.score(job)
    found: Drifted = call(job, "drift", predictions=call(job, "score", work=work))
    return found


def shifted(*columns: str) -> Change:
    return lambda frame: frame.assign(**{c: frame[c] + 2 for c in columns})


def test_data_as_before_do_not_drift(champion: World) -> None:
    found = looked_at(champion)
    assert (found.columns, found.of, found.version) == ((), 4, 1)
    assert found.verdict.outcome == "pass"
    assert len(found.verdict.checks) == 5


def test_a_shifted_column_is_found(champion: World) -> None:
    found = looked_at(champion, shifted("b"))
    assert found.columns == ("b",)
    (check,) = [c for c in found.verdict.checks if not c.passed]
    assert (check.subject, check.severity, check.threshold) == ("b", "warn", 0.3)
    assert float(str(check.value)) == pytest.approx(2, abs=0.3)
    assert "Wasserstein" in check.detail


def test_drift_alone_alerts(champion: World) -> None:
    found = looked_at(champion, shifted("a", "b", "c"))
    assert found.columns == ("a", "b", "c")
    assert found.verdict.outcome == "warn"
    assert [c.value for c in found.verdict.checks if c.name == "drifted_share" and not c.passed] == [0.75]


def test_the_share_that_may_drift_is_a_limit(champion: World) -> None:
    found = looked_at(champion, shifted("a", "b", "c"), share=0.75)
    assert [c.passed for c in found.verdict.checks if c.name == "drifted_share"] == [True]


@pytest.mark.parametrize("value", [np.nan, None])
def test_a_column_that_lost_every_value_has_drifted(champion: World, value: float | None) -> None:
    found = looked_at(champion, lambda frame: frame.assign(a=pd.Series([value] * len(frame), dtype="float64")))
    assert found.columns == ("a",)
    assert found.of == 4
    (check,) = [c for c in found.verdict.checks if c.subject == "a"]
    assert (check.state, check.detail) == ("warn", "no value in the partition")


def test_a_column_that_never_had_a_value_has_not_drifted() -> None:
    nothing, something = pd.Series([np.nan, np.nan]), pd.Series([np.nan, 1.0])
    never, come, both = (
        drifts._emptied("a", *sides) for sides in ((nothing, nothing), (nothing, something), (something,) * 2)
    )
    assert never is not None
    assert never.passed
    assert come is not None
    assert (come.state, come.detail) == ("warn", "no value in the training data")
    assert both is None


def test_a_column_with_gaps_is_compared(champion: World) -> None:
    found = looked_at(champion, lambda frame: frame.assign(a=frame["a"].where(frame.index % 2 == 0)))
    assert found.verdict.passed


@pytest.mark.parametrize(("rows", "outcome"), [(1_000, "error"), (1_001, "pass")])
def test_too_few_rows_are_an_error(champion: World, rows: int, outcome: str) -> None:
    found = looked_at(champion, lambda frame: frame.sample(rows, random_state=0))
    assert found.verdict.outcome == outcome
    if outcome == "error":
        assert "1000 rows are too few" in found.verdict.reason()


def test_a_value_that_evidently_does_not_give_is_an_error() -> None:
    class Silent:
        def dict(self) -> dict[str, list[object]]:
            return {"metrics": []}

    (check,) = drifts._checks(Silent(), ["a"], 0.1)
    assert check.state == "error"


def test_the_page_is_evidentlys(champion: World) -> None:
    page = Path(looked_at(champion).report.uri).read_text()
    assert "<html" in page
    assert len(page) > 100_000


def test_the_page_says_so_where_nothing_could_be_compared(champion: World) -> None:
    found = looked_at(champion, lambda frame: frame.head(500))
    assert "Nothing could be compared" in Path(found.report.uri).read_text()
