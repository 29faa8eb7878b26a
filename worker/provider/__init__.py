"""What only the provider of models has: its prices, its log of requests, its transactions.

log       The provider's books
market    What the provider publishes of its models: prices, and how long an answer takes
prices    Prices of models, from the provider's own list (`GET /v1/models?include=pricing`)
provider  AI/ML API's own side of an upstream: balance, books, prices, latencies; any other provider has none of it
"""
