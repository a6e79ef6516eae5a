"""One real installation for all system tests: Airflow standalone, an MLflow server, a data repository, several models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.system.lives import Lives
from tests.system.site import CODED, LOOPS, TINY, Site, write_models
from tools.demo.environment import REPOSITORY
from tools.demo.services import Services


@pytest.fixture(scope="session")
def lives(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    root = tmp_path_factory.mktemp("site")
    include = write_models(root / "include")
    # A copy, so that a test can add a DAG of its own.
    dags = shutil.copytree(REPOSITORY / "dags", root / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    # No DAG file changes here: what looking for changes costs would only slow down the loops.
    extra = {
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",  # a test takes the models that it needs
        "AIRFLOW__CORE__PARALLELISM": "3",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
    }
    with Services(root / "home", dags=dags, include=include, extra_env=extra) as services, services.api() as api:
        api.wait_for_dags([f"{name}.{loop}" for name in (*TINY, CODED, "flights_short") for loop in LOOPS])
        with Lives(Site(services, api), [item.name for item in request.session.items]) as lives:
            yield lives


@pytest.fixture(scope="session")
def site(lives: Lives) -> Site:
    """The installation, with what the tests look at under way."""
    return lives.site
