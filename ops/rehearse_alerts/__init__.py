"""Each alert fired by a real fault against a real Prometheus, and cleared as its runbook says: `python -m ops.rehearse_alerts`.

prometheus  The rules with time run faster, and a server that reads them
actions     What is done to a scene: the faults, and what ends them
scene       What faults are done to
faults      Each fault, the alerts that it must fire, and the remedy of their runbook
"""
