"""Jobs as SQL, by the verbs of their life. The caller commits.

answers          An answer's text is stored once
cancel           Cancel and retry: what a caller may ask of a job that already exists
claim            Claim
costs            Costs that change after they were counted
ended            Ended: the one value that describes a job's end, for every kind of end
failures         What failed of late, grouped by why, each with a sample
leases           Leases
ledger           The ledger against the provider's books
listing          Lists of jobs, newest first, page by page
lookup           Look up: a job with all that came of it
scouts           Which job finds out whether a paused model or account takes calls again
settle           Settle
standings        Where many jobs stand, in one look
submit           Submit: insert jobs with their requests
tables           The tables
tenant_fairness  Whose turn it is
usage            Usage
usage_days       Usage by day: what the calls have used and cost, added up as they end
waits            Waits of jobs after the database's clock was set back: what was noted by the clock as it was lies too far ahead
"""
