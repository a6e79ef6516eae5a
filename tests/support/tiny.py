"""A model small enough to run whole loops in seconds, and a deployment of its own on local files and SQLite."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from mlops_provider.deployment import Deployment
from mlops_provider.ledger import Draft, Record
from mlops_provider.loops import Loops
from mlops_provider.modelcode import pack
from mlops_provider.steps import plan
from mlops_provider.steps.records import DataWork, ModelVersion, SplitRef
from mlops_provider.steps.step import Job, Outcome, Request, find
from mlops_provider.steps.training.split import save_split

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODELS = Path(__file__).parent / "models"


def _feed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_feed", MODELS / "tiny" / "feed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


feed = _feed()
DAYS: tuple[str, ...] = feed.DAYS


class Killed(BaseException):
    """Stands for a kill: nothing in the provider may catch it."""


def values(**changes: Any) -> dict[str, Any]:
    """The content of the tiny model's model.yaml with changes merged in; a None takes a key away."""
    return _merged(yaml.safe_load((MODELS / "tiny" / "model.yaml").read_text()), changes)


def write_model(include: Path, *, name: str = "tiny", **changes: Any) -> Path:
    """Writes the tiny model, changed, under include/models and returns its directory."""
    directory = include / "models" / name
    shutil.copytree(MODELS / "tiny", directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    content = values(**{"name": name, **changes})
    directory.joinpath("model.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return directory


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        if value is None:
            del merged[key]
    return merged


def tracking(database: Path) -> str:
    return f"sqlite:///{database}"


@dataclass
class World:
    """One installation with the tiny model in it."""

    root: Path
    told: list[tuple[str, Outcome]] = field(default_factory=list)

    @property
    def include(self) -> Path:
        return self.root / "include"

    @property
    def model(self) -> Path:
        return self.include / "models" / "tiny"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def deployment(self) -> Deployment:
        return Deployment(
            artifact_root=str(self.artifacts),
            data_root=str(self.data),
            tracking_uri=tracking(self.root / "mlflow.db"),
            actor="test",
        )

    def create(self) -> None:
        write_model(self.include)
        repository = self.data / "repository.git"
        subprocess.run(
            ["git", "init", "-q", "--bare", "--template=", "--initial-branch=main", str(repository)], check=True
        )

    def configure(self, **changes: Any) -> Job:
        """Changes model.yaml and packs it."""
        write_model(self.include, **changes)
        return self.job()

    def job(self, *, force: bool = False, **deployment: Any) -> Job:
        place = self.deployment.model_copy(update=deployment)
        model = pack(self.model, place.environment, place.storage, place.artifact_root)
        return Job(model, place, force=force)

    def deliver(self, *days: str, what: tuple[str, ...] = ("inputs", "labels")) -> None:
        for day in days:
            for kind in what:
                feed.deliver(str(self.data), day, kind)

    def file(self, day: str, what: str) -> Path:
        return self.data / "tiny" / day / f"{what}.parquet"

    def rewrite(self, day: str, what: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        """Delivers a day's inputs or labels with a change."""
        change(pd.read_parquet(self.file(day, what))).to_parquet(self.file(day, what))

    def work(self, day: str, job: Job | None = None) -> DataWork:
        return plan.State(job or self.job()).work(day)

    def split(self, holdout: str, job: Job | None = None) -> SplitRef:
        job = job or self.job()
        return save_split(job, plan.split(plan.State(job), holdout))

    def loops(self, job: Job | None = None) -> Loops:
        return Loops(job or self.job(), lambda label, outcome: self.told.append((label, outcome)))

    def records(self, *kinds: str) -> list[Record]:
        return [r for r in self.job().ledger.records() if not kinds or r.kind in kinds]

    def versions(self) -> list[ModelVersion]:
        return [ModelVersion.model_validate(r.facts["version"]) for r in self.records("candidate")]


def registry_of(world: World) -> MlflowClient:
    """MLflow as anybody sees it."""
    from mlflow import MlflowClient

    return MlflowClient(world.deployment.tracking_uri, world.deployment.tracking_uri)


def alias(world: World) -> int | None:
    """The version that MLflow names as champion."""
    found = registry_of(world).get_registered_model("tiny").aliases.get("champion")
    return int(found) if found else None


def crown(world: World, version: ModelVersion) -> None:
    """Makes a version champion, in the ledger alone, as another writer would."""
    draft = Draft(
        kind="promotion",
        partition=version.split.holdout,
        version=version.version,
        outcome="promoted",
        reason="another writer",
        facts={"version": version.model_dump(mode="json")},
    )
    world.job().ledger.append(draft, actor="another")


def call(job: Job, name: str, /, **arguments: Any) -> Any:
    """The result of a step."""
    step = find(name)
    return step(job, step.arguments(**arguments))


def outcome(job: Job, name: str, **arguments: Any) -> Outcome:
    """The outcome of a step: its result, and whether it was reused."""
    step = find(name)
    return step.run(job, step.arguments(**arguments))


def request(job: Job, name: str, file: Path, **arguments: Any) -> Path:
    """Writes the request that asks for a step, as a pod gets it."""
    given = find(name).arguments(**arguments).model_dump(mode="json")
    asked = Request(step=name, code=job.model.ref, deployment=job.deployment, arguments=given)
    file.write_text(asked.model_dump_json())
    return file


def candidate(world: World, job: Job | None = None, holdout: str = DAYS[2], **arguments: Any) -> dict[str, Any]:
    """All that `register` needs: a trained, packaged and evaluated candidate."""
    job = job or world.job()
    split = world.split(holdout, job)
    trained = call(job, "train", split=split, **arguments)
    package = call(job, "package", trained=trained)
    evaluation = call(job, "evaluate", package=package, split=split)
    return {"trained": trained, "package": package, "evaluation": evaluation}


def train(world: World, job: Job, holdout: str = DAYS[2], **arguments: Any) -> ModelVersion:
    """Trains, packages, evaluates and registers a candidate."""
    work = plan.TrainWork(split=world.split(holdout, job), why="test")
    version: ModelVersion = world.loops(job).train(work, **arguments).version
    return version


def lived(world: World) -> Iterator[str]:
    """Lives through the days of the tiny model, and stops at each stage with its name."""
    world.create()
    registry_of(world).search_experiments()
    yield "empty"
    world.deliver(*DAYS[:3])
    yield "delivered"
    loops = world.loops()
    loops.ci()
    yield "accepted"
    while loops.cm():
        pass
    yield "decided"
    candidate(world)
    yield "trained"
    loops.ct()
    yield "registered"
    loops.cd()
    yield "champion"
    world.deliver(DAYS[3], what=("inputs",))
    loops.score()
    yield "scored"
    world.deliver(DAYS[3], what=("labels",))
    loops.ci()
    loops.cm()
    loops.ct()
    yield "challenger"
    loops.drain()
    yield "second"
    for what in ("inputs", "labels"):
        world.deliver(DAYS[4], what=(what,))
        loops.drain()
    yield "lapped"


def with_block(job: Job, block: str) -> Job:
    """The job with time blocks of another width, which model.yaml would be refused for where they are too few."""
    evaluation = job.config.evaluation.model_copy(update={"block": block})
    job.model.config = job.config.model_copy(update={"evaluation": evaluation})
    return job
