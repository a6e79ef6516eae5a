"""Which arm of an A/B test an entity belongs to: a pure function, so that whoever serves and whoever judges agree.

It needs nothing but the standard library, and is easily written in another language: the first 13 hexadecimal digits of the
sha256 of ``<salt>:<entity>`` in UTF-8, as a whole number, divided by 16 ** 13, are a fraction from 0 to below 1, which a
double holds exactly. An entity whose fraction is below the share gets the treatment.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Literal

from mlops_provider.exceptions import DataError, RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Without a colon, so that salt and entity cannot be told apart in two ways.
SALT = r"[A-Za-z0-9_.-]{1,128}"
_DIGITS = 13

Side = Literal["control", "treatment"]


def assign(entity: str | int, salt: str, share: float) -> Side:
    """The arm of one entity; the same in every process, for ever.

    :param entity: the key of the entity; a whole number counts as its decimal digits, so 7 and "7" are the same entity.
    :param salt: of the test; tests with different salts assign independently of each other.
    :param share: of the entities that get the treatment, above 0 and below 1. A larger share keeps those who have it.
    :raises RequestError: for an entity that is neither text nor a whole number, or is empty, and for impossible settings.
    """
    _require(salt, share)
    return "treatment" if _fraction(_key(entity), salt) < share else "control"


def assign_all(entities: Any, salt: str, share: float) -> npt.NDArray[np.bool_]:
    """`assign` for many entities: bool [n], True where the treatment is due.

    :param entities: a pyarrow array or chunked array, a pandas Series or a sequence, of text or of whole numbers, [n].
    :param salt: see `assign`.
    :param share: see `assign`.
    :raises RequestError: for impossible settings.
    :raises DataError: if an entity is missing or empty, or the entities are neither text nor whole numbers.
    """
    import numpy as np

    _require(salt, share)
    names = texts(entities).to_pylist()
    if None in names or "" in names:
        raise DataError("an entity is missing or empty: every row needs the key of its entity")
    return np.fromiter((_fraction(name, salt) < share for name in names), dtype=bool, count=len(names))


def texts(values: Any, what: str = "entities") -> Any:
    """Keys as a pyarrow array of strings, nulls kept.

    :param what: the name of the values in an error.
    :raises DataError: if they are neither text nor whole numbers: 7.0 would be another key than 7.
    """
    import pyarrow as pa

    try:
        array = _arrow(values)
        kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
            return array.cast(kind).cast(pa.string())
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise DataError(f"{what} cannot be read as text or whole numbers: {error}") from error
    if pa.types.is_null(kind):
        return array.cast(pa.string())
    raise DataError(f"{what} are {kind}, and keys must be text or whole numbers: write them so (7.0 is not the key 7)")


def _arrow(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    return pa.array(values if hasattr(values, "dtype") else list(values))


def _key(entity: str | int) -> str:
    if isinstance(entity, bool) or not isinstance(entity, str | int) or entity == "":
        raise RequestError(f"{entity!r} is no key of an entity: give text or a whole number")
    return str(entity)


def _fraction(key: str, salt: str) -> float:
    try:
        found = hashlib.sha256(f"{salt}:{key}".encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise RequestError(f"{key!r} is no key of an entity: it cannot be written in UTF-8") from error
    return float(int(found[:_DIGITS], 16) / 16**_DIGITS)


def _require(salt: str, share: float) -> None:
    if not re.fullmatch(SALT, salt):
        raise RequestError(f"{salt!r} is no salt: give 1 to 128 letters, digits, '_', '.' and '-'")
    if not 0 < share < 1:
        raise RequestError(f"{share!r} is no share of treatment: it lies above 0 and below 1")
