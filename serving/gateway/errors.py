"""How the gateway refuses: one shape of reply, a rule in words, and nothing of the inside."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving.gateway.messages import ErrorReply

MAX_DETAILS = 20


def add_error_replies(app: FastAPI) -> None:
    """Makes every refusal of the app an `ErrorReply`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        details = [rule_text(problem) for problem in error.errors()[:MAX_DETAILS]]
        return JSONResponse(ErrorReply(error=details[0], details=details).model_dump(), status_code=422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        reply = ErrorReply(error=str(error.detail))
        return JSONResponse(reply.model_dump(), status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(ErrorReply(error="the gateway failed; its log has the cause").model_dump(), status_code=500)


def rule_text(problem: dict[str, Any]) -> str:
    """One broken rule as "field: rule, received value".

    Example:
        >>> rule_text({"loc": ("query", "k"), "msg": "Input should be at most 100", "input": "900", "type": "le"})
        "k: input should be at most 100, received '900'"
    """
    where = ".".join(str(part) for part in problem["loc"][1:])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "json_invalid":
        return f"body: must be JSON ({message}, at character {where})"
    if not where:  # a rule over several fields names them itself
        return message if problem["type"] == "value_error" else f"body: {message}"
    if problem["type"] == "extra_forbidden":
        return f"{shown(where)}: is no field of this request; /openapi.json lists those that are"
    return f"{where}: {message[:1].lower()}{message[1:]}, received {shown(problem.get('input'))}"


def shown(value: Any) -> str:
    """A value as it may stand in an error: ASCII and short, whatever was sent.

    Example:
        >>> shown("é" * 200)[:16]
        "'\\\\xe9\\\\xe9\\\\xe9\\\\xe"
    """
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
