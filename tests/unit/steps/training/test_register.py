"""Registration in a real MLflow: one run and one version for a fingerprint, whatever happens on the way."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from mlops_provider.exceptions import ConfigError, ConflictError, Transient
from mlops_provider.ledger import Ledger
from mlops_provider.steps import registry
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.register import Registered
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, Killed, World, call, candidate, registry_of, request, train
from tests.support.workers import mlops_at_once


def register(world: World, given: dict[str, Any], job: Job | None = None) -> Registered:
    found: Registered = call(job or world.job(), "register", **given)
    return found


def versions(world: World) -> list[Any]:
    return list(registry_of(world).search_model_versions("name='tiny'"))


def complete(world: World, given: dict[str, Any]) -> None:
    """Asserts that there is exactly one version, with a finished run and everything in it, and one record."""
    (version,) = versions(world)
    fingerprint = given["trained"].fingerprint
    mlflow = registry_of(world)
    run = mlflow.get_run(version.run_id)
    assert version.tags["mlops.fingerprint"] == fingerprint
    assert run.info.status == "FINISHED"
    assert {"rounds", "seed", "num_leaves"} <= set(run.data.params)
    assert "holdout_auc" in run.data.metrics
    assert (run.data.params["objective"], int(run.data.params["trees"])) == ("binary", int(run.data.params["rounds"]))
    assert {"model", "lineage.json", "evaluation.md"} <= {f.path for f in mlflow.list_artifacts(version.run_id)}
    (record,) = world.records("candidate")
    assert (record.version, record.facts["version"]["run_id"]) == (int(version.version), version.run_id)


def test_a_version_carries_its_lineage(registered: World) -> None:
    (version,) = registered.versions()
    lineage = json.loads(Storage().fetch(version.lineage))
    assert [data["partition"] for data in lineage["data"]["fit"]] == list(DAYS[:2])
    assert lineage["data"]["holdout"]["partition"] == DAYS[2]
    assert lineage["code"]["sha256"] == registered.job().model.ref.sha256
    assert lineage["code"]["git"] == []
    assert lineage["model_hash"]
    assert lineage["environment"]["lightgbm"]
    (stored,) = versions(registered)
    assert stored.tags["mlops.fitted_on"] == f"{DAYS[0]} to {DAYS[1]}"
    assert stored.tags["mlops.holdout"] == DAYS[2]


def test_the_first_registration_is_complete(trained: World) -> None:
    given = candidate(trained)
    found = register(trained, given)
    assert not found.reused
    complete(trained, given)


def test_mlflow_itself_can_load_and_score_the_version(registered: World) -> None:
    import mlflow.onnx

    (stored,), (version,) = versions(registered), registered.versions()
    model = mlflow.onnx.load_model(stored.source)
    rows = pd.read_parquet(version.package.reference.uri).head(50).to_numpy()
    from mlops_provider.steps.scoring.scorer import Scorer

    expected = Scorer.of(version.package, Storage()).score(rows)
    assert np.allclose(Scorer(model.SerializeToString()).score(rows), expected)


def test_registering_again_finds_the_version(trained: World) -> None:
    given = candidate(trained)
    first, again = register(trained, given), register(trained, given)
    assert again.reused
    assert again.version == first.version
    complete(trained, given)


def test_another_fingerprint_is_another_version(trained: World) -> None:
    register(trained, candidate(trained))
    found = register(trained, candidate(trained, repeat="once more"))
    assert (found.version.version, found.reused) == (2, False)
    assert len(trained.records("candidate")) == 2


def test_registering_again_leaves_the_lineage_of_the_version_alone(trained: World) -> None:
    given = candidate(trained)
    first = register(trained, given)
    other = given["evaluation"].model_copy(update={"candidate": {"auc": 0.1}})
    register(trained, given | {"evaluation": other}, trained.configure(owner="another"))
    (version,) = trained.versions()
    assert version == first.version
    Storage().fetch(version.lineage)


def killed_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: str) -> None:
    """Kills the process at a call of a method: before it, or when it has done its work."""
    method: Callable[..., Any] = getattr(owner, name)

    def kill(self: Any, *args: Any, **kwargs: Any) -> None:
        if when == "after":
            method(self, *args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, kill)


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (MlflowClient, "create_experiment", "after"),
        (MlflowClient, "create_run", "after"),
        (MlflowClient, "log_param", "after"),
        (MlflowClient, "log_artifacts", "before"),
        (MlflowClient, "log_artifacts", "after"),
        (MlflowClient, "create_registered_model", "after"),
        (MlflowClient, "create_model_version", "before"),
        (MlflowClient, "create_model_version", "after"),
        (MlflowClient, "set_terminated", "before"),
        (Ledger, "append", "before"),
        (Ledger, "append", "after"),
    ],
)
def test_a_kill_is_mended_by_a_rerun(
    trained: World, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: str
) -> None:
    given = candidate(trained)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, owner, name, when)
        register(trained, given)
    register(trained, given)
    complete(trained, given)


def runs(world: World) -> list[Any]:
    mlflow = registry_of(world)
    return list(mlflow.search_runs([mlflow.get_experiment_by_name("tiny").experiment_id]))


def test_a_kill_between_run_and_claim_is_mended_by_a_rerun(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    given, job = candidate(trained), trained.job()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, Storage, "create", "before")
        register(trained, given, job)
    register(trained, given, job)
    complete(trained, given)
    assert len(runs(trained)) == 1


def test_a_run_that_another_found_unclaimed_and_claimed_is_kept(
    trained: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, create_run, rivals = candidate(trained), MlflowClient.create_run, [True]

    def slow(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        run = create_run(self, *args, **kwargs)
        if rivals:
            rivals.clear()
            register(trained, given)
        return run

    monkeypatch.setattr(MlflowClient, "create_run", slow)
    assert register(trained, given).reused
    complete(trained, given)
    assert len(runs(trained)) == 1


def test_two_at_once_make_one_version(trained: World, tmp_path: Path) -> None:
    given, job = candidate(trained), trained.job()
    file = request(job, "register", tmp_path / "request.json", **given)
    found = mlops_at_once({"one": file, "other": file}, "register")
    assert found["one"]["result"]["version"] == found["other"]["result"]["version"]
    complete(trained, given)


def test_an_experiment_that_another_creates_in_between_is_taken(
    trained: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, look = candidate(trained), MlflowClient.get_experiment_by_name
    looks: list[str] = []

    def too_early(client: MlflowClient, name: str) -> Any:
        looks.append(name)
        if len(looks) > 1:
            return look(client, name)
        registry_of(trained).create_experiment(name, artifact_location=str(trained.artifacts / "mlflow"))
        return None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", too_early)
    register(trained, given)
    complete(trained, given)


def test_two_creators_end_with_the_first_version(trained: World) -> None:
    mlflow = registry_of(trained)
    mlflow.create_registered_model("tiny")

    def create() -> None:
        for _ in range(2):
            mlflow.create_model_version("tiny", "s3://somewhere", tags={registry.FINGERPRINT: "f"})

    assert registry.only_first(mlflow, "tiny", "f", create) == 1
    assert [v.version for v in versions(trained)] == [1]


def test_a_version_that_another_has_withdrawn_is_no_fault(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = registry_of(trained)
    mlflow.create_registered_model("tiny")
    for _ in range(2):
        mlflow.create_model_version("tiny", "s3://somewhere", tags={registry.FINGERPRINT: "f"})
    delete = MlflowClient.delete_model_version

    def late(self: MlflowClient, name: str, version: str) -> None:
        delete(self, name, version)
        delete(self, name, version)

    monkeypatch.setattr(MlflowClient, "delete_model_version", late)
    assert registry.only_first(mlflow, "tiny", "f", lambda: None) == 1


def test_a_lost_claim_adopts_the_run_of_the_winner(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    given = candidate(trained)
    create_run, rivals = MlflowClient.create_run, [True]

    def late(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        if rivals:
            rivals.clear()
            register(trained, given)
        return create_run(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", late)
    assert register(trained, given).reused
    complete(trained, given)
    assert len(runs(trained)) == 1


def test_a_claim_that_names_a_lost_run_says_what_to_do(trained: World) -> None:
    given = candidate(trained)
    claim = Path(trained.job().under("claims", f"{given['trained'].fingerprint}.json"))
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"run_id": "0" * 32, "actor": "test"}))
    with pytest.raises(ConflictError, match=rf"{claim.name} names the MLflow run 000.*delete the claim"):
        register(trained, given)
    assert trained.records("candidate") == []


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_unreachable_mlflow_is_worth_a_retry_and_leaves_nothing(trained: World) -> None:
    given = candidate(trained)
    job = trained.job(tracking_uri=f"http://127.0.0.1:{closed_port()}")
    began = time.monotonic()
    with pytest.raises(Transient, match="MLflow at http://127.0.0.1.* did not answer"):
        register(trained, given, job)
    assert time.monotonic() - began < 20
    assert trained.records("candidate") == []
    assert not (trained.artifacts / "claims").exists()
    register(trained, given)
    complete(trained, given)


def test_an_mlflow_that_fails_on_the_way_is_worth_a_retry(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def failing(*_: object, **__: object) -> None:
        raise MlflowException("the server has no space left")

    given = candidate(trained)
    with monkeypatch.context() as patch, pytest.raises(Transient, match="no space left"):
        patch.setattr(MlflowClient, "create_model_version", failing)
        register(trained, given)
    assert trained.records("candidate") == []
    register(trained, given)
    complete(trained, given)


def test_a_missing_mlflow_is_named(trained: World) -> None:
    with pytest.raises(ConfigError, match="no MLflow server is configured"):
        register(trained, candidate(trained), trained.job(tracking_uri=""))


def test_a_prefix_keeps_deployments_apart(trained: World) -> None:
    register(trained, candidate(trained), trained.job(registry_prefix="team-"))
    assert registry_of(trained).get_registered_model("team-tiny").name == "team-tiny"
    assert versions(trained) == []


def test_two_environments_do_not_share_a_registered_model(trained: World) -> None:
    register(trained, candidate(trained))
    with pytest.raises(
        ConfigError, match=r"tiny belongs to the environment 'local', this one is 'prod'.*registry_prefix"
    ):
        register(trained, candidate(trained), trained.job(environment="prod"))
    register(trained, candidate(trained), trained.job(environment="prod", registry_prefix="prod."))
    assert len(versions(trained)) == 1


def test_a_drill_is_told_everywhere(trained: World) -> None:
    version = train(trained, trained.job(), drill="shuffled_labels")
    assert version.drill == "shuffled_labels"
    assert versions(trained)[0].tags["mlops.drill"] == "shuffled_labels"
    assert "drill: shuffled_labels" in trained.records("candidate")[0].reason
