"""Live streams: a job's events while it runs, in Redis, replayable and gap-detectable.

`publish` writes (one publisher per worker process), `announce` writes one event from elsewhere, `subscribe` reads,
`cursor` decides without touching Redis what a reader is shown, `control` carries cancellations, `keys` names it all.

    control    The control channel: notifies the workers at once that a job was cancelled
    cursor     A reader's place in a job's stream
    feed       One pub/sub connection for all the readers of a process
    keys       Every Redis key and channel of the live streams: its pattern, its owner, its TTL
    listening  Reading a pub/sub connection so that a dead one is noticed
    publish    The publisher
    script     The Lua script that every event goes through, and the JSON that is spliced into it
    subscribe  Following a job
    watch      The database's side of following
"""
