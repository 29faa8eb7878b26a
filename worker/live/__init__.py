"""Live streams: what a job says while it runs, in Redis, replayable and gap-detectable.

`publish` writes (one publisher per worker process), `announce` writes one event from elsewhere, `subscribe` reads,
`cursor` decides without touching Redis what a reader is shown, `control` carries cancellations, `keys` names it all.
"""
