"""Train, package, evaluate, register.

``from mlops_provider.steps.training import train`` gives what can be called like the step, ``train(job, arguments)``. The
step lies in a module of its own name, which Python makes an attribute of this package: so the module itself is callable.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_STEPS = ("train", "package", "evaluate", "register")


class _StepModule(ModuleType):
    def __call__(self, job: Any, arguments: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(job, arguments)


class _Room(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _STEPS and isinstance(value, ModuleType):
            value.__class__ = _StepModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room
