"""The gateway's own description: which scope a route needs, told by the same table that guards it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from serving.gateway.access import required_scope

SCHEME = "key"


def describe_security(app: FastAPI) -> None:
    """Makes `/openapi.json` name the scheme of keys and, for each operation, the scope that it needs.

    To be called when all routes are there.
    """
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            schema.setdefault("components", {}).setdefault("securitySchemes", {})[SCHEME] = {
                "type": "http",
                "scheme": "bearer",
                "description": "A key of the gateway's key file. A gateway without one answers its own machine alone.",
            }
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    scope = required_scope(method.upper(), path)
                    if scope is None:
                        for status in ("401", "403", "429"):
                            operation["responses"].pop(status, None)
                    else:
                        operation["security"] = [{SCHEME: []}]
                        operation["description"] = _with_scope(operation.get("description", ""), scope)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _with_scope(description: str, scope: str) -> str:
    """The description of an operation and the scope that its key needs.

    Example:
        >>> _with_scope("", "items")
        'Needs a key with the scope `items`.'
    """
    return f"{description}\n\nNeeds a key with the scope `{scope}`.".strip()
