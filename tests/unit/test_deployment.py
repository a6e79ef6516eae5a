"""Where an installation keeps its things."""

from __future__ import annotations

import pytest

from mlops_provider.deployment import Deployment, from_environment
from mlops_provider.exceptions import ConfigError


def deployment(**values: str) -> Deployment:
    return Deployment(**{"artifact_root": "s3://bucket/place/", "data_root": "s3://bucket/data", **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("flights/{partition}/inputs.parquet", "s3://bucket/data/flights/2024-01/inputs.parquet"),
        ("/srv/{partition}.parquet", "/srv/2024-01.parquet"),
        ("s3://other/{partition}", "s3://other/2024-01"),
    ],
)
def test_relative_sources_lie_under_the_data_root(uri: str, expected: str) -> None:
    assert deployment().source(uri, "2024-01") == expected


def test_artifacts_lie_under_the_artifact_root() -> None:
    assert deployment().under("ledger", "tiny") == "s3://bucket/place/ledger/tiny"


@pytest.mark.parametrize("values", [{"environment": "../prod"}, {"environment": "Prod"}, {"registry_prefix": "a/b"}])
def test_bad_names_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(values.values()))):
        deployment(**values)


def test_the_environment_names_what_airflow_names() -> None:
    found = from_environment({
        "AIRFLOW__MLOPS__ARTIFACT_ROOT": "/srv/mlops",
        "AIRFLOW__MLOPS__ENVIRONMENT": "prod",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    })
    assert (found.artifact_root, found.data_root) == ("/srv/mlops", "/srv/mlops/data")
    assert (found.environment, found.tracking_uri) == ("prod", "http://mlflow:5000")


def test_a_missing_artifact_root_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="AIRFLOW__MLOPS__ARTIFACT_ROOT is not set"):
        from_environment({})


def test_a_bad_environment_is_refused_as_configuration() -> None:
    with pytest.raises(ConfigError, match=r"\.\./prod"):
        from_environment({"AIRFLOW__MLOPS__ARTIFACT_ROOT": "/srv", "AIRFLOW__MLOPS__ENVIRONMENT": "../prod"})


def test_credentials_do_not_show_in_errors() -> None:
    from mlops_provider.modelcode import CodeRef
    from mlops_provider.steps.step import Request

    code = CodeRef.model_construct().model_dump()
    asked = {"step": "train", "code": code, "deployment": {"artifact_root": "/a", "data_root": "/b"}}
    for wrong in ({"dvc": {"passwrd": "hush"}}, {"dvc": {"password": ["hush"]}}, {"storage_options": "hush"}):
        with pytest.raises(ValueError) as caught:
            Request.model_validate({**asked, "deployment": {**asked["deployment"], **wrong}})  # type: ignore[dict-item]
        assert "hush" not in str(caught.value)
