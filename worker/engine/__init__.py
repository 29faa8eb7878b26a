"""The engine: one event loop per worker process, in which every call runs.

engine       starts and stops everything; the thread-safe door that Celery's tasks knock at
feeder       what to claim, and when: doorbells, a look of its own each second, free slots
rounds       which batch's turn it is     holds   shut routes
slots        the jobs in hand, and how they are told to stop
desk         what the story of a job (`worker.run_job`) needs at hand
calling      one call under the limits of its route
settler      one writer that commits everybody's settlements together     ending   how ends are told
heartbeat    renews the leases, learns of lost ones and of cancellations
sweeper      the elected one puts right what crashes and the clock leave behind     batch_keeper   and paces batches
lookups      asks the provider's log about calls that broke     routes   tells of pauses
database     SQL in threads, off the loop     health   /livez, /readyz, /metrics
collector    spares what lasts from the garbage collector     redis_policy   warns of a Redis that evicts
"""
