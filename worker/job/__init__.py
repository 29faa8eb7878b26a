"""THE STORY of one claimed job: admission, call, decide, settle with its consequences, announce. Start with `run_job`.

announce      What others see of a job while it runs and when it ends: its live events, and the worker's counters
budget_hold   Money for a call is set aside before it is made, where a budget governs it
consequences  Consequences: all that follows from an end, in the transaction that writes it, for every kind of end
context       What the story of a job needs at hand: one context per worker, shared by all its jobs
decide        What a call's outcome means for its job, pure: an outcome in, a `Settlement` out
lookups       Calls that may have been paid
probing       Who may be the call that finds out whether a paused account takes calls again
retry         Retry policy, pure: what follows from a failed call
run_job       The story of one claimed job, from top to bottom: admit, call, decide, settle
settlements   Settlements: one writer commits those of all jobs together, each with its consequences
slots         Slots: the jobs in hand, each an asyncio task, and how they are stopped
traces        The trace of a job's attempt
"""
