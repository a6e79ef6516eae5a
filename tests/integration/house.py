"""An installation to run the DAGs in: folders, a data repository, the deployment's settings, and runs by `dag.test()`."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq

from mlops_provider.deployment import Deployment
from mlops_provider.ledger import Record
from mlops_provider.loops import Loops
from mlops_provider.modelcode import pack
from mlops_provider.steps.step import Job
from tests.support import tiny

REPOSITORY = Path(__file__).resolve().parents[2]
FLIGHTS = REPOSITORY / "include" / "models" / "flight_delays"
SLICE = "flights_slice"
_STORED: set[str] = set()  # models whose DAGs are in Airflow's database
EVERY = 10  # one flight in so many: about 2,800 a month, spread over its days


@dataclass(frozen=True)
class Task:
    """A task instance as it ended."""

    state: str
    tries: int
    result: Any


@dataclass(frozen=True)
class Event:
    """An asset event that a task emitted."""

    asset: str
    task: str
    extra: dict[str, Any]


@dataclass
class Run:
    """A DAG run as it ended.

    :ivar errors: the exceptions that made task instances fail or wait for a retry, by task id and map index.
    """

    state: str
    tasks: dict[tuple[str, int], Task]
    events: list[Event]
    errors: dict[tuple[str, int], list[str]] = field(default_factory=dict)

    def states(self) -> dict[str, str]:
        """State by task id; the mapped ones as ``task[0]``."""
        return {f"{name}[{place}]" if place >= 0 else name: task.state for (name, place), task in self.tasks.items()}

    def task(self, name: str, place: int = -1) -> Task:
        return self.tasks[name, place]

    def announced(self) -> list[str]:
        """Names of the assets of which events were emitted, sorted."""
        return sorted(event.asset for event in self.events)

    def said(self, place: int | None = None) -> str:
        """All errors, or those of one place of the mapping."""
        found = [messages for (_, where), messages in self.errors.items() if place in (None, where)]
        return "\n".join(message for messages in found for message in messages)


class House:
    """One installation.

    :param prefix: registry prefix, so that installations can share an MLflow server.
    :param mlflow: its address.
    :ivar changed: settings that a test wants otherwise.
    """

    def __init__(self, root: Path, *, prefix: str, mlflow: str) -> None:
        self.root, self.prefix, self.mlflow = root, prefix, mlflow
        self.include, self.data, self.artifacts = root / "include", root / "data", root / "artifacts"
        (self.include / "models").mkdir(parents=True)
        self.repository = self.data / "repository.git"
        self.changed: dict[str, str | None] = {}
        subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(self.repository)], check=True)

    @property
    def settings(self) -> dict[str, str | None]:
        """What Airflow finds in its environment; None takes a setting away."""
        return {
            "AIRFLOW__MLOPS__ARTIFACT_ROOT": str(self.artifacts),
            "AIRFLOW__MLOPS__DATA_ROOT": str(self.data),
            "AIRFLOW__MLOPS__INCLUDE_DIR": str(self.include),
            "AIRFLOW__MLOPS__REGISTRY_PREFIX": self.prefix,
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": self.mlflow}),
            **self.changed,
        }

    @contextmanager
    def lived_in(self) -> Iterator[None]:
        """While Airflow has this installation's settings."""
        with patch.dict(os.environ, {name: value for name, value in self.settings.items() if value is not None}):
            yield

    def dag(self, model: str, loop: str) -> Any:
        """The DAG of a model and a loop, from dags/."""
        with self.lived_in():
            bag = parsed(REPOSITORY / "dags" / f"{loop}.py")
        assert bag.import_errors == {}
        return bag.dags[f"{model}.{loop}"]

    def run(self, model: str, loop: str, *, retries: int = 0, **conf: Any) -> Run:
        """Runs a loop of a model to its end, beside all other DAGs, as some of them give its assets a meaning."""
        if model not in _STORED:
            with self.lived_in():
                stored(*parsed(REPOSITORY / "dags").dags.values())
            _STORED.add(model)
        return self.tested(self.dag(model, loop), retries=retries, **conf)

    def tested(self, dag: Any, *, retries: int = 0, **conf: Any) -> Run:
        """Runs a DAG to its end; a failed task is repeated at once, as often as `retries` says."""
        errors: dict[tuple[str, int], list[str]] = {}

        def failed(context: Any) -> None:
            ti, error = context["ti"], context["exception"]
            errors.setdefault((ti.task_id, ti.map_index), []).append(f"{type(error).__name__}: {error}")

        for task in dag.task_dict.values():
            _prepare(task, failed, retries)
        with self.lived_in():
            run = dag_test(dag, conf)
            return Run(str(run.state), _tasks(run), _events(run), errors)

    def deployment(self) -> Deployment:
        return Deployment(
            artifact_root=str(self.artifacts),
            data_root=str(self.data),
            tracking_uri=self.mlflow,
            registry_prefix=self.prefix,
            actor="test",
        )

    def job(self, model: str) -> Job:
        """The model and the deployment, as steps get them."""
        place = self.deployment()
        return Job(pack(self.include / "models" / model, "local", place.storage, place.artifact_root), place)

    def loops(self, model: str) -> Loops:
        """The loops without Airflow: the short way to a state in which a test begins."""
        return Loops(self.job(model), lambda label, outcome: None)

    def ledger(self, model: str, *kinds: str) -> list[Record]:
        records = self.deployment().ledger(model).records()
        return [record for record in records if not kinds or record.kind in kinds]

    def registered(self, model: str) -> dict[int, dict[str, str]]:
        """Versions in MLflow with their tags, lowest first."""
        found = self.registry().search_model_versions(f"name='{self.prefix}{model}'")
        return {int(version.version): dict(version.tags) for version in sorted(found, key=lambda v: int(v.version))}

    def alias(self, model: str) -> int | None:
        """The version in MLflow that is called champion, None if none is."""
        found = self.registry().search_registered_models(f"name='{self.prefix}{model}'")
        version = found[0].aliases.get("champion") if found else None
        return None if version is None else int(version)

    def registry(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.mlflow, self.mlflow)

    def git(self, *arguments: str) -> str:
        """Output of git in the data repository."""
        command = ["git", "--git-dir", str(self.repository), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def deliver_tiny(house: House, *days: str, what: tuple[str, ...] = ("inputs", "labels")) -> None:
    """Delivers days of the tiny model."""
    for day in days:
        for kind in what:
            tiny.feed.deliver(str(house.data), day, kind)


def parsed(path: Path) -> Any:
    """The DAG bag of a file or a folder."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=str(path), bundle_path=path if path.is_dir() else path.parent, bundle_name="dags-folder")


def stored(*dags: Any) -> None:
    """Writes DAGs to Airflow's database, as the DAG processor would."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    bag = parsed(Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]))
    for dag in dags:
        bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)


