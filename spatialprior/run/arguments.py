"""The command line, split into choices of a group, values and flags, each checked before anything loads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from spatialprior.registry import suggest
from spatialprior.run.catalog import GROUPS, OPTIONAL_GROUPS, options
from spatialprior.run.errors import ConfigError

FLAGS = ("--help", "-h", "--cfg", "--version")


@dataclass
class Arguments:
    """A command line that parses.

    Attributes:
        choices: Group -> chosen option; a list for ``prior``, ``None`` for a group switched off.
        values: Dotted key -> value, in the order given.
        texts: The settings as typed, for the record.
        flags: ``--help`` and the like.
    """

    choices: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()


def parse(argv: list[str]) -> Arguments:
    """Read ``key=value`` settings and flags.

    Raises:
        ConfigError: Something is neither, or names an option that no recipe folder has.
    """
    flags = [text for text in argv if text.startswith("-") and "=" not in text]
    for flag in flags:
        if flag not in FLAGS:
            raise ConfigError(
                f"unknown flag {flag}; {suggest(flag, FLAGS)} (settings are written key=value)"
            )
    arguments = Arguments(
        texts=tuple(text for text in argv if text not in flags),
        flags=frozenset("--help" if flag == "-h" else flag for flag in flags),
    )
    for text in arguments.texts:
        key, value = _parse_one(text)
        if key in GROUPS:
            arguments.choices[key] = _choice(key, value)
        else:
            arguments.values[key] = value
    return arguments


def _parse_one(text: str) -> tuple[str, Any]:
    if "=" not in text or text.startswith(("~", "--")):
        hint = (
            " (to leave priors out: prior=[]; to switch a group off: eval=null)"
            if "~" in text
            else ""
        )
        raise ConfigError(
            f"cannot read {text!r}: settings are written key=value, such as seed=1{hint}"
        )
    try:
        override = OverridesParser.create().parse_override(text)
        if override.is_sweep_override():
            raise ConfigError(
                f"cannot read {text!r}: one run takes one value; write a list as [a,b], "
                "quote text that holds commas"
            )
        return override.key_or_group, override.value()
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cannot read {text!r}: {reason}; quote text with special characters, "
            "such as 'data.root=\"my folder\"'"
        ) from error


def _choice(group: str, value: Any) -> Any:
    if group == "prior":
        names = [] if value is None else value if isinstance(value, list) else [value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ConfigError(f"prior={_text(names)}: {twice.pop()} is listed twice")
        return [_known(group, name) for name in names]
    if value is None and group in OPTIONAL_GROUPS:
        return None
    return _known(group, value)


def _known(group: str, value: Any) -> str:
    exists = options(group)
    if isinstance(value, (list, dict)):
        raise ConfigError(f"{group}={_text(value)}: choose one name; {suggest('', exists)}")
    # A name such as 1gpu parses as text, but 8 or true would not.
    name = "null" if value is None else str(value)
    if name not in exists:
        raise ConfigError(f"unknown {group} {name!r}; {suggest(name, exists)}")
    return name


def _text(value: Any) -> str:
    return str(value).replace("'", "").replace(" ", "")
