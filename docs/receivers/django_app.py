"""Receive Stockpot's webhooks with Django: `WEBHOOK_SECRET=whsec_… python django_app.py runserver 9000`.

In a project of your own, take the view and its line in `urls.py`; the settings here only make one file run by itself.
"""

from __future__ import annotations

import logging
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from api_schemas.webhooks import SignatureError, verify

if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=os.urandom(32).hex())
seen: set[str] = set()  # in production a table with a unique key: an event may come more than once


@csrf_exempt  # the signature says who sends it
@require_POST
def stockpot(request: HttpRequest) -> HttpResponse:
    """Verify the raw body, skip what was seen, answer quickly."""
    try:
        event = verify(request.body, request.headers, os.environ["WEBHOOK_SECRET"])
    except SignatureError:
        return HttpResponse(status=401)
    if event["id"] not in seen:
        seen.add(event["id"])
        logging.getLogger("stockpot").info("%s %s", event["type"], event["data"]["id"])
    return HttpResponse(status=204)


urlpatterns = [path("stockpot", stockpot)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
