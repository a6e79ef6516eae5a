"""A small client of Airflow's REST API: what a person does in the UI, for the demo and the system tests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

Json = dict[str, Any]
T = TypeVar("T")
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
PAGE = 100
FINAL_STATES = frozenset({"success", "failed"})


class ApiError(RuntimeError):
    """Airflow refused a request, could not be reached, or did not get where it should in time."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AirflowApi:
    """A logged-in user of one Airflow; each call has a timeout, and only what does no harm is tried again."""

    def __init__(self, url: str, username: str, password: str, *, retries: int = 4) -> None:
        """Only remember: the login comes with the first call. A proxy from the environment is not used."""
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False)
        self._login = {"username": username, "password": password}
        self._retries = retries
        self._token = ""
        self._assets: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def request(self, method: str, path: str, *, json: Json | None = None, params: Json | None = None) -> Any:
        """Call `/api/v2<path>` and return the answer, None if it is empty; ApiError on any failure.

        A GET is asked again if the server fails, as it does on SQLite under load: it changes nothing.
        """
        call = self.insist if method == "GET" else self._call
        return call(method, path, json=json, params=params)

    def _call(self, method: str, path: str, **content: Any) -> Any:
        """Call once, after a new login if the old one has run out."""
        url = f"/api/v2{path}"
        for attempt in ("with the token at hand", "after a new login"):
            if not self._token or attempt == "after a new login":
                self._token = self._log_in()
            headers = {"Authorization": f"Bearer {self._token}"}
            answer = self._send(method, url, headers=headers, **content)
            if answer.status_code != httpx.codes.UNAUTHORIZED:
                break
        return _decode(answer)

    def insist(self, method: str, path: str, **content: Any) -> Any:
        """Call what may be called twice again if the server fails, as SQLite under load does."""
        for pause in (0.5, 1.0, 2.0, 4.0):
            try:
                return self._call(method, path, **content)
            except ApiError as error:
                if error.status is None or error.status < 500:
                    raise
                time.sleep(pause)
        return self._call(method, path, **content)

    def _log_in(self) -> str:
        answer = _decode(self._send("POST", "/auth/token", json=self._login))
        return str(answer["access_token"])

    def _send(self, method: str, url: str, **content: Any) -> httpx.Response:
        """Send; again if no connection came about (a GET also if it broke: to ask twice does no harm)."""
        again: tuple[type[httpx.TransportError], ...] = (httpx.ConnectError, httpx.ConnectTimeout)
        if method == "GET":
            again = (*again, httpx.ReadError, httpx.RemoteProtocolError)
        for attempt in range(self._retries + 1):
            try:
                return self._client.request(method, url, **content)
            except httpx.TransportError as error:
                if attempt == self._retries or not isinstance(error, again):
                    raise ApiError(f"{method} {url}: {type(error).__name__}: {error}") from error
                time.sleep(0.25 * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pages(self, path: str, key: str, *, limit: int | None = None, **params: Any) -> list[Json]:
        """Return the items of a list, page by page, up to `limit` of them."""
        items: list[Json] = []
        while limit is None or len(items) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(items))
            page = self.request("GET", path, params={**params, "limit": size, "offset": len(items)})
            items += page[key]
            if len(page[key]) < size:
                break
        return items

    def trigger(self, dag_id: str, conf: Json | None = None) -> str:
        """Start a run and return its run id."""
        # On SQLite the scheduler compares with a clock that counts whole seconds: a run that is due now would
        # wait for the next one. The API wants the logical date named, even as null.
        due = datetime.now(UTC) - timedelta(seconds=1)
        run = f"manual__{uuid.uuid4()}"  # named here: if it is asked for twice, it is there once
        body = {"logical_date": None, "run_after": due.isoformat(), "conf": conf or {}, "dag_run_id": run}
        try:
            self.insist("POST", f"/dags/{quote(dag_id)}/dagRuns", json=body)
        except ApiError as error:
            if error.status != httpx.codes.CONFLICT:
                raise
        return run

    def run(self, dag_id: str, run_id: str) -> Json:
        """Return one run as it is now."""
        found: Json = self.request("GET", _run_path(dag_id, run_id))
        return found

    def wait_run(self, dag_id: str, run_id: str, *, timeout: float = 600.0, poll: float = 0.25) -> Json:
        """Wait until a run ends and return it, in `state` success or failed; ApiError if it takes longer."""

        def finished() -> Json | None:
            run = self.run(dag_id, run_id)
            return run if run["state"] in FINAL_STATES else None

        return wait_until(finished, f"run {run_id} of {dag_id} to end", timeout=timeout, poll=poll)

    def runs(self, dag_id: str = "~", *, limit: int | None = None, **filters: Any) -> list[Json]:
        """Return runs of a DAG ("~": of all), latest first; `filters` are the API's own (state=["failed"], …)."""
        path = f"/dags/{quote(dag_id)}/dagRuns"
        return self._pages(path, "dag_runs", limit=limit, **{"order_by": "-id", **filters})

    def task_instances(self, dag_id: str, run_id: str, *, limit: int | None = None, **filters: Any) -> list[Json]:
        """Return the task instances of a run, mapped ones included; "~" and "~" are those of all runs."""
        return self._pages(f"{_run_path(dag_id, run_id)}/taskInstances", "task_instances", limit=limit, **filters)

    def asset_id(self, name: str) -> int:
        """Return the number of the asset with exactly this name; ApiError if there is none."""
        if name not in self._assets:
            self._assets[name] = self._asset_id(name)
        return self._assets[name]

    def _asset_id(self, name: str) -> int:
        for asset in self._pages("/assets", "assets", name_pattern=name):
            if asset["name"] == name:
                return int(asset["id"])
        raise ApiError(f"no asset is named {name!r}: is a DAG that uses it loaded?")

    def post_asset_event(self, name: str, extra: Json | None = None) -> Json:
        """Report that an asset has changed, by its name; starts the DAGs that wait for it."""
        body = {"asset_id": self.asset_id(name), "extra": extra or {}}
        return dict(self.insist("POST", "/assets/events", json=body))  # a second event does no harm: it only wakes

    def unpause(self, pattern: str) -> None:
        """Put the DAGs whose names are like the pattern (% for any text) to work."""
        self.insist("PATCH", "/dags", params={"dag_id_pattern": pattern}, json={"is_paused": False})

    def parse_again(self, *dag_ids: str) -> None:
        """Ask for the files of these DAGs to be read again soon."""
        for dag_id in dag_ids:
            token = self.request("GET", f"/dags/{quote(dag_id)}")["file_token"]
            self.insist("PUT", f"/parseDagFile/{token}")

    def import_errors(self) -> list[Json]:
        """Return the DAG files that cannot be loaded, with `filename` and `stack_trace`."""
        return self._pages("/importErrors", "import_errors")

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task as text."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}"
        page = self.request("GET", path, params={"full_content": True, "map_index": map_index})
        return "\n".join(_line(entry) for entry in page["content"])

    def wait_for_dags(self, dag_ids: Iterable[str], timeout: float = 120.0) -> None:
        """Wait until Airflow has loaded these DAGs; ApiError with its import errors if it takes longer."""
        wanted = set(dag_ids)
        missing: set[str] = set()

        def loaded() -> bool:
            found = {dag["dag_id"] for dag in self._pages("/dags", "dags", exclude_stale=True)}
            missing.clear()
            missing.update(wanted - found)
            return not missing

        try:
            wait_until(loaded, "the DAGs to load", timeout=timeout, poll=0.5)
        except ApiError as error:
            broken = "\n".join(f"{e['filename']}:\n{e['stack_trace']}" for e in self.import_errors())
            raise ApiError(f"{error}; missing: {sorted(missing)}\n{broken}".rstrip()) from None


