"""Packages of other libraries whose `__init__` waits until something is asked of the package itself.

Some packages of diffusers import every model they hold. A model's own module can be imported without that: of
diffusers' hundred transformers Stable Diffusion needs two, and the rest, with what they import in turn, is a sixth of
the time of starting up. Nothing is left out or replaced: the first attribute that is asked of such a package runs its
`__init__` as usual.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

# diffusers' schedulers import scipy.stats for one option that diffgen never uses.
PACKAGES = (
    "diffusers.models.transformers", "diffusers.models.autoencoders", "diffusers.models.unets", "scipy.stats",
)  # fmt: skip
_lock = threading.RLock()


class _Deferred(ModuleType):
    """A package that is importable by its parts, and complete as soon as it is looked at."""

    def __getattr__(self, name: str) -> Any:
        # What walks over all modules, such as `warnings`, asks for marks of this kind, and wants no import.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        complete(self)
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        complete(self)
        return list(vars(self))


def complete(module: ModuleType) -> None:
    """Runs the `__init__` of a deferred package; any other module is left alone."""
    with _lock:
        if type(module) is not _Deferred:
            return
        assert module.__spec__ is not None and module.__spec__.loader is not None, "defer() saw to that"
        _become(module, ModuleType)  # first, because what it imports may look at it meanwhile
        try:
            module.__spec__.loader.exec_module(module)
        except BaseException:
            _become(module, _Deferred)
            raise


def _become(module: ModuleType, kind: type[ModuleType]) -> None:
    module.__class__ = kind  # type: ignore[assignment]


def defer(names: Sequence[str] = PACKAGES) -> None:
    """Puts those of `names` that are installed and not imported yet in place as deferred packages."""
    for name in names:
        if name in sys.modules:
            continue
        try:
            spec = find_spec(name)
        except ModuleNotFoundError:  # its parent is not installed
            continue
        if spec is None or spec.loader is None:
            continue
        module = module_from_spec(spec)
        _become(module, _Deferred)
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        setattr(sys.modules[parent], own, module)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Pauses Python's garbage collector, which looks at the millions of objects that imports make again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
