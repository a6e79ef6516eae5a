"""What all sensors share: they look once, then wait in the triggerer, and remember what they have found."""

from __future__ import annotations

import datetime as dt
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

from airflow.sdk import Asset, BaseSensorOperator, Context, PokeReturnValue, conf
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError

from mlops_provider.config import ModelConfig, check_name, load
from mlops_provider.exceptions import ConfigError, MlopsError, Transient
from mlops_provider.operators.base import environment, setting
from mlops_provider.storage import digest

log = logging.getLogger(__name__)


class WaitingSensor(BaseSensorOperator):
    """What the sensors share: they look once, then wait in the triggerer, and remember what they have found.

    What a sensor found last is kept in the state store of an asset of its own, for its next run; what this run found in the
    state store of the task, so that a retry or a clear finds the same again. A partition that is asked for is looked at again.
    """

    template_fields: Sequence[str] = ("model",)

    def __init__(
        self,
        *,
        model: str | None,
        include: str | None,
        watched: Sequence[str | None],
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        name = f"mlops.watched.{digest([model, *watched])[:12]}"
        self.memory = Asset(name=name, uri=f"x-mlops://watched/{name}", group="mlops")
        super().__init__(**{**kwargs, "inlets": [*(kwargs.get("inlets") or []), self.memory]})
        self.model = model
        self.include = include
        self.deferrable = deferrable

    @abstractmethod
    def looked(self, context: Context) -> Any:
        """What the sensor waits for, if it is there; else None. Blocks."""

    @abstractmethod
    def trigger(self, context: Context) -> Any:
        """What waits in its place."""

    @abstractmethod
    def remember(self, context: Context, found: Any) -> None:
        """Writes down what was found, for the next run."""

    def execute(self, context: Context) -> Any:
        """Waits, and returns what was found.

        :raises AirflowSensorTimeout: if it was not there within `timeout`; with `soft_fail` the task is skipped.
        :raises AirflowFailException: for what no waiting can mend.
        """
        if not self.deferrable:
            return super().execute(context)
        found = self.poke(context)
        if not found:
            trigger = told(lambda: self.trigger(context))
            self.defer(trigger=trigger, method_name="execute_complete", timeout=dt.timedelta(seconds=self.timeout))
        return found.xcom_value

    def poke(self, context: Context) -> PokeReturnValue:
        found = self.pinned(context)
        if found is None:
            found = told(lambda: self.looked(context))
        return PokeReturnValue(found is not None, None if found is None else self._kept(context, found))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Goes on after the wait."""
        if "problem" in event:
            fail(event["problem"], hopeless=event["hopeless"])
        return self._kept(context, event["found"])

    def configuration(self) -> ModelConfig:
        """The model's configuration.

        :raises ConfigError: if it cannot be read.
        """
        include = self.include or setting("include_dir")
        if not include:
            raise ConfigError("[mlops] include_dir is not set: name the folder that holds models/ there")
        return load(f"{include}/models/{check_name(str(self.model))}", environment())

    def recalled(self, context: Context) -> Any:
        """What an earlier run wrote down; None if nothing."""
        return context["asset_state_store"][self.memory].get(self._key(context))

    def write_down(self, context: Context, value: Any) -> None:
        context["asset_state_store"][self.memory].set(self._key(context), value)

    def _key(self, context: Context) -> str:
        return f"{context['dag'].dag_id}.{self.task_id}"

    def pinned(self, context: Context) -> Any:
        """What this run found before, if it is run again."""
        return context["task_state_store"].get("found")

    def _kept(self, context: Context, found: Any) -> Any:
        context["task_state_store"].set("found", found)
        self.remember(context, found)
        log.info("found: %s", found)
        return found


def told(look: Any) -> Any:
    """The result of a look; what no waiting can mend fails at once."""
    try:
        return look()
    except (MlopsError, ValidationError, PermissionError) as error:
        if isinstance(error, Transient):
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def fail(problem: str, *, hopeless: bool) -> NoReturn:
    """Ends a task whose trigger gave up; with hope for a retry, or without."""
    if hopeless:
        raise AirflowFailException(problem)
    raise Transient(f"gave up after several looks: {problem}")
