"""The engine: one event loop per worker process, in which every call runs.

batch_fairness  Rounds: which batch is claimed from next
connections     Connections of the status port: few, and none that idles
engine          The engine
feeder          The feeder: what this worker claims, and when
file_keeper     What workers do for stored files
fleet_gauges    Gauges of the whole fleet, read by every worker that serves `/metrics`
health          The worker's HTTP door for machines: `/livez`, `/readyz`, `/metrics`
heartbeat       The heartbeat
paused_models   Models whose route is shut
presence        This worker's row in the table of workers, renewed with each heartbeat; the request to drain
looks           Looks: one short transaction asks, for every loop, whether there is work
neighbours      Who else uses our namespace of Redis
rates           What this worker did, minute by minute, for the dashboard's plots
redis_policy    A look at Redis when a worker starts: what it is, and whether it may evict keys
restarting      Loops that last as long as the engine
retention       Retention: what is older than the settings keep is forgotten, a slice with each sweep
route_news      Routes that were paused or resumed
sweeper         The sweeper: one elected worker puts right what crashes and the clock leave behind
wiring          Wiring: the parts of one worker, built once and connected
"""
