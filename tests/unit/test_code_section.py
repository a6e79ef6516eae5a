"""The section data.code of model.yaml."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mlops_provider.sections import Code


@pytest.mark.parametrize(
    "repository",
    [
        "code.git",
        "/srv/code.git",
        "../code.git",
        "https://git.example.org/a/b.git",
        "https://robot@git.example.org/a/b.git",
        "ssh://git@git.example.org:22/a/b.git",
        "git@git.example.org:a/b.git",
        "file:///srv/code.git",
        None,
    ],
)
def test_a_repository_is_a_path_or_an_address(repository: str | None) -> None:
    assert Code(repository=repository).repository == repository


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"repository": "--upload-pack=touch x"}, "match pattern"),
        ({"repository": "ext::sh -c id"}, "must be a path or an address"),
        ({"repository": "ftp://host/code.git"}, "must be a path or an address"),
        ({"repository": "https://robot:secret@git.example.org/a.git"}, "must hold no password"),
        ({"path": "../other"}, "inside the model's directory"),
        ({"refs": "main("}, "is no regular expression"),
        ({"protected": []}, "at least 1 item"),
        ({"protected": ["-main"]}, "match pattern"),
        ({"limits": {"memory": "lots"}}, "match pattern"),
        ({"limits": {"cpu_seconds": 0}}, "greater than or equal to 1"),
        ({"limits": {"wall": "ten"}}, "is no duration"),
        ({"ref": "main"}, "not permitted"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Code.model_validate(values)


def test_only_reviewed_code_is_tested_unless_somebody_says_otherwise() -> None:
    assert Code().allow_untrusted_refs is False
    assert Code().protected == ("main",)
