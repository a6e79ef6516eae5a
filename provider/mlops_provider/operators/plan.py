"""The first task of every loop: works out from state what is due."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context, conf
from airflow.sdk.exceptions import AirflowSkipException

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import RequestError
from mlops_provider.operators.base import StepOperator

log = logging.getLogger(__name__)

_PIECE = 1024  # bytes of a version beyond which it travels by reference

_PARAMS: dict[str, tuple[str, ...]] = {
    "ci": ("partition", "force", "ref"),
    "score": ("partition",),
    "cm": (),
    "ct": ("partition", "drill", "force"),
    "cd": ("version",),
    "rollback": ("version", "reason"),
    "feedback": ("rows", "file"),
}


class PlanOperator(StepOperator):
    """Works out what a loop has to do, packs the model's code for the tasks that follow, and refuses unknown `conf` keys.

    Returns the work (a list for the loops that map over it) and pushes the code archive as XCom `code`. Skips what follows
    if nothing is due. It also mends what a killed task left half done: the registry's alias follows the ledger.

    :param loop: ci, score, cm, ct, cd, rollback or feedback.
    """

    template_fields: Sequence[str] = ("model", "loop", "code")

    def __init__(self, *, loop: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loop = loop

    def run(self, context: Context) -> Any:
        """Plans."""
        from mlops_provider.steps import plan

        asked = self.asked(context)
        job = self.job(context)
        context["ti"].xcom_push(key="code", value=job.model.ref.model_dump(mode="json"))
        self.mend(job)
        if self.loop == "feedback":
            return self.fitted(context, asked)
        if self.loop == "rollback":
            return asked
        work = getattr(plan, self.loop)(job, **{k: v for k, v in asked.items() if k in ("partition", "version", "ref")})
        if not work and not (self.loop == "ci" and plan.code_due(job, asked["ref"])):
            raise AirflowSkipException(f"nothing is due for {self.model}.{self.loop}")
        log.info("due: %s", work)
        if isinstance(work, list):
            # What Airflow would refuse to map over comes in the next run, in the order of the data.
            return [self._slim(context, one) for one in work[: conf.getint("core", "max_map_length")]]
        return self.fitted(context, work.model_dump(mode="json"))

    def _slim(self, context: Context, work: Frozen) -> dict[str, Any]:
        """One piece of a list: what a model version is takes kilobytes, and the list has to fit as a whole."""
        found = work.model_dump(mode="json")
        if self.loop == "cd":
            return self.fitted(context, found, limit=_PIECE)
        if "version" in found:
            found["version"] = self.fitted(context, found["version"], limit=_PIECE)
        return found

    def asked(self, context: Context) -> dict[str, Any]:
        """The Params that were given.

        :raises RequestError: for a key that this loop does not know.
        """
        known = _PARAMS[self.loop]
        given = getattr(context["dag_run"], "conf", None) or {}
        if unknown := sorted(set(given) - set(known)):
            allowed = f"knows {', '.join(known)}" if known else "takes none"
            raise RequestError(f"conf: unknown key {', '.join(unknown)}; {self.model}.{self.loop} {allowed}")
        return {key: context["params"].get(key) for key in known}

    def mend(self, job: Any) -> None:
        """In the loop that releases: finishes what was decided but not written through to the registry."""
        if self.loop == "cd":
            from mlops_provider.steps.release.promote import repair

            if repair(job):
                log.warning("the registry's champion alias did not follow the ledger; it was put right")
