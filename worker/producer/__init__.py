"""What an application calls: submit, follow, wait, cancel, retry; batches, webhooks, budgets, routes.

access          Who may use the dashboard, and the log of who pressed what
async_batches   `AsyncStockpot.batches`: the verbs of `pot.batches`, awaitable
async_stockpot  `AsyncStockpot`, the awaiting face
batch_control   Cancel a batch, and make a new one of its failed lines
batch_options   The options of a batch, checked field by field
batch_values    What `pot.batches` gives back: a quoted file, a submitted batch, a file that cannot be one
batches         `pot.batches`: files of requests
budgets         `pot.budgets`: what tenants may cost
callers_transaction  A job in the caller's own transaction
calls           Calls over OpenAI's wire: accepted with their jobs, joined by their repeats, read back
cancellation    Announcing a cancellation made by a producer
connections     What a process keeps open to one place; forks, ends
drivers         How the connections of applications take SQL
faces           Blocking and awaiting faces of one verb
fleet           All jobs, workers and rates in one look, of one tenant or of all
files           `pot.files`: files that all workers see
keys            The keys of the gateway
loop            An event loop in a thread, for blocking callers
models          The upstream's models with their prices
reader          Following: a job's live events and its end, from Redis and the database together
routes          `pot.routes`: limits, what was learned, what is paused and why
scope           One tenant's way to the shared connections
shutdown        A server that is asked to stop: its streams end first
sql             What the two faces need of the database, imported with the first producer
sse             Server-sent events: a job's live events as frames for any web framework
stockpot        `Stockpot`, the blocking face
stored_batches  Batches that are made of stored files
stream_urls     Signed URLs for one job's events
streams         What an application does with live events beside reading them
text            A job's text as it comes, over broken attempts
waiting         Why a job is not over yet, in a sentence
webhooks        `pot.webhooks`: endpoints, secrets, the delivery log
"""
