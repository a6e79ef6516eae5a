"""What every features function must hold to, found by trying it: it sees no other rows and nothing that came later.

`check_features` is a plain function on frames, so that a model's own tests can call it:

    check_features(build, rows, history, as_of, known_at={"weather": "observed_at"}).require()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_provider.checks import Check, Verdict, could_not_run

if TYPE_CHECKING:
    import pandas as pd

Function = Callable[..., Any]

_SINGLE = 10
_CUTS = 5
_MOMENTS, _NEAR = 20, 10
_ADDED = 500
_SHIFT = 1000.0


@dataclass(frozen=True)
class Trial:
    """The function with what it is tried on.

    :ivar expected: what it makes of a sample of the rows.
    """

    build: Function
    rows: pd.DataFrame
    history: Mapping[str, pd.DataFrame]
    as_of: pd.Series[Any]
    expected: pd.DataFrame

    def differs(
        self, places: Any, history: Mapping[str, pd.DataFrame] | None = None, index: pd.Index[Any] | None = None
    ) -> list[str]:
        """The features that come out otherwise for the rows at these places, built by themselves, in this order.

        :param index: for the rows, in place of the one that they have.
        """
        given = self.history if history is None else history
        part, expected, as_of = (found.iloc[places] for found in (self.rows, self.expected, self.as_of))
        if index is not None:
            part, expected, as_of = (found.set_axis(index) for found in (part, expected, as_of))
        made = self.build(part.copy(), dict(given), as_of.copy())[list(expected.columns)]
        if not made.index.equals(expected.index):
            return ["the rows themselves"]
        return [name for name in expected.columns if not _equal(made[name], expected[name])]


def check_features(
    build: Function,
    rows: pd.DataFrame,
    history: Mapping[str, pd.DataFrame],
    as_of: pd.Series[Any],
    *,
    known_at: Mapping[str, str | None],
    made: pd.DataFrame | None = None,
    sample: int = 200,
) -> Verdict:
    """Tries a features function on a sample of rows, and compares exactly.

    Looked for: rows that are not kept; features that are infinite; a row that comes out otherwise in a smaller batch with
    another index, in another order or alone; history that is changed by the call; and, for each history table, features that
    change when what was known only after `as_of` is taken away, changed or added.

    :param as_of: moment of each row's prediction, with the index of `rows`.
    :param known_at: by history table, its column with the moment from which a row was known; None for a table without one,
        which must then hold no timestamps.
    :param made: what the function made of all rows, if that is known already.
    :param sample: number of rows that are tried.
    """
    try:
        checks = list(_checks(build, rows, history, as_of, known_at, made, sample))
    except (Exception, SystemExit) as error:
        checks = [
            could_not_run("features_function", f"it raised {type(error).__name__}: {error} on a part of the rows")
        ]
    return Verdict(subject="features function", checks=tuple(checks))


def _checks(
    build: Function,
    rows: pd.DataFrame,
    history: Mapping[str, pd.DataFrame],
    as_of: pd.Series[Any],
    known_at: Mapping[str, str | None],
    made: pd.DataFrame | None,
    sample: int,
) -> Iterator[Check]:
    import numpy as np
    import pandas as pd

    if rows.empty:
        yield could_not_run("features_function", "there are no rows to try it on")
        return
    before = {name: table.copy() for name, table in history.items()}
    made = build(rows.copy(), dict(history), as_of.copy()) if made is None else made
    kept = made.index.equals(rows.index)
    yield Check(
        name="rows_kept", passed=kept, detail="" if kept else f"{len(made)} rows for {len(rows)}, or another order"
    )
    if not kept:
        return
    yield _finite(made)
    random = np.random.default_rng(0)
    places = np.sort(random.permutation(len(rows))[:sample])
    trial = Trial(build, rows.iloc[places], history, as_of.iloc[places], made.iloc[places])
    every = np.arange(len(places))
    # The index is the place in the file, which says nothing of a row: where it is scored it lies elsewhere.
    elsewhere = pd.Index(len(rows) + 1 + random.permutation(3 * len(every))[: len(every)])
    batch = trial.differs(every, index=elsewhere)
    yield _found("same_in_any_batch", batch, f"{len(places)} of {len(rows)} rows, under another index")
    yield _found("same_in_any_order", trial.differs(random.permutation(every)), f"{len(places)} rows shuffled")
    alone = [name for place in every[:: max(1, len(every) // _SINGLE)] for name in trial.differs([place])]
    yield _found("same_alone", alone, "rows one by one")
    changed = [name for name, table in before.items() if not table.equals(history[name])]
    yield _found("history_untouched", changed, "the history afterwards")
    near = [Trial(build, rows.iloc[at], history, as_of.iloc[at], made.iloc[at]) for at in _moments(as_of, random)]
    for name in history:
        yield _ahead(trial, near, name, known_at.get(name))


def _finite(made: pd.DataFrame) -> Check:
    """Whether no feature is infinite in any row: what was divided by zero is not known, and NaN says so."""
    import numpy as np

    counts = {name: int(np.isinf(made[name].to_numpy(np.float64, na_value=np.nan)).sum()) for name in _numbers(made)}
    odd = [f"{name} ({count} of {len(made)} rows)" for name, count in counts.items() if count]
    told = f"infinite: {', '.join(odd)}; make it NaN where it is not known" if odd else "nothing is infinite"
    return Check(name="finite", passed=not odd, detail=told)


def _numbers(made: pd.DataFrame) -> list[str]:
    import pandas as pd

    return [name for name in made.columns if pd.api.types.is_numeric_dtype(made[name].dtype)]


def _found(name: str, what: list[str], tried: str, subject: str = "") -> Check:
    differing = list(dict.fromkeys(what))
    detail = f"{tried}: {'otherwise in ' + ', '.join(differing) if differing else 'exactly the same'}"
    return Check(name=name, passed=not differing, subject=subject, detail=detail)


def _moments(as_of: pd.Series[Any], random: Any) -> list[Any]:
    """Places of rows that follow each other in time, at several moments: who looks ahead by little is seen by rows near a cut."""
    import numpy as np

    order = np.argsort(as_of.to_numpy(), kind="stable")
    if len(order) <= _MOMENTS * _NEAR:
        return np.array_split(order, max(1, len(order) // _NEAR))
    return [order[start : start + _NEAR] for start in np.sort(random.permutation(len(order) - _NEAR)[:_MOMENTS])]


def _ahead(trial: Trial, near: list[Trial], name: str, column: str | None) -> Check:
    """Whether a feature knows what a history table tells only after the moment of the prediction."""
    import pandas as pd

    table = trial.history[name]
    if table.empty:
        return Check(name="nothing_later", passed=True, subject=name, detail="is empty here: there is nothing to see")
    times = [c for c in table.columns if isinstance(table[c].dtype, pd.DatetimeTZDtype) or table[c].dtype.kind == "M"]
    if dates := [c for c in table.columns if _holds_dates(table[c])]:
        why = f"holds dates without a time ({', '.join(dates)}): deliver timestamps, and name in known_at when rows were known"
        if column is None or column in dates:
            return could_not_run("nothing_later", why, subject=name)
    if column is None and not times:
        return Check(name="nothing_later", passed=True, subject=name, detail="has no timestamps: known from the start")
    if column not in times:
        why = f"known_at must name the moment from which its rows were known, one of {', '.join(times)}"
        return could_not_run("nothing_later", why if times else f"has no timestamp {column!r}", subject=name)
    found: list[str] = []
    for cut in _cuts(trial.as_of):
        places = (trial.as_of <= cut).to_numpy().nonzero()[0]
        for how, other in _later(table, column, cut):
            differing = trial.differs(places, {**trial.history, name: other})
            found += [f"{feature} ({how})" for feature in differing]
    for few in near:
        past = table[~(table[column] > few.as_of.max())].copy()
        differing = few.differs(range(len(few.rows)), {**few.history, name: past})
        found += [f"{feature} (removed)" for feature in differing]
    return _found("nothing_later", found, "with later rows removed, changed, added", name)


def _holds_dates(values: pd.Series[Any]) -> bool:
    """Whether pandas got dates, which it keeps as Python's own."""
    import datetime as dt

    first = next(iter(values.dropna()), None) if values.dtype == object else None
    return isinstance(first, dt.date)


