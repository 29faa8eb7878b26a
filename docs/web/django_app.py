"""A page that asks and shows the answer as it comes.

Run: uvicorn django_app:app --timeout-graceful-shutdown 1

One file for the sake of the example: in a project of yours the settings, the urls and the views have their places already.
"""

from pathlib import Path

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_POST

from stockpot import SSE_HEADERS, AsyncStockpot, InvalidRequest, NotAllowed, NotFound, stockpot_js

MODEL = "openai/gpt-5-1-chat-latest"
# Without CsrfViewMiddleware, to stay short: with it, the page sends the token as Django's documentation says.
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
django.setup(set_prefix=False)
pot = AsyncStockpot()  # one per process


def page(_: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html").open("rb"), content_type="text/html")


def script(_: HttpRequest) -> HttpResponse:
    return HttpResponse(stockpot_js(), content_type="text/javascript")


@require_POST
async def ask(request: HttpRequest) -> JsonResponse:
    messages = [{"role": "user", "content": request.POST["prompt"]}]
    job = await pot.submit({"model": request.POST.get("model", MODEL), "messages": messages, "stream": True})
    return JsonResponse({"id": job.id})


async def events(request: HttpRequest, job_id: str) -> HttpResponseBase:
    after = request.headers.get("Last-Event-ID") or request.GET.get("after")
    try:
        frames = await pot.sse(job_id, after)
    except NotFound as error:
        return JsonResponse({"error": str(error)}, status=404)
    except InvalidRequest as error:
        return JsonResponse({"error": str(error)}, status=400)
    return StreamingHttpResponse(frames, headers=SSE_HEADERS)


@require_POST
async def cancel(_: HttpRequest, job_id: str) -> JsonResponse:
    try:
        return JsonResponse({"status": await pot.cancel(job_id)})
    except NotFound as error:
        return JsonResponse({"error": str(error)}, status=404)
    except NotAllowed as error:  # it is over already
        return JsonResponse({"error": str(error)}, status=409)


urlpatterns = [
    path("", page),
    path("stockpot.js", script),
    path("jobs", ask),
    path("jobs/<job_id>/events", events),
    path("jobs/<job_id>/cancel", cancel),
]
app = get_asgi_application()
