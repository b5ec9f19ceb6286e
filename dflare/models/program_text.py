"""The graph of a `.pt2` file as JSON: whether every word in it is one that torch can be handed without harm."""

import json
import re
from typing import Any

_NAME = re.compile(r"\w*")
"""Names of values in the graph, which torch writes into code."""

_PATH = re.compile(r"[\w.@ -]*")
"""Names of modules and weights, versions, devices and the like."""

_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision|torchao)(\.[a-z]\w*|\._[a-z]\w*)\.(?!_)\w+"
    r"|torch\.ops\.aten\.__(and|or|xor|lshift|rshift)__\.\w+"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\._?sym_(int|float|max|min|not|ite|sqrt|sum)|math\.(ceil|floor|trunc|sqrt|pow)"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|_print|warn)\.\w+")
"""Operators that touch files or the terminal."""

_SYMBOL = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Where"
    r"|CeilToInt|FloorToInt|TruncToInt|RoundToInt|TruncToFloat|ToFloat|IntTrueDiv|FloatTrueDiv|Identity|Equality"
    r"|Unequality|Eq|Ne|Lt|Le|Gt|Ge|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|And|Or|Not|int_oo"
    r"|true|false|True|False|positive|negative|nonnegative|nonpositive|nonzero|zero|integer|real|finite|precision"
)
"""Words of a size; powers, other than those of one symbol, could take for ever."""

_QUOTED = re.compile(r"'[\w.]{0,40}'")
_EXPRESSION = re.compile(r"\d{1,19}(\.\d{1,19})?|[A-Za-z]\w*|[(),=\s<>!+*/%-]")
_SQUARE = re.compile(r"Pow\(Symbol\('\w+'[^()]*\), Integer\(-?\d\)\)")

_GUARD = re.compile(
    r"L(\['?\w{1,40}'?\]){1,4}|\.size\(\)\[\d{1,2}\]|\d{1,19}(\.\d{1,19})?|and|or|not|math\.inf|inf|True|False"
    r"|Mod|PythonMod|FloorDiv|Max|Min|[()\s,<>=!+*/%-]"
)

_LONGEST = 2000
"""Characters of a size or a condition."""

_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_FREE = {"metadata", "as_string", "as_strings", "torch_version"}
"""What is read by people, or handed to operators as text."""


def check_text(program: Any, key: str = "") -> None:
    """Raise `ValueError`, with a reason in words, for a graph that could make torch run anything but operators."""
    if key in _FREE:
        return
    if isinstance(program, dict):
        for name, value in program.items():
            if not _PATH.fullmatch(name):
                raise ValueError(f"{name[:40]!r} in its graph is no name")
            if name in ("as_custom_obj", "custom_obj") or (name == "custom_obj_values" and value):
                raise ValueError("its graph holds an object that is no tensor")
            check_text(value, name)
    elif isinstance(program, list):
        for value in program:
            check_text(value, key)
    elif isinstance(program, str) and not _CHECKS.get(key, _is_path)(program):
        raise ValueError(f"{program[:60]!r} in its graph is no {_WHAT.get(key, 'name')} that is known to be harmless")


def _is_path(text: str) -> bool:
    return _PATH.fullmatch(text) is not None


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    return _OPERATORS.fullmatch(text) is not None and _FILES.fullmatch(text) is None


def _is_expression(text: str) -> bool:
    """Whether a size is written with symbols, numbers and arithmetic only; it is evaluated as Python."""
    bare = _QUOTED.sub(" ", _SQUARE.sub("1", text))
    return _made_of(_EXPRESSION, bare) and all(map(_SYMBOL.fullmatch, re.findall(r"[A-Za-z_]\w*", bare)))


def _is_guard(text: str) -> bool:
    return _made_of(_GUARD, text)


def _made_of(token: re.Pattern[str], text: str) -> bool:
    return len(text) <= _LONGEST and "**" not in text and not token.sub("", text)


def _is_tree(text: str) -> bool:
    """Whether the inputs and outputs are nested in plain containers; others name classes that torch would look up."""
    try:
        trees = [json.loads(text)[1]]
        while trees:
            tree = trees.pop()
            if tree["type"] not in _TREES:
                return False
            trees += tree["children_spec"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return True


_CHECKS = {
    "name": _is_name,
    "as_name": _is_name,
    "forward_arg_names": _is_name,
    "target": _is_operator,
    "as_operator": _is_operator,
    "expr_str": _is_expression,
    "guards_code": _is_guard,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
}
_WHAT = {
    "target": "operator",
    "as_operator": "operator",
    "expr_str": "size",
    "guards_code": "condition",
    "in_spec": "nesting",
    "out_spec": "nesting",
}
