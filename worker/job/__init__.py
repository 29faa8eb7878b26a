"""THE STORY of one claimed job: admission, call, decide, settle with its consequences, announce. Start with `run_job`.

accept        Accept: the one gate that every submission passes, whoever brings it
announce      How the beginning and the end of a job are told
budget_hold   The purse: money for a call is set aside before it is made, where a budget governs it
context       What the story of a job needs at hand: one desk per worker, shared by all its stories
decide        What a call's outcome means for its job, pure: an outcome in, a `Settlement` out
group_writer  The settler: one writer that commits everybody's settlements together
limited_call  One call under the limits of its route
lookups       Calls that may have been paid
retry         Retry policy, pure: what follows from a failed call
run_job       The story of one claimed job: admit, call, settle
slots         Slots: the jobs in hand, each an asyncio task, and how they are told to stop
"""