def _cuts(as_of: pd.Series[Any]) -> list[Any]:
    """Moments of predictions, spread over the sample: for the rows at a cut, all that comes after it is the future."""
    ordered = as_of.sort_values().drop_duplicates()
    steps = max(1, len(ordered) // _CUTS)
    return list(ordered.iloc[::steps])[:_CUTS]


def _later(table: pd.DataFrame, column: str, cut: Any) -> Iterator[tuple[str, pd.DataFrame]]:
    """The table with another future: everything known up to the cut is as it was."""
    import pandas as pd

    future = table[column] > cut
    yield "removed", table[~future].copy()
    yield "changed", _shifted(table, column, future)
    known = (table[~future] if not future.all() else table).sort_values(column).tail(_ADDED)
    added = _shifted(known, column, pd.Series(True, index=known.index))
    added[column] = pd.Series(cut + pd.Timedelta(seconds=1), index=added.index).astype(table[column].dtype)
    yield "added", pd.concat([table, added], ignore_index=True)


def _shifted(table: pd.DataFrame, column: str, which: pd.Series[Any]) -> pd.DataFrame:
    """Other values in every column that tells a quantity; names and times stay, so that the rows are found."""
    import pandas as pd

    other = table.copy()
    for name in table.columns.drop(column):
        values = table[name]
        if pd.api.types.is_float_dtype(values.dtype):
            other[name] = values.where(~which, values.fillna(0) + _SHIFT)
        elif pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_integer_dtype(values.dtype):
            other[name] = values.where(~which, ~values)
    return other


def _equal(made: pd.Series[Any], expected: pd.Series[Any]) -> bool:
    import numpy as np
    import pandas as pd

    if not all(pd.api.types.is_numeric_dtype(values.dtype) for values in (made, expected)):
        return made.equals(expected)
    left, right = (values.to_numpy(dtype=np.float64, na_value=np.nan) for values in (made, expected))
    return bool(np.array_equal(left, right, equal_nan=True))
