"""What the DAG files share: the models to make DAGs for, and what their DAGs have in common. Imported at every parse."""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk import AssetAlias, AssetOrTimeSchedule, CronTriggerTimetable, Param, get_parsing_context

from mlops_provider.assets import ModelAssets, model_assets, outcome_of
from mlops_provider.config import ModelConfig, discover, load, load_all
from mlops_provider.exceptions import ConfigError
from mlops_provider.operators.base import environment, setting
from mlops_provider.partitions import PATTERNS
from mlops_provider.sections import REF

# Relative, without hidden names and without a way up.
_FILE = r"^[A-Za-z0-9_][A-Za-z0-9_=+-]*([./][A-Za-z0-9_=+-]+)*\.(parquet|csv)$"


@dataclass(frozen=True)
class ModelDags:
    """One model, as its DAG files see it."""

    config: ModelConfig
    assets: ModelAssets
    include: str

    @property
    def name(self) -> str:
        return self.config.name

    def dag(self, loop: str, **params: Param) -> dict[str, Any]:
        """Arguments that the DAGs of the model share."""
        return {
            "dag_id": f"{self.name}.{loop}",
            "start_date": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
            "catchup": False,
            "max_active_runs": 1,
            "params": params,
            "tags": ["mlops", loop, self.name],
            "description": self.config.description,
            "default_args": {"owner": self.config.owner, "retries": 2, "retry_delay": dt.timedelta(seconds=15)},
        }

    def woken_by(self, assets: Any, *, cron: str = "") -> AssetOrTimeSchedule:
        """Schedule of a loop: an event of one of these assets wakes it, and the clock should all events be lost.

        :param cron: the clock; every hour if it is empty, each model at a minute of its own.
        """
        clock = cron or f"{zlib.crc32(self.name.encode()) % 60} * * * *"
        return AssetOrTimeSchedule(timetable=CronTriggerTimetable(clock, timezone="UTC"), assets=assets)

    def step(self, task_id: str, plan: Any = None) -> dict[str, Any]:
        """Arguments that the tasks of a DAG share: the model, and the code archive that `plan` packed."""
        shared: dict[str, Any] = {"task_id": task_id, "model": self.name, "include": self.include}
        return shared | ({"code": plan["code"]} if plan is not None else {})

    def outcome(self, task: str) -> AssetAlias:
        """The outlet of a task that announces one event or another."""
        return outcome_of(self.config, task)

    @property
    def partition(self) -> Param:
        """Param: one partition, or null for what is due."""
        pattern = PATTERNS[self.config.data.partition]
        return Param(None, type=["null", "string"], pattern=pattern, description="A partition; empty for what is due.")


def models(dag_file: str) -> Iterator[ModelDags]:
    """The models to make DAGs for. A task's process asks for one DAG and gets its model only; a model whose model.yaml is
    bad is left out here and named by dags/config_errors.py."""
    include = include_of(dag_file)
    for config in _configs(include, environment()):
        yield ModelDags(config, model_assets(config, environment()), include)


def include_of(dag_file: str) -> str:
    """[mlops] include_dir, or include/ beside the folder of the DAG file, so that any DAG bundle works."""
    return setting("include_dir") or str(Path(dag_file).resolve().parent.parent / "include")


def force() -> Param:
    """Param: do it again although nothing has changed."""
    return Param(False, type=["null", "boolean"], description="Do it again although nothing has changed.")


def ref() -> Param:
    """Param: a commit whose tests are to be run."""
    about = "Test this branch, tag or commit of the model's code repository, and do nothing else."
    return Param(None, type=["null", "string"], pattern=REF, description=about)


def version() -> Param:
    """Param: a model version, or null."""
    about = "A model version; empty for what is due."
    return Param(None, type=["null", "integer"], minimum=1, maximum=2**31 - 1, description=about)


def reason() -> Param:
    """Param: why something is done, for the ledger."""
    return Param(None, type=["null", "string"], maxLength=500, description="Why; kept in the ledger.")


def drill() -> Param:
    """Param: a fault made on purpose."""
    about = "Train with a fault made on purpose, to see that the gate refuses the candidate."
    return Param(None, type=["null", "string"], enum=[None, "shuffled_labels"], description=about)


def rows() -> Param:
    """Param: labels or feedback, row by row."""
    about = "Rows with key and label, perhaps known_at and source; at most 1,000."
    return Param(None, type=["null", "array"], items={"type": "object"}, maxItems=1_000, description=about)


def file() -> Param:
    """Param: a file under data_root. Who may post feedback may not choose what else a worker can read."""
    about = "A parquet or CSV file under data_root with such rows."
    return Param(None, type=["null", "string"], pattern=_FILE, description=about)


def _configs(include: str, environment: str) -> list[ModelConfig]:
    wanted = (get_parsing_context().dag_id or "").split(".")[0]
    if wanted:
        found = [directory for directory in discover(include) if directory.name == wanted]
        try:
            return [load(directory, environment) for directory in found]
        except ConfigError:
            return []
    return [config for _, config in load_all(include, environment)[0]]
