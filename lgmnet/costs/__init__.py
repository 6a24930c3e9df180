"""What networks and runs cost, measured."""
