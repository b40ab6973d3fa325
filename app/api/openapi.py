"""One OpenAPI for both kinds of route: FastAPI describes its own, this adds the hot ones and the problems."""

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from app.api import examples, limits
from app.api.bodies import JSON, NPY
from app.api.problems import MEDIA_TYPE, TABLE
from app.api.resource import Operation, Resource
from app.api.rights import RIGHTS

_REF = "#/components/schemas/{name}"
Json = dict[str, Any]
Responses = dict[int | str, Json]

PROBLEM_SCHEMA: Json = {
    "type": "object",
    "description": "RFC 9457. `instance` is the request id; `errors` names places, 100 at most of `error_count`.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "examples": ["/problems/id-exists"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "maxItems": 100,
            "items": {
                "type": "object",
                "required": ["where", "message"],
                "properties": {"where": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "error_count": {"type": "integer"},
    },
}


SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}
"""Either, where the server has keys."""


_FILE: Json = {"type": "string", "format": "binary"}
FILES: Json = {
    "application/octet-stream": {"schema": _FILE},
    "application/x-tar": {"schema": _FILE},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["vectors"],
            "properties": {"vectors": {"type": "array", "items": _FILE}, "ids": _FILE, "metadata": _FILE},
        }
    },
}
"""The body of an import."""


def answer(status: int, example: Any, description: str = "Success", *further: str) -> Responses:
    """The success answer of an operation; further: other media types it can be asked for."""
    if example is None and not further:
        return {status: {"description": "Done; no body"}}
    content: Json = {} if example is None else {JSON: {"schema": {"type": "object"}, "example": example}}
    content |= {media: {"schema": {"type": "string", "format": "binary"}} for media in further}
    return {status: {"description": description, "content": content}}


TAGS: list[Json] = [
    {"name": "collections", "description": "What there is: created, described, changed, dropped."},
    {
        "name": "vectors",
        "description": "Items, each an id, a vector and metadata: written, read, counted, deleted.",
    },
    {"name": "search", "description": "The nearest, of all or of those that match a filter."},
    {"name": "recall", "description": "How much of the true nearest is found, measured and calibrated."},
    {"name": "index", "description": "Built by itself; built anew where another one is wanted."},
    {"name": "files", "description": "Whole files in and out, and collections into each other."},
    {"name": "aliases", "description": "Names that lead to collections, switched in one step."},
    {"name": "snapshots", "description": "Collections as they stood at one moment: taken, sent, restored."},
    {"name": "service", "description": "The server itself."},
]
"""In the order in which one meets them; docs/api.md and the page at /docs have the same."""

ALWAYS = ("unauthorized", "forbidden", "request-timeout", "rate-limited", "overloaded", "internal-error")
"""What every operation can answer, whatever it does."""


def problems(*codes: str) -> Responses:
    """The problem answers of an operation, by status; every operation can also answer (by its path) 422."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, *ALWAYS):
        by_status.setdefault(TABLE[code].status, []).append(code)
    return {status: _problem(status, listed) for status, listed in sorted(by_status.items())}


def _problem(status: int, codes: list[str]) -> Json:
    shown = {code: {"value": _example(status, code)} for code in codes}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "; ".join(f"{TABLE[code].title} (`{code}`)" for code in codes),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": shown}},
    }


def _example(status: int, code: str) -> Json:
    detail = TABLE[code].explanation
    return {
        "type": f"/problems/{code}",
        "title": TABLE[code].title,
        "status": status,
        "detail": detail,
        "instance": "5f0c2b8e4a91d7c3",
    }


def document(app: FastAPI, resources: Iterable[Resource], routers: Iterable[APIRouter]) -> Json:
    """The whole OpenAPI document. routers: those included in the application."""
    spec = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for route in (route for router in routers for route in router.routes if isinstance(route, APIRoute)):
        for method in route.methods or ():
            # FastAPI drops what is None, out of examples too, where null is part of the answer.
            responses = spec["paths"][route.path_format][method.lower()]["responses"]
            responses |= {str(status): response for status, response in route.responses.items()}
            spec["paths"][route.path_format][method.lower()].setdefault(RIGHTS, "write")
    operations = [(r.path_format, o) for r in resources for o in r.operations.values()]
    structs = [s for _, o in operations for s in (o.body, o.query) if s is not None]
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    _bound(components)
    schemas = spec.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = PROBLEM_SCHEMA
    schemas.update(components)
    for path, operation in operations:
        spec["paths"].setdefault(path, {})[operation.method.lower()] = _operation(path, operation, components)
    spec["components"]["securitySchemes"] = SECURITY
    spec["tags"] = TAGS
    spec["security"] = [{name: []} for name in SECURITY]
    return spec


def _bound(components: Json) -> None:
    """What the settings bound is in no schema: those are made before settings are read."""
    most = {"k": limits.current.k_max, "limit": limits.current.list_max}
    for schema in components.values():
        for name, value in schema.get("properties", {}).items():
            for kind in (value, *value.get("anyOf", ()), *(k.get("items", {}) for k in value.get("anyOf", ()))):
                if name in most and kind.get("type") == "integer":
                    kind["maximum"] = most[name]


def _operation(path: str, operation: Operation, components: Json) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        RIGHTS: operation.rights,
        "parameters": _parameters(path, operation, components),
        "responses": {
            str(status): response
            for status, response in (
                answer(operation.status, operation.answer, "Success", *operation.answers)
                | problems(*operation.problems)
            ).items()
        },
    }
    if operation.description:
        described["description"] = operation.description
    if operation.files:
        described["requestBody"] = {"required": True, "content": FILES}
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation)}
    return described


def _content(operation: Operation) -> Json:
    assert operation.body is not None and operation.examples is not None
    content: Json = {
        JSON: {
            "schema": {"$ref": _REF.format(name=operation.body.__name__)},
            "examples": {name: {"value": value} for name, value in operation.examples.items()},
        }
    }
    if operation.npy:
        content[NPY] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _parameters(path: str, operation: Operation, components: Json) -> list[Json]:
    parameters = [_path_parameter("collection", "the collection's name", examples.COLLECTION, limits.NAME_SCHEMA)]
    if "{id}" in path:
        parameters.append(_path_parameter("id", "the item's id, percent-encoded where it must be", str(examples.ID)))
    if operation.query is not None:
        for name, schema in components[operation.query.__name__]["properties"].items():
            parameter = {"name": name, "in": "query", "required": False, "schema": schema}
            if operation.npy:
                parameter["description"] = f"With a `{NPY}` body. {schema.get('description', '')}".rstrip()
            if schema.get("type") == "array":
                parameter |= {"style": "form", "explode": False}
            parameters.append(parameter)
    return parameters


def _path_parameter(name: str, description: str, example: str, bounds: Json | None = None) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", **(bounds or {})},
        "example": example,
    }
