"""Data that nobody announces, in a real Airflow."""

from __future__ import annotations

from tests.support.tiny import DAYS
from tests.system.conftest import Site


def test_a_file_that_appears_wakes_the_loop(site: Site) -> None:
    noticed = site.model("noticed")
    before = {run["dag_run_id"] for run in noticed.runs("ci")}
    noticed.put(DAYS[0], "inputs")
    noticed.put(DAYS[0], "labels")
    noticed.until(lambda: DAYS[0] in noticed.state().accepted, f"{DAYS[0]} accepted")
    woken = [run["run_type"] for run in noticed.runs("ci") if run["dag_run_id"] not in before]
    assert "asset_triggered" in woken
