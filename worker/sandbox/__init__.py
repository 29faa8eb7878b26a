"""For trying and testing without a provider or a server: the upstream simulator, and the demo."""
