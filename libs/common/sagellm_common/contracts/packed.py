"""Hot messages: slots dataclasses that travel as msgpack arrays, in the order of their fields.

A field may only be added at the end and with a default: a reader ignores trailing elements it does not know and
fills missing ones with defaults.
"""

import dataclasses
import types
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

Coder = Callable[[Any], Any]


class Packed:
    """Base of hot messages; subclasses are `@dataclass(slots=True)` with at least two fields."""

    __slots__ = ()

    def to_array(self) -> Sequence[Any]:
        """Return the fields in order; nested packed values become arrays too."""
        plan = _plan(type(self))
        values: Sequence[Any] = plan.fields(self)
        if not plan.nested:
            return values
        array = list(values)
        for index, encode, _ in plan.nested:
            array[index] = encode(array[index])
        return array

    @classmethod
    def from_array(cls, array: Sequence[Any]) -> Self:
        """Build the value; raises TypeError if `array` lacks a field that has no default."""
        plan = _plan(cls)
        values = list(array[: plan.num_fields])
        for index, _, decode in plan.nested:
            if index < len(values):
                values[index] = decode(values[index])
        return cls(*values)


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """How one class is packed: all fields at once, then the nested ones by (index, encoder, decoder)."""

    num_fields: int
    fields: Callable[[Any], Sequence[Any]]
    nested: tuple[tuple[int, Coder, Coder], ...]


_PLANS: dict[type[Any], _Plan] = {}


def _plan(cls: type[Any]) -> _Plan:
    plan = _PLANS.get(cls)
    if plan is None:
        plan = _PLANS[cls] = _make_plan(cls)
    return plan


def _make_plan(cls: type[Any]) -> _Plan:
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    coders = [(index, _coders(hints[name])) for index, name in enumerate(names)]
    nested = tuple((index, *pair) for index, pair in coders if pair is not None)
    return _Plan(len(names), attrgetter(*names), nested)


def _coders(hint: Any) -> tuple[Coder, Coder] | None:
    """Return encoder and decoder of an annotation that holds packed values, None for one that holds none."""
    if isinstance(hint, type) and issubclass(hint, Packed):
        return Packed.to_array, hint.from_array
    origin, args = get_origin(hint), get_args(hint)
    inner = next((pair for pair in map(_coders, args) if pair), None)
    if inner is None:
        return None
    wrap = {list: _each, dict: _each_value, Union: _optional, types.UnionType: _optional}[origin]
    return wrap(inner[0]), wrap(inner[1])


def _optional(code: Coder) -> Coder:
    return lambda value: None if value is None else code(value)


def _each(code: Coder) -> Coder:
    return lambda values: [code(value) for value in values]


def _each_value(code: Coder) -> Coder:
    return lambda values: {key: code(value) for key, value in values.items()}
