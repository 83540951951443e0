"""The JSON document of a REST request: parsing it, and quoting it in errors, in TF Serving's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.server.rest_response import format_float
from serving.status import invalid_argument

JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
PARSE_ERRORS = (
    ("Expecting value", "Invalid value."),
    ("Expecting property name", "Missing a name for object member."),
    ("Illegal trailing comma", "Missing a name for object member."),
    ("Expecting ':' delimiter", "Missing a colon after a name of object member."),
    ("Extra data", "The document root must not be followed by other values."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid \\u", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\", "Invalid escape character in string."),
    ("Invalid control character", "Invalid encoding in string."),
)


def _in_object(text: str) -> bool:
    """Whether the position at the end of a JSON prefix lies in an object rather than an array."""
    stack, quoted, characters = [], False, iter(text)
    for character in characters:
        if quoted:
            if character == "\\":
                next(characters, None)
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character in "[{":
            stack.append(character)
        elif character in "]}" and stack:
            stack.pop()
    return bool(stack) and stack[-1] == "{"


def parse_document(body: bytes) -> dict[str, Any]:
    """Parses a request body.

    Raises:
        ServingError: INVALID_ARGUMENT "JSON Parse error: ..." in the words of the parser that TF Serving uses.

    Example:
        >>> parse_document(b'{"instances": [1, NaN]}')["instances"]
        [1, nan]
        >>> parse_document(b"")
        Traceback (most recent call last):
        serving.status.ServingError: INVALID_ARGUMENT: JSON Parse error: The document is empty
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid_argument(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from None
    if not text.strip(" \t\n\r"):
        raise invalid_argument(f"JSON Parse error: The document is empty. at offset: {len(body)}")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        reason = next((words for start, words in PARSE_ERRORS if error.msg.startswith(start)), None)
        if reason is None:  # a delimiter is missing
            object_ = _in_object(text[: error.pos])
            end, part = ("}", "object member") if object_ else ("]", "array element")
            reason = f"Missing a comma or {end} after an {part}."
        offset = len(text[: error.pos].encode())
        raise invalid_argument(f"JSON Parse error: {reason} at offset: {offset}") from None
    except RecursionError:
        raise invalid_argument("JSON Parse error: Terminate parsing due to Handler error. at offset: 0") from None
    except ValueError:  # Python bounds the digits of an integer
        raise invalid_argument("JSON Parse error: Number too big to be stored in double. at offset: 0") from None
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {json_text(document)} Is not object")
    return document


def json_text(value: Any) -> str:
    """A JSON value as error messages quote it."""
    if isinstance(value, float):
        return format_float(value, np.float64)
    return json.dumps(value, indent=4, ensure_ascii=False)


def type_name(value: Any) -> str:
    """The name of a JSON type as error messages say it."""
    return str(value) if isinstance(value, bool) else JSON_TYPES[type(value)]


def is_base64(value: Any) -> bool:
    """Whether a value is `{"b64": "..."}`: bytes, not an object."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def signature_name(document: Mapping[str, Any]) -> str:
    """The optional `signature_name` of a body; "" when absent."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {json_text(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name
