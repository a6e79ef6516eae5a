"""Modes of validation: what a failed critical expectation means, and rows that are put aside so that the rest may go on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import ConfigError, DataError, Refused
from mlops_provider.steps.data.validate import ValidateResult
from tests.support.tiny import DAYS, World, call, feed

DAY = DAYS[0]
ROWS = feed.ROWS


def expectation(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


SMALL = expectation("column_values_to_be_between", column="a", max_value=50)
SITE = expectation("column_values_to_match_regex", column="site", regex="^(north|south|east)$")
UNIQUE = expectation("column_values_to_be_unique", column="id")


def write_suite(world: World, *expectations: Any, suite: str = "raw") -> None:
    content = {"name": "tiny", "expectations": list(expectations)}
    (world.model / "expectations" / f"{suite}.json").write_text(json.dumps(content))


def spoil(world: World, rows: int = 30) -> None:
    """Makes `a` too large in the first rows, and the site unknown in the ten rows from the last of these on."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        number = np.arange(len(frame))
        return frame.assign(
            a=frame["a"].mask(number < rows, 99.0),
            site=frame["site"].mask((number >= rows - 1) & (number < rows + 9), "moon"),
        )

    world.rewrite(DAY, "inputs", change)


def write(world: World, *expectations: Any, **validation: Any) -> Any:
    """Packs the model with this suite."""
    world.configure(data={"validation": validation})
    write_suite(world, *expectations)
    return world.job()


def of(world: World, *expectations: Any, max_share: float = 0.05) -> ValidateResult:
    job = write(world, *expectations, mode="quarantine", max_share=max_share)
    result: ValidateResult = call(job, "validate", work=world.work(DAY, job), suite="raw")
    return result


def states(result: ValidateResult) -> dict[str, str]:
    return {check.name: check.state for check in result.verdict.checks}


def test_fail_is_the_mode_if_none_is_named(delivered: World) -> None:
    spoil(delivered)
    write_suite(delivered, SMALL)
    result = call(delivered.job(), "validate", work=delivered.work(DAY), suite="raw")
    assert (result.verdict.outcome, result.accepted) == ("fail", None)


def test_warn_lets_everything_through_but_what_could_not_be_checked(delivered: World) -> None:
    spoil(delivered)
    job = write(delivered, SMALL, SITE, mode="warn")
    result = call(job, "validate", work=delivered.work(DAY, job), suite="raw")
    assert (result.verdict.passed, result.verdict.outcome, result.accepted) == (True, "warn", None)
    assert result.verdict.checks[0].detail.startswith("mode warn: for instance 99.0")
    job = write(delivered, SMALL, expectation("column_max_to_be_between", column="absent", max_value=1), mode="warn")
    assert call(job, "validate", work=delivered.work(DAY, job), suite="raw").verdict.outcome == "error"


def test_broken_rows_are_put_aside_with_the_reason_and_the_rest_goes_on(delivered: World) -> None:
    spoil(delivered)
    before = pd.read_parquet(delivered.file(DAY, "inputs"))
    result = of(delivered, SMALL, SITE, UNIQUE)
    assert result.verdict.passed
    assert states(result) == {
        "column_values_to_be_between": "warn",
        "column_values_to_match_regex": "warn",
        "column_values_to_be_unique": "pass",
        "quarantined_rows": "pass",
    }
    count = result.verdict.checks[-1]
    assert (count.value, count.threshold) == (39.0, f"at most 0.05 of {ROWS} rows")
    assert result.accepted is not None
    assert result.quarantined is not None
    accepted, aside = pd.read_parquet(result.accepted.uri), pd.read_parquet(result.quarantined.uri)
    pd.testing.assert_frame_equal(accepted, before[39:].reset_index(drop=True))
    pd.testing.assert_frame_equal(aside.drop(columns="reason"), before[:39])
    small, site = "column_values_to_be_between (a)", "column_values_to_match_regex (site)"
    assert aside["reason"].tolist() == [small] * 29 + [f"{small}; {site}"] + [site] * 9
    assert (result.accepted.rows, result.quarantined.rows) == (ROWS - 39, 39)
    assert result.quarantined.uri.startswith(f"{delivered.artifacts}/quarantine/tiny/{DAY}/raw-")


@pytest.mark.parametrize("conditioned", [False, True])
def test_rows_are_put_aside_for_a_personal_column_whose_values_nobody_keeps(
    delivered: World, conditioned: bool
) -> None:
    """The accepted rows have no values there any more, and are not asked again what cannot be answered."""
    spoil(delivered)
    columns = ["id", "at", "a", "b", "c"]
    delivered.configure(
        data={"validation": {"mode": "quarantine", "max_share": 0.05}, "pii": ["site"], "columns": columns}
    )
    north = {"row_condition": 'site == "north"', "condition_parser": "pandas"}
    items = [SITE, expectation("column_values_to_be_between", column="a", max_value=200, **north)]
    write_suite(delivered, *items[: 1 + conditioned])
    job = delivered.job()
    result = call(job, "validate", work=delivered.work(DAY, job), suite="raw")
    assert result.verdict.passed, result.verdict.reason()
    assert states(result)["column_values_to_match_regex"] == "warn"
    assert (result.accepted.rows, result.quarantined.rows) == (ROWS - 10, 10)
    for file in (result.accepted, result.quarantined):
        assert pd.read_parquet(file.uri)["site"].isna().all()


def test_more_than_the_share_fail_as_a_whole_and_nothing_is_put_aside(delivered: World) -> None:
    spoil(delivered)
    result = of(delivered, SMALL, SITE, max_share=38 / ROWS)
    assert (result.verdict.outcome, result.accepted, result.quarantined) == ("fail", None, None)
    assert states(result)["quarantined_rows"] == "fail"
    assert of(delivered, SMALL, SITE, max_share=39 / ROWS).verdict.passed


