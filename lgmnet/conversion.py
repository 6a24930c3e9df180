"""Read YAML files into the types of dataclasses; errors name the setting."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from lgmnet import registry
from lgmnet.project import find_file
from lgmnet.registry import nearest

# Largest number of values in a YAML file with its aliases expanded. Configs have about a hundred.
LARGEST_TREE = 100_000
# Largest number of characters in a YAML text. Configs have a few thousand.
LARGEST_TEXT = 200_000
# Section of a config -> (name of a key in older files -> its current name).
FORMER_NAMES = {"data": {"patch_size": "crop_size"}}
# Keys whose values may be paths, by section.
PATHS = {"sampling": ("phi_init",), "data": ("train", "validation")}


class ConfigError(ValueError):
    """A setting is wrong. The message says which one, what was expected, and what to do."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_choice(key: str, value: str, known: Sequence[str]) -> None:
    registry.require_choice(key, value, known, ConfigError)


def convert(value: Any, annotation: Any, key: str) -> Any:
    """``value`` converted to the type ``annotation``. (YAML reads 1e-4 as a string.)"""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, UnionType):
        members = typing.get_args(annotation)
        if value is None and type(None) in members:
            return None
        inner = [a for a in members if a is not type(None)]
        listed = isinstance(value, list | tuple) or (isinstance(value, str) and "," in value)
        fitting = [a for a in inner if (typing.get_origin(a) is tuple) == listed]
        return convert(value, (fitting or inner)[0], key)
    if origin is tuple:
        items = [v.strip() for v in value.split(",")] if isinstance(value, str) else value
        require(isinstance(items, list | tuple), f"{key} is {value!r}, expected a list")
        return tuple(convert(item, typing.get_args(annotation)[0], key) for item in items)
    return _convert_scalar(value, annotation, key)


def _convert_scalar(value: Any, annotation: Any, key: str) -> Any:
    message = f"{key} is {value!r}, expected {getattr(annotation, '__name__', annotation)}"
    if annotation is bool:
        text = str(value).lower()
        require(text in ("true", "false"), message + " (true or false)")
        return text == "true"
    # YAML reads off, no and yes as booleans, which are no valid numbers or names.
    require(not isinstance(value, bool) and isinstance(value, str | int | float), message)
    if annotation is str:
        return str(value)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ConfigError(message) from None
    if annotation is int:
        require(number.is_integer(), message)
        return int(number)
    return number


def build(section: type, values: Mapping[str, Any], prefix: str) -> Any:
    """The dataclass ``section`` with ``values``, converted to the types of its fields."""
    fields = {f.name: f for f in dataclasses.fields(section)}
    reject_unknown(values, fields, prefix + ".")
    types = typing.get_type_hints(section)
    for name, f in fields.items():
        required = f.default is f.default_factory is dataclasses.MISSING
        require(name in values or not required, f"{prefix}.{name} is missing; every run states it")
    return section(**{k: convert(v, types[k], f"{prefix}.{k}") for k, v in values.items()})


