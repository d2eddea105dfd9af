"""Choosing an implementation by name: a typed registry whose entries are imported only when they are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from sagellm_common.errors import InvalidArgument

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Registry(Generic[T]):
    """Named implementations of one seam; `kind` names the seam in errors, `entries` maps names to `module:Class`."""

    kind: str
    entries: Mapping[str, str]

    def known(self) -> list[str]:
        """Names that may be asked for, sorted."""
        return sorted(self.entries)

    def make(self, choice: str | T, *, dotted: bool = False) -> T:
        """Return an implementation for a name, or `choice` itself if it is one.

        `dotted` also accepts `package.module:Class`: an operator may name his own class in the settings, nobody may
        do so over the bus. Raises InvalidArgument, listing the known names, for any other name.
        """
        if not isinstance(choice, str):
            return choice
        target = self.entries.get(choice)
        if target is None and dotted and ":" in choice:
            target = choice
        if target is None:
            known = ", ".join(self.known())
            raise InvalidArgument(f"there is no {self.kind} {choice!r}; known are {known}", param=self.kind)
        return self._load(target)

    def _load(self, target: str) -> T:
        module, _, name = target.partition(":")
        try:
            made: Any = getattr(import_module(module), name)()
        except (ImportError, AttributeError, TypeError) as error:
            raise InvalidArgument(f"the {self.kind} {target!r} cannot be loaded: {error}", param=self.kind) from error
        loaded: T = made
        return loaded
