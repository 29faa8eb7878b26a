"""HTTP for people: the dashboard, at `/ui` of the gateway. Server-rendered pages; nothing is built, nothing is fetched from elsewhere.

app         The routes under `/ui`: the pages of each module, signing in and out, the static files
audit       Who pressed what
batches     Batches: how far each is; a file is uploaded, quoted, and only then run
costs       Money: spend by day and model, tenant or tag; budgets
job         One job, live while it runs
jobs        Jobs: a list with filters, and what may be done with all that they show
keys        Keys: make, limits, revoke
looks       Looks: what many viewers want to see is read once a second for all of them
overview    Overview: what waits, runs, fails, costs; plots
playground  Playground: a prompt, a model with its price, the answer as it comes
rendering   Templates, escaping, figures, static files
routes      Routes: limits, in flight, what is paused and why
view        Pages and buttons: who asks, what they may, what is answered. Start here
webhooks    Webhooks: endpoints, deliveries, dead letters
workers     Workers: who lives, what each holds; drain one

How a page is made (`overview` is the pattern, `audit` the shortest):

1.  A module with handlers `async def name(view: View) -> Response` and `ROUTES = [page("/name", name), action(…)]`; `app` lists
    its ROUTES, `view.NAVIGATION` has its line.
2.  Reads: `await view.look("name and every filter and tenant", read)`, where `read` blocks and runs in a thread: one
    look a second for all viewers. Everything comes from `view.host.fleet` (reads, of one tenant or all, `view.tenant`) or
    `view.pot()` (verbs of one tenant). SQL stands in `worker.db` and is bounded.
3.  `return view.render("name.html", …)`. The template begins with `{% extends layout %}` and `{% set live = true %}`. Block
    `live` is asked for again each second while the page is seen and morphed in place (rows need an `id`); `still` (above: the
    heading, forms) and `after` (below: plots) are not.
4.  Buttons are plain forms: `<form method="post" action="…"><input type="hidden" name="csrf" value="{{ csrf }}">`, handled by
    `action(path, handler, role)`, which checks role and token and writes the log. The handler does the verb and answers
    `view.go("/path", "Words for the reader.")`; it may set `view.target` to what came of it. Errors of the product become
    pages by themselves. Show a button only `{% if view.may("OPERATE") %}`. What changes many things shows the number first,
    on a page of its own.
5.  Prompts and answers only `{% if view.viewer.sees_prompts %}`. No `|safe`, no inline script or style, no `style=`: the
    Content-Security-Policy refuses them. Times `{{ moment|time }}` (or `|time(exact=true)`), figures `|money |span |count`, ids
    `class="id"`, numbers `class="number"`, tables within `<div class="wide">`. An empty list shows what to do.
"""
