"""Commands for the operator.

check     What one check of `stockpot doctor` found
checks    The checks of `stockpot doctor`: each returns what it found and how to mend it
completion  `stockpot completion`: the shell completes commands and options
database  `stockpot db`: the schema's version, and its upgrade
demo      `stockpot demo`: see it work
doctor    `stockpot doctor`: is everything there, and how to mend what is not
keys      `stockpot keys`: who may call the gateway, for which tenant, and how much
name_checks  The check of names: whether an application in this directory can import Stockpot
purge     `stockpot purge`: forget finished jobs
redis_checks  The checks of Redis and of the broker
routes    `stockpot routes`
safety_checks  The checks that ask what goes wrong quietly
server_checks  The checks that read how PostgreSQL and Redis are set
serve     `stockpot serve`: the HTTP gateway
simulate  `stockpot simulate`: the upstream simulator by itself, in the foreground
standing  How the whole stands, in one look: for `status` and `top`
status    `stockpot status`: is all well, what waits and why, how far is the night
top       `stockpot top`: a live view
up        `stockpot up`: everything for development, in the foreground
worker    `stockpot worker`: a production worker, in any directory
workers   `stockpot workers`: who lives, since when, with what load; and one of them drained
"""