def dag_test(dag: Any, conf: dict[str, Any]) -> Any:
    """A run of a DAG that need not lie in the DAGs folder."""
    stored(dag)
    return dag.test(run_conf=conf, logical_date=None)


def _prepare(task: Any, failed: Any, retries: int) -> None:
    given = task.partial_kwargs if task.is_mapped else vars(task)
    given |= {"retries": retries, "retry_delay": dt.timedelta(0)}
    given |= {"on_failure_callback": [failed], "on_retry_callback": [failed]}


def _tasks(run: Any) -> dict[tuple[str, int], Task]:
    return {
        (ti.task_id, ti.map_index): Task(str(ti.state), ti.try_number, _result(ti)) for ti in run.get_task_instances()
    }


def _result(ti: Any) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(
            run_id=ti.run_id, key="return_value", task_ids=ti.task_id, dag_ids=ti.dag_id, map_indexes=ti.map_index
        )
        row = session.scalars(query).first()
        return None if row is None else XComModel.deserialize_value(row)


def _events(run: Any) -> list[Event]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetEvent).where(AssetEvent.source_dag_id == run.dag_id, AssetEvent.source_run_id == run.run_id)
        found = session.scalars(query.order_by(AssetEvent.id))
        return [Event(event.asset.name, str(event.source_task_id), dict(event.extra)) for event in found]


def write_slice(include: Path, **changes: Any) -> Path:
    """Writes a variant of flight_delays for a slice of its data: the real columns, features and suites, fewer rows."""
    import yaml

    models = include / "models"
    shutil.copytree(FLIGHTS, models / "flight_delays", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    folder = models / SLICE
    for suite in ("raw", "features"):
        _relaxed(FLIGHTS / "expectations" / f"{suite}.json", folder / "expectations" / f"{suite}.json")
    content = {
        "extends": "../flight_delays/model.yaml",
        "name": SLICE,
        "data": {"dvc": {"path": SLICE}},
        "features": {"optional": ["carrier_late_7d"]},  # in the first month, which it is trained on, there is no past
        "training": {"rounds": 60, "params": {"min_data_in_leaf": 20, "num_leaves": 15}, "window": {"minimum": 1}},
        "evaluation": {"resamples": 100},
        "gates": {"thresholds": {"auc": {"min": 0.51}}},
        **changes,
    }
    folder.joinpath("model.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def _relaxed(source: Path, target: Path) -> None:
    """A suite as it is, but for fewer rows."""
    suite = json.loads(source.read_text())
    for expectation in suite["expectations"]:
        if expectation["type"] == "expect_table_row_count_to_be_between":
            expectation["kwargs"]["min_value"] = 500
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(suite))


def deliver_slice(house: House, months: Path, month: str, what: str) -> None:
    """Delivers every `EVERY`-th flight of a real month; the weather and the planes whole."""
    feed().deliver(str(months), month, what)
    source, target = months / "flights", house.data / "flights"
    (target / month).mkdir(parents=True, exist_ok=True)
    if what == "inputs":
        shutil.copy(source / "planes.parquet", target)
        shutil.copy(source / month / "weather.parquet", target / month)
    table = pq.read_table(source / month / f"{what}.parquet")
    pq.write_table(table.take(list(range(0, table.num_rows, EVERY))), target / month / f"{what}.parquet")


def feed() -> ModuleType:
    """The delivery code of the flight delays model."""
    spec = importlib.util.spec_from_file_location("flights_feed", FLIGHTS / "feed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
