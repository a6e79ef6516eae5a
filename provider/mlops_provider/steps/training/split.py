"""A split by reference: what a candidate is fitted and judged on, stored under its hash."""

from __future__ import annotations

from mlops_provider.exceptions import RequestError
from mlops_provider.steps.data.standard import maker
from mlops_provider.steps.records import Split, SplitRef
from mlops_provider.steps.step import Job
from mlops_provider.storage import digest


def save_split(job: Job, split: Split) -> SplitRef:
    """Stores a split under its hash."""
    value = split.model_dump(mode="json")
    file = job.storage.write_json(job.under("splits", f"{digest(value)[:32]}.json"), value)
    names = [version.partition for version in split.fit]
    return SplitRef(
        file=file,
        holdout=split.holdout.partition,
        first=names[0],
        last=names[-1],
        partitions=len(names),
        until=split.holdout.last,
    )


def split_to_fit(job: Job, ref: SplitRef) -> Split:
    """The split of a reference, verified, for a model that is to be fitted on it.

    :raises RequestError: if other code or settings than those of the job made one of its tables.
    """
    found, mine = load_split(job, ref), maker(job)
    if others := [one.partition for one in (*found.fit, found.holdout) if one.maker not in ("", mine)]:
        raise RequestError(
            f"{job.config.name}: other code or settings than these made the features of {', '.join(others)}: {job.config.name}.ci "
            "makes them anew; take a split that is planned after it"
        )
    return found


def load_split(job: Job, ref: SplitRef) -> Split:
    """The split of a reference, verified."""
    return Split.model_validate_json(job.storage.fetch(ref.file))
