"""REST against its own OpenAPI document: whatever is asked, no 500 and no answer that it denies."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from edgekit.fleet.web.accounts import Role

# A span of time that ends before it begins is in no schema, and the token is sent in any case.
EXCLUDED = [checks.positive_data_acceptance, checks.negative_data_rejection]


@pytest.fixture
def rest(serve, lived):
    served = serve(lived)
    headers = {"Authorization": f"Bearer {served.tokens[Role.ADMIN]}", "Host": "localhost:8600"}
    found = schemathesis.openapi.from_asgi("/api/v1/openapi.json", served.guard, headers=headers)
    return found, headers


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_the_document_allows(rest, mode):
    schema, headers = rest
    asked = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case):
            case.call_and_validate(headers=headers, excluded_checks=EXCLUDED)
            asked.add(case.operation.label)

        ask()
    assert len(asked) >= 10
