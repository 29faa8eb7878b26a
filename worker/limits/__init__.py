"""Global limits per route: set or learned, and paused while the account or the upstream is down.

account             An account that takes no calls: when to look again, and who announces it
admission           The face of the limits for the engine: `admit` before a call, `Permit.done` after it
breaker             The breaker of a route
estimate            How many tokens a call will cost, before it is made
fallback            What one worker keeps to by itself
keys                The Redis keys of the limits
learned             What a route takes at once, found out
limiter             The scripts as calls: asks go out in one pipeline, replies come back as values
lua                 The scripts that keep the limits in Redis
minute              Requests or tokens per minute, as one process keeps them; `lua.SYNC` keeps the same two rules
pauses              What one worker decides for the whole fleet
permit              What admission answers
provider_clock      When a call was counted by the upstream
rate_limit_headers  An answer's headers about the limits: how long to keep away
refusals            Whether refusals without a reason are the account's
route               A route is (upstream, key, model): the thing that limits live on
route_limiter       One worker's side of one route
waiter              A call that waits at its route for a permit
"""
