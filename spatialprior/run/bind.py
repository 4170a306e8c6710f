"""Plain YAML values onto dataclasses, strictly, with one clear line for whatever does not fit.

OmegaConf's structured configs know neither ``Literal`` nor tuples nor ``str | list[int]``, and their messages
speak of its own node types. This is the small part of them that a recipe needs, in the user's words.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from spatialprior.registry import near_miss, suggest
from spatialprior.run.errors import ConfigError

D = TypeVar("D")

MISSING = "???"
"""How a recipe says that the user must give a value."""

_PLAIN = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Path: "a path",
}


class _MismatchError(Exception):
    """The value is not of this type (another member of a union may still fit)."""


def bind(cls: type[D], values: object, path: str, what: str = "setting") -> D:
    """Build dataclass ``cls`` from a mapping.

    Args:
        cls: The dataclass; its field types and defaults are the schema.
        values: What the recipe says. Keys left out keep their defaults.
        path: Where the mapping sits in the run's config, e.g. ``"data"``; ``""`` at the root.
        what: What a key is called in messages.

    Raises:
        ConfigError: A key does not exist, a value has the wrong type, a required one is missing, or the
            dataclass itself refuses the combination (its ``ValueError``).
    """
    prefix = f"{path}." if path else ""
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{path}={_show(values)}: expected settings such as {prefix}{_first_field(cls)}=..., "
            "not a single value"
        )
    hints = typing.get_type_hints(cls, localns={})
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown {what} {prefix}{key}; {suggest(str(key), fields, prefix)}")
    kwargs = {}
    for name, field in fields.items():
        optional = not (field.default is field.default_factory is dataclasses.MISSING)
        value = values.get(name, None if optional else MISSING)
        if value == MISSING:
            example = _example(hints[name])
            raise ConfigError(
                f"{prefix}{name} has no value and needs one; add {prefix}{name}={example}"
            )
        if name in values:
            kwargs[name] = _convert(hints[name], value, f"{prefix}{name}")
    try:
        return cls(**kwargs)
    except ConfigError:
        raise
    except ValueError as error:
        message = str(error)
        named = not path or prefix in message
        raise ConfigError(message if named else f"{path}: {message}") from error


def _convert(kind: Any, value: Any, path: str) -> Any:
    """``value`` as ``kind``, or a :class:`ConfigError` that says what was expected."""
    try:
        return _fit(kind, value, path)
    except _MismatchError:
        near = near_miss(value, _options(kind)) if isinstance(value, str) else None
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(f"{path}={_show(value)}: expected {_describe(kind)}{hint}") from None


def _fit(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _fit_union(args, value, path)
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in args):
            return value
        raise _MismatchError
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else bind(kind, value, path)  # type: ignore[arg-type]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        for member in kind:
            if value in (member.value, member.name):
                return member
        raise _MismatchError
    container = origin or kind
    if container in (list, tuple):
        return _fit_sequence(container, args, value, path)
    if isinstance(container, type) and issubclass(container, Mapping):
        if not isinstance(value, Mapping):
            raise _MismatchError
        inner = args[1] if args else Any
        return {key: _convert(inner, item, f"{path}.{key}") for key, item in value.items()}
    return _fit_plain(kind, value)


def _fit_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first member that fits; a value already of a member's exact type goes to that one."""
    for member in sorted(members, key=lambda member: member is not type(value)):
        if dataclasses.is_dataclass(member) and isinstance(value, Mapping):
            return bind(member, value, path)  # type: ignore[arg-type]
        try:
            return _fit(member, value, path)
        except (_MismatchError, ConfigError):
            continue
    raise _MismatchError


def _fit_sequence(container: type, args: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _MismatchError
    if container is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise _MismatchError
        inner = list(args)
    else:
        inner = [args[0] if args else Any] * len(value)
    items = zip(inner, value, strict=True)
    return container(_convert(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(items))


def _fit_plain(kind: Any, value: Any) -> Any:
    """Numbers, text, paths. ``1e3`` is a whole number; ``true`` is never one."""
    if kind is type(None):
        if value is None:
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is int:
        if isinstance(value, bool):
            raise _MismatchError
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif kind is str:
        if isinstance(value, str):
            return value
    elif kind is Path:
        if isinstance(value, (str, Path)):
            return Path(value)
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    raise _MismatchError


def _options(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(option) for option in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    if get_origin(kind) in (Union, types.UnionType):
        return [option for member in get_args(kind) for option in _options(member)]
    return []


def _describe(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in args)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in args)
    if dataclasses.is_dataclass(kind):
        return "a group of settings (" + ", ".join(f.name for f in dataclasses.fields(kind)) + ")"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(_options(kind))
    if (origin or kind) in (list, tuple):
        fixed = bool(args) and origin is tuple and args[-1] is not Ellipsis
        count = f"of {len(args)} values" if fixed else ""
        example = ",".join("ab") if not fixed else ",".join("abcdefgh"[: len(args)])
        return " ".join(f"a list {count}, such as [{example}]".split()).replace(" ,", ",")
    if (origin or kind) is dict:
        return "a mapping, such as {a: 1}"
    return _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))


def _example(kind: Any) -> str:
    if kind in (int, float):
        return "NUMBER"
    if options := _options(kind):
        return options[0]
    return "PATH" if kind in (str, Path) else "VALUE"


def _first_field(cls: type) -> str:
    names = [field.name for field in dataclasses.fields(cls)]
    return names[0] if names else "..."


def _show(value: object) -> str:
    """A value as the user would type it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."
