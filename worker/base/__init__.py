"""What everything stands on: settings, errors, logs, metrics. Knows no trade.

base_url     The upstream's address: from a base URL, as people write it, to the URLs of its endpoints
backoff      Backoff: the pause after a failed try
collector    Python's cyclic garbage collector, tuned for a process with thousands of calls or streams open
crashpoints  Crash points: named places between two writes where a fault test may kill the process
durations    Lengths of time as headers write them
errors       The errors Stockpot raises, one class per decision a caller can take
figures      Figures for people: money, durations, ages
forks        Forks, and messages that are being sent: neither begins before the other is over
genai        The field's names for what a call of a model is
headers      Headers as a setting
healthy      The image's health check
http_head    The head of an HTTP answer, as it comes in pieces
key_lists    Settings that list keys
later        Modules that are imported late, and what they would come too late for
log          Loggers that cost nothing until something is logged
metrics      The metrics, all in one place; `docs/metrics.md` lists them and a test holds it to this file
money        Money in whole numbers: 1e-12 US dollars
payloads     Payloads, encrypted where they are kept: the one codec
ports        Ports that are listened on
private      Files and directories that only their owner can read, whatever the umask
proxies      The HTTP proxy that the environment names
redis        The one place that makes Redis clients
redis_urls   Redis URLs: checked, and in the one form from which every client is made
settings     The configuration: one frozen object, the only reader of the environment
sockets      Sockets, looked at without a read
sources      Where settings come from: the environment, `.env`, `stockpot.toml`
tasks        Ending tasks
telemetry    Logs of workers and commands
tracing      OpenTelemetry traces, where they are on
urls         URLs of settings: checked, and shown without credentials
webhook_settings  What the webhook settings mean
wrapping     Live text in a terminal: lines break at spaces
"""
