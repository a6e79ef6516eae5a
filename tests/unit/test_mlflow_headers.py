"""Credentials for MLflow: per call, and mixed up with those of no other call."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points

from mlops_provider.deployment import MlflowAccess
from mlops_provider.mlflow_headers import MlflowHeaders, using

ANN = MlflowAccess(username="ann", password="s3cret")
BEA = MlflowAccess(token="t0ken")
BASIC, BEARER = {"Authorization": "Basic YW5uOnMzY3JldA=="}, {"Authorization": "Bearer t0ken"}


def headers(name: str = "") -> dict[str, str]:
    """What MLflow would send now, from a thread of this name."""
    if not name:
        return MlflowHeaders().request_headers()
    with ThreadPoolExecutor(1, thread_name_prefix=name) as pool:
        return pool.submit(MlflowHeaders().request_headers).result()


def test_headers_are_there_for_the_call_and_gone_after_it() -> None:
    before = dict(os.environ)
    assert (headers(), MlflowHeaders().in_context()) == ({}, False)
    with using(ANN):
        assert headers() == BASIC
        with using(BEA):
            assert headers() == BEARER
        assert headers() == BASIC
        with using(MlflowAccess()):
            assert headers() == {}
    assert headers() == {}
    assert dict(os.environ) == before


def test_mlflows_own_threads_get_them_and_others_do_not() -> None:
    with using(ANN):
        assert headers("MlflowHttpArtifactRepository") == BASIC
        assert headers("somebody") == {}
        with using(ANN):
            assert headers("MlflowMlflowArtifactsRepository") == BASIC
        with using(BEA):
            assert headers("MlflowHttpArtifactRepository") == {}
    assert headers("MlflowHttpArtifactRepository") == {}


def test_two_calls_at_once_each_get_their_own() -> None:
    found: dict[str, dict[str, str]] = {}
    both = threading.Barrier(2, timeout=10)

    def call(access: MlflowAccess, name: str) -> None:
        with using(access):
            both.wait()
            found[name] = headers()
            both.wait()

    threads = [threading.Thread(target=call, args=given) for given in ((ANN, "ann"), (BEA, "bea"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == {"ann": BASIC, "bea": BEARER}


def test_mlflow_finds_us_and_its_threads_have_the_names_that_we_know() -> None:
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.tracking.request_header.registry import resolve_request_headers

    (entry,) = [one for one in entry_points(group="mlflow.request_header_provider") if one.name == "mlops"]
    assert entry.load() is MlflowHeaders
    with using(BEA):
        assert resolve_request_headers()["Authorization"] == "Bearer t0ken"
        for repository in (HttpArtifactRepository, MlflowArtifactsRepository):
            place = repository("http://127.0.0.1:1/api/2.0/mlflow-artifacts/artifacts/a", "http://127.0.0.1:1")
            pool = place._create_thread_pool()
            assert pool.submit(headers).result() == BEARER
            pool.shutdown()
    assert "Authorization" not in resolve_request_headers()


def test_what_mlflow_imports_in_every_process_is_light() -> None:
    script = (
        "import sys; before = set(sys.modules); import mlops_provider.mlflow_headers; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['mlops_provider']"


def test_credentials_do_not_show() -> None:
    assert "s3cret" not in repr(ANN)
    assert "t0ken" not in repr(BEA)
