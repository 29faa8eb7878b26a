"""The engine: one event loop per worker process, in which every call runs.

engine      starts and stops everything; the thread-safe door that Celery's tasks knock at
feeder      what to claim, and when: doorbells, a look of its own each second, free slots
slots       the jobs in hand, and how they are told to stop
settler     one writer that commits everybody's settlements together
heartbeat   renews the leases, learns of lost ones and of cancellations
database    SQL in threads, off the loop
"""
