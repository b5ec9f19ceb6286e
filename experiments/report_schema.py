"""The schema of report.json put to use: fill in what is missing as null, refuse what a reader could not read."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from dflare.errors import InputError

Schema = Mapping[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


@cache
def report_schema() -> dict[str, Any]:
    """`report.schema.json`, JSON Schema 2020-12."""
    schema: dict[str, Any] = json.loads((files("experiments") / "report.schema.json").read_text(encoding="utf-8"))
    return schema


def conform(value: Any, name: str, where: str) -> Any:
    """`value` completed to the definition `name` of the schema (`"Round"`): every missing key is there as null.

    Keys the schema does not know stay as they are. Raises `InputError` naming the key under `where` for a wrong type
    and for a missing key that cannot be null. Knows the part of JSON Schema that report.schema.json uses.
    """
    return _conform(value, report_schema()["$defs"][name], where)


def _conform(value: Any, schema: Schema, where: str) -> Any:
    schema, nullable = _resolve(schema)
    if value is None and nullable:
        return None
    _check_type(value, schema, where)
    if isinstance(value, dict):
        return _conform_object(value, schema, where)
    if isinstance(value, list) and "items" in schema:
        return [_conform(item, schema["items"], f"{where}[{index}]") for index, item in enumerate(value)]
    return value


def _conform_object(value: dict[str, Any], schema: Schema, where: str) -> dict[str, Any]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    missing = {key: None for key in schema.get("required", []) if key not in value}
    completed = {}
    for key, item in {**value, **missing}.items():
        if key in properties:
            completed[key] = _conform(item, properties[key], f"{where}.{key}")
        elif others is False:
            raise InputError(f"{where} knows the keys {', '.join(properties)}, got {key!r}; was it edited by hand?")
        else:
            completed[key] = item if others is True else _conform(item, others, f"{where}.{key}")
    return completed


def _resolve(schema: Schema) -> tuple[Schema, bool]:
    """The schema behind references, and whether null is allowed."""
    if "$ref" in schema:
        return _resolve(report_schema()["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:  # always [something, null]
        return _resolve(schema["anyOf"][0])[0], True
    return schema, "null" in schema.get("type", ())


def _check_type(value: Any, schema: Schema, where: str) -> None:
    allowed = schema.get("type", list(_TYPES))
    allowed = [allowed] if isinstance(allowed, str) else allowed
    fits = any(isinstance(value, _TYPES[name]) and (name == "boolean" or not _is_bool(value)) for name in allowed)
    if not fits:
        got = "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
        raise InputError(f"{where} must be {' or '.join(allowed)}, got {got}")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)
