"""Global limits per route: what may go out now, learned where nobody says, paused where the account or the upstream is down."""
