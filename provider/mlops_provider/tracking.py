"""What an MLflow server says over REST: versions of registered models, and whether a run has ended.

No Airflow and no mlflow in here: the triggerer looks with this, and an import of mlflow would cost it seconds and memory.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from mlops_provider.checks import Frozen
from mlops_provider.deployment import MlflowAccess
from mlops_provider.exceptions import AccessDenied, ConfigError, MlopsError, RequestError, Transient

if TYPE_CHECKING:
    import httpx

_PATIENCE = 30
_PAGE = 1000
_ENDED = ("FINISHED", "FAILED", "KILLED")


class Server:
    """An MLflow server that is asked over REST.

    :param access: its address, and what lets us in.
    """

    def __init__(self, access: MlflowAccess) -> None:
        self.access = access

    def ask(self, what: str, **params: Any) -> dict[str, Any]:
        """The answer of a GET below ``/api/2.0/mlflow/``.

        :raises AccessDenied: if the server does not let us in.
        :raises RequestError: if it does not have what is asked for.
        :raises Transient: if it cannot be reached or fails.
        """
        import httpx

        url = f"{self.access.uri}/api/2.0/mlflow/{what}"
        try:
            # httpx follows no redirects by itself and reads no .netrc: credentials go to this server and no other.
            answer = httpx.get(url, params=params, headers=self.access.headers, timeout=_PATIENCE)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{self.access.uri!r} is no address of an MLflow server: {error}") from error
        except httpx.HTTPError as error:
            raise Transient(f"MLflow at {self.access.uri} did not answer: {type(error).__name__}: {error}") from error
        return self._read(answer, what)

    def _read(self, answer: httpx.Response, what: str) -> dict[str, Any]:
        where, status = f"MLflow at {self.access.uri}", answer.status_code
        if status in (401, 403):
            raise refused(self.access.uri, status)
        if status == 429 or status >= 500:
            raise Transient(f"{where} failed with status {status} on {what}")
        try:
            told = answer.json()
        except ValueError:
            told = None
        if status == 200 and isinstance(told, dict):
            return told
        if isinstance(told, dict) and told.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            raise RequestError(f"{where}: {told.get('message')}")
        raise MlopsError(f"{where} answered {what} with status {status} and not as MLflow does: is the address right?")

    def pages(self, what: str, field: str, **params: Any) -> Iterator[dict[str, Any]]:
        """All entries of a search, over all its pages."""
        token = ""
        while True:
            told = self.ask(what, max_results=_PAGE, **params, **({"page_token": token} if token else {}))
            yield from told.get(field, [])
            if not (token := told.get("next_page_token", "")):
                return

    def registered(self) -> dict[str, str]:
        """Of all registered models: the newest version by ``<model>/``, that of each alias by ``<model>/<alias>``."""
        found: dict[str, str] = {}
        for model in self.pages("registered-models/search", "registered_models"):
            name = model["name"]
            if versions := [int(one["version"]) for one in model.get("latest_versions", [])]:
                found[f"{name}/"] = str(max(versions))
            found |= {f"{name}/{one['alias']}": str(one["version"]) for one in model.get("aliases", [])}
        return found

    def tagged(self, tag: str) -> dict[str, str]:
        """Of all registered models the versions with this tag: its value by ``<model>/<version>``."""
        key, _, value = tag.partition("=")
        wanted = f"tags.`{key}` = '{value}'"
        every = self.pages("model-versions/search", "model_versions", filter=wanted)
        return {f"{one['name']}/{one['version']}": value for one in every}

    def ended(self, run_id: str) -> str | None:
        """How a run has ended: FINISHED, FAILED or KILLED; None while it has not."""
        status = str(self.ask("runs/get", run_id=run_id)["run"]["info"]["status"])
        return status if status in _ENDED else None


def refused(uri: str, status: int) -> AccessDenied:
    """The error of a server that does not let us in."""
    why = "it does not know the login or token" if status == 401 else "login or token allow too little"
    return AccessDenied(f"MLflow at {uri} refused us with status {status}: {why}. See the connection of type mlflow.")


class Wanted(Frozen):
    """Which versions of registered models are looked for.

    :param name: shell pattern of the registered names.
    :param alias: the version with this alias.
    :param tag: versions with this tag, ``key=value``. Neither of the two: the newest version of each model.
    """

    name: str = "*"
    alias: str | None = None
    tag: str | None = None

    @model_validator(mode="after")
    def _usable(self) -> Wanted:
        if self.alias and self.tag:
            raise ValueError("give an alias or a tag, and not both")
        if self.tag is not None:
            key, equals, value = self.tag.partition("=")
            if not (key and equals) or set("`'\"") & set(key + value):
                raise ValueError(f"{self.tag!r} is no tag: give key=value, without quotes")
        return self

    def look(self, server: Server) -> dict[str, str]:
        """What the server has, of all models: who looks for others may share it."""
        return server.tagged(self.tag) if self.tag else server.registered()

    def among(self, every: Mapping[str, str]) -> dict[str, str]:
        """Those of a look that are looked for."""
        return {place: token for place, token in every.items() if self._counts(*place.rpartition("/")[::2])}

    def _counts(self, name: str, what: str) -> bool:
        return fnmatch.fnmatchcase(name, self.name) and (self.tag is not None or what == (self.alias or ""))

    def told(self, found: Mapping[str, str]) -> list[dict[str, Any]]:
        """What was found, for people: name and version."""
        split = [(*place.rpartition("/")[::2], token) for place, token in sorted(found.items())]
        return [{"model": name, "version": int(what if self.tag else token)} for name, what, token in split]

    def back(self, told: list[dict[str, Any]]) -> dict[str, str]:
        """What a look had found, from what was told of it."""
        if self.tag:
            value = self.tag.partition("=")[2]
            return {f"{one['model']}/{one['version']}": value for one in told}
        return {f"{one['model']}/{self.alias or ''}": str(one["version"]) for one in told}
