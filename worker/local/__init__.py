"""Everything on one machine without servers: `stockpot up` and the demo.

demo       The demo
leash      Run a module as a program that ends with its parent
parallel   Several jobs followed at once
running    What `stockpot up` runs in a home, for commands beside it
stage      The demo's stage
supervise  The engine of `stockpot up`
terminal   What a terminal can show
words      How the demo writes things: pure
"""
