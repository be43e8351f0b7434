"""Plain data or TOML → Spec. Finds every problem before it gives up; never anything but InputError.

A value that can't be read is replaced by its default, and by None in an array, so that the checks
across fields still run on the rest; what comes of that is never returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo

from viscum.errors import InputError, Problem
from viscum.spec.rules import across
from viscum.spec.types import Probe, Spec, fields
from viscum.spec.values import BadValue, Kind, kind_of, nearest, shown

_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


T = TypeVar("T", bound=Struct)


class BadSpec(InputError):
    """partial: what could be read, for checks that go further: defaults in place of the rest, and
    nothing in place of what is unreadable in an array."""

    def __init__(self, partial: Spec, *problems: Problem) -> None:
        super().__init__(*problems)
        self.partial = partial


def from_mapping(
    given: object, *, source: str = "", flags: Mapping[str, str] | None = None
) -> Spec:
    """Reads a spec from nested tables, lists and scalars as TOML or JSON have them.

    `source` (a file's name) is put before each problem's field; `flags` names fields in the
    caller's words: {"steer.ports": "--port"}. Raises InputError with all problems.
    """
    reader = _Reader()
    spec: Spec = reader.table(Spec, given, "")
    wrong = {problem.field for problem in reader.problems}
    problems = reader.problems + [p for p in across(spec) if p.field not in wrong]
    if problems:
        found = (_renamed(problem, source, flags or {}) for problem in problems)
        raise BadSpec(_readable(spec), *found)
    return spec


def _readable(table: Any) -> Any:
    """Without the None that stand for unreadable items of arrays and tables."""
    if isinstance(table, Struct):
        values = {name: _readable(getattr(table, name)) for name in table.__struct_fields__}
        return type(table)(**values)
    if isinstance(table, tuple):
        return tuple(item for item in table if item is not None)
    if isinstance(table, dict):
        return {key: item for key, item in table.items() if None not in (key, item)}
    return table


def from_toml(given: str, source: str = "") -> Spec:
    """Reads a spec from TOML; raises InputError with all problems, or where the syntax is wrong."""
    import tomllib  # compiles regular expressions: 5 ms, and `viscum run` has no TOML to read

    try:
        mapping = tomllib.loads(given)
    except RecursionError:
        raise InputError(
            Problem(source or "TOML", "", "is nested too deeply", "see docs/spec.md")
        ) from None
    except ValueError as error:
        message, _, where = str(error).partition(" (at ")
        where = where.rstrip(")").replace("end of document", "the end")
        field = f"{source}: {where}" if source and where else source or where or "TOML"
        raise InputError(
            Problem(field, "", f"is not TOML: {message}", "correct the syntax (toml.io/en/v1.0.0)")
        ) from None
    return from_mapping(mapping, source=source)


def _renamed(problem: Problem, source: str, flags: Mapping[str, str]) -> Problem:
    field = flags.get(_stem(problem.field), problem.field)
    field = f"{source}: {field}" if source else field
    return Problem(field, problem.value, problem.message, problem.fix)


def _stem(path: str) -> str:
    """`steer.ports[1]` → `steer.ports`."""
    return path.partition("[")[0]


def _join(path: str, key: object) -> str:
    word = shown(key)
    if not word or not _BARE.issuperset(word):
        word = '"' + word.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    return f"{path}.{word}" if path else word


def read_table(cls: type[T], given: object, *, source: str = "") -> T:
    """Reads any other table whose fields are annotated as those of a spec are (settings).

    Raises InputError with all problems, each field with `source` before it.
    """
    reader = _Reader(cls)
    table: T = reader.table(cls, given, "")
    if reader.problems:
        raise InputError(*(_renamed(problem, source, {}) for problem in reader.problems))
    return table


class _Reader:
    """Walks the types of `types` along the given data and collects problems."""

    def __init__(self, root: type[Any] = Spec) -> None:
        self.root = root
        self.problems: list[Problem] = []

    def problem(self, path: str, value: object, message: str, fix: str) -> None:
        self.problems.append(Problem(path, shown(value), message, fix))

    def table(self, cls: type[Any], given: object, path: str) -> Any:
        """An instance of `cls`, with defaults where nothing usable was given."""
        if not isinstance(given, Mapping):
            self.problem(
                path or "the spec",
                given,
                f"must be a table, not {kind_of(given)}",
                f"write [{path}] and its keys below it" if path else "see docs/spec.md",
            )
            given = None
        known = {info.encode_name: info for info in fields(cls)}
        for key in given or ():
            if key not in known:
                self.unknown(tuple(known), path, key)
        values = {}
        for key, info in known.items():
            where = _join(path, key)
            if given is not None and key in given:
                values[info.name] = self.value(info.type, given[key], where, _default(info))
            else:
                values[info.name] = _default(info)
                if info.required and given is not None:
                    self.problems.append(Problem(where, "", "is missing", _how_to_add(info, where)))
        return cls(**values)

    def value(self, hint: Any, given: object, path: str, default: Any = None) -> Any:
        """`given` read as `hint`; `default` if it can't be."""
        kind, metas = None, []
        while get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
            kind = next((note for note in notes if isinstance(note, Kind)), kind)
            metas += [note for note in notes if isinstance(note, Meta)]
        if get_origin(hint) in (Union, UnionType) and type(None) in get_args(hint):
            if given is None:
                return None
            (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
            hint = Annotated[inner, kind, *metas] if kind else Annotated[inner, *metas]
            return self.value(hint, given, path, default)
        result = default
        try:
            result = self.plain(hint, kind, given, path)
            for meta in metas:
                self.bounds(meta, result, path)
        except BadValue as error:
            self.problem(path, given, error.message, error.fix)
        return result

    def plain(self, hint: Any, kind: Kind | None, given: object, path: str) -> Any:
        origin = get_origin(hint)
        if kind is not None:
            return kind.parse(given)
        if origin is tuple:
            return self.array(get_args(hint)[0], given, path)
        if origin is dict:
            return self.dictionary(get_args(hint), given, path)
        if origin is Literal:
            return _choice(get_args(hint), given)
        if issubclass(hint, Struct):
            return self.table(hint, given, path)
        if hint is bool:
            return _boolean(given)
        return _number(hint, given)

    def array(self, item: Any, given: object, path: str) -> tuple[Any, ...]:
        if not isinstance(given, (list, tuple)):
            raise BadValue(f"must be an array, not {kind_of(given)}", _as_array(given, path))
        return tuple(self.value(item, one, f"{path}[{i}]") for i, one in enumerate(given))

    def dictionary(self, hints: tuple[Any, Any], given: object, path: str) -> dict[Any, Any]:
        if not isinstance(given, Mapping):
            raise BadValue(f"must be a table, not {kind_of(given)}", f"write [{path}]")
        return {
            self.value(hints[0], key, _join(path, key)): self.value(hints[1], one, _join(path, key))
            for key, one in given.items()
        }

    def bounds(self, meta: Meta, result: Any, path: str) -> None:
        """What msgspec.Meta says of a value that could be read."""
        if meta.gt is not None and not result > meta.gt:
            raise BadValue(f"must be more than {meta.gt}", "raise it")
        if meta.ge is not None and not result >= meta.ge:
            least = str(type(result)(meta.ge))
            raise BadValue(f"must be at least {least}", f"use {least} or more")
        if meta.le is not None and not result <= meta.le:
            most = str(type(result)(meta.le))
            raise BadValue(f"must be at most {most}", f"use {most} or less")
        if meta.min_length is not None and len(result) < meta.min_length:
            raise BadValue("is empty", f"give at least {meta.min_length}")
        if meta.max_length is not None and len(result) > meta.max_length:
            raise BadValue(f"has {len(result)} items", f"give at most {meta.max_length}")
        if (meta.extra_json_schema or {}).get("uniqueItems"):
            first: dict[Any, int] = {}
            for index, item in enumerate(result):
                if item is not None and first.setdefault(item, index) != index:
                    self.problem(
                        f"{path}[{index}]",
                        item if isinstance(item, str) else str(item),
                        f"is already there as {path}[{first[item]}]",
                        "remove one of them",
                    )

    def unknown(self, known: tuple[str, ...], path: str, key: object) -> None:
        word = str(key) if isinstance(key, str) else ""
        kebab = word.lower().replace("_", "-")
        places = _places(self.root)
        begun = [place for place in places if kebab and place.startswith(kebab)]
        near = nearest(kebab, begun or known) or nearest(kebab, list(places))
        if kebab in known:
            fix = f"write {kebab}"
        elif kebab in places or (near and near not in known):
            near = kebab if kebab in places else near or ""
            where = f"in [{places[near]}]" if places[near] else "at the top, before any [table]"
            fix = f"write {near} {where}"
        else:
            fix = f"did you mean {near}?" if near else "known here: " + ", ".join(known)
        self.problems.append(Problem(_join(path, key), "", "is not a known key", fix))


def _default(info: FieldInfo) -> Any:
    if info.default is not NODEFAULT:
        return info.default
    if info.default_factory is not NODEFAULT:
        return info.default_factory()
    hint = get_args(info.type)[0]  # a required field: the empty value, for the checks that follow
    if isinstance(hint, type) and issubclass(hint, Struct):
        return hint(**{inner.name: _default(inner) for inner in fields(hint)})
    return "" if hint is str else ()


def _how_to_add(info: FieldInfo, path: str) -> str:
    from viscum.spec.write import toml_value

    for meta in get_args(info.type)[1:]:
        if isinstance(meta, Meta) and meta.examples:
            return f"add {path.rpartition('.')[2]} = {toml_value(meta.examples[0])}"
    required = [inner.encode_name for inner in fields(get_args(info.type)[0]) if inner.required]
    return f"add [{path}] with {' and '.join(required)}"


def _places(root: type[Any]) -> dict[str, str]:
    """Every key → the table it belongs in ("": the top). Not those of [probe], whose words
    (port, path, host) are more likely meant for others."""
    places: dict[str, str] = {}

    def walk(cls: type[Any], path: str) -> None:
        for info in fields(cls):
            places[info.encode_name] = path
            hint = get_args(info.type)[0]
            if isinstance(hint, type) and issubclass(hint, Struct) and hint is not Probe:
                walk(hint, _join(path, info.encode_name))

    walk(root, "")
    return places


def _choice(choices: tuple[str, ...], given: object) -> str:
    listed = " or ".join(f'"{choice}"' for choice in choices)
    if not isinstance(given, str):
        raise BadValue(f"must be a string, not {kind_of(given)}", f"write {listed}")
    if given not in choices:
        raise BadValue("is not one of the choices", f"write {listed}")
    return given


def _boolean(given: object) -> bool:
    if not isinstance(given, bool):
        raise BadValue(f"must be a boolean, not {kind_of(given)}", "write true or false")
    return given


def _number(hint: type[int] | type[float], given: object) -> int | float:
    what = "a whole number" if hint is int else "a number"
    if isinstance(given, bool) or not isinstance(given, int if hint is int else (int, float)):
        digits = given.strip().rstrip("%").strip() if isinstance(given, str) else ""
        fix = f"write {digits}" if digits.isdecimal() and len(digits) < 20 else f"write {what}"
        raise BadValue(f"must be {what}, not {kind_of(given)}", fix)
    if given != given:
        raise BadValue("is not a number", f"write {what}")
    try:
        return hint(given)
    except OverflowError:
        raise BadValue("is too large", "use a smaller one") from None


def _as_array(given: object, path: str) -> str:
    from viscum.spec.write import toml_value

    if not isinstance(given, str):
        return "write it in [ ]"
    words = [given]
    if path == "command":
        import shlex

        try:
            words = shlex.split(given) or words
        except ValueError:
            pass
    return f"write {toml_value(words)}" if len(given) <= 80 else "write it in [ ]"
