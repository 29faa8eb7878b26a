"""Worker processes as SQL: who lives, with what load, and who was asked to drain. The caller commits.

registry  A worker announces itself with each heartbeat; others list them and ask one to drain
tables    The workers table: one row for each worker process that lives
unseen    Workers that were not seen since the database's clock was set back
"""