def wait_until(condition: Callable[[], T | None], what: str, *, timeout: float, poll: float) -> T:
    """Call `condition` until it returns something true, and return that; ApiError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise ApiError(f"waited {timeout:.0f} s for {what}")
        time.sleep(poll)
    return result


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='~')}"


def _decode(answer: httpx.Response) -> Any:
    """Return the body of a good answer; ApiError with the server's reason for a bad one."""
    if answer.is_success and not answer.content:
        return None
    try:
        body = answer.json()
    except ValueError:
        # For an unknown path Airflow answers with its web page and 200.
        body = {"detail": f"not JSON but {answer.headers.get('content-type')}: {answer.text[:200]}"}
        if answer.is_success:
            raise ApiError(_complaint(answer, body), answer.status_code) from None
    if not answer.is_success:
        raise ApiError(_complaint(answer, body), answer.status_code)
    return body


def _complaint(answer: httpx.Response, body: Any) -> str:
    detail = body.get("detail", body) if isinstance(body, dict) else body
    request = answer.request
    return f"{request.method} {request.url.path}: {answer.status_code} {answer.reason_phrase}: {detail}"


def _line(entry: Json | str) -> str:
    """Return a structured log entry as one line of text."""
    if isinstance(entry, str):
        return entry
    told = [str(entry[key]) for key in ("timestamp", "level", "event") if entry.get(key)]
    # The task's exception stands beside its message, outermost first.
    told += [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or []]
    return " ".join(told)