def section_of(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The keys and values under ``name``; empty if it is missing or empty."""
    section = {} if tree.get(name) is None else tree[name]
    require(isinstance(section, dict), f"{name} is {section!r}, expected keys and values")
    return section


def reject_unknown(tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for key in tree:
        require(
            key in known,
            f"unknown config key '{prefix}{key}'{nearest(str(key), known)} "
            f"(known here: {', '.join(known)})",
        )


class StrictLoader(yaml.SafeLoader):
    """YAML that refuses two frequent mistakes.

    PyYAML silently uses the last of two equal keys, and it expands nested aliases to more values
    than fit into memory.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        if is_alias and node not in self._sizes:
            raise yaml.YAMLError(f"{_line(node)} contains itself")
        if not is_alias:
            self._sizes[node] = 1 + sum(self._sizes[child] for child in _children(node))
        if self._sizes[node] > LARGEST_TREE:
            raise yaml.YAMLError(
                f"{_line(node)} expands to more than {LARGEST_TREE:,} values; write them without "
                "aliases (*name)"
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        lines: dict[Any, str] = {}
        for node, _ in mapping.value:
            if isinstance(node, yaml.ScalarNode):
                merges = node.tag == "tag:yaml.org,2002:merge"  # <<: no value by itself
                key = node.value if merges else self.construct_object(node)
                if key in lines:
                    raise yaml.YAMLError(
                        f"{_line(node)} gives '{key}' a second time, after {lines[key]}; keep one"
                    )
                lines[key] = _line(node)
        return mapping


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def parse_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        ValueError: it is not valid, gives a key twice, is too long, or expands to too many values.
    """
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"it has {len(text):,} characters, expected at most {LARGEST_TEXT:,}")
    try:
        return yaml.load(text, StrictLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file (see `find_file`). Raises ConfigError.

    The values of `PATHS` are first relative to the folder of the file: what exists there is used.
    """
    path = find_file(path)
    require(path.is_file(), f"there is no config file {path}; see configs/")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:  # also for text that is not UTF-8, and for invalid dates
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    require(isinstance(tree, dict), f"{path} contains no keys and values")
    return _with_own_paths(with_current_names(tree), path.parent)


def _with_own_paths(tree: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``tree`` with the paths of what lies in ``folder``, the folder of the YAML file."""
    found = dict(tree)
    for section in PATHS.keys() & tree.keys():
        if isinstance(tree[section], dict):
            found[section] = {
                key: _own_paths(value, folder) if key in PATHS[section] else value
                for key, value in tree[section].items()
            }
    if isinstance(tree.get("per_ratio"), dict):
        found["per_ratio"] = {
            ratio: _with_own_paths(entry, folder) if isinstance(entry, dict) else entry
            for ratio, entry in tree["per_ratio"].items()
        }
    return found


def _own_paths(value: Any, folder: Path) -> Any:
    """A path, or a list of paths. ``builtin`` is no path."""
    if isinstance(value, str) and "," in value:
        value = [item.strip() for item in value.split(",")]
    if isinstance(value, list):
        return [_own_paths(item, folder) for item in value]
    if value in ("", "builtin") or not isinstance(value, str):
        return value
    own = folder / value.partition("[")[0]  # train[:100] is a part of train
    return str(folder / value) if own.exists() else value


def read_with_bases(path: Path) -> dict[str, Any]:
    """A YAML file merged over its ``base``, which may have a base too.

    Raises:
        ConfigError: a file is missing or invalid, or is its own base.
    """
    path = find_file(path)
    tree, seen = read_yaml(path), [path.resolve()]
    while (base := tree.pop("base", None)) is not None:
        path = path.parent / str(base)
        require(path.resolve() not in seen, f"{path} is based on itself")
        seen.append(path.resolve())
        tree = merge(read_yaml(path), tree)
    return tree


def with_current_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` with the current names in place of `FORMER_NAMES`.

    Each source (file, command line, weights) is renamed before it is merged with another source.

    Raises:
        ConfigError: a source gives a setting by both names, with different values.
    """
    renamed = dict(tree)
    for section in FORMER_NAMES.keys() & tree.keys():
        if isinstance(tree[section], dict):
            renamed[section] = _renamed(tree[section], section)
    if isinstance(tree.get("per_ratio"), dict):
        renamed["per_ratio"] = {
            ratio: with_current_names(entry) if isinstance(entry, dict) else entry
            for ratio, entry in tree["per_ratio"].items()
        }
    return renamed


def _renamed(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    names = FORMER_NAMES[section]
    for old in names.keys() & values.keys():
        new = names[old]
        require(
            values.get(new, values[old]) == values[old],
            f"{section}.{old} is {values[old]!r}, but {section}.{new} is {values.get(new)!r}; "
            f"{old} is the former name of {new}: keep {section}.{new}",
        )
    return {names.get(key, key): value for key, value in values.items()}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees merged; if both have a value, that of ``above``."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def override_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """The tree of ``section.key=value`` texts."""
    tree: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, name = key.partition(".")
        require(
            bool(equals and dot and section and name),
            f"'{text}' is not an override; write section.key=value, such as sampling.ratio=0.25",
        )
        try:
            tree.setdefault(section, {})[name] = parse_yaml(value) if value else ""
        except ValueError as error:
            raise ConfigError(f"cannot read the value of '{text}': {error}") from None
    return with_current_names(tree)


def plain(value: Any) -> Any:
    """``value`` with lists in place of tuples, for YAML and JSON."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
