"""Commands about cost.

budget     `stockpot budget`: what tenants may cost, by day or in all
reconcile  `stockpot reconcile`
usage      `stockpot usage`: what was used and what it cost
"""
