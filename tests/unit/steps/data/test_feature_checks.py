"""What every features function must hold to: each fault that the checks are for is one that they find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.checks import Verdict
from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data.feature_checks import check_features
from tests.support.tiny import DAYS, World, call

Build = Callable[..., pd.DataFrame]
START = pd.Timestamp("2024-01-01", tz="UTC")
HOURS = pd.to_timedelta(np.arange(480), unit="h")
ROWS = pd.DataFrame({"key": [f"k{n}" for n in range(400)], "x": np.random.default_rng(1).normal(size=400)})
AS_OF = pd.Series(START + pd.to_timedelta(np.arange(400) + 0.5, unit="h"))
READINGS = pd.DataFrame({"at": START + HOURS, "value": np.random.default_rng(2).normal(size=480), "good": True, "n": 1})
HISTORY = {"readings": READINGS, "sites": pd.DataFrame({"site": ["a"], "height": [1.0]})}
KNOWN_AT = {"readings": "at"}


def latest(rows: pd.DataFrame, history: dict[str, pd.DataFrame], as_of: Any, offset: int = 0) -> pd.DataFrame:
    """The last reading at as_of; with an offset the one before or after it."""
    table = history["readings"].sort_values("at")
    place = np.searchsorted(table["at"], as_of, side="right") - 1 + offset
    values = np.append(table["value"].to_numpy(), np.nan)
    return pd.DataFrame({"x": rows["x"], "now": values[np.clip(place, -1, len(table))]}, index=rows.index)


def checked(build: Build, **changes: Any) -> Verdict:
    given: dict[str, Any] = {"rows": ROWS, "history": HISTORY, "as_of": AS_OF, "known_at": KNOWN_AT, **changes}
    return check_features(build, **given)


def problems(verdict: Verdict) -> set[str]:
    return {f"{check.name} {check.subject}".strip() for check in verdict.problems}


def test_a_function_that_looks_back_only_passes() -> None:
    verdict = checked(latest)
    assert verdict.passed, verdict.reason()
    assert [f"{c.name} {c.subject}".strip() for c in verdict.checks] == [
        "rows_kept",
        "finite",
        "same_in_any_batch",
        "same_in_any_order",
        "same_alone",
        "history_untouched",
        "nothing_later readings",
        "nothing_later sites",
    ]


@pytest.mark.parametrize("kind", ["float64", "float32", "Float64"])
def test_an_infinite_feature_is_named_with_its_rows(kind: str) -> None:
    def build(rows: pd.DataFrame, history: dict[str, pd.DataFrame], as_of: Any) -> pd.DataFrame:
        made = pd.DataFrame({"x": rows["x"], "ratio": 1 / (rows["key"] != "k399").astype(kind), "n": 1, "ok": True})
        return made.assign(unknown=np.nan)

    verdict = checked(build, sample=2)
    assert problems(verdict) == {"finite"}
    assert "ratio (1 of 400 rows)" in verdict.reason()


def test_dates_without_a_time_are_no_history_from_the_start() -> None:
    """Arrow's date32 comes to pandas as Python's dates, which are no timestamps to it."""
    days = pd.DataFrame({"day": (START + HOURS[::24]).date, "value": 1.0})
    for known_at in ({}, {"days": "day"}):
        verdict = checked(latest, history={**HISTORY, "days": days}, known_at={**KNOWN_AT, **known_at})
        assert problems(verdict) == {"nothing_later days"}
        assert "holds dates without a time (day)" in verdict.reason()


def test_the_next_reading_is_found_to_be_the_future() -> None:
    verdict = checked(lambda *given: latest(*given, offset=1))
    assert problems(verdict) == {"nothing_later readings"}
    assert "now (removed)" in verdict.reason()
    assert "now (changed)" in verdict.reason()
    assert "now (added)" in verdict.reason()


@pytest.mark.parametrize(
    ("feature", "how"),
    [
        (lambda readings, as_of: readings["value"].mean(), "changed"),
        (lambda readings, as_of: float(len(readings)), "removed"),
        (lambda readings, as_of: float(readings["good"].all()), "changed"),
        (lambda readings, as_of: float(readings["n"].sum()), "changed"),
        (lambda readings, as_of: readings["at"].max().timestamp(), "removed"),
    ],
    ids=["a mean over all", "a count of all", "a flag", "a sum", "the newest time"],
)
def test_any_use_of_later_history_is_found(feature: Callable[[pd.DataFrame, Any], float], how: str) -> None:
    verdict = checked(lambda rows, history, as_of: rows[["x"]].assign(made=feature(history["readings"], as_of)))
    assert problems(verdict) == {"nothing_later readings"}
    assert f"made ({how})" in verdict.reason()


@pytest.mark.parametrize("seed", range(8))
def test_a_few_rows_that_look_ahead_by_little_are_found(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"x": random.normal(size=3_000), "odd": random.random(3_000) < 0.1})
    as_of = pd.Series(START + pd.to_timedelta(np.arange(3_000) * 10, unit="min"))
    table = pd.DataFrame({
        "at": START + pd.to_timedelta(np.arange(1_600) * 20, unit="min"),
        "value": random.normal(size=1_600),
    })

    def build(rows: pd.DataFrame, history: dict[str, pd.DataFrame], as_of: Any) -> pd.DataFrame:
        return latest(rows, history, as_of + pd.to_timedelta(rows["odd"].astype(int), unit="h"))

    verdict = checked(build, rows=rows, as_of=as_of, history={"readings": table})
    assert problems(verdict) == {"nothing_later readings"}


def test_a_function_that_moves_the_moment_itself_is_found() -> None:
    def build(rows: pd.DataFrame, history: dict[str, pd.DataFrame], as_of: Any) -> pd.DataFrame:
        as_of[:] = START + pd.Timedelta(days=30)
        return latest(rows, history, as_of)

    moments = AS_OF.copy()
    assert "nothing_later readings" in problems(checked(build, as_of=moments))
    assert moments.equals(AS_OF)


def test_a_future_that_is_not_there_yet_is_added() -> None:
    early = {**HISTORY, "readings": READINGS.head(1)}
    verdict = checked(lambda r, h, a: r[["x"]].assign(n=float(len(h["readings"]))), history=early)
    assert problems(verdict) == {"nothing_later readings"}


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda r, h, a: r[["x"]] - r["x"].mean(), {"same_in_any_batch", "same_alone"}),
        (lambda r, h, a: r[["x"]].rank(), {"same_in_any_batch", "same_alone"}),
        (
            lambda r, h, a: r[["x"]].assign(n=np.arange(len(r))),
            {"same_in_any_batch", "same_in_any_order", "same_alone"},
        ),
        (
            lambda r, h, a: r[["x"]].assign(shift=r["x"].shift()),
            {"same_in_any_batch", "same_in_any_order", "same_alone"},
        ),
        (lambda r, h, a: r[["x"]].assign(few=float(len(r) == 1)), {"same_alone"}),
        (lambda r, h, a: r[["x"]].assign(place=r.index.to_numpy() / 2.0), {"same_in_any_batch"}),
        (lambda r, h, a: r[["x"]].assign(odd=a.index.to_numpy() % 2 == 1), {"same_in_any_batch"}),
    ],
    ids=["the batch's mean", "ranks", "places", "the row before", "alone", "place in the file", "odd places"],
)
def test_a_feature_made_of_other_rows_is_found(build: Build, expected: set[str]) -> None:
    assert expected <= problems(checked(build))


@pytest.mark.parametrize("build", [lambda r, h, a: r[["x"]].iloc[1:], lambda r, h, a: r[["x"]].iloc[::-1]])
def test_rows_that_are_not_kept_are_found(build: Build) -> None:
    assert problems(checked(build)) == {"rows_kept"}


def test_a_history_that_is_changed_is_found() -> None:
    def build(rows: pd.DataFrame, history: dict[str, pd.DataFrame], as_of: Any) -> pd.DataFrame:
        history["readings"]["value"] = 0.0
        return rows[["x"]]

    fresh = {name: table.copy() for name, table in HISTORY.items()}
    assert "history_untouched" in problems(checked(build, history=fresh))


def test_the_smallest_difference_counts() -> None:
    assert problems(checked(lambda r, h, a: r[["x"]] * (1 + 1e-16 + 2e-16 * (len(r) > 1)))) >= {"same_alone"}


# What cannot be looked at is an error.


@pytest.mark.parametrize(
    ("known_at", "said"),
    [
        ({}, "known_at must name"),
        ({"readings": "when"}, "one of at"),
        ({**KNOWN_AT, "sites": "at"}, "no timestamp 'at'"),
    ],
)
def test_a_time_that_is_not_declared_or_not_there_is_an_error(known_at: dict[str, str], said: str) -> None:
    verdict = checked(latest, known_at=known_at)
    assert {check.severity for check in verdict.problems} == {"error"}
    assert said in verdict.reason()


def test_a_function_that_fails_on_a_part_is_an_error() -> None:
    verdict = checked(lambda r, h, a: r[["x"]] if len(r) > 1 else r["absent"])
    assert [check.severity for check in verdict.problems] == ["error"]
    assert "KeyError" in verdict.reason()


def test_no_rows_are_an_error() -> None:
    verdict = checked(latest, rows=ROWS.head(0), as_of=AS_OF.head(0))
    assert [check.severity for check in verdict.problems] == ["error"]


# In the step


def write_features(world: World, expression: str) -> None:
    body = f"def build(rows, history, as_of):\n    return rows[['a', 'b', 'c']].assign(height={expression})\n"
    (world.model / "features.py").write_text("import pandas as pd\n" + body)


def test_the_step_says_what_it_found(delivered: World) -> None:
    result = call(delivered.job(), "build_features", work=delivered.work(DAYS[0]))
    assert result.verdict.passed
    assert "same_alone" in {check.name for check in result.verdict.checks}


def test_features_that_depend_on_other_rows_are_refused_with_the_reason(delivered: World) -> None:
    write_features(delivered, "rows['a'].mean()")
    with pytest.raises(ConfigError, match=r"features\.py:build is refused: .*same_alone.*height"):
        call(delivered.job(), "build_features", work=delivered.work(DAYS[0]))


def test_features_that_move_the_moment_of_prediction_are_refused(delivered: World) -> None:
    times = pd.Timestamp(DAYS[0], tz="UTC") + pd.to_timedelta(np.arange(-48, 480), unit="h")
    weather = pd.DataFrame({"at": times, "temp": np.arange(len(times), dtype=float)})
    weather.to_parquet(delivered.data / "weather.parquet")
    delivered.configure(data={"history": {"weather": {"source": "weather.parquet", "known_at": "at"}}})
    delivered.model.joinpath("features.py").write_text(
        "import pandas as pd\n\n"
        "def build(rows, history, as_of):\n"
        "    as_of[:] = pd.Timestamp('2024-01-31', tz='UTC')\n"
        "    told = pd.merge_asof(as_of.rename('at').to_frame(), history['weather'].sort_values('at'), on='at')\n"
        "    return rows[['a', 'b', 'c']].assign(height=told['temp'].to_numpy())\n"
    )
    job = delivered.job()
    with pytest.raises(ConfigError, match="nothing_later"):
        call(job, "build_features", work=delivered.work(DAYS[0], job))


def test_features_that_look_ahead_are_refused_with_the_reason(delivered: World) -> None:
    times = pd.date_range(DAYS[0], periods=48, freq="h", tz="UTC")
    pd.DataFrame({"at": times, "value": np.arange(48.0)}).to_parquet(delivered.data / "readings.parquet")
    delivered.configure(data={"history": {"readings": {"source": "readings.parquet", "known_at": "at"}}})
    write_features(delivered, "history['readings']['value'].max()")
    with pytest.raises(ConfigError, match=r"is refused: nothing_later \(readings\): .*height \(changed\)"):
        call(delivered.job(), "build_features", work=delivered.work(DAYS[0]))


def test_a_history_with_times_must_declare_which_counts(delivered: World) -> None:
    pd.DataFrame({"at": pd.date_range(DAYS[0], periods=2, tz="UTC")}).to_parquet(delivered.data / "readings.parquet")
    delivered.configure(data={"history": {"readings": "readings.parquet"}})
    with pytest.raises(ConfigError, match="known_at must name"):
        call(delivered.job(), "build_features", work=delivered.work(DAYS[0]))
