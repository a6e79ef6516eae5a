"""Every error that the provider raises on purpose.

The tree answers one question for Airflow: is a retry of any use? `Transient` errors are retried; every other one
fails at once.
"""

from __future__ import annotations


class MlopsError(Exception):
    """Base of the provider's errors. The message says what was wrong, where, and what to do."""


class ConfigError(MlopsError):
    """A model.yaml (or an overlay of it) that cannot be used: names the file, the place and what was expected."""


class RequestError(MlopsError):
    """A request, Param or name from outside that is not acceptable, for instance an unknown `conf` key."""


class DataError(MlopsError):
    """Data that is missing, empty, unreadable or of the wrong shape: names the file and the column."""


class Refused(MlopsError):
    """A judgement that came out negative: the data or the model was not let through. The verdict is in the message."""


class IntegrityError(MlopsError):
    """Something content-addressed does not have the content that its name promises."""


class ConflictError(MlopsError):
    """The state that a decision was based on has changed in the meantime, or another writer was first."""


class AccessDenied(MlopsError):
    """A place that does not let us in: credentials are missing, wrong, or allow too little. Names the place, never a secret."""


class MissingLibraryError(MlopsError):
    """An optional library is not installed: names the extra that brings it."""


class Transient(MlopsError):
    """The infrastructure failed (a server is down, a remote refuses): the same call may succeed later."""
