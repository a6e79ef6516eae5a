"""The environment lock of a package: every library where it was made, for ``pip install -r`` or as constraints."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from packaging.utils import canonicalize_name


def lock(trained: Mapping[str, str]) -> str:
    """The lock as text.

    :param trained: versions of what the model was fitted with, maybe on another machine.
    """
    differing = [name for name, version in trained.items() if _installed().get(name, version) != version]
    head = [
        f"# Python {platform.python_version()}, {sys.platform} {platform.machine()}",
        "# fitted with " + ", ".join(f"{name} {version}" for name, version in sorted(trained.items()) if version),
        *(f"# packaged with another version of {name} than it was fitted with" for name in sorted(differing)),
    ]
    return "\n".join([*head, *(f"{name}=={version}" for name, version in sorted(_installed().items()))]) + "\n"


@lru_cache
def _installed() -> dict[str, str]:
    """Every distribution but ours, which need not come from an index. By the names of their folders: to read what is in
    hundreds of them takes half a second."""
    found: dict[str, str] = {}
    for place in map(Path, sys.path):
        for folder in place.glob("*.dist-info"):
            name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
            found.setdefault(canonicalize_name(name), version)
    return {name: version for name, version in found.items() if name != "airflow-provider-mlops"}
