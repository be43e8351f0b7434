"""OpenAPI 3.1 from the table of routes and the types it names."""

from __future__ import annotations

import re
from importlib.metadata import version
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from viscum.controller.api import happenings, problem
from viscum.controller.api.route import JSON, Nothing, Plain, Route, Text
from viscum.controller.api.table import ROUTES as EVERY
from viscum.spec import doc as spec_doc
from viscum.spec.types import fields

ROUTES = tuple(route for route in EVERY if route.documented)
REFERENCE = "#/components/schemas/{name}"
WORDS = {
    200: "Done.",
    201: "Made.",
    202: "Begun; it goes on by itself.",
    304: "Not modified.",
    400: "The request can't be read.",
    401: "Who asks is not known.",
    403: "Who asks may not do this.",
    404: "Not there, or not yours.",
    408: "The request took too long to arrive.",
    409: "In conflict with what is.",
    412: "If-Match or If-None-Match does not hold.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "What was given can't be used here; `problems` names each place.",
    429: "Too much at once; try again after Retry-After seconds.",
    500: "Failed.",
}
ALWAYS = (400, 401, 403, 408, 429, 500)
REQUEST_HEADERS = {
    "If-Match": "Only if it is still what this ETag names (* : if it is there).",
    "If-None-Match": "Only if it is not what this ETag names (* : if it is not there).",
    "Last-Event-ID": "Resume after this event.",
}


def document() -> bytes:
    """As JSON."""
    _, schemas = msgspec.json.schema_components(_structs(), ref_template=REFERENCE)
    spec = spec_doc.schema()
    del spec["$schema"]
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Viscum controller",
                "version": version("viscum"),
                "description": "Services of one router. Errors are RFC 9457 problem details.",
            },
            "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
            "paths": paths,
            "components": {
                "schemas": schemas | {"Spec": spec},
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer"},
                    "certificate": {"type": "mutualTLS"},
                },
            },
        }
    )


def _structs() -> list[Any]:
    found: list[Any] = [problem.ProblemDetails]
    for route in ROUTES:
        for answer in route.answers.values():
            found += [t for t in _members(answer) if isinstance(t, type)]
    return list(dict.fromkeys(found))


def _members(answer: Any) -> tuple[Any, ...]:
    return get_args(answer) if get_origin(answer) is UnionType or isinstance(
        answer, UnionType
    ) else (answer,)  # fmt: skip


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _identifier(route),
        "summary": route.summary,
        "description": _description(route),
        "parameters": [*_in_path(route), *_in_query(route.query), *_in_headers(route)],
        "responses": _responses(route),
        "security": [{}] if route.role == "anyone" else [{"token": []}, {"certificate": []}, {}],
    }
    if route.role != "anyone":
        operation["security"] = [{"token": []}, {"certificate": []}]
    if route.body is not None:
        plain = isinstance(route.body, Plain)
        schema = (
            route.body.schema
            if isinstance(route.body, Plain)
            else spec_doc.table_schema(route.body)
        )
        operation["requestBody"] = {
            "required": plain,
            "content": {JSON: {"schema": schema}},
        }
    return operation


def _identifier(route: Route) -> str:
    words = re.findall("[a-z0-9]+", route.path)
    return "_".join([route.method.lower(), *words])


def _description(route: Route) -> str:
    of = "the host's own" if route.host else ""
    needs = (
        "" if route.role == "anyone" else f"Needs the role {route.role}{', ' if of else ''}{of}."
    )
    return " ".join(part for part in (route.description, needs) if part)


def _in_path(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _in_query(table: type[Struct]) -> list[dict[str, Any]]:
    if table is Nothing:
        return []
    schema = spec_doc.table_schema(table)
    found = []
    for name, one in schema["properties"].items():
        found.append(
            {
                "name": name,
                "in": "query",
                "required": name in schema["required"],
                "description": one.pop("description"),
                "schema": one,
            }
        )
    return found


def _in_headers(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "description": REQUEST_HEADERS[name],
            "schema": {"type": "string"}
            | ({"pattern": happenings.CURSOR} if name == "Last-Event-ID" else {}),
        }
        for name in route.request_headers
    ]


def _responses(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, answer in route.answers.items():
        one: dict[str, Any] = {"description": WORDS[status]}
        if isinstance(answer, Text):
            one["content"] = {
                answer.media: {"schema": {} if answer.media == JSON else {"type": "string"}}
            }
            if answer.words:
                one["description"] = answer.words
        elif answer is not None:
            references = [{"$ref": REFERENCE.format(name=t.__name__)} for t in _members(answer)]
            schema = references[0] if len(references) == 1 else {"anyOf": references}
            one["content"] = {JSON: {"schema": schema}}
        if route.headers:
            one["headers"] = {name: {"schema": {"type": "string"}} for name in route.headers}
        found[str(status)] = one
    errors = {*ALWAYS, *route.errors}
    if route.body is not None:
        errors |= {413, 415, 422}
    if fields(route.query):
        errors.add(422)
    for status in sorted(errors):
        found[str(status)] = {
            "description": WORDS[status],
            "content": {
                problem.MEDIA: {"schema": {"$ref": REFERENCE.format(name="ProblemDetails")}}
            },
        }
    return found
