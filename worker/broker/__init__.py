"""All that knows Celery: the app, its tasks, its consumer, the doorbell.

app          The Celery app
consumer     Celery's consumer as our worker needs it
control      Celery's `inspect`, `status`, `control` and `purge`, asked of Stockpot
doorbell     The doorbell: Celery messages that mean "there is work", and nothing else
messages     What a message may be, before it is decoded
options      Options of `celery worker` that are refused, and the lanes that `-Q` and `-X` mean
probe        Whether the broker does what we need of it
queues       The names of our queues
starting     Starting Celery with our app, in any directory
submissions  What comes of a `stockpot.submit` message
tasks        The Celery tasks
watchdog     The watchdog
"""
