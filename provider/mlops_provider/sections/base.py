"""What the sections of model.yaml are made of."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from mlops_provider.partitions import parse_duration

NAME = r"^[a-z][a-z0-9_]{1,62}$"
REF = r"^[A-Za-z0-9][A-Za-z0-9._/@+#=-]{0,199}$"
ENVIRONMENT = r"^[a-z][a-z0-9_-]{0,30}$"


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError("must be a path inside the model's directory, without '..'")
    return path


def _function(path: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*\.py:[a-z_][a-z0-9_]*", path):
        raise ValueError("must look like 'features.py:build': a file in the model's directory and a function in it")
    return path


def _duration(value: str) -> str:
    parse_duration(value)
    return value


def _longer_than_nothing(value: str) -> str:
    if not parse_duration(value):
        raise ValueError("must be longer than nothing")
    return value


Name = Annotated[str, StringConstraints(pattern=NAME)]
Inside = Annotated[str, AfterValidator(_inside)]
Function = Annotated[str, AfterValidator(_function)]
Duration = Annotated[str, AfterValidator(_duration)]
Span = Annotated[Duration, AfterValidator(_longer_than_nothing)]
Share = Annotated[float, Field(ge=0, le=1)]

_NUMBERS = (int, float, int | None, float | None, int | float | None)


class Section(BaseModel):
    """A part of model.yaml; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: object, info: ValidationInfo) -> object:
        """A number must be written as one: no ``yes`` for 1, no text with digits in it."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if wanted in _NUMBERS and isinstance(value, bool | str):
            raise ValueError("must be a number")
        return value
