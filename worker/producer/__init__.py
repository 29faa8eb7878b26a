"""What an application calls: submit, follow, wait, cancel, retry.

batch_control  Control: cancel a batch, and make a new one of its failed lines
calls          Calls over OpenAI's wire: accepted with their jobs, joined by their repeats, read back
cancellation   Telling of a cancellation made by a producer
keys           The keys of the gateway
models         The upstream's models with their prices
reader         Following: a job's live events and its end, from Redis and the database together
sse            Server-sent events: a job's live events as frames for any web framework
stockpot       For producers: submit, follow, wait, cancel, retry
stream_urls    Signed URLs for one job's events
streams        What an application does with live events beside reading them
text           A job's text as it comes, over broken attempts
"""
