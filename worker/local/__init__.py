"""Everything on one machine without servers: `stockpot up` and the demo.

demo       The demo
parallel   Several jobs followed at once
stage      The demo's stage
supervise  The engine of `stockpot up`
words      How the demo writes things: pure
"""
