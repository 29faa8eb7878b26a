"""Batches that are made of stored files: a worker reads the file, and their output and error files are stored, too."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from api_schemas import jsontext
from api_schemas.bodies import ENDPOINTS
from api_schemas.errors import FieldProblem
from worker.base.errors import InvalidRequest, NotFound
from worker.db.batches.stored import Order
from worker.db.files import records as files
from worker.producer.scope import Scope

#: A batch's completion window, in seconds; OpenAI has no other.
WINDOW_SECONDS = 86_400.0


def order(
    scope: Scope,
    input_file: str,
    *,
    endpoint: str,
    metadata: Mapping[str, str] | None = None,
    webhook: str | None = None,
    output_expires_seconds: int | None = None,
    idempotency_key: str | None = None,
    models: Collection[str] | None = None,
    key_id: str | None = None,
) -> Order:
    """What is to be made of a stored file. The batch reports later what is wrong with the file.

    Args:
        models: those that its lines may name; None: any.
        key_id: the API key that asks; what it repeats without an idempotency key is its own order.

    Raises:
        InvalidRequest: the endpoint is none that batches have.
        Unreachable: the database does not answer.
    """
    if endpoint not in ENDPOINTS:
        raise InvalidRequest(
            [FieldProblem(field="endpoint", message=f"expected one of {', '.join(ENDPOINTS)}, got {endpoint[:100]!r}")]
        )
    asked = {
        "input_file_id": input_file,
        "endpoint": endpoint,
        "metadata": dict(metadata or {}),
        "webhook": webhook,
        "output_expires_seconds": output_expires_seconds,
    }
    if idempotency_key is None:
        asked["key"] = key_id
    return Order(
        tenant=scope.tenant,
        input_file_id=input_file,
        input_name=_name_of(scope, input_file),
        endpoint=endpoint,
        max_attempts=scope.settings.max_attempts,
        window_seconds=WINDOW_SECONDS,
        metadata=jsontext.dumps(dict(metadata)).decode() if metadata else None,
        webhook=webhook,
        import_key=None if idempotency_key is None else f"key:{hashlib.sha256(idempotency_key.encode()).hexdigest()}",
        fingerprint=hashlib.sha256(jsontext.canonical(asked)).hexdigest(),
        output_expires_seconds=output_expires_seconds,
        allowed_models=None if models is None else jsontext.dumps(sorted(models)).decode(),
    )


def _name_of(scope: Scope, file: str) -> str:
    """The file's name, for people; its id when it is not there."""
    try:
        return scope.read(lambda conn: files.get(conn, file, tenant=scope.tenant)).filename
    except NotFound:
        return file
