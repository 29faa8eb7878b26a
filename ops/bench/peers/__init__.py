"""The peers that Stockpot is measured against: the limit, and what others do on the same work."""
