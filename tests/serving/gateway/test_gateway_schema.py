"""Requests made from the gateway's own description, good ones and hostile ones: it answers as it says it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.gateway.app import GatewaySettings, create_app
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import write_folders

EXAMPLES = 7
"""Of each operation, good and hostile each: some 220 requests. benchmarks/hostile_requests.py sends as many as it is told."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, schemathesis.BaseSchema]]:
    run, source = write_folders(tmp_path_factory.mktemp("schema"))
    app = create_app(GatewaySettings(run=run, source=source, most_items=20), FakeRecommender())
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    yield {result.ok().label: result.ok() for result in schema.get_all_operations()}


def test_every_operation_keeps_to_its_description(operations) -> None:
    named = {"POST /v1/recommend", "POST /v1/feedback", "POST /v1/items", "DELETE /v1/items/{item_id}"}
    assert {*named, "POST /v1/search/media"} <= set(operations)
    asked = []
    for label, operation in operations.items():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate], database=None,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def ask(case) -> None:
                response = case.call()
                asked.append(response.status_code)
                case.validate_response(response, checks=CHECKS)
                assert "Traceback" not in response.text and 'File "' not in response.text
                assert response.elapsed < 5

            try:
                ask()
            except Unsatisfiable:  # a request without any input cannot be wrong
                assert mode is GenerationMode.NEGATIVE and not operation.query and not operation.body, label
    assert len(asked) >= 200 and {200, 422} <= set(asked) and max(asked) < 500
