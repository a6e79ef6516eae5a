"""Feedback as a service posts it: rows or a file, through the ready-made DAG."""

from __future__ import annotations

import pandas as pd
import pytest

from mlops_provider.steps.data.label_log import labels_as_of
from tests.integration.house import House, deliver_tiny
from tests.support.tiny import DAYS, write_model

KEY = f"{DAYS[0]}-00000"


@pytest.fixture
def tiny(house: House) -> House:
    write_model(house.include)
    deliver_tiny(house, DAYS[0])
    return house


def test_rows_and_files_are_taken_and_counted(tiny: House) -> None:
    # More than an XCom takes: the rows travel to the task by reference.
    rows = [{"id": f"{DAYS[0]}-{n:05d}", "outcome": 0.5, "source": "call center"} for n in range(200)]
    run = tiny.run("tiny", "feedback", rows=[*rows, {"id": "nobody", "outcome": 1}])
    assert run.states() == {"plan": "success", "take_labels": "success"}, run.said()
    told = run.task("take_labels").result
    assert (told["taken"], told["refused"]) == (200, {"the key was neither predicted nor delivered": 1})
    pd.DataFrame({"id": [KEY], "outcome": [-1.0]}).to_csv(tiny.data / "feedback.csv", index=False)
    run = tiny.run("tiny", "feedback", file="feedback.csv")
    assert run.state == "success", run.said()
    found = labels_as_of(tiny.job("tiny"), DAYS[0]).set_index("key")
    assert list(found.loc[KEY, ["label", "revision"]]) == [-1.0, 2]
    assert len(found) == 200


def test_a_post_of_which_nothing_can_be_taken_fails_at_once(tiny: House) -> None:
    run = tiny.run("tiny", "feedback", retries=1, rows=[{"id": "nobody", "outcome": 1}])
    assert run.task("take_labels").tries == 1
    assert "DataError: none of 1 rows was taken" in run.said()
    run = tiny.run("tiny", "feedback")
    assert "RequestError: give rows or file, one of the two" in run.said()