def test_all_rows_broken_fail_whatever_the_share(delivered: World) -> None:
    everything = expectation("column_values_to_be_between", column="a", min_value=1000)
    assert of(delivered, everything, max_share=1.0).verdict.outcome == "fail"


def test_a_failed_table_fails_as_a_whole(delivered: World) -> None:
    spoil(delivered)
    result = of(delivered, SMALL, expectation("column_max_to_be_between", column="a", max_value=50))
    assert (result.verdict.outcome, result.accepted) == ("fail", None)


def test_what_no_longer_holds_for_the_accepted_rows_fails(delivered: World) -> None:
    spoil(delivered)
    result = of(delivered, SMALL, expectation("table_row_count_to_be_between", min_value=ROWS - 10))
    (problem,) = result.verdict.problems
    assert (problem.name, problem.value) == ("table_row_count_to_be_between", float(ROWS - 30))
    assert "among the accepted rows" in problem.detail


def test_an_error_is_no_matter_of_rows(delivered: World) -> None:
    spoil(delivered)
    result = of(delivered, SMALL, expectation("column_values_to_not_be_null", column="absent"))
    assert (result.verdict.outcome, result.accepted) == ("error", None)


def test_warnings_put_nothing_aside(delivered: World) -> None:
    spoil(delivered)
    result = of(delivered, {**SMALL, "severity": "warning"})
    assert (result.verdict.outcome, result.accepted, result.quarantined) == ("warn", None, None)


def test_rows_within_the_tolerance_of_an_expectation_stay(delivered: World) -> None:
    spoil(delivered)
    tolerant = {**SMALL, "kwargs": {**SMALL["kwargs"], "mostly": 0.9}}
    assert of(delivered, tolerant).accepted is None


def test_every_copy_of_a_repeated_value_is_put_aside(delivered: World) -> None:
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(id=frame["id"].mask(frame.index < 2, frame["id"][5])))
    result = of(delivered, UNIQUE)
    assert result.quarantined is not None
    assert result.quarantined.rows == 3
    assert result.verdict.passed


def test_rows_that_great_expectations_names_are_put_aside(delivered: World) -> None:
    delivered.rewrite(
        DAY, "inputs", lambda frame: frame.assign(b=frame["a"] + np.where(frame.index % 100 == 3, 1.0, -1.0))
    )
    above = expectation("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b")
    result = of(delivered, above)
    assert result.quarantined is not None
    assert result.quarantined.rows == ROWS // 100
    assert result.accepted is not None
    accepted = pd.read_parquet(result.accepted.uri)
    assert (accepted["a"] > accepted["b"]).all()


def test_a_column_of_the_name_of_the_reason_is_refused(delivered: World) -> None:
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(reason="x", a=99.0))
    with pytest.raises(DataError, match="'reason'"):
        of(delivered, SMALL)


@pytest.mark.parametrize("validation", [{"mode": "ignore"}, {"max_share": 1.5}, {"share": 0.1}])
def test_an_impossible_configuration_is_refused(delivered: World, validation: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation"):
        delivered.configure(data={"validation": validation})


def test_features_labels_and_the_version_leave_the_quarantined_rows_out(delivered: World) -> None:
    spoil(delivered)
    write(delivered, SMALL, UNIQUE, mode="quarantine", max_share=0.05)
    write_suite(
        delivered, expectation("column_values_to_be_in_set", column="label", value_set=[0, 1]), suite="features"
    )
    loops = delivered.loops()
    assert loops.ci()
    accepted = {record.partition: record for record in delivered.records("data")}
    assert [accepted[day].outcome for day in DAYS[:3]] == ["accepted"] * 3
    assert accepted[DAY].facts["data"]["rows"] == ROWS - 30
    assert accepted[DAYS[1]].facts["data"]["rows"] == ROWS
    assert accepted[DAY].facts["identity"] == delivered.work(DAY).identity
    assert not loops.ci()


def test_quarantine_of_the_feature_table_is_what_is_versioned(delivered: World) -> None:
    write(delivered, UNIQUE, mode="quarantine", max_share=0.05)
    write_suite(delivered, expectation("column_values_to_be_between", column="a", max_value=2), suite="features")
    broken = int((pd.read_parquet(delivered.file(DAY, "inputs"))["a"] > 2).sum())
    assert 0 < broken < 0.05 * ROWS
    delivered.loops().ci()
    record = next(record for record in delivered.records("data") if record.partition == DAY)
    assert record.facts["data"]["rows"] == ROWS - broken


def test_a_whole_that_fails_is_refused(delivered: World) -> None:
    spoil(delivered, rows=100)
    write(delivered, SMALL, mode="quarantine", max_share=0.05)
    delivered.loops().ci()
    record = next(record for record in delivered.records("data") if record.partition == DAY)
    assert record.outcome == "refused"
    assert "quarantined_rows: 100 against at most 0.05" in record.reason
    with pytest.raises(Refused):
        call(delivered.job(), "validate", work=delivered.work(DAY), suite="raw").verdict.require()


def test_scoring_scores_every_row(champion: World) -> None:
    write(champion, SMALL, mode="quarantine", max_share=0.05)
    champion.deliver(DAYS[3], what=("inputs",))
    champion.rewrite(DAYS[3], "inputs", lambda frame: frame.assign(a=frame["a"].mask(frame.index < 20, 99.0)))
    assert champion.loops().score()
    (scored,) = [outcome for _, outcome in champion.told if outcome.step == "score"]
    assert scored.result["rows"] == ROWS
